"""The ``quarantine`` file: a third copy of what the state refuses, for a rebuild and for people.

The state holds it too, so that a rejection is one transition; this file follows.
"""

from __future__ import annotations

from pathlib import Path

from surefoot.durable import Disk
from surefoot.slots.sealed import UnreadableError, read_sealed, seal
from surefoot.slots.state import Refused

MOST_QUARANTINE_BYTES = 256 * 1024


class Quarantine:
    """Digests that this device refuses, with the reason."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path, self._disk = path, disk

    def read(self) -> tuple[Refused, ...]:
        """What the file holds; nothing where it is missing or damaged."""
        try:
            return read_sealed(self._path, tuple[Refused, ...], MOST_QUARANTINE_BYTES) or ()
        except UnreadableError:
            return ()

    def follow(self, entries: tuple[Refused, ...]) -> None:
        """Make the file say what the state says."""
        if self.read() != entries:
            self._disk.write(self._path, seal(entries))
