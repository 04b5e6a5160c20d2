"""How often the latency gate errs, on seeded timings with bursts, drift and cold caches. Real ones: ``bench/gates.py``.

Each way to judge by less is a mutant that errs more often than is allowed.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from surefoot.watch.intervals import Interval, quantile_interval
from surefoot.watch.pace import LOOKS, Decision, Pace, busy, judge_p99, judge_ratio, p99_interval, ratio_interval

TRIALS = 300
LIMIT = 1.2
SEED = 20_260
Judge = Callable[[Pace, float], Decision]


def timings(chance: random.Random, slower: float) -> Iterator[tuple[float, float]]:
    """(active, candidate) in ms, ABBA and BAAB: noise, bursts of other work, a drift; the second in a row is warm."""
    load, now = 0.0, 0
    while True:
        taken: dict[str, list[float]] = {"a": [], "b": []}
        for before, who in pairwise("-abbabaab"):
            load = max(0.0, load + chance.choice((-1, 1)) * 0.01) if chance.random() < 0.9 else chance.random() * 0.5
            base = 2.0 * (slower if who == "b" else 1.0) * (0.87 if who == before else 1.0)
            burst = chance.expovariate(1 / 8.0) if chance.random() < 0.08 else 0.0
            taken[who].append(base * chance.lognormvariate(0, 0.06) * (1 + load) * (1 + now / 4000) + burst)
            now += 1
        yield from zip(taken["a"], taken["b"], strict=True)


def decide(judge: Judge, chance: random.Random, slower: float, limit: float = LIMIT) -> Decision:
    """As the harness does: look, and take more pairs while it is open."""
    source, seen = timings(chance, slower), []
    for look in LOOKS:
        seen += [next(source) for _ in range(look - len(seen))]
        active, candidate = zip(*seen, strict=True)
        decision = judge(Pace(candidate_ms=candidate, active_ms=active), limit)
        if decision != "open":
            return decision
    return "open"


def counted(judge: Judge, slower: float, trials: int = TRIALS) -> dict[str, int]:
    print(f"seed {SEED}")
    found = [decide(judge, random.Random(SEED + trial), slower) for trial in range(trials)]
    return {kind: found.count(kind) for kind in ("passed", "failed", "open")}


def by_the_mean(pace: Pace, limit: float) -> Decision:
    """The mutant that judges by the mean of one run."""
    ratio = statistics.fmean(pace.candidate_ms[:20]) / statistics.fmean(pace.active_ms[:20])
    return "failed" if ratio > limit else "passed"


def by_the_estimate(pace: Pace, limit: float) -> Decision:
    """The mutant that ignores the interval."""
    logs = [math.log(c / a) for c, a in zip(pace.candidate_ms, pace.active_ms, strict=True)]
    return "failed" if math.exp(statistics.median(logs)) > limit else "passed"


def by_one_end(pace: Pace, limit: float) -> Decision:
    """The mutant that fails whatever has not passed."""
    return "passed" if judge_ratio(pace, limit) == "passed" else "failed"


def test_a_release_measured_against_itself_is_rejected_at_most_once_in_a_hundred():
    found = counted(judge_ratio, 1.0)
    assert found["failed"] <= TRIALS / 100, found
    assert found["passed"] >= TRIALS * 0.98, found


def test_one_that_is_half_as_slow_again_is_caught_at_least_99_times_in_a_hundred():
    found = counted(judge_ratio, 1.5)
    assert found["failed"] >= TRIALS * 0.99, found
    assert found["passed"] == 0, found


def test_one_that_is_exactly_at_the_limit_is_mostly_left_open_whichever_way_it_errs():
    found = counted(judge_ratio, LIMIT, 100)
    assert found["failed"] <= 5 and found["passed"] <= 5, found


@pytest.mark.parametrize(
    ("mutant", "slower"),
    [(by_the_mean, 1.0), (by_the_estimate, LIMIT), (by_one_end, LIMIT)],
    ids=["mean", "estimate", "one end"],
)
def test_judging_by_less_than_the_interval_is_caught(mutant, slower):
    """Each of them rejects more than the tests above allow."""
    assert counted(mutant, slower, 100)["failed"] > (1 if slower == 1.0 else 5)


def test_fewer_pairs_than_the_first_look_decide_nothing():
    few = (1.0,) * (LOOKS[0] - 2)
    assert judge_ratio(Pace(candidate_ms=tuple(9 * each for each in few), active_ms=few), 1.1) == "open"
    assert judge_p99(few, 0.5) == "open"


def test_a_constant_ratio_is_found_whatever_the_drift_and_whoever_is_warm():
    source = timings(random.Random(3), 1.3)
    active, candidate = zip(*(next(source) for _ in range(600)), strict=True)
    found = ratio_interval(Pace(candidate_ms=candidate, active_ms=active))
    assert found.low < 1.3 < found.high and found.high - found.low < 0.1


def test_a_few_enormous_latencies_on_one_side_do_not_fail_a_release():
    active = (2.0, 2.01) * 150
    candidate = tuple(900.0 if index % 10 == 0 else each for index, each in enumerate(active))
    assert judge_ratio(Pace(candidate_ms=candidate, active_ms=active), 1.1) == "passed"


def test_the_interval_of_a_quantile_holds_it_as_often_as_it_says():
    chance, held = random.Random(5), {0.5: 0, 0.99: 0}
    truth = {0.5: math.log(2), 0.99: math.log(100)}
    for _ in range(400):
        values = [chance.expovariate(1.0) for _ in range(500)]
        for share, quantile in truth.items():
            found = quantile_interval(values, share, 0.95)
            held[share] += found.low <= quantile <= found.high
    assert all(count >= 400 * 0.93 for count in held.values()), held


def test_too_few_values_bound_nothing():
    assert quantile_interval([1.0] * 5, 0.5, 0.95) == Interval(-math.inf, math.inf)
    assert p99_interval([1.0] * 200) == Interval(1.0, math.inf)
    assert quantile_interval([], 0.5, 0.95) == Interval(-math.inf, math.inf)


def test_known_ranks_of_the_median():
    """n = 100 at 95 %: the 40th and the 61st, as in tables of the sign test."""
    assert quantile_interval([float(value) for value in range(1, 101)], 0.5, 0.95) == Interval(40.0, 61.0)


def test_each_look_takes_a_third_of_the_error():
    """By tables of the binomial: of 100 rounds the 38th and the 63rd, and not the 40th and the 61st of one look."""
    ratios = tuple(float(value) for value in range(1, 101) for _ in range(4))
    found = ratio_interval(Pace(candidate_ms=ratios, active_ms=(1.0,) * 400))
    assert (found.low, found.high) == pytest.approx((38.0, 63.0))


def test_the_absolute_limit_needs_enough_latencies_to_pass_and_fewer_to_fail():
    quick = (1.0,) * 199
    assert judge_p99((*quick, 1.0), 5.0) == "open"
    assert judge_p99((1.0,) * 600, 5.0) == "passed"
    assert judge_p99((9.0,) * 200, 5.0) == "failed"
    assert judge_p99((1.0,) * 590 + (9.0,) * 10, 5.0) == "open"


def test_a_limit_broken_by_waiting_for_a_cpu_is_the_devices_doing():
    taken, waited = (2.0,) * 560 + (40.0,) * 40, (0.0,) * 560 + (38.0,) * 40
    assert judge_p99(taken, 5.0) == "failed"
    assert busy(Pace(candidate_ms=taken, waited_ms=waited), 5.0)
    assert not busy(Pace(candidate_ms=taken, waited_ms=(0.0,) * 600), 5.0)
    assert not busy(Pace(candidate_ms=taken), 5.0)


def test_a_clock_that_did_not_move_is_no_error():
    assert judge_ratio(Pace(candidate_ms=(0.0,) * 200, active_ms=(0.0,) * 200), 1.1) == "passed"


def test_a_limit_that_is_no_number_is_never_kept():
    assert Interval(1.0, 2.0).standing(float("nan")) == "open"
    assert Interval(float("nan"), float("nan")).standing(3.0) == "open"
