"""One operation on a recorded ext4, then every power cut in it: mount what is left, and judge.

The journal is replayed by the kernel and the judge opens the store on the real mount. What it finds depends on the
files alone, so each tree of files is judged once for what was acknowledged then, however many images hold it.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from tests.crash import kernel
from tests.crash.blocks import Blocks, Cutter, Entry, Image
from tests.crash.disks import Disk, blank, recorded, write_blocks

DEVICE = "device"
AT_A_TIME = 2  # mounts: most of the time of each is waiting for the kernel
BATCH = 64
T = TypeVar("T")
Acknowledge = Callable[[T], None]


class Recorded(NamedTuple, Generic[T]):
    """An operation on a disk. ``marks``: what was acknowledged, in order; the first was when it began."""

    base: Blocks
    cutter: Cutter
    marks: list[T]


class Count(NamedTuple):
    """What was explored. ``images``: distinct by their blocks. ``trees``: distinct by their files.

    ``prefixes``: images of all that was written up to some moment. ``repaired``: images whose superblock was torn.
    """

    images: int
    prefixes: int
    trees: int
    repaired: int
    flushes: int
    seconds: float

    def __str__(self) -> str:
        rate = self.images / self.seconds
        parts = f"{self.prefixes} prefixes, {self.trees} distinct trees of files, {self.repaired} superblocks torn"
        what = f"{self.images} distinct images ({parts})"
        return f"{what} around {self.flushes} flushes, {self.seconds:.1f} s, {rate:.0f} a second"


class Violated(AssertionError):
    """The judge found something. ``images``: how many it took."""

    def __init__(self, what: str, images: int) -> None:
        super().__init__(f"image {images}, {what}")
        self.images = images


class Bench:
    """A place for recordings and replays.

    Args:
        folder: where images lie; best in memory.
        keep: where an image that was found wanting is left.
        seed: decides what arrives.
    """

    def __init__(self, folder: Path, keep: Path, seed: int) -> None:
        self._folder, self._keep, self.seed = folder, keep, seed
        self._blank = blank(folder / "blank.img")
        self._disks = [Disk(folder, number) for number in range(AT_A_TIME)]
        self._free: SimpleQueue[Disk] = SimpleQueue()
        for disk in self._disks:
            self._free.put(disk)

    def close(self) -> None:
        """Let go of the disks."""
        for disk in self._disks:
            disk.close()

    def record(self, device: Path, before: T, operate: Callable[[Path, Acknowledge[T]], object]) -> Recorded[T]:
        """Run an operation on a copy of a device, on a disk that records.

        Args:
            device: as it was long before: all of it is on the disk.
            before: what was acknowledged then.
            operate: is given the device, and a function to call whenever something more is acknowledged.
        """
        base, entries, marks = kernel.privately(lambda: self._run(device, before, operate))
        cutter = Cutter(base, entries, random.Random(self.seed), [place for place, _ in marks])
        return Recorded(base, cutter, [what for _, what in marks])

    def fail(self, device: Path, after: int, operate: Callable[[Path], T]) -> tuple[T, Blocks] | None:
        """Run an operation on a disk that answers EIO to one write or flush, and cut the power after it.

        Args:
            device: as it was long before.
            after: how many writes and flushes are carried out before that one.
            operate: is given the device.

        Returns:
            What the operation gave and what is on the disk; ``None`` where it was over before the disk failed.
        """

        def run() -> tuple[T, Blocks] | None:
            with recorded(self._holding(device), self._folder) as recording:
                recording.settle()
                recording.fail(after)
                given = operate(recording.folder / DEVICE)
                return (given, recording.blocks()) if recording.failed else None

        return kernel.privately(run)

    def look(self, blocks: Blocks, judge: Callable[[Path], T]) -> T:
        """Mount an image and judge the device on it."""

        def run() -> T:
            self._disks[0].set(blocks)
            with self._disks[0].mounted() as at:
                return judge(at / DEVICE)

        return kernel.privately(run)

    def _holding(self, device: Path) -> Blocks:
        """A disk with a copy of a device."""
        self._disks[0].set(self._blank)
        with self._disks[0].mounted() as at:
            shutil.copytree(device, at / DEVICE, symlinks=True)
        return self._disks[0].blocks()

    def _run(
        self, device: Path, before: T, operate: Callable[[Path, Acknowledge[T]], object]
    ) -> tuple[Blocks, list[Entry], list[tuple[int, T]]]:
        base = self._holding(device)
        with recorded(base, self._folder) as recording:
            recording.settle()
            marks = [(recording.position(), before)]
            operate(recording.folder / DEVICE, lambda what: marks.append((recording.position(), what)))
            recording.settle()
            return base, recording.read(), marks

    def explore(self, record: Recorded[T], most: int, judge: Callable[[Path, T], object]) -> Count:
        """Judge what cuts leave.

        Args:
            record: of an operation.
            most: images to try; every prefix is tried in any case.
            judge: is given the device after the cut and what was acknowledged last before it. Raises where it must.

        Raises:
            Violated: the judge raised, or the file system cannot be mounted. The image is kept as ``violated.img``.
        """
        started = time.perf_counter()
        repaired = sum(disk.repaired for disk in self._disks)
        images, prefixes, trees, judged = set[int](), set[int](), set[bytes](), set[tuple[bytes, int]]()

        def look(image: Image) -> None:
            disk = self._free.get()
            try:
                disk.set(image.blocks)
                with disk.mounted() as at:
                    tree = _tree(at / DEVICE)
                    trees.add(tree)
                    if (tree, image.marks) not in judged:
                        judged.add((tree, image.marks))
                        judge(at / DEVICE, record.marks[image.marks - 1])
            finally:
                self._free.put(disk)

        tried = 0
        source = record.cutter.images(most)
        with ThreadPoolExecutor(len(self._disks), initializer=kernel.keep_mounts_private) as pool:
            while batch := list(islice(source, BATCH)):
                results = [pool.submit(look, image) for image in batch]
                for image, result in zip(batch, results, strict=True):
                    tried += 1
                    images.add(image.digest)
                    if image.prefix:
                        prefixes.add(image.digest)
                    error = result.exception()
                    if error is not None:
                        what = f"{image.what}, {image.marks - 1} acknowledged: {error}"
                        write_blocks(self._keep / "violated.img", image.blocks)
                        raise Violated(what, tried) from error
        repaired = sum(disk.repaired for disk in self._disks) - repaired
        seconds = time.perf_counter() - started
        return Count(len(images), len(prefixes), len(trees), repaired, record.cutter.flushes, seconds)


def _tree(folder: Path) -> bytes:
    """A digest of all names, kinds, links and contents."""
    digest = hashlib.blake2b()
    pending = [""]
    while pending:
        here = pending.pop()
        for entry in sorted(os.scandir(folder / here), key=lambda one: one.name):
            facts = entry.stat(follow_symlinks=False)
            path = f"{here}/{entry.name}" if here else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
                digest.update(f"{path}\0{facts.st_mode}\0".encode())
            else:
                digest.update(f"{path}\0{facts.st_mode}\0{facts.st_nlink}\0{facts.st_size}\0".encode())
                held = os.fsencode(Path(entry.path).readlink()) if entry.is_symlink() else Path(entry.path).read_bytes()
                digest.update(held)
    return digest.digest()
