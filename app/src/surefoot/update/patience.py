"""What could not be had is not fetched again and again: after some failures in a row, later, and later still.

For a file that the repository does not hold, or holds wrongly; a line that broke costs nothing to go on with.
No wall clock: time is what has surely passed, in this boot. Whatever the publisher signs next is tried at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from surefoot.durable import Disk
from surefoot.errors import DeviceUnable, SurefootError, TransportFailed, UntrustedRelease
from surefoot.release.source import NotFound
from surefoot.slots.boot import boot_id
from surefoot.slots.sealed import UnreadableError, read_sealed, seal

FREE_FAILURES = 3
FIRST_WAIT_S = 60.0  # doubled with each failure more
MOST_WAIT_S = 6 * 3600.0
MOST_BYTES = 16 * 1024
MOST_REASON = 1000


class Failures(msgspec.Struct, frozen=True):
    """Failures in a row to fetch one file.

    ``sha256``: of the file, as signed. ``signed``: the version of the timestamp that it was wanted under.
    ``boot``, ``at_s``: when the last was, by the clock of that boot.
    """

    sha256: str
    signed: int
    count: int
    boot: str
    at_s: float
    reason: str


class Patience:
    """Remembers failures in one file.

    Args:
        path: the file.
        disk: the durable writer.
        signed: the version of the timestamp that the device believes now.
        clock: seconds since this boot.
    """

    def __init__(self, path: Path, disk: Disk, signed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._disk, self._signed, self._clock = path, disk, signed, clock

    @contextlib.contextmanager
    def trying(self, what: str, sha256: str) -> Iterator[None]:
        """Fetch in here.

        Raises:
            TransportFailed: it failed so often that it is not time yet; nothing was asked for.
        """
        before = self._known(sha256)
        left_s = self._left_s(before) if before else 0.0
        if before and left_s > 0:
            raise TransportFailed(
                f"{what} is not fetched again yet",
                found=f"{before.count} failures in a row, the last: {before.reason}",
                expected=f"the next try in {left_s:.0f} s",
                hint="repair the repository; after `surefoot release refresh` there, devices try at once",
            )
        try:
            yield
        except (NotFound, UntrustedRelease) as error:
            with contextlib.suppress(SurefootError):  # a disk that takes no writes is told of by who needs them
                self._note(sha256, before.count + 1 if before else 1, str(error))
            raise

    def clear(self) -> None:
        """Everything arrived."""
        self._disk.remove(self._path)

    def _known(self, sha256: str) -> Failures | None:
        try:
            found = read_sealed(self._path, Failures, MOST_BYTES)
        except (UnreadableError, DeviceUnable):
            return None
        return found if found and (found.sha256, found.signed) == (sha256, self._signed) else None

    def _left_s(self, failures: Failures) -> float:
        if failures.count < FREE_FAILURES:
            return 0.0
        wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures.count - FREE_FAILURES, 32))
        since_s = failures.at_s if failures.boot == boot_id() else 0.0  # in another boot: since this one began
        return wait_s - (self._clock() - since_s)

    def _note(self, sha256: str, count: int, reason: str) -> None:
        failures = Failures(sha256, self._signed, count, boot_id(), self._clock(), reason[:MOST_REASON])
        self._disk.write(self._path, seal(failures))
