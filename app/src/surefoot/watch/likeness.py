"""Do two releases say the same of one input? Pure, and without numpy: the gateway, which asks, does without."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """What a shadow came to. All that is kept of the inputs that it was shown."""

    agreed: int = 0
    disagreed: int = 0
    failed: int = 0  # it could not answer
    skipped: int = 0  # meant for it, and not shown: it was busy, or the input too large

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.agreed + other.agreed,
            self.disagreed + other.disagreed,
            self.failed + other.failed,
            self.skipped + other.skipped,
        )


def alike(active: Sequence[float], candidate: Sequence[float], row: int, tolerance: float | None) -> bool:
    """Whether two outputs agree.

    Args:
        active: the output that the client got, flat.
        candidate: the other's, flat.
        row: length of the last axis.
        tolerance: the largest difference allowed; ``None`` for logits: then the greatest of each row must be the same.
    """
    if len(active) != len(candidate) or not all(map(math.isfinite, candidate)):
        return False
    if tolerance is not None:
        return all(abs(a - b) <= tolerance for a, b in zip(active, candidate, strict=True))
    rows = range(0, len(active), max(1, row))
    return all(_greatest(active[at : at + row]) == _greatest(candidate[at : at + row]) for at in rows)


def _greatest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
