"""What the installer does to disk that a shell cannot do durably or atomically.

    place.py lock DESCRIPTOR            take flock(2) on an open descriptor of the caller's, or fail
    place.py complete VERSION           make all of a version durable, then mark it complete
    place.py confirm VERSION            note that a version has answered
    place.py switch ROOT VERSION        note the version before, then let ROOT/current point to VERSION by one rename
    place.py job TEMPLATE PLIST K=V…    write the launchd job

All but ``lock`` run under the installed version's own Python, and write by its durable writer.
"""

from __future__ import annotations

import fcntl
import plistlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lock(descriptor: str) -> None:
    """Take the lock for as long as the caller keeps the descriptor open."""
    fcntl.flock(int(descriptor), fcntl.LOCK_EX | fcntl.LOCK_NB)


def complete(version: str) -> None:
    """Mark a version complete, after all of it is on the disk."""
    from surefoot.durable import Disk, sync_file_system

    sync_file_system(Path(version))
    Disk().write(Path(version) / "complete", b"")


def confirm(version: str) -> None:
    """Mark a version as one that has answered: from now on it is what an install returns to."""
    from surefoot.durable import Disk

    Disk().write(Path(version) / "confirmed", b"")


def switch(root: str, version: str) -> None:
    """Let ``current`` point to a version. A cut leaves it pointing to the old one or to the new one."""
    from surefoot.durable import Disk

    disk = Disk()
    link = Path(root) / "current"
    target = Path("versions") / version
    old = link.readlink() if link.is_symlink() else None
    if old == target:
        return
    # What was never confirmed is nothing to return to: then it is the one before that.
    good = Path(root) / old if old is not None else None
    while good is not None and not (good / "confirmed").exists():
        record = good / "before"
        good = good.with_name(record.read_text()) if record.exists() else None
    if good is not None and good.name != version:
        disk.write(Path(root) / target / "before", good.name.encode())
    fresh = link.with_name(".current.part")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    disk.move_file(fresh, link)


def job(template: str, plist: str, *settings: str) -> None:
    """Write the job: the template with its ``@name@`` replaced, without UserName where there is no user to name."""
    from surefoot.durable import Disk

    values = dict(setting.split("=", 1) for setting in settings)

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            for name, given in values.items():
                value = value.replace(f"@{name}@", given)
        elif isinstance(value, list):
            return [fill(each) for each in value]
        elif isinstance(value, dict):
            return {name: fill(each) for name, each in value.items()}
        return value

    content = fill(plistlib.loads(Path(template).read_bytes()))
    if not content["UserName"]:
        del content["UserName"]
    Disk().write(Path(plist), plistlib.dumps(content), 0o644)  # launchd refuses a job that others may write


COMMANDS: dict[str, Callable[..., None]] = {
    "lock": lock,
    "complete": complete,
    "confirm": confirm,
    "switch": switch,
    "job": job,
}

if __name__ == "__main__":
    try:
        COMMANDS[sys.argv[1]](*sys.argv[2:])
    except OSError as error:
        sys.exit(f"surefoot: {error}")
