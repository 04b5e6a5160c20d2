"""Earlier confirmed releases, kept for a rollback of several steps; bounded by steps and by bytes.

An entry is a directory ``<version>-<12 digits of the digest>`` and, beside it, a record of the same name and ``.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from surefoot.config import Storage
from surefoot.durable import TEMPORARY_PREFIX, Disk
from surefoot.slots.content import Record, fault, read_record, write_record
from surefoot.slots.state import SLOTS, ReleaseRef, State

MOST_ENTRIES = 256  # read from the directory; there are never more than the steps back and one


class Entry(NamedTuple):
    """An archived release, or what is left of one: then without a record or without its directory."""

    path: Path
    record_path: Path
    record: Record | None
    size_bytes: int

    @property
    def digest(self) -> str:
        """The release's, or "" where no record tells."""
        return self.record.release.digest if self.record else ""


class Archive:
    """The archive of one model."""

    def __init__(self, path: Path, disk: Disk, storage: Storage) -> None:
        self._path, self._disk, self._storage = path, disk, storage

    def entries(self) -> list[Entry]:
        """What is there, in no order."""
        if not self._path.is_dir():
            return []
        keys = {
            path.name.removesuffix(".json")
            for path in sorted(self._path.iterdir())[: 2 * MOST_ENTRIES]
            if not path.name.startswith(TEMPORARY_PREFIX)
        }
        return [self._entry(key) for key in sorted(keys)]

    def _entry(self, key: str) -> Entry:
        path, record_path = self._path / key, self._path / f"{key}.json"
        size = sum(file.lstat().st_size for file in path.iterdir()) if path.is_dir() else 0
        return Entry(path, record_path, read_record(record_path), size)

    def find(self, digest: str) -> Entry | None:
        """The entry of a release, if there is one with its directory."""
        return next((entry for entry in self.entries() if entry.digest == digest and entry.path.is_dir()), None)

    def digests(self) -> tuple[str, ...]:
        """Of every release that is here with its directory."""
        return tuple(entry.digest for entry in self.entries() if entry.digest and entry.path.is_dir())

    def promised(self, state: State) -> tuple[ReleaseRef, ...]:
        """The releases that a rollback must reach, oldest first."""
        before = state.lineage[:-1]
        return before[max(0, len(before) - self._storage.steps_back) :]

    def wants(self, state: State, release: ReleaseRef) -> bool:
        """Whether a confirmed release that leaves its slot is to be kept."""
        entry = self.find(release.digest)
        return release in self.promised(state) and (entry is None or fault(entry.path, release) is not None)

    def take(self, directory: Path, record: Record) -> None:
        """Move a slot's content here. The record goes first: a directory without one is debris."""
        self._disk.make_directory(self._path)
        key = f"{record.release.version}-{record.release.digest[:12]}"
        self._disk.remove_directory(self._path / key)
        write_record(self._disk, self._path / f"{key}.json", record)
        self._disk.move_directory(directory, self._path / key)

    def remove(self, entry: Entry) -> None:
        """Remove an entry: its directory first, since a record alone promises nothing."""
        self._disk.remove_directory(entry.path)
        self._disk.remove(entry.record_path)

    def prune(self, state: State, *, most_bytes: int | None = None) -> list[str]:
        """Keep to the bounds; what no step back needs goes first, then the oldest.

        Args:
            state: says what is promised.
            most_bytes: keep no more than this; ``None``: the configured bound.

        Returns:
            What was removed, in words.
        """
        most_bytes = self._storage.archive_bytes if most_bytes is None else most_bytes
        promised = [ref.digest for ref in self.promised(state)]
        kept = [*promised, *([state.lineage[-1].digest] if state.lineage else [])]
        in_slots = {now.release.digest for now in state.slots.values() if now.release and now.status == "confirmed"}
        removed = []
        remaining = []
        for entry in self.entries():
            if entry.digest not in kept or not entry.path.is_dir():
                removed.append(entry)
            else:
                remaining.append(entry)
        remaining.sort(key=lambda entry: (entry.digest not in in_slots, kept.index(entry.digest)))
        while remaining and sum(entry.size_bytes for entry in remaining) > most_bytes:
            removed.append(remaining.pop(0))
        for entry in removed:
            self.remove(entry)
        if self._path.is_dir():
            for path in self._path.glob(f"{TEMPORARY_PREFIX}*"):
                if path.is_dir():
                    self._disk.remove_directory(path)
                else:
                    self._disk.remove(path)
        return [f"removed {entry.path.name} from the archive" for entry in removed]

    def unreachable(self, state: State) -> list[ReleaseRef]:
        """Promised releases that no slot and no entry holds: the promise cannot be kept."""
        return [ref for ref in self.promised(state) if self.where(state, ref) is None]

    def where(self, state: State, release: ReleaseRef) -> str | None:
        """What holds a confirmed release: a slot, ``archive``, or nothing."""
        for slot in SLOTS:
            if state.slots[slot].release == release and state.slots[slot].status in ("confirmed", "archiving"):
                return slot
        return "archive" if release.digest in self.digests() else None
