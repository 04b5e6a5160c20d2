"""``make bench-updates``: how long a rollback, an install and a status take, by the commands and a real server.

A rollback is timed from the start of the command to the first answer that a client has by the release before, and once
more from its order, when the command has started. It is warm where that release's worker stands by, cold where a new
one is started and its files are read from the disk. fsyncs are counted from outside, by strace. An install is set
beside cp, sha256sum and sync of the same file on the same disk. Python finds bytecode, as pip leaves it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tritonclient.http as oip

from bench import sized_models, volumes
from bench.quick import machine
from demo import place, releases
from surefoot.config import load as load_config
from surefoot.update import rollback

MB = 1 << 20
WARM_MS, COLD_MS, STATUS_MS, MOST_FSYNCS, INSTALL_RATIO = 100.0, 2000.0, 150.0, 4, 1.3
SLOW_FSYNC_MS = 50
FLUSHES = 2  # of the disk in one fsync of ext4: before the journal's last block, and after it
SIXTEEN, LARGE = "wide", "table"  # models: 16 MB and 256 MB
OLD, NEW = "1.0.0", "2.0.0"
SHAPE = (1, 1, sized_models.SIDE, sized_models.SIDE)  # of both models that are rolled back
STATUS_RUNS = 20
PACE_S = 0.002
WAIT_S = 60.0
SYNCS = "fsync,fdatasync,syncfs,sync"


class Device:
    """A device in a folder, through its command."""

    def __init__(self, folder: Path, repository: Path, standby_s: float) -> None:
        folder.mkdir()
        self.folder, self.repository = folder, repository
        self.config = folder / "surefoot.toml"
        self.config.write_text(
            'data_dir = "."\nrun_dir = "run"\nruntimes = ["onnxruntime"]\n[gateway]\nport = 0\n'
            "[trial]\nmin_seconds = 0.0\nmin_inferences = 1\n"
            f"[standby]\nseconds = {standby_s}\nleast_available_bytes = 0\n"
        )

    def arguments(self, *arguments: str) -> list[str]:
        """A command line."""
        return [str(Path(sys.executable).parent / "surefoot"), "--config", str(self.config), *arguments]

    def run(self, *arguments: str) -> Any:
        """A command to its end; what it printed."""
        return json.loads(place.run([*self.arguments(*arguments), "--json"]))

    def install(self, name: str, version: str) -> list[str]:
        """The command line of an install."""
        root = self.repository / "metadata" / "1.root.json"
        return [
            "model",
            "install",
            name,
            "--version",
            version,
            "--repository",
            str(self.repository),
            "--root",
            str(root),
        ]

    def deploy(self, name: str, version: str) -> None:
        """Installed, activated, confirmed."""
        self.run(*self.install(name, version))
        self.run("model", "activate", name)
        self.run("model", "confirm", name, "--wait", "20")

    @contextmanager
    def serving(self) -> Iterator[None]:
        """With a server."""
        self.run("serve", "--detach")
        try:
            yield
        finally:
            place.run(self.arguments("stop"))

    def status(self, name: str) -> Any:
        """What the server says of a model."""
        return next(model for model in self.run("status")["models"] if model["name"] == name)

    def slot(self, name: str, version: str) -> Path:
        """Where a release lies."""
        slots = self.run("model", "status", name)["slots"].values()
        held = next(one["slot"] for one in slots if one["version"] == version)
        return self.folder / "models" / name / str(held)


class Client(threading.Thread):
    """Asks again and again, and notes when the version that answers changes."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(daemon=True)
        self._client = oip.InferenceServerClient(url.removeprefix("http://"))
        self._name = name
        self._done = threading.Event()
        self.failed: list[str] = []
        self.changes: list[tuple[float, str]] = []

    def run(self) -> None:
        """Until :meth:`stop`."""
        given = oip.InferInput("image", list(SHAPE), "FP32")
        given.set_data_from_numpy(np.zeros(SHAPE, np.float32), binary_data=True)
        while not self._done.is_set():
            try:
                version = str(self._client.infer(self._name, [given]).get_response()["model_version"])
            except Exception as error:  # a request that failed is a figure here
                self.failed.append(str(error))
                continue
            if not self.changes or self.changes[-1][1] != version:
                self.changes.append((time.monotonic(), version))
            time.sleep(PACE_S)

    def first(self, version: str, after_s: float) -> float:
        """When it first had an answer of that version after a moment. Waits for it."""
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            for at_s, seen in tuple(self.changes):
                if seen == version and at_s > after_s:
                    return at_s
            time.sleep(0.001)
        raise RuntimeError(f"{version} did not answer; failed requests: {self.failed[-1:]}")

    def stop(self) -> None:
        """No more."""
        self._done.set()
        self.join()


