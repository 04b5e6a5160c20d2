"""``make demo``: deploy a real model to a device in a folder, update it under load, roll it back."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import urllib3
from rich.console import Console

from demo import releases
from demo.load import Load
from demo.place import (
    DEMO,
    DEVICE,
    FACTS,
    INVENTORY,
    MODEL,
    RECIPES,
    RELEASES,
    SAMPLES,
    CommandError,
    run,
    show,
    surefoot,
)

MEASURED = 200
REFRESH_S = 86_400.0  # the timestamp is signed again when it is a day old
console = Console(highlight=False)


def main() -> int:
    """Run the whole path.

    Returns:
        0 when every step did what it says; 1 with the failing command's own words otherwise.
    """
    begun = time.monotonic()
    try:
        _publish()
        _playbook("deploy v1", "deploy.yml", surefoot_version="1.0.0")
        endpoint = json.loads((DEVICE / "run" / "endpoint.json").read_text())
        url = str(endpoint["url"])
        _leave_facts(url, int(endpoint["pid"]))
        _classify(url)
        _latency(url)
        _update_under_load(url)
        _playbook("roll back", "rollback.yml")
        _leave_facts(url, int(endpoint["pid"]))
        console.print(f"          serving [bold]{_version(url)}[/] again")
    except CommandError as error:
        console.print("failed", style="red")
        console.print(str(error), markup=False)
        return 1
    console.print(
        f"\nDone in {time.monotonic() - begun:.0f} s. Status page: [bold]{url}/[/]   Stop and remove: make demo-down"
    )
    return 0


def _step(title: str) -> None:
    console.print(f"[bold green]{title:<10}[/]", end="")


def _publish() -> None:
    _step("release")
    wanted = _fingerprint()
    stamp = DEMO / "published"
    if stamp.exists() and stamp.read_text() == wanted:
        if time.time() - stamp.stat().st_mtime > REFRESH_S:
            keys = DEMO / "keys"
            passphrase = (keys / releases.PASSPHRASE_FILE).read_text()
            surefoot(
                "release", "refresh", "--keys", str(keys), "--repository", str(RELEASES), SUREFOOT_PASSPHRASE=passphrase
            )
            stamp.touch()
        console.print("v1 (FP32) and v2 (INT8), published before")
        return
    if DEMO.exists():
        run([sys.executable, "-m", "demo.down"])
    DEMO.mkdir()
    with console.status("building, signing and publishing two releases"):
        releases.publish_reference_model(DEMO, RELEASES)
    stamp.write_text(wanted)
    console.print("v1 (FP32) and v2 (INT8) built, signed and published")


def _fingerprint() -> str:
    """What the releases are made of: a change of it makes the demo start anew."""
    from surefoot.durable import hash_file

    parts = sorted([*RECIPES.glob("release-*.toml"), *RECIPES.glob("artifacts/**/model.*")])
    return "\n".join(f"{hash_file(path)[0]}  {path.relative_to(RECIPES)}" for path in parts)


def _playbook(title: str, name: str, **variables: str) -> None:
    _step(title)
    begun = time.monotonic()
    extra = [part for key, value in variables.items() for part in ("--extra-vars", f"{key}={value}")]
    with console.status(f"ansible-playbook -i inventory/demo playbooks/{name}"):
        run(["ansible-playbook", "-i", str(INVENTORY), f"playbooks/{name}", *extra])
    console.print(f"ansible-playbook playbooks/{name} {' '.join(extra[1::2])} ({time.monotonic() - begun:.1f} s)")


def _classify(url: str) -> None:
    _step("classify")
    image = _samples()[0]
    console.print(f"a real test image, {image.name}\n")
    sys.stdout.flush()
    show([sys.executable, "-m", "surefoot", "classify", str(image), "--url", url, "--model", MODEL, "--show"])
    print()


def _latency(url: str) -> None:
    _step("latency")
    pool = urllib3.PoolManager(retries=False, timeout=10.0)
    data = [path.read_bytes() for path in _samples()]
    measured = []
    for turn in range(MEASURED):
        begun = time.perf_counter()
        reply = pool.request(
            "POST",
            f"{url}/v2/models/{MODEL}/classify",
            body=data[turn % len(data)],
            headers={"Content-Type": "image/png"},
        )
        measured.append((time.perf_counter() - begun) * 1e3)
        if reply.status != 200:
            raise CommandError(f"a request failed: {reply.status} {reply.data[:200]!r}")
    console.print(
        f"p50 {statistics.median(measured):.2f} ms, p99 {statistics.quantiles(measured, n=100)[98]:.2f} ms "
        f"over {MEASURED} requests: PNG in, label out, over HTTP"
    )


def _update_under_load(url: str) -> None:
    before = _version(url)
    load = Load(url, MODEL, _samples()[1].read_bytes())
    with load.running():
        _playbook("deploy v2", "deploy.yml", surefoot_version="2.0.0")
    after = _version(url)
    answered = ", ".join(f"{count} by {version}" for version, count in sorted(load.answered.items()))
    console.print(
        f"          version {before} -> [bold]{after}[/]; requests throughout: {answered}, {len(load.failed)} failed"
    )
    if load.failed or after == before or after not in load.answered:
        raise CommandError("\n".join(load.failed[:5]) or f"{after} answers now, requests were answered by: {answered}")


def _version(url: str) -> str:
    reply = urllib3.request("GET", f"{url}/v2/models/{MODEL}", retries=False, timeout=10.0)
    return str(reply.json()["versions"][0])


def _samples() -> list[Path]:
    return sorted(SAMPLES.glob("*.png"))


def _leave_facts(url: str, pid: int) -> None:
    facts = {
        "url": url,
        "model": MODEL,
        "version": _version(url),
        "device_dir": str(DEVICE),
        "repository_dir": str(RELEASES),
        "inventory": str(INVENTORY),
        "pid": pid,
    }
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
