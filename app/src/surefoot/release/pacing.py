"""How patiently bytes are waited for: tries and back-off, the least rate and the most. No wall clock is read."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from surefoot.config import Fetch

FIRST_WAIT_S = 1.0  # doubled with each failure in a row
PROGRESS_BYTES = 1 << 20  # so much that was never reached before, and the failures before it are forgotten
CHUNK_BYTES = 64 * 1024
LEAST_CHUNK_BYTES = 256
CHUNKS_A_SECOND = 8  # with a cap: short waits, an even flow


class Timing(NamedTuple):
    """A clock in seconds that only goes forward, waiting for seconds, and chance in [0, 1). Tests bring their own."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


def backoff_s(failures: int, chance: float, most_s: float) -> float:
    """How long to wait after so many failures in a row: doubling, half of it by chance, so that a fleet spreads."""
    full = min(most_s, FIRST_WAIT_S * 2.0 ** (failures - 1))
    return full / 2 + full / 2 * chance


class Tries:
    """Tries for one file. Bounded: failures in a row by ``retries``, and progress by the length of the file.

    Args:
        fetch: the bounds.
        timing: for waiting.
        offset: how much of the file (bytes) is here already.
    """

    def __init__(self, fetch: Fetch, timing: Timing, offset: int) -> None:
        self._fetch, self._timing = fetch, timing
        self._furthest = offset
        self.failures = 0

    def reached(self, offset: int) -> None:
        """Bytes are here up to ``offset``. Coming a second time to where we were is no progress."""
        if offset >= self._furthest + PROGRESS_BYTES:
            self._furthest, self.failures = offset, 0

    def again(self, asked_s: float | None) -> bool:
        """A try failed: wait for the next one.

        Args:
            asked_s: how long the server asked to wait.

        Returns:
            ``False`` where there is no next one: too many failed, or the server asked for too much.
        """
        self.failures += 1
        if self.failures > self._fetch.retries or (asked_s or 0.0) > self._fetch.most_wait_s:
            return False
        wait_s = backoff_s(self.failures, self._timing.chance(), self._fetch.most_wait_s)
        if asked_s is not None:
            wait_s = max(wait_s, asked_s * (1 + self._timing.chance() / 4))
        self._timing.sleep(wait_s)
        return True


class Cap:
    """The most bytes a second, on average over whatever is read through it. ``0``: no bound."""

    def __init__(self, most_bytes_s: int, timing: Timing) -> None:
        self._rate, self._timing = most_bytes_s, timing
        self._due_s = timing.clock()
        even = most_bytes_s // CHUNKS_A_SECOND
        self.chunk_bytes = max(LEAST_CHUNK_BYTES, min(CHUNK_BYTES, even)) if most_bytes_s else CHUNK_BYTES

    def passed(self, count: int) -> None:
        """Wait until so many bytes more are allowed to have come."""
        if not self._rate:
            return
        now_s = self._timing.clock()
        self._due_s = max(self._due_s, now_s) + count / self._rate
        self._timing.sleep(self._due_s - now_s)


class Meter:
    """Sees that bytes come fast enough. Only the time spent waiting for them counts, not a slow disk or a cap."""

    def __init__(self, fetch: Fetch, timing: Timing) -> None:
        self._fetch, self._timing = fetch, timing
        self._waited_s, self._bytes = 0.0, 0

    def read(self, read: Callable[[], bytes]) -> bytes:
        """What ``read`` gives.

        Raises:
            TimeoutError: over ``timeout_s`` less than ``min_bytes_s`` came.
        """
        before_s = self._timing.clock()
        chunk = read()
        self._waited_s += self._timing.clock() - before_s
        self._bytes += len(chunk)
        if chunk and self._waited_s >= self._fetch.timeout_s:
            if self._bytes < self._fetch.min_bytes_s * self._waited_s:
                raise TimeoutError(
                    f"only {self._bytes} bytes in {self._waited_s:.3g} s "
                    f"(fetch.min_bytes_s is {self._fetch.min_bytes_s})"
                )
            self._waited_s, self._bytes = 0.0, 0
        return chunk