Rows = dict[str, Any]


def main() -> int:
    """Measure, print, and leave the figures as JSON where ``--json PATH`` says.

    Returns:
        1 where a bar is missed.
    """
    parser = argparse.ArgumentParser(prog="bench.updates")
    parser.add_argument("--runs", type=int, default=10, help="rollbacks of each kind, and blocks of the install")
    parser.add_argument("--only", choices=("rollback", "status", "install"), action="append", help="not all of them")
    parser.add_argument("--json", type=Path, help="where to leave the figures")
    chosen = parser.parse_args()
    wanted = chosen.only or ["rollback", "status", "install"]
    own_disk = volumes.prepare()
    print(f"{machine()}; load average {os.getloadavg()[0]:.1f}")
    found: Rows = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="surefoot-bench-") as temporary:
        work = Path(temporary)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")
        repository = _publish(work, "install" in wanted)
        disks = {"disk": 0.0, "slow": SLOW_FSYNC_MS / FLUSHES / 1e3} if own_disk else {"folder": 0.0}
        for kind, fsync_s in disks.items():
            (work / kind).mkdir()
            with _place(work / kind, fsync_s, own_disk) as folder:
                fsync_ms = volumes.fsync_ms(folder)
                print(f"\n{_words(kind)}: an fsync takes {fsync_ms:.1f} ms")
                rows = found[kind] = {"fsync_ms": fsync_ms, **_rollbacks(folder, repository, wanted, chosen.runs, kind)}
                if "install" in wanted and kind != "slow":
                    rows["install"] = _installs(folder, repository, chosen.runs)
    load = found["load"] = os.getloadavg()[0]
    missed = _missed(found)
    print(f"\nload average at the end {load:.1f}; " + ("; ".join(missed) or "every bar is met"))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))
    return 1 if missed else 0


def _publish(work: Path, large: bool) -> Path:
    repository = work / "repository"
    keys = releases.publish_reference_model(work, repository)
    wide = {f"{number}.0.0": sized_models.wide(16 * MB, number) for number in (1, 2)}
    sized_models.publish(SIXTEEN, wide, work, keys, repository)
    if large:
        sized_models.publish(LARGE, {"1.0.0": sized_models.table(256 * MB, 1)}, work, keys, repository)
    return repository


@contextmanager
def _place(work: Path, fsync_s: float, own_disk: bool) -> Iterator[Path]:
    if not own_disk:
        yield work
        return
    with volumes.ext4(work, 3 << 30, fsync_s) as at:
        yield at


def _words(kind: str) -> str:
    return {
        "disk": "ext4 on a loop device over a file",
        "slow": f"ext4 on a loop device over a FUSE file whose flushes take {SLOW_FSYNC_MS / FLUSHES:.0f} ms longer",
        "folder": "a temporary folder",
    }[kind]


# -- rollback ------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """Of a rollback. ``order``: timed from its order; else from the start of the command. ``bar_ms``: 0 for none."""

    model: str
    warm: bool
    order: bool
    bar_ms: float

    def __str__(self) -> str:
        return f"{self.model} {'warm' if self.warm else 'cold'}, {'its order alone' if self.order else 'the command'}"


def _rollbacks(folder: Path, repository: Path, wanted: list[str], runs: int, kind: str) -> Rows:
    rows: Rows = {}
    warm_ms = 0.0 if kind == "slow" else WARM_MS  # the fsyncs alone take longer there
    if "rollback" in wanted:
        print(f"  {'rollback, ms':<42}{'median':>8}{'worst':>8}{'bar':>6}")
    for name in (place.MODEL, SIXTEEN):
        warm = Device(folder / f"warm-{name}", repository, 3600.0)
        with warm.serving():
            warm.deploy(name, OLD)
            if "status" in wanted and name == place.MODEL and kind != "slow":
                rows["status"] = _statuses(warm, name)
            if "rollback" in wanted:
                warm.deploy(name, NEW)
                for order in (False, True):
                    one = Kind(name, True, order, warm_ms)
                    rows[str(one)] = _timed(warm, one, runs)
                rows[f"fsyncs {name}"] = _fsyncs(warm, name)
                rows[f"memory {name}"] = _memory(warm, name)
        shutil.rmtree(warm.folder)
    if "rollback" in wanted:
        cold = Device(folder / "cold", repository, 0.0)
        with cold.serving():
            cold.deploy(SIXTEEN, OLD)
            cold.deploy(SIXTEEN, NEW)
            one = Kind(SIXTEEN, False, False, COLD_MS)
            rows[str(one)] = _timed(cold, one, runs)
        shutil.rmtree(cold.folder)
    return rows


