"""Where an update is measured: an ext4 of its own on a file, or one whose fsyncs are slow, or just a folder."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.crash import disks, kernel

SYNCS = 15  # of one block more, to say what an fsync takes


def prepare() -> bool:
    """Have this process's mounts for itself. Whether it may have an ext4 of its own."""
    if not disks.possible():
        return False
    kernel.keep_mounts_private()
    return True


@contextmanager
def ext4(folder: Path, size_bytes: int, fsync_s: float = 0.0, bytes_s: float = 0.0) -> Iterator[Path]:
    """A new ext4, mounted with its defaults, whose disk is a file in ``folder``.

    Args:
        folder: where.
        size_bytes: of the disk; the file is sparse.
        fsync_s: how long each fsync of the disk takes longer; 0: the disk is a plain file.
        bytes_s: how fast such a slow one reads and writes at most; 0: as fast as it can.
    """
    image, slow, at = folder / "disk.img", folder / "slow", folder / "disk"
    with image.open("wb") as stream:
        stream.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, env=disks.SYSTEM)
    at.mkdir()
    with ExitStack() as stack:
        if fsync_s:
            slow.touch()
            stack.enter_context(_slow(image, slow, fsync_s, bytes_s))
        loop = kernel.Loop(slow if fsync_s else image)
        stack.callback(loop.close)
        kernel.mount(loop.path, at, "ext4")
        stack.callback(kernel.unmount, at)
        yield at


@contextmanager
def _slow(image: Path, file: Path, fsync_s: float, bytes_s: float) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.slow_disk", str(image), str(file), str(fsync_s), str(bytes_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=disks.ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the slow disk did not start"
        try:
            yield
        finally:
            kernel.unmount(file, lazily=True)
            process.wait(timeout=30)


def fsync_ms(folder: Path) -> float:
    """What an fsync of one block more takes there: the median."""
    taken = []
    with (folder / "fsync").open("wb", buffering=0) as stream:
        for _ in range(SYNCS):
            stream.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(stream.fileno())
            taken.append((time.perf_counter() - began) * 1e3)
    (folder / "fsync").unlink()
    return statistics.median(taken)
