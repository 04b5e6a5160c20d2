"""Confidence intervals that assume nothing about how latencies are distributed. Pure.

The interval of a quantile is a pair of order statistics whose ranks come from the binomial distribution: H. A. David
and H. N. Nagaraja, *Order Statistics*, 3rd edition, section 7.1. For the median it is the sign test's interval. A
single outlier, or any number of them on one side up to the rank, moves neither end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

Standing = Literal["below", "above", "open"]


class Interval(msgspec.Struct, frozen=True):
    """Both ends included; infinite where there are too few values to bound that side."""

    low: float
    high: float

    def standing(self, limit: float) -> Standing:
        """``above`` or ``below`` where the whole interval is on one side of the limit; at the limit is within it."""
        if self.low > limit:
            return "above"
        return "below" if self.high <= limit else "open"  # a NaN end is on neither side


def quantile_interval(values: Sequence[float], share: float, level: float) -> Interval:
    """Where the quantile of the distribution lies that the values were drawn from, by their order alone.

    Args:
        values: independent of each other, in any order and unit.
        share: which quantile, for example 0.5 for the median; between 0 and 1.
        level: how surely it lies in the interval, at least, for example 0.95; each side errs at most half of the rest.

    Returns:
        The interval, in the values' unit.
    """
    count, beyond = len(values), (1 - level) / 2
    ordered = sorted(values)
    below, low_rank = 0.0, 0  # P(fewer than r values lie below the quantile) <= beyond: the greatest such r
    while low_rank < count and below + _binomial(count, low_rank, share) <= beyond:
        below += _binomial(count, low_rank, share)
        low_rank += 1
    above, high_rank = 0.0, count + 1
    while high_rank > 1 and above + _binomial(count, high_rank - 1, share) <= beyond:
        above += _binomial(count, high_rank - 1, share)
        high_rank -= 1
    return Interval(
        ordered[low_rank - 1] if low_rank >= 1 else -math.inf,
        ordered[high_rank - 1] if high_rank <= count else math.inf,
    )


def _binomial(count: int, successes: int, share: float) -> float:
    """P(exactly so many of ``count``)."""
    chosen = math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    return math.exp(chosen + successes * math.log(share) + (count - successes) * math.log1p(-share))
