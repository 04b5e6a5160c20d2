"""What a disk may hold after a power cut, from the record of what was written to it. Pure.

What came before a flush is there. Of what came after the last one any part may be, in any order; writes of the same
block keep theirs. A block of 4 KiB may be torn: each of its sectors of 512 bytes arrived or did not.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from tests.crash.recorder import FLUSH, HEAD

BLOCK_BYTES, SECTOR_BYTES = 4096, 512
ZEROS = bytes(BLOCK_BYTES)
PARTS = 40  # random parts of what was written, at least, however many prefixes there are
BARREN = 2  # passes that find nothing new, each with twice the tries, until it is given up
TORN = 0.15  # the share of the last writes that are torn; the rest arrive or do not, as a coin falls

Blocks = dict[int, bytes]  # by number; those of zeros alone are left out


class Entry(NamedTuple):
    """A write of part of one block, or a flush, which has no data. ``end``: how long the record was after it."""

    end: int
    number: int = 0
    at: int = 0
    data: bytes = b""

    @property
    def is_flush(self) -> bool:
        """Whether all before it is safe."""
        return not self.data


class Image(NamedTuple):
    """A disk after a cut. ``marks``: how many had been made, at most. ``digest``: of its content.

    ``prefix``: whether all that was written up to some moment arrived, and nothing after it.
    """

    marks: int
    blocks: Blocks
    digest: int
    what: str
    prefix: bool = False


def read_log(log: bytes) -> list[Entry]:
    """The record, long writes split into blocks: they do not arrive as one either."""
    entries: list[Entry] = []
    place = 0
    while place < len(log):
        kind, offset, length = HEAD.unpack_from(log, place)
        data = log[place + HEAD.size : place + HEAD.size + length]
        place += HEAD.size + length
        if kind == FLUSH:
            entries.append(Entry(place))
        entries += in_blocks(place, offset, data)
    return entries


def in_blocks(place: int, offset: int, data: bytes) -> Iterator[Entry]:
    """A write at an offset of the disk, a block at a time: so it arrives. ``place``: the end of its record."""
    while data:
        number, at = divmod(offset, BLOCK_BYTES)
        part = data[: BLOCK_BYTES - at]
        yield Entry(place, number, at, part)
        data, offset = data[len(part) :], offset + len(part)


class Cutter:
    """Images of one record.

    Args:
        base: the disk when the record began.
        entries: the record.
        chance: decides what arrived.
        marks: how long the record was when something was acknowledged. No cut falls before the first.
    """

    def __init__(self, base: Blocks, entries: list[Entry], chance: random.Random, marks: list[int]) -> None:
        self._base, self._chance, self._marks = base, chance, marks
        self._windows: list[list[Entry]] = [[]]  # writes that no flush parts, each but the last with its flush
        for entry in entries:
            self._windows[-1].append(entry)
            if entry.is_flush:
                self._windows.append([])

    @property
    def flushes(self) -> int:
        """How many flushes the operation waited for."""
        return sum(window[-1].end > self._marks[0] for window in self._windows[:-1])

    def images(self, most: int) -> Iterator[Image]:
        """Distinct images: every prefix of what was written, then ``PARTS`` others or more, until there are ``most``.

        Fewer only where ``BARREN`` passes in a row, each with more tries, found nothing new.
        """
        seen: dict[int, set[int]] = {}  # digests, and the marks that each was given with
        yield from self._prefixes(seen)
        most = wanted(most, len(seen))
        each = barren = 0
        while len(seen) < most and barren < BARREN:
            before = len(seen)
            each = max(1, 2 * each, (most - len(seen)) // max(1, self.flushes))
            for image in self._parts(each, seen):
                yield image
                if len(seen) >= most:
                    return
            barren = barren + 1 if len(seen) == before else 0

    def _prefixes(self, seen: dict[int, set[int]]) -> Iterator[Image]:
        """After each flush nothing, then one block more at a time up to the next."""
        for disk, digest, flushed, writes, marks in self._cuttable():
            blocks = dict(disk)
            for count in range(len(writes) + 1):
                digest = apply(blocks, digest, writes[count - 1 : count] if count else [])
                if _is_new(seen, digest, marks):
                    what = f"the first {count} of {len(writes)} blocks written since the flush at {flushed}"
                    yield Image(marks, dict(blocks), digest, what, prefix=True)

    def _parts(self, each: int, seen: dict[int, set[int]]) -> Iterator[Image]:
        """Of each window so many random subsets, some of their blocks torn."""
        for disk, digest, _, writes, marks in self._cuttable():
            found = 0
            for _ in range(4 * each if writes else 0):
                image = self._some(disk, digest, writes)._replace(marks=marks)
                if _is_new(seen, image.digest, marks):
                    yield image
                    found += 1
                    if found == each:
                        break

    def _cuttable(self) -> Iterator[tuple[Blocks, int, int, list[Entry], int]]:
        """Windows in which a cut may fall: the disk before, its digest, its flush, the writes, and the marks then."""
        disk, digest, flushed = dict(self._base), 0, 0
        for window in self._windows:
            writes = [entry for entry in window if not entry.is_flush]
            end = writes[-1].end if writes else flushed  # later, the flush at the window's end may have been done
            if end >= self._marks[0]:
                yield disk, digest, flushed, writes, bisect_right(self._marks, end)
            digest = apply(disk, digest, writes)
            flushed = window[-1].end if window else flushed

    def _some(self, disk: Blocks, digest: int, writes: list[Entry]) -> Image:
        last = self._chance.randrange(len(writes)) + 1
        arrived: list[Entry] = []
        torn = 0
        for entry in writes[:last]:
            if self._chance.random() < TORN:
                torn += 1
                arrived += [one for one in _sectors(entry) if self._chance.random() < 0.5]
            elif self._chance.random() < 0.5:
                arrived.append(entry)
        blocks = dict(disk)
        digest = apply(blocks, digest, arrived)
        return Image(0, blocks, digest, f"part of {last} blocks written before {writes[last - 1].end}, {torn} torn")


def wanted(most: int, prefixes: int) -> int:
    """How many images ``Cutter.images`` is to give where it found so many prefixes."""
    return max(most, prefixes + PARTS)


def _is_new(seen: dict[int, set[int]], digest: int, marks: int) -> bool:
    before = seen.setdefault(digest, set())
    if marks in before:
        return False
    before.add(marks)
    return True


def _sectors(entry: Entry) -> Iterator[Entry]:
    for at in range(0, len(entry.data), SECTOR_BYTES):
        yield entry._replace(at=entry.at + at, data=entry.data[at : at + SECTOR_BYTES])


def apply(blocks: Blocks, digest: int, writes: list[Entry]) -> int:
    """Write into ``blocks``. Returns the digest of what they hold then: the same content has the same."""
    for entry in writes:
        old = blocks.get(entry.number, ZEROS)
        new = old[: entry.at] + entry.data + old[entry.at + len(entry.data) :]
        if new != old:
            blocks[entry.number] = new
            digest ^= _digest(entry.number, old) ^ _digest(entry.number, new)
    return digest


def _digest(number: int, data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=16, salt=number.to_bytes(16, "big")).digest(), "big")
