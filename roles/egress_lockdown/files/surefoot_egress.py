#!/usr/bin/python3
"""What may leave this device: brings the rules of the role egress_lockdown into force, and says whether they are.

usage: surefoot-egress status           one JSON object; exit status 0 only where the rules asked for are in force
       surefoot-egress apply SECONDS    brings what is wanted into force, and puts back what was unless it is confirmed
       surefoot-egress pending          prints the word that `confirm` asks for: only who can reach the device reads it
       surefoot-egress confirm WORD     keeps what was applied, now and at each boot
       surefoot-egress rollback         puts back what was before `apply`
       surefoot-egress remove           takes every rule of ours away
       surefoot-egress probe            for the role: reads what is wanted, prints what is there; changes nothing

What it says comes from the kernel, never from a file. Rules are compared with those that the same kernel makes of the
text that was asked for, loaded into a network namespace that has nothing in it and is gone at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import ipaddress
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TABLE = ("inet", "surefoot_egress")
FOLDER = Path("/etc/surefoot-egress")
WANTED = FOLDER / "wanted.nft"
CONFIRMED = FOLDER / "confirmed.nft"  # loaded at boot by surefoot-egress.service
RUN = Path("/run/surefoot-egress")
TRIAL = RUN / "trial.json"
CANDIDATE = RUN / "candidate.nft"
PREVIOUS = RUN / "previous.nft"
PROGRAM = "/usr/local/sbin/surefoot-egress"
SERVICE = "surefoot-egress.service"
LOADER = "surefoot-egress-load"
UNDOER = "surefoot-egress-rollback"
TIMEOUT_S = 30
# The answer to `apply` travels back before rules come into force that could stop it.
LOAD_AFTER_S = 1
LOADED_WITHIN_S = 15
CONFIG_BYTES = 1 << 20
# With both lines first, a text brings its table into force in one transaction, whether or not there was one.
CLEARED = f"table {TABLE[0]} {TABLE[1]}\ndelete table {TABLE[0]} {TABLE[1]}\n"
KERNEL = ("NF_TABLES", "NF_TABLES_INET", "NF_CONNTRACK", "NFT_CT", "NFT_LIMIT", "NFT_LOG")
# sudo gives an ordinary user's PATH to some.
os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


class Refused(Exception):
    """What was asked for is not done, and why."""


def call(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command. One that is missing or takes too long has failed."""
    try:
        return subprocess.run(command, input=text or "", capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def plain(value: Any) -> Any:
    """A listing of nft without what differs between two tables of the same rules: handles, counts, order in sets."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: plain(each) for key, each in value.items() if key not in ("handle", "packets", "bytes")}
    if isinstance(kept.get("set"), list):
        kept["set"].sort(key=json.dumps)
    return kept


def listing(printed: str) -> list[Any]:
    """The parts of a table, from ``nft --json list table``."""
    return [each for each in json.loads(printed)["nftables"] if "metainfo" not in each]


def live() -> list[Any]:
    """The parts of our table as the kernel has it now. Empty where there is none."""
    done = call("nft", "--json", "list", "table", *TABLE)
    return listing(done.stdout) if done.returncode == 0 else []


def made_of(text: str) -> list[Any]:
    """The parts of the table that this kernel makes of a text, tried in a network namespace of its own.

    Raises:
        Refused: this kernel, or this nft, cannot hold these rules.
    """
    script = f"nft -f - && nft --json list table {TABLE[0]} {TABLE[1]}"
    done = call("unshare", "--net", "sh", "-c", script, text=text)
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:600]
        raise Refused(
            f"this kernel or its nft cannot hold the rules; nft says: {said}. Expected nf_tables with inet, ct, limit"
            " and log, which some Tegra kernels lack: see `zcat /proc/config.gz | grep NFT`. Nothing is locked"
        )
    return listing(done.stdout)


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether two tables, neither of them empty, have the same rules."""
    return bool(one) and bool(other) and plain(one) == plain(other)


def read(path: Path) -> str:
    """A text file, or nothing where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def write(path: Path, text: str) -> None:
    """Write a file that is whole or not there, whatever happens to the power."""
    path.parent.mkdir(mode=0o755, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    with partial.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One at a time: a confirmation and the rollback that it forestalls may come in the same moment."""
    RUN.mkdir(mode=0o700, exist_ok=True)
    with (RUN / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def trial() -> dict[str, Any]:
    """What is on trial. Empty where nothing is."""
    text = read(TRIAL)
    return dict(json.loads(text)) if text else {}


def after(unit: str, seconds: float, verb: str) -> None:
    """Let systemd do something later, whatever becomes of this session."""
    call("systemctl", "stop", f"{unit}.timer")
    done = call(
        "systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--on-active={seconds}s",
        "--timer-property=AccuracySec=50ms", PROGRAM, verb,
    )  # fmt: skip
    if done.returncode != 0:
        raise Refused(f"systemd does not take {unit}: {done.stderr.strip()}. Nothing was changed")


def restore(why: str) -> None:
    """Put back what was before `apply`. Where even that fails, nothing of ours may keep the operator out."""
    if trial().get("word"):
        done = call("nft", "-f", str(PREVIOUS))
        if done.returncode != 0:
            call("nft", "-f", "-", text=CLEARED)
            why += f"; the rules from before do not load ({done.stderr.strip()}), so there are none now"
    TRIAL.unlink()
    call("systemctl", "stop", f"{LOADER}.timer", f"{UNDOER}.timer")
    write(RUN / "rolled-back", why + "\n")
    print(f"surefoot-egress: rolled back: {why}", file=sys.stderr)


def apply(seconds: float) -> None:
    """Bring what is wanted into force in a moment, and back if nobody confirms it in time."""
    with locked():
        if trial():
            restore("other rules are wanted now")
        text = read(WANTED)
        made_of(text)
        checked = call("nft", "--check", "-f", "-", text=text)
        if checked.returncode != 0:
            raise Refused(f"nft does not take {WANTED}: {checked.stderr.strip()}. Nothing was changed")
        before = call("nft", "list", "table", *TABLE)
        write(PREVIOUS, CLEARED + (before.stdout if before.returncode == 0 else ""))
        write(CANDIDATE, text)
        write(TRIAL, '{"word": ""}')
        try:
            after(UNDOER, seconds, "rollback")
            after(LOADER, LOAD_AFTER_S, "load")
        except Refused:
            restore("it could not begin")
            raise


def load() -> None:
    """Bring what is on trial into force. Its word is told only afterwards, to whoever reaches the device then."""
    with locked():
        if not trial():
            return
        # Noted first: a rollback after a cut in between restores once too often, and never too seldom.
        write(TRIAL, json.dumps({"word": secrets.token_hex(16), "loaded": False}))
        done = call("nft", "-f", str(CANDIDATE))
        if done.returncode != 0:
            restore(f"nft does not take the rules: {done.stderr.strip()}")
            raise Refused(done.stderr.strip())
        write(TRIAL, json.dumps({**trial(), "loaded": True}))


def pending() -> str:
    """The word that confirms what is in force on trial."""
    deadline = time.monotonic() + LOADED_WITHIN_S
    while time.monotonic() < deadline:
        with locked():
            found = trial()
        if not found:
            raise Refused(f"nothing is on trial; found: {read(RUN / 'rolled-back').strip() or 'no apply'}")
        if found.get("loaded"):
            return str(found["word"])
        time.sleep(0.1)
    raise Refused(f"the rules were not loaded within {LOADED_WITHIN_S} s: see journalctl --unit {LOADER}.service")


def confirm(word: str) -> None:
    """Keep what is on trial, now and at each boot."""
    with locked():
        found = trial()
        if not found.get("loaded") or not secrets.compare_digest(word, str(found["word"])):
            raise Refused("this is not the word of what is on trial: it was rolled back, or applied again")
        text = read(CANDIDATE)
        if not same(live(), made_of(text)):
            raise Refused("the kernel has other rules by now than those on trial")
        write(CONFIRMED, text)
        TRIAL.unlink()
        call("systemctl", "stop", f"{UNDOER}.timer")
        # Loads the same once more, as each boot will.
        started = call("systemctl", "restart", SERVICE)
        if started.returncode != 0:
            raise Refused(f"the rules are in force, but {SERVICE} does not load them: {started.stderr.strip()}")


def rollback() -> None:
    """Put back what was, unless it was confirmed in the meantime."""
    with locked():
        if trial():
            restore("nobody confirmed the rules in time, so they may have cut the operator off")


def remove() -> None:
    """Take every rule of ours away, and what would bring one back."""
    with locked():
        call("systemctl", "stop", f"{LOADER}.timer", f"{UNDOER}.timer", SERVICE)
        done = call("nft", "-f", "-", text=CLEARED)
        if done.returncode != 0 and live():
            raise Refused(f"nft does not remove the table: {done.stderr.strip()}")
    shutil.rmtree(RUN)


def status() -> dict[str, Any]:
    """Whether the kernel has the rules that were asked for, and what they stopped since they were loaded."""
    parts, asked, problem = live(), read(CONFIRMED), ""
    counters = {each["counter"]["name"]: each["counter"] for each in parts if "counter" in each}
    try:
        if trial():
            problem = "rules are on trial, and not yet confirmed"
        elif not asked:
            problem = f"no rules were confirmed: there is no {CONFIRMED}"
        elif not parts:
            problem = "the kernel has no table of ours: something flushed it, or the rules did not load"
        elif not same(parts, made_of(asked)):
            problem = f"the kernel has other rules than {CONFIRMED}"
    except Refused as refused:
        problem = str(refused)
    return {
        "locked": not problem,
        "problem": problem,
        "trial": bool(trial()),
        "dropped": {
            name.removeprefix("dropped_"): {"packets": counter["packets"], "bytes": counter["bytes"]}
            for name, counter in counters.items()
        },
    }


def lacking() -> list[str]:
    """What the kernel was built without, as far as it says so."""
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{os.uname().release}")):
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
                lines = stream.read(CONFIG_BYTES).decode(errors="replace").splitlines()
        except OSError:
            continue
        built = {line.split("=")[0] for line in lines if line.endswith(("=y", "=m"))}
        return [f"CONFIG_{name}" for name in KERNEL if f"CONFIG_{name}" not in built]
    return []


def not_addresses(given: list[str]) -> list[str]:
    """Those that are no address and no network: a name would be looked up once, and mean something else tomorrow."""
    found = []
    for each in given:
        try:
            ipaddress.ip_network(each, strict=False)
        except ValueError:
            found.append(each)
    return found


def probe(given: dict[str, Any]) -> dict[str, Any]:
    """What the role asks before it changes anything.

    Args:
        given: ``rules``, the text that is wanted, and ``addresses``, all that stand in it.
    """
    answers = {
        "user": os.geteuid(),
        "service_manager": read(Path("/proc/1/comm")).strip(),
        "nft": shutil.which("nft") is not None,
        "not_addresses": not_addresses(given["addresses"]),
        "problem": "",
        "live": False,
        "in_force": False,
        "trial": bool(trial()),
    }
    if not answers["nft"]:
        missing = lacking()
        answers["problem"] = f"this kernel was built without {', '.join(missing)}" if missing else ""
    elif not answers["not_addresses"] and given["rules"]:
        parts = live()
        try:
            wanted = made_of(given["rules"])
            answers["in_force"] = same(parts, wanted) and read(CONFIRMED) == given["rules"] and not trial()
        except Refused as refused:
            answers["problem"] = str(refused)
    answers["live"] = answers["nft"] and bool(live())
    return answers


def main(verb: str = "", *words: str) -> int:
    """Do what the command line says."""
    verbs = {"load": load, "rollback": rollback, "remove": remove}
    try:
        if verb == "status":
            found = status()
            print(json.dumps(found))
            return 0 if found["locked"] else 1
        if verb == "probe":
            print(json.dumps(probe(json.load(sys.stdin))))
        elif verb == "apply" and len(words) == 1:
            apply(float(words[0]))
        elif verb == "pending":
            print(pending())
        elif verb == "confirm" and len(words) == 1:
            confirm(words[0])
        elif verb in verbs:
            verbs[verb]()
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except Refused as refused:
        print(f"surefoot-egress: {refused}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
