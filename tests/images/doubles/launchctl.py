"""A double of launchctl, for machines without launchd: NOT the real thing, and named so in what it prints.

From launchctl(1) and launchd.plist(5): ``bootstrap``, ``bootout``, ``kickstart``, ``enable``, ``print``. It records
each call in ``$LAUNCHD_DOUBLE/calls``, starts what the job names, and can be told to refuse a verb (``refuse``) or to
kill its caller before call N (``cut``), as a power cut would, or to start nothing once (``dead``).
"""

from __future__ import annotations

import os
import plistlib
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["LAUNCHD_DOUBLE"])


def loaded(label: str) -> int | None:
    """The process of a job, if it is loaded."""
    record = STATE / f"{label}.pid"
    return int(record.read_text()) if record.exists() else None


def alive(pid: int) -> bool:
    """A process that has ended and that nobody waited for is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def bootstrap(_: str, plist: str) -> int:
    job = plistlib.loads(Path(plist).read_bytes())
    if loaded(job["Label"]) is not None:
        print("Bootstrap failed: 5: Input/output error", file=sys.stderr)
        return 5
    if (STATE / "dead").exists():
        (STATE / "dead").unlink()
        (STATE / f"{job['Label']}.pid").write_text("999999999")
        return 0
    with Path(job["StandardErrorPath"]).open("ab") as log:
        process = subprocess.Popen(
            job["ProgramArguments"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=job["WorkingDirectory"],
            env={"PATH": os.environ["PATH"], **job["EnvironmentVariables"]},
            start_new_session=True,
            preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (1, 2, 15)],
        )
    (STATE / f"{job['Label']}.pid").write_text(str(process.pid))
    (STATE / f"{job['Label']}.from").write_text(plist)
    process.returncode = 0  # launchd would wait for it, not launchctl
    return 0


def bootout(target: str) -> int:
    label = target.rpartition("/")[2]
    pid = loaded(label)
    if pid is None:
        print("Boot-out failed: 3: No such process", file=sys.stderr)
        return 3
    if alive(pid):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 45
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        if alive(pid):
            os.killpg(pid, signal.SIGKILL)
    (STATE / f"{label}.pid").unlink()
    return 0


def kickstart(option: str, target: str) -> int:
    if option != "-k" or bootout(target):
        return 3
    return bootstrap("", (STATE / f"{target.rpartition('/')[2]}.from").read_text())


def show(target: str) -> int:
    pid = loaded(target.rpartition("/")[2])
    if pid is None:
        print(f'Could not find service "{target}" (double of launchctl)', file=sys.stderr)
        return 113
    print(f"{target} = {{ pid = {pid} }}")
    return 0


def main(verb: str, *rest: str) -> int:
    with (STATE / "calls").open("a") as calls:
        calls.write(" ".join([verb, *rest]) + "\n")
    made = len((STATE / "calls").read_text().splitlines())
    if (STATE / "cut").exists() and made >= int((STATE / "cut").read_text()):
        os.kill(os.getppid(), signal.SIGKILL)
        return 9
    if (STATE / "refuse").exists() and verb == (STATE / "refuse").read_text():
        (STATE / "refuse").unlink()
        print(f"{verb} refused by the double", file=sys.stderr)
        return 5
    verbs = {"bootstrap": bootstrap, "bootout": bootout, "kickstart": kickstart, "print": show, "enable": lambda _: 0}
    return verbs[verb](*rest)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
