"""``history.jsonl``: what happened, when and why. One JSON object a line, bounded, tolerant of a torn line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from surefoot.durable import Disk
from surefoot.slots.state import Event

TAIL_BYTES = 16 * 1024
MOST_HISTORY_BYTES = 64 * 1024 * 1024  # whatever the configured bound: no more is ever read into memory


class History:
    """The log of one model.

    Args:
        path: the file.
        disk: how it is written.
        most_bytes: when it is longer, its older half is dropped.
    """

    def __init__(self, path: Path, disk: Disk, most_bytes: int) -> None:
        self._path, self._disk, self._most_bytes = path, disk, most_bytes

    def ensure(self, event: Event | None) -> None:
        """Append an event unless it is there: a cut after its transition may have kept it out."""
        if event is None or any(one == event for one in self._parse(self._tail())):
            return
        self._disk.append(self._path, msgspec.json.encode(event))
        if self._path.stat().st_size > self._most_bytes:
            self._rotate()

    def read(self, limit: int | None = None) -> list[Event]:
        """The latest events, oldest first. Lines that are none are skipped."""
        events = list(self._parse(self._read(MOST_HISTORY_BYTES)))
        return events if limit is None else events[-limit:] if limit > 0 else []

    def _tail(self) -> bytes:
        return self._read(TAIL_BYTES)

    def _read(self, most_bytes: int) -> bytes:
        try:
            with self._path.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - most_bytes))
                return stream.read(most_bytes)
        except OSError:
            return b""

    @staticmethod
    def _parse(data: bytes) -> Iterator[Event]:
        for line in data.split(b"\n"):
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                yield msgspec.json.decode(line, type=Event)

    def _rotate(self) -> None:
        lines = self._read(self._most_bytes // 2).split(b"\n")[1:]
        self._disk.write(self._path, b"\n".join(lines))
