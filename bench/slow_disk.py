"""A file whose fsyncs take their time: the disk under a loop device. The crash tests' recorder, without a record.

python -m bench.slow_disk IMAGE MOUNTPOINT SECONDS
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.crash import kernel
from tests.crash.recorder import FSYNC, IN, MODE, MOST_WRITE_BYTES, WHERE, WRITE_FILE, WRITE_IN_BYTES, Recorder


class Slow(Recorder):
    """Answers the kernel; one request at a time, as one spindle does."""

    def __init__(self, image: mmap.mmap, fsync_s: float) -> None:
        self._image, self._fsync_s = image, fsync_s

    def _fails(self) -> bool:
        return False

    def _body(self, operation: int, request: bytes) -> bytes | None:
        if operation == FSYNC:
            time.sleep(self._fsync_s)
            return b""
        if operation == WRITE_FILE:
            _, offset, size = WHERE.unpack_from(request, IN.size)
            self._image[offset : offset + size] = request[IN.size + WRITE_IN_BYTES :][:size]
            return struct.pack("<II", size, 0)
        body: bytes | None = super()._body(operation, request)
        return body


def main(image: Path, mountpoint: Path, fsync_s: float) -> None:
    """Serve until unmounted. Says "ready" on stdout when the file is there."""
    kernel.die_with_parent()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    with image.open("r+b") as stream:
        slow = Slow(mmap.mmap(stream.fileno(), 0), fsync_s)
    kernel.mount("slow", mountpoint, "fuse", f"fd={device},rootmode={MODE:o},user_id=0,group_id=0")
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
        reply = slow.answer(request)
        if reply is not None:
            with suppress(FileNotFoundError):  # nobody waits for it any more
                os.write(device, reply)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
