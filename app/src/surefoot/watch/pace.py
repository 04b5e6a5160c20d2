"""Is a release fast enough? Its latencies against the budget's limits, with an interval, never by one figure. Pure.

Two figures: the 99th percentile in milliseconds, and the ratio to the active release, both timed by the same harness in
the order active, candidate, candidate, active (ABBA), then with exchanged roles (BAAB), which cancels a drift and who
comes second in a row. The ratio of one such round is the median of its four log-ratios; what is judged is the median of
all rounds' ratios.

The data are looked at as they come, at most ``len(LOOKS)`` times, and each look takes its share of the error
(Bonferroni): all looks together keep :data:`LEVEL`. Why so: ``docs/adr``, "A gate decides by an interval, or not".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

from surefoot.watch.intervals import Interval, quantile_interval

LEVEL = 0.95
ROUND_PAIRS = 4  # ABBA, then BAAB
LOOKS = (200, 600, 1800)  # pairs, or latencies of the candidate alone, after which a verdict is tried
LOOK_LEVEL = 1 - (1 - LEVEL) / len(LOOKS)
SHORTEST_MS = 1e-6  # so that a clock that did not move between two readings has a logarithm

Decision = Literal["passed", "failed", "open"]


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What was timed, in milliseconds.

    ``candidate_ms`` and ``active_ms`` are paired by position, four pairs a round; ``active_ms`` is empty where there is
    nothing to compare with, and the candidate may have been timed on alone. ``waited_ms``: of each candidate latency,
    the part in which the kernel ran something else instead (zero where it does not say).
    """

    candidate_ms: tuple[float, ...]
    active_ms: tuple[float, ...] = ()
    waited_ms: tuple[float, ...] = ()


def ratio_interval(pace: Pace) -> Interval:
    """Candidate to active: the median ratio of a round, with :data:`LOOK_LEVEL`."""
    pairs = min(len(pace.candidate_ms), len(pace.active_ms)) // ROUND_PAIRS * ROUND_PAIRS
    logs = [
        math.log(max(candidate, SHORTEST_MS) / max(active, SHORTEST_MS))
        for candidate, active in zip(pace.candidate_ms[:pairs], pace.active_ms[:pairs], strict=True)
    ]
    rounds = [statistics.median(logs[at : at + ROUND_PAIRS]) for at in range(0, pairs, ROUND_PAIRS)]
    found = quantile_interval(rounds, 0.5, LOOK_LEVEL)
    return Interval(math.exp(found.low), math.exp(found.high))


def p99_interval(latencies_ms: Sequence[float]) -> Interval:
    """The 99th percentile in milliseconds, with :data:`LOOK_LEVEL`."""
    return quantile_interval(latencies_ms, 0.99, LOOK_LEVEL)


def judge_ratio(pace: Pace, limit: float) -> Decision:
    """``open``: the limit lies in the interval, or fewer pairs than the first look wants; more pairs may tell."""
    if min(len(pace.candidate_ms), len(pace.active_ms)) < LOOKS[0]:
        return "open"
    return _decision(ratio_interval(pace), limit)


def judge_p99(latencies_ms: Sequence[float], limit_ms: float) -> Decision:
    """The same for the absolute limit. It takes 600 latencies to pass: a 99th percentile cannot be bounded by 200."""
    if len(latencies_ms) < LOOKS[0]:
        return "open"
    return _decision(p99_interval(latencies_ms), limit_ms)


def busy(pace: Pace, limit_ms: float) -> bool:
    """Whether the limit is broken by waiting for a CPU that others had: without that time it would not be."""
    own = [max(0.0, taken - waited) for taken, waited in zip(pace.candidate_ms, pace.waited_ms, strict=False)]
    return bool(own) and judge_p99(own, limit_ms) != "failed"


def _decision(interval: Interval, limit: float) -> Decision:
    standing = interval.standing(limit)
    return "failed" if standing == "above" else "passed" if standing == "below" else "open"
