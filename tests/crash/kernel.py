"""Mounts and loop devices by the kernel's own calls: a process for each would take longer than what is tested."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

LOOP_CTL_GET_FREE, LOOP_CONFIGURE = 0x4C82, 0x4C0A  # linux/loop.h
AUTOCLEAR = 4  # the device lets go of its file when nobody has it open
BLKFLSBUF = 0x1261  # linux/fs.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h
MS_NOATIME, MNT_DETACH = 1024, 2  # sys/mount.h
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
CLONE_NEWNS = 0x20000  # sched.h
BUSY_S = 5.0
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str, options: str = "") -> None:
    """mount(2), reads leaving no trace."""
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), MS_NOATIME, options.encode()) != 0:
        _fail(f"mount {source} on {target}")


def bind(source: Path, target: Path) -> None:
    """mount(2): a folder in a second place."""
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None) != 0:
        _fail(f"bind {source} to {target}")


def remount(target: Path, *, read_only: bool, options: str = "") -> None:
    """mount(2) of what is mounted. EBUSY where it is to become read-only and a file is open for writing."""
    flags = MS_NOATIME | MS_REMOUNT | (MS_RDONLY if read_only else 0)
    if _libc.mount(None, os.fsencode(target), None, flags, options.encode()) != 0:
        _fail(f"remount {target}")


def unmount(target: Path, *, lazily: bool = False) -> None:
    """umount2(2). A process that another thread has just forked holds our open files until it executes: then wait."""
    deadline = time.monotonic() + BUSY_S
    while _libc.umount2(os.fsencode(target), MNT_DETACH if lazily else 0) != 0:
        if ctypes.get_errno() != errno.EBUSY or time.monotonic() > deadline:
            _fail(f"unmount {target}")
        time.sleep(0.001)


def privately(do: Callable[[], T]) -> T:
    """Call ``do`` in a thread whose mounts nobody else has.

    Elsewhere a container that starts meanwhile would keep a mount, and with it what the kernel has cached of the disk.
    """
    with ThreadPoolExecutor(1, initializer=keep_mounts_private) as pool:
        return pool.submit(do).result()


def keep_mounts_private() -> None:
    """Have the mounts of this thread for itself, until it ends. See unshare(2), mount_namespaces(7)."""
    if _libc.unshare(CLONE_NEWNS) != 0:
        _fail("unshare")
    if _libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        _fail("make / private")


def die_with_parent() -> None:
    """prctl(2): have this process killed when the one that started it is gone."""
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        _fail("prctl")


def _fail(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")


class Loop:
    """A loop device over a file, until :meth:`close`."""

    def __init__(self, file: Path) -> None:
        backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.path, self._descriptor = _attach(backing)
        finally:
            os.close(backing)

    def forget(self) -> None:
        """Drop what the kernel has cached of the device: its file was changed below it."""
        fcntl.ioctl(self._descriptor, BLKFLSBUF, 0)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def _attach(backing: int) -> tuple[str, int]:
    configuration = struct.pack("<II52xI240x", backing, 0, AUTOCLEAR)  # struct loop_config
    while True:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
        finally:
            os.close(control)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, LOOP_CONFIGURE, configuration)
        except OSError as error:
            os.close(descriptor)
            if error.errno != errno.EBUSY:  # somebody else was quicker: take the next
                raise
        else:
            return path, descriptor
