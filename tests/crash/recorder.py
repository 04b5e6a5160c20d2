"""A file that keeps a record of what is written to it and of each flush, in order: the disk under a loop device.

This is a FUSE file system of that one file, spoken to the kernel directly (``linux/fuse.h``), so that nothing has to
be installed. One thread, one request at a time: a write is in the record before the kernel hears that it is done, and
a flush is answered after every write before it. Run by ``disks.recorded``:

    python -m tests.crash.recorder IMAGE LOG MOUNTPOINT FAULT

The record is a file of ``HEAD`` and the bytes written, one after the other. It can also be told to fail once: see
``disks.Recording.fail``.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path

from tests.crash import kernel

HEAD = struct.Struct("<BQI")  # kind, offset and length in bytes
WRITE, FLUSH = 1, 2
MODE = stat.S_IFREG | 0o600
MOST_WRITE_BYTES = 1 << 20

IN = struct.Struct("<IIQQIIIHH")  # fuse_in_header
OUT = struct.Struct("<IiQ")  # fuse_out_header
WHERE = struct.Struct("<QQI")  # the beginning of fuse_read_in and fuse_write_in: handle, offset, size
WRITE_IN_BYTES = 40
FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FSYNC, FLUSH_FILE, INIT, INTERRUPT, DESTROY = (
    2, 3, 14, 15, 17, 18, 20, 25, 26, 36, 38,
)  # fmt: skip
WRITE_FILE = 16
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
UNANSWERED = {FORGET, INTERRUPT}


class Recorder:
    """Answers the kernel.

    Args:
        image: what the file holds, changed in place.
        log: an open file, for the record.
        fault: a file that, once it is there, says after how many writes and flushes one is to fail. Removed then.
    """

    def __init__(self, image: mmap.mmap, log: int, fault: Path) -> None:
        self._image, self._log, self._fault = image, log, fault
        self._left: int | None = None

    def _fails(self) -> bool:
        """Whether this write or flush is the one that was asked to fail."""
        if self._left is None:
            with suppress(FileNotFoundError):
                self._left = int(self._fault.read_text())
        elif self._left > 0:
            self._left -= 1
        if self._left != 0:
            return False
        self._left = None
        try:
            self._fault.unlink()
        except FileNotFoundError:  # it was thought better of
            return False
        return True

    def answer(self, request: bytes) -> bytes | None:
        """The reply to one request, or ``None`` where none is awaited."""
        _, operation, unique, *_ = IN.unpack_from(request)
        if operation in UNANSWERED:
            return None
        if operation in (WRITE_FILE, FSYNC) and self._fails():
            return OUT.pack(OUT.size, -errno.EIO, unique)
        body = self._body(operation, request)
        if body is None:
            return OUT.pack(OUT.size, -errno.ENOSYS, unique)
        return OUT.pack(OUT.size + len(body), 0, unique) + body

    def _body(self, operation: int, request: bytes) -> bytes | None:
        if operation == INIT:
            flags = BIG_WRITES | MAX_PAGES
            pages = MOST_WRITE_BYTES // 4096
            return struct.pack("<4I2H2I2H28x", 7, 31, 0, flags, 16, 12, MOST_WRITE_BYTES, 1, pages, 0)
        if operation == GETATTR:
            size = len(self._image)
            return struct.pack(
                "<QII6Q10I", 3600, 0, 0, 1, size, size // 512, 0, 0, 0, 0, 0, 0, MODE, 1, *[0] * 3, 4096, 0
            )
        if operation == OPEN:
            return struct.pack("<QIi", 1, 0, 0)
        if operation == READ:
            _, offset, size = WHERE.unpack_from(request, IN.size)
            return self._image[offset : offset + size]
        if operation == WRITE_FILE:
            _, offset, size = WHERE.unpack_from(request, IN.size)
            data = request[IN.size + WRITE_IN_BYTES :][:size]
            self._image[offset : offset + size] = data
            self._record(WRITE, offset, data)
            return struct.pack("<II", size, 0)
        if operation == FSYNC:
            self._record(FLUSH, 0, b"")
            return b""
        return b"" if operation in (FLUSH_FILE, RELEASE, DESTROY) else None

    def _record(self, kind: int, offset: int, data: bytes) -> None:
        os.write(self._log, HEAD.pack(kind, offset, len(data)) + data)


def main(image: Path, log: Path, mountpoint: Path, fault: Path) -> None:
    """Serve until unmounted. Says "ready" on stdout when the file is there."""
    with image.open("r+b") as stream:
        content = mmap.mmap(stream.fileno(), 0)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    serve(Recorder(content, written, fault), mountpoint)


def serve(recorder: Recorder, mountpoint: Path) -> None:
    """Answer the kernel until unmounted. Says "ready" on stdout when the file is there."""
    kernel.die_with_parent()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    kernel.mount("recorder", mountpoint, "fuse", f"fd={device},rootmode={MODE:o},user_id=0,group_id=0")
    print("ready", flush=True)
    while True:
        try:
            request = os.read(device, MOST_WRITE_BYTES + 4096)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            if error.errno in (errno.EINTR, errno.ENOENT):  # the request was interrupted
                continue
            raise
        reply = recorder.answer(request)
        if reply is not None:
            with suppress(FileNotFoundError):  # nobody waits for it any more
                os.write(device, reply)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
