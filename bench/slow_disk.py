"""A file whose fsyncs take their time: the disk under a loop device. The crash tests' recorder, without a record.

Where BYTES_S is not 0, reads and writes take theirs too.

python -m bench.slow_disk IMAGE MOUNTPOINT SECONDS BYTES_S
"""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path

from tests.crash.recorder import FLUSH, IN, READ, WHERE, WRITE_FILE, Recorder, serve


class Slow(Recorder):
    """Answers the kernel; one request at a time, as one spindle does."""

    def __init__(self, image: mmap.mmap, fsync_s: float, bytes_s: float) -> None:
        self._image, self._fsync_s, self._bytes_s = image, fsync_s, bytes_s

    def _fails(self) -> bool:
        return False

    def _body(self, operation: int, request: bytes) -> bytes | None:
        if self._bytes_s and operation in (READ, WRITE_FILE):
            time.sleep(WHERE.unpack_from(request, IN.size)[2] / self._bytes_s)
        return super()._body(operation, request)

    def _record(self, kind: int, offset: int, data: bytes) -> None:
        if kind == FLUSH:
            time.sleep(self._fsync_s)


def main(image: Path, mountpoint: Path, fsync_s: float, bytes_s: float) -> None:
    """Serve until unmounted."""
    with image.open("r+b") as stream:
        slow = Slow(mmap.mmap(stream.fileno(), 0), fsync_s, bytes_s)
    serve(slow, mountpoint)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