def _timed(device: Device, kind: Kind, runs: int) -> Rows:
    config = load_config(device.config)
    client = Client(device.run("status")["url"], kind.model)
    client.start()
    taken = []
    for _ in range(runs):
        _ready(device, kind.model, kind.warm)
        client.first(NEW, 0.0)
        began_s = time.monotonic()
        if kind.order:
            rollback(config, kind.model)
            answered_s = client.first(OLD, began_s)
        else:
            command = device.arguments("model", "rollback", kind.model)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=place.environment()) as process:
                answered_s = client.first(OLD, began_s)
            if process.returncode != 0:
                raise RuntimeError("the rollback failed")
        taken.append((answered_s - began_s) * 1e3)
        device.run("model", "activate", kind.model, "--version", NEW)
    client.stop()
    row = {"median_ms": statistics.median(taken), "worst_ms": max(taken), "bar_ms": kind.bar_ms}
    bar = f"{kind.bar_ms:.0f}" if kind.bar_ms else "-"
    failed = f"   {len(client.failed)} requests failed" if client.failed else ""
    print(f"  {kind!s:<42}{row['median_ms']:>8.0f}{row['worst_ms']:>8.0f}{bar:>6}{failed}")
    return {**row, "failed": len(client.failed)}


def _ready(device: Device, name: str, warm: bool) -> None:
    """Until the old release stands by, or, cold, nothing does and its files are out of the kernel's cache."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        now = device.status(name)
        if now["version"] == NEW and (now["standby"] is not None) == warm:
            break
        time.sleep(0.05)
    else:
        raise RuntimeError(f"{name} does not come to be {'warm' if warm else 'cold'}")
    if not warm and hasattr(os, "posix_fadvise"):
        for path in device.slot(name, OLD).iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _fsyncs(device: Device, name: str) -> Rows:
    """Counted by strace, in the command and in the server: before the server is asked, and in all."""
    if shutil.which("strace") is None:
        print("  fsyncs: not counted, strace is not here")
        return {}
    _ready(device, name, True)
    log, server_log = device.folder / "strace", device.folder / "strace-server"
    pid = str(device.run("status")["pid"])
    traced = ["strace", "-f", "-e"]
    with subprocess.Popen(
        [*traced, f"trace={SYNCS}", "-o", str(server_log), "-p", pid], stderr=subprocess.PIPE
    ) as server:
        assert server.stderr is not None
        server.stderr.readline()  # attached
        command = device.arguments("model", "rollback", name)
        place.run([*traced, f"trace={SYNCS},connect", "-o", str(log), *command])
        server.terminate()
    calls = re.findall(r"^\d+ +(\w+)\((.*)", log.read_text(), re.MULTILINE)
    kinds = ["connect" if "admin.sock" in rest else "" if call == "connect" else "sync" for call, rest in calls]
    before = kinds[: max(place for place, kind in enumerate(kinds) if kind == "connect")].count("sync")
    by_server = len(re.findall(rf"^\d+ +(?:{SYNCS.replace(',', '|')})\(", server_log.read_text(), re.MULTILINE))
    print(
        f"  fsyncs of a rollback, by strace: {before} before the traffic moves, {kinds.count('sync')} in all, "
        f"{by_server} by the server (at most {MOST_FSYNCS})"
    )
    device.run("model", "activate", name, "--version", NEW)
    return {"before": before, "in_all": kinds.count("sync"), "by_server": by_server}


def _memory(device: Device, name: str) -> Rows:
    """What it costs that a worker stands by: its proportional and its resident memory, beside those of the server."""
    _ready(device, name, True)
    if not Path("/proc/self/smaps_rollup").exists():
        print("  memory: not measured, the system does not say")
        return {}
    whole, now = device.run("status"), device.status(name)
    standby, others = now["standby"]["pid"], [whole["pid"], whole["gateway_pid"], now["pid"]]
    row = {"standby_pss_mb": _pss(standby) / 1e6, "standby_rss_mb": now["standby"]["memory_bytes"] / 1e6}
    row["server_pss_mb"] = sum(map(_pss, others)) / 1e6
    print(
        f"  memory of the worker that stands by: {row['standby_pss_mb']:.0f} MB proportional (PSS), "
        f"{row['standby_rss_mb']:.0f} MB resident, beside {row['server_pss_mb']:.0f} MB (PSS) of the server without it"
    )
    return row


def _pss(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))) * 1024


# -- status, install -----------------------------------------------------------------------------------------------


def _statuses(device: Device, name: str) -> Rows:
    def one(command: list[str]) -> float:
        began_s = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=place.environment())
        return (time.monotonic() - began_s) * 1e3

    command = device.arguments("model", "status", name)
    taken, nothing = zip(
        *((one(command), one([sys.executable, "-c", "pass"])) for _ in range(STATUS_RUNS)), strict=True
    )
    row = {"median_ms": statistics.median(taken), "worst_ms": max(taken), "python_ms": statistics.median(nothing)}
    print(
        f"  surefoot model status: {row['median_ms']:.0f} ms, worst {row['worst_ms']:.0f} (under {STATUS_MS:.0f}); "
        f"`python -c pass` takes {row['python_ms']:.0f}"
    )
    return row


def _installs(folder: Path, repository: Path, runs: int) -> Rows:
    device = Device(folder / "install", repository, 0.0)
    file = max((repository / "targets" / LARGE).rglob("*model.onnx"), key=lambda path: path.stat().st_size)
    size_mb = file.stat().st_size / MB

    def by_hand(*hashing: str) -> float:
        target = folder / "by-hand"
        began_s = time.monotonic()
        subprocess.run(["cp", str(file), str(target)], check=True)
        subprocess.run([*hashing, str(target)], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["sync", "-f", str(folder)], check=True)
        taken_s = time.monotonic() - began_s
        target.unlink()
        subprocess.run(["sync", "-f", str(folder)], check=True)
        return taken_s

    def ours() -> float:
        taken_s = _without_gate(device)
        device.run("model", "remove", LARGE, "--yes")
        subprocess.run(["sync", "-f", str(folder)], check=True)
        return taken_s

    calls: dict[str, Callable[[], float]] = {
        "hand": lambda: by_hand("sha256sum"),
        "install": ours,
        "hand again": lambda: by_hand("sha256sum"),
    }
    if shutil.which("openssl"):  # its sha256 uses instructions that coreutils' may not
        calls["openssl"] = lambda: by_hand("openssl", "sha256")
    for call in calls.values():
        call()
    blocks = [{name: call() for name, call in calls.items()} for _ in range(runs)]
    row = {f"{name}_s": statistics.median(block[name] for block in blocks) for name in calls}
    ratios = sorted(block["install"] / block["hand"] for block in blocks)
    row |= {"ratio": statistics.median(ratios), "worst_ratio": ratios[-1]}
    row["itself"] = statistics.median(block["hand again"] / block["hand"] for block in blocks)
    print(
        f"  install of {size_mb:.0f} MB, its gate aside: {row['install_s']:.2f} s; cp, sha256sum and sync: "
        f"{row['hand_s']:.2f} s; ratio {row['ratio']:.2f}, worst {row['worst_ratio']:.2f} (at most {INSTALL_RATIO:g}); "
        f"by hand against itself {row['itself']:.2f}" + (" (void)" if abs(row["itself"] - 1) > 0.05 else "")
    )
    if "openssl" in calls:
        row["openssl_ratio"] = statistics.median(block["install"] / block["openssl"] for block in blocks)
        print(f"  with openssl in place of sha256sum: {row['openssl_s']:.2f} s, ratio {row['openssl_ratio']:.2f}")
    return row


def _without_gate(device: Device) -> float:
    """The whole command, less the time between the line that the slot is filled and that of the gate."""
    began_s = time.monotonic()
    marks = {}
    with subprocess.Popen(
        device.arguments(*device.install(LARGE, "1.0.0")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=place.environment(),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            marks[line.split()[0]] = time.monotonic()
    if process.returncode != 0 or "gate:" not in marks:
        raise RuntimeError("the install failed")
    return time.monotonic() - began_s - (marks["gate:"] - marks["slot"])


def _missed(found: Rows) -> list[str]:
    missed = []
    for kind in ("disk", "slow", "folder"):
        for what, row in found.get(kind, {}).items():
            if not isinstance(row, dict):
                continue
            if row.get("bar_ms") and row["median_ms"] > row["bar_ms"]:
                missed.append(f"{what} on the {kind}, {row['median_ms']:.0f} ms")
            if row.get("in_all", 0) + row.get("by_server", 0) > MOST_FSYNCS:
                missed.append(f"{row['in_all'] + row['by_server']} fsyncs")
            if what == "status" and row["median_ms"] >= STATUS_MS:
                missed.append(f"status, {row['median_ms']:.0f} ms")
            if what == "install" and row["ratio"] > INSTALL_RATIO:
                missed.append(f"install, {row['ratio']:.2f}")
    return [f"missed: {'; '.join(missed)}"] if missed else []


if __name__ == "__main__":
    sys.exit(main())
