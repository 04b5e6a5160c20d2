"""When a release that was put off is tried again: after a while of confirmed service, longer each time.

Counted in monotonic seconds of this server, so that no clock that jumps and no reboot shortens it; whether anybody can
be reached makes no difference.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from surefoot.config import Trial
from surefoot.serving.status import AgainServing
from surefoot.slots.state import Slot, State

MOST_WAIT_S = 86_400.0


class Again:
    """The wait of one model.

    Args:
        trial: how often, and how long.
        clock: monotonic, in seconds.
        chance: in [0, 1), so that a fleet does not try again at one moment.
    """

    def __init__(
        self, trial: Trial, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._trial, self._clock, self._chance = trial, clock, chance
        self._waiting: tuple[Slot, str, int] | None = None  # slot, digest, how often it was put off
        self._left_s = 0.0
        self._seen_s: float | None = None  # when the confirmed release was last seen to serve
        self.waits_for = ""

    def look(self, state: State, *, serves: bool) -> Slot | None:
        """Count the time since the last look.

        Args:
            state: the model's.
            serves: whether its active release does.

        Returns:
            The slot that is to be tried again, once it has waited long enough.
        """
        now_s, slot = self._clock(), state.waiting
        release = state.slots[slot].release if slot else None
        if slot is None or release is None or state.slots[slot].put_off > self._trial.retries:
            self._waiting, self.waits_for = None, ""
            return None
        waiting = (slot, release.digest, state.slots[slot].put_off)
        if waiting != self._waiting:
            self._waiting, self._left_s, self._seen_s = waiting, self._wait_s(waiting[2]), None
            self.waits_for = ""
        if serves and self._seen_s is not None:
            self._left_s -= now_s - self._seen_s
        self._seen_s = now_s if serves else None
        return slot if serves and self._left_s <= 0 else None

    def _wait_s(self, times: int) -> float:
        longest_s: float = min(self._trial.retry_after_s * 2.0 ** (times - 1), MOST_WAIT_S)
        return longest_s * (0.75 + 0.25 * self._chance())

    def status(self) -> AgainServing | None:
        """What waits; ``None`` where nothing does."""
        if self._waiting is None:
            return None
        slot, digest, _ = self._waiting
        return AgainServing(slot=slot, digest=digest, left_s=max(0.0, self._left_s), waits_for=self.waits_for)
