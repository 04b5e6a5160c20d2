"""Small ext4 file systems: one whose every block is recorded, and one that is set to any image again and again.

To be used in a thread whose mounts are private: ``kernel.privately``.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures.thread import BrokenThreadPool
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.crash import kernel
from tests.crash.blocks import BLOCK_BYTES, ZEROS, Blocks, Entry, read_log

SIZE_BYTES = 136 << 20  # the least that has a second superblock; files here are sparse
# Where a new file takes an old one's name, ext4 by default makes up for a missing fsync. Other file systems do not.
OPTIONS = "noauto_da_alloc"
SYSTEM = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
ROOT = Path(__file__).resolve().parents[2]


def possible() -> bool:
    """Whether this machine lets a test have such disks."""
    parts = (Path("/dev/fuse"), Path("/dev/loop-control"))
    if os.geteuid() != 0 or not all(os.access(part, os.R_OK | os.W_OK) for part in parts):
        return False
    try:
        return kernel.privately(lambda: True)
    except BrokenThreadPool:  # not allowed to mount
        return False


def blank(path: Path) -> Blocks:
    """A new ext4 with Debian's features, made in ``path``."""
    with path.open("wb") as stream:
        stream.truncate(SIZE_BYTES)
    extended = "nodiscard,lazy_itable_init=0"
    options = ["-q", "-b", str(BLOCK_BYTES), "-m", "0", "-N", "256", "-J", "size=4", "-E", extended]
    subprocess.run(["mkfs.ext4", *options, str(path)], check=True, env=SYSTEM)
    return blocks_in(path)


def blocks_in(file: Path) -> Blocks:
    """What a sparse file holds."""
    blocks: Blocks = {}
    with file.open("rb") as stream:
        place = _next_data(stream.fileno(), 0)
        while place is not None:
            end = os.lseek(stream.fileno(), place, os.SEEK_HOLE)
            number = place // BLOCK_BYTES
            stream.seek(number * BLOCK_BYTES)
            while number * BLOCK_BYTES < end:
                data = stream.read(BLOCK_BYTES)
                if data != ZEROS:
                    blocks[number] = data
                number += 1
            place = _next_data(stream.fileno(), end)
    return blocks


def _next_data(descriptor: int, place: int) -> int | None:
    try:
        return os.lseek(descriptor, place, os.SEEK_DATA)
    except OSError:  # ENXIO: there is none
        return None


def write_blocks(file: Path, blocks: Blocks) -> None:
    """Make a sparse file."""
    with file.open("wb") as stream:
        _write(stream.fileno(), blocks)


def _write(descriptor: int, blocks: Blocks) -> None:
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, SIZE_BYTES)
    for number, data in blocks.items():
        os.pwrite(descriptor, data, number * BLOCK_BYTES)


class Disk:
    """A loop-mounted file in ``folder`` that takes one image after the other. ``repaired``: times it had to be."""

    def __init__(self, folder: Path, number: int) -> None:
        self._file, self._at = folder / f"disk-{number}.img", folder / f"disk-{number}"
        self._at.mkdir()
        self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _write(self._descriptor, {})
        self._loop = kernel.Loop(self._file)
        self.repaired = 0

    def set(self, blocks: Blocks) -> None:
        """Make the disk this image."""
        self._loop.forget()
        _write(self._descriptor, blocks)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """The file system, its journal replayed.

        ext4 does not survive that its superblock is torn, journal or not: it is repaired as a machine does that
        boots with ``fsck.repair=yes``, which takes the second superblock and replays the journal.
        """
        try:
            kernel.mount(self._loop.path, self._at, "ext4", f"{OPTIONS},barrier=0")  # nothing is cut from here on
        except OSError as error:
            if error.errno != errno.EBADMSG:
                raise
            self._repair()
            kernel.mount(self._loop.path, self._at, "ext4", f"{OPTIONS},barrier=0")
        try:
            yield self._at
        finally:
            kernel.unmount(self._at)

    def _repair(self) -> None:
        done = subprocess.run(
            ["e2fsck", "-y", self._loop.path], capture_output=True, text=True, check=False, env=SYSTEM
        )
        assert done.returncode == 1, done.stdout + done.stderr  # e2fsck(8): errors corrected
        assert "Superblock invalid, trying backup blocks" in done.stdout, done.stdout
        self.repaired += 1

    def blocks(self) -> Blocks:
        """What the disk holds now, not mounted."""
        return blocks_in(self._file)

    def close(self) -> None:
        """Let go of the loop device."""
        self._loop.close()
        os.close(self._descriptor)


class Recording:
    """An ext4 in use, and the record of its disk so far."""

    def __init__(self, folder: Path, source: Path, log: Path, fault: Path) -> None:
        self.folder, self._source, self._log, self._fault = folder, source, log, fault

    def position(self) -> int:
        """How long the record is: what was acknowledged before this moment lies before it."""
        return self._log.stat().st_size

    def read(self) -> list[Entry]:
        """The record so far."""
        return read_log(self._log.read_bytes())

    def blocks(self) -> Blocks:
        """What the disk holds now: what a cut at this moment leaves."""
        return blocks_in(self._source)

    def fail(self, after: int) -> None:
        """Have the disk answer EIO to one write or flush, after so many that it carries out."""
        part = self._fault.with_suffix(".part")
        part.write_text(str(after))
        part.replace(self._fault)

    @property
    def failed(self) -> bool:
        """Whether it has. Else it will no more."""
        try:
            self._fault.unlink()
        except FileNotFoundError:
            return True
        return False

    def settle(self) -> None:
        """Let the kernel write out all that it still holds, as it does by itself in time."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        subprocess.run(["sync", "-f", str(self.folder)], check=True)


@contextmanager
def recorded(image: Blocks, folder: Path) -> Iterator[Recording]:
    """Mount an image on a disk that records. The record begins with the mount."""
    source, log, fault, file, at = (folder / name for name in ("source.img", "log", "fault", "recorder", "recorded"))
    write_blocks(source, image)
    file.touch()
    at.mkdir(exist_ok=True)
    log.write_bytes(b"")
    with ExitStack() as stack:
        stack.enter_context(_running(source, log, file, fault))
        loop = kernel.Loop(file)
        stack.callback(loop.close)
        kernel.mount(loop.path, at, "ext4", OPTIONS)
        stack.callback(kernel.unmount, at)
        yield Recording(at, source, log, fault)


@contextmanager
def _running(source: Path, log: Path, file: Path, fault: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.crash.recorder", *map(str, (source, log, file, fault))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the recording file system did not start"
        try:
            yield
        finally:
            kernel.unmount(file, lazily=True)
            process.wait(timeout=30)
