"""Sources over the network for tests: as on a device, but with short timeouts, and waits that are noted, not waited."""

from __future__ import annotations

import time

from surefoot.config import Fetch
from surefoot.release.location import open_source
from surefoot.release.pacing import Timing
from surefoot.release.source import Piece, Source

CHANCE = 0.5


class Waits(list[float]):
    """The waits (seconds) that a source would have made."""

    @property
    def timing(self) -> Timing:
        return Timing(time.monotonic, self.append, lambda: CHANCE)


def reach(location: str, timeout_s: float = 5, waits: Waits | None = None, check_dates: bool = True, **fetch) -> Source:
    timing = (waits if waits is not None else Waits()).timing
    return open_source(location, Fetch(timeout_s=timeout_s, **fetch), timing, check_dates=check_dates)


def got(where: Source, relative: str = "file.bin", offset: int = 0, here: bytes = b"", **more) -> bytes:
    """A file from ``offset`` on, as whoever heeds the offsets of the pieces has it. ``here``: what lies before it."""
    data = bytearray(here or bytes(offset))
    for piece in where.stream(relative, offset, **more):
        assert isinstance(piece, Piece)
        assert piece.offset in (0, len(data)), "a hole, or something twice"
        if piece.offset == 0:
            data.clear()
        data += piece.data
    return bytes(data)
