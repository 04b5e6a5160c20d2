"""What a machine wrote to its data disk, and the disk after a power cut in the middle of that.

QEMU keeps the record (``driver=blklogwrites``), in the format of Linux's dm-log-writes:
https://docs.kernel.org/admin-guide/device-mapper/log-writes.html. ``tests.crash.blocks`` knows what a cut may leave.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.blocks import BLOCK_BYTES, ZEROS, Blocks, Cutter, Entry, Image, in_blocks

SUPER = struct.Struct("<QQQI")  # magic, version, entries, bytes of a sector
MAGIC, VERSION = 0x6A736677736872, 1
ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, bytes of data that are no content of the disk
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


def recorded(log: Path) -> list[Entry]:
    """Writes and flushes so far, long writes split into blocks.

    Raises:
        ValueError: the record is none, or holds what this does not know.
    """
    entries: list[Entry] = []
    with log.open("rb") as stream:
        magic, version, _, sector = SUPER.unpack(stream.read(SUPER.size))
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError(f"{log} is no record of writes")
        place = sector
        size = log.stat().st_size
        while place + sector <= size:
            stream.seek(place)
            start, count, flags, _ = ENTRY.unpack(stream.read(ENTRY.size))
            if (start, count, flags) == (0, 0, 0):
                break  # room for one that was never written
            place += sector
            if flags & ~FLUSH:
                raise ValueError(f"{log}: flags {flags} at {place}: a write that was neither plain nor a flush")
            if place + count * sector > size:
                break  # it is being written
            if flags & FLUSH:
                entries.append(Entry(place))
            stream.seek(place)
            data = stream.read(count * sector)
            place += len(data)
            entries += in_blocks(place, start * sector, data)
    return entries


class Cuts:
    """The cuts of one stretch of a machine's life.

    Args:
        disk: the data disk as it was when the record began.
        entries: the record.
        marks: how long the record was (an ``Entry.end``) when something was acknowledged; the first is its beginning.
        seed: decides what arrived.
    """

    def __init__(self, disk: Path, entries: list[Entry], marks: list[int], seed: int) -> None:
        self._disk = disk
        self._touched = sorted({entry.number for entry in entries if not entry.is_flush})
        with disk.open("rb") as stream:
            self._before: Blocks = {}
            for number in self._touched:
                stream.seek(number * BLOCK_BYTES)
                block = stream.read(BLOCK_BYTES).ljust(BLOCK_BYTES, b"\0")
                if block != ZEROS:
                    self._before[number] = block
        self._cutter = Cutter(self._before, entries, random.Random(seed), marks)

    @property
    def flushes(self) -> int:
        """How many the machine waited for."""
        return self._cutter.flushes

    def images(self, most: int) -> Iterator[Image]:
        """Distinct disks."""
        return self._cutter.images(most)

    def make(self, image: Image, path: Path) -> Path:
        """The whole disk of an image, as a file of its own."""
        subprocess.run(["cp", "--sparse=always", self._disk, path], check=True)
        self.put(image, path)
        return path

    def put(self, image: Image, path: Path) -> None:
        """Make a disk, that of another image until now, that of this one."""
        with path.open("r+b") as stream:
            for number in self._touched:
                os.pwrite(stream.fileno(), image.blocks.get(number, ZEROS), number * BLOCK_BYTES)


@contextmanager
def mounted(disk: Path, at: Path, options: str = "loop,noatime") -> Iterator[Path]:
    """The file system of a data disk, its journal replayed by the kernel."""
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", "-o", options, disk, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)
