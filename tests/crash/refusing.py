"""A small real ext4 that stops taking writes in the middle of an operation: full, or read-only.

To be used in a thread whose mounts are private: ``kernel.privately``.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from surefoot.durable import Disk, sync_file_system
from surefoot.errors import DeviceUnable
from tests.crash import disks, kernel
from tests.crash.cuts import FastDisk

SIZE_BYTES = 8 << 20
BLOCK_BYTES = 1024
MOST = 1000  # no operation has so many primitives
TAKE_ROOM = ("create", "append", "extend", "write", "mkdir", "rename", "symlink")


class SmallDisk:
    """An ext4 on a file in ``folder``, mounted until :meth:`close`."""

    def __init__(self, folder: Path) -> None:
        image, self.at = folder / "small.img", folder / "small"
        self.at.mkdir()
        with image.open("wb") as stream:
            stream.truncate(SIZE_BYTES)
        options = ["-q", "-b", str(BLOCK_BYTES), "-m", "0", "-N", "512", "-J", "size=1"]
        subprocess.run(["mkfs.ext4", *options, str(image)], check=True, env=disks.SYSTEM)
        self._loop = kernel.Loop(image)
        self.mount()

    def mount(self) -> None:
        """Mount it, its journal replayed."""
        kernel.mount(self._loop.path, self.at, "ext4", "barrier=0")  # nothing is cut here

    def unmount(self) -> None:
        """As a shutdown does. Fails where anything is still open."""
        kernel.unmount(self.at)

    def close(self) -> None:
        """Let go of the loop device."""
        self.unmount()
        self._loop.close()


class Full:
    """Somebody else takes every block that is left. ``refuses``: what the device may say of it."""

    refuses = ("ENOSPC", "no room", "no space", os.strerror(errno.ENOSPC))
    disk = FastDisk
    primitives: tuple[str, ...] | None = TAKE_ROOM

    def __init__(self, small: SmallDisk) -> None:
        self._folder = small.at
        self._ballast = small.at / "ballast"

    def befall(self) -> None:
        """What was removed before is given back only by a sync."""
        sync_file_system(self._folder)
        with self._ballast.open("wb") as stream:
            at = 0
            for size in (1 << 20, 1 << 16, BLOCK_BYTES):
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(stream.fileno(), at, size)
                        at += size
                at = os.fstat(stream.fileno()).st_size

    def end(self) -> None:
        """It goes again."""
        self._ballast.unlink(missing_ok=True)
        sync_file_system(self._folder)


class ReadOnly:
    """It is remounted read-only; where a file is open for writing, in the way that ext4 does so by itself on errors."""

    refuses = ("EROFS", os.strerror(errno.EROFS))
    disk = Disk
    primitives: tuple[str, ...] | None = None

    def __init__(self, small: SmallDisk) -> None:
        self._small, self._aborted = small, False
        self.aborted = 0

    def befall(self) -> None:
        """See ext4(5), "abort": what is not committed yet is gone."""
        try:
            kernel.remount(self._small.at, read_only=True)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            kernel.remount(self._small.at, read_only=False, options="abort")
            self._aborted = True
            self.aborted += 1

    def end(self) -> None:
        """Writable again: what was aborted only after another mount."""
        if self._aborted:
            self._small.unmount()
            self._small.mount()
        else:
            kernel.remount(self._small.at, read_only=False)
        self._aborted = False


class Trigger:
    """Calls ``befall`` before the n-th primitive of those that count."""

    def __init__(self, at: int, befall: Callable[[], None], counted: tuple[str, ...] | None) -> None:
        self._left, self._befall, self._counted = at, befall, counted

    def __call__(self, primitive: str) -> None:
        if self._counted is None or primitive in self._counted:
            self._left -= 1
            if self._left == -1:
                self._befall()

    @property
    def fired(self) -> bool:
        """Whether it came so far."""
        return self._left < 0


class Subject(NamedTuple):
    """An operation on a folder.

    ``operate``: the folder, a kind of disk and what to call before each primitive. ``serves``: what must hold while the
    disk refuses. ``judge``: what must hold once it does not, and whether the operation said that it was done.
    """

    prepared: Path
    operate: Callable[[Path, type[Disk], Callable[[str], None]], object]
    serves: Callable[[Path], object]
    judge: Callable[[Path, bool], object]
    errors: tuple[type[Exception], ...] = (DeviceUnable,)


class Outcome(NamedTuple):
    """Of a sweep: how often the disk refused, and how often the operation did."""

    tried: int
    refused: int
    aborted: int = 0


def stepping(kind: type[Disk], trigger: Callable[[str], None]) -> Disk:
    """A disk that says what it is about to do."""

    class Stepping(kind):  # type: ignore[misc,valid-type]  # which disk is a value here
        def step(self, primitive: str, path: Path) -> None:
            trigger(primitive)

    made: Disk = Stepping()
    return made


def sweep(subject: Subject, small: SmallDisk, hazard: Full | ReadOnly) -> Outcome:
    """Let the hazard befall the disk before each primitive of an operation, one after the other."""
    refused = 0
    folder = small.at / "device"
    for at in count():
        assert at < MOST
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(subject.prepared, folder, symlinks=True)
        sync_file_system(folder)
        trigger = Trigger(at, hazard.befall, hazard.primitives)
        error = _refusal(subject, folder, hazard, trigger)
        if not trigger.fired:
            assert error is None
            return Outcome(at, refused, getattr(hazard, "aborted", 0))
        try:
            refused += error is not None
            try:
                subject.serves(folder)
            finally:
                hazard.end()
            subject.judge(folder, error is None)
        except AssertionError as wrong:
            raise AssertionError(f"before primitive {at}, refused {error}: {wrong}") from wrong
    raise AssertionError("unreachable")


def _refusal(subject: Subject, folder: Path, hazard: Full | ReadOnly, trigger: Callable[[str], None]) -> str | None:
    """What the operation said. Not the error itself: its frames keep files open."""
    try:
        subject.operate(folder, hazard.disk, trigger)
    except subject.errors as error:
        assert any(each in str(error) for each in hazard.refuses), error
        if isinstance(error, DeviceUnable):
            assert error.hint, error
        return str(error)
    return None


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """One for a test."""
    made = SmallDisk(folder)
    try:
        yield made
    finally:
        made.close()
