"""A process that stops in the middle of an install, says so, and goes on when told.

Run: ``python -m tests.crash.pausing FOLDER VERSION PRIMITIVE PATTERN``; it pauses before that
primitive on a name that matches.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from pathlib import Path

from tests.app.slots import kit
from tests.crash.cuts import FastDisk


class Pausing(FastDisk):
    """Pauses once, before a primitive."""

    def __init__(self, primitive: str, pattern: str) -> None:
        self.at: tuple[str, str] | None = (primitive, pattern)

    def step(self, primitive: str, path: Path) -> None:
        if self.at and primitive == self.at[0] and fnmatch(path.name, self.at[1]):
            self.at = None
            print("paused", flush=True)
            sys.stdin.readline()


def main(folder: Path, version: str, primitive: str, pattern: str) -> None:
    store = kit.open_store(folder, Pausing(primitive, pattern))
    with store.operation("install"):
        kit.install(store, kit.make_release(folder / "inbox", version))
    print("installed", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
