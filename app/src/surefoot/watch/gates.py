"""The gate a release must pass on the device: what a worker says of its golden cases, and memory and load time. Pure.

What cannot be judged does not pass. The golden cases are judged in :mod:`surefoot.watch.agreement`, apart, since it
takes numpy: the supervisor does without. Latency, which needs more than one look, is in :mod:`surefoot.watch.pace`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from surefoot.release.manifest import Budget


class CaseFailure(msgspec.Struct, frozen=True, kw_only=True):
    """One golden case that failed, and why."""

    id: str
    reason: str


class CheckResult(msgspec.Struct, frozen=True):
    """What one of a model's own checks came to. ``limit``: in words."""

    metric: str
    value: float
    limit: str
    passed: bool


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """``agreed``: cases whose label was the expected one; ``worst_difference``: over all that could be compared."""

    passed: bool
    cases: int
    agreed: int
    worst_difference: float
    failures: tuple[CaseFailure, ...] = ()
    reasons: tuple[str, ...] = ()
    checks: tuple[CheckResult, ...] = ()


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker measured of itself."""

    load_s: float
    memory_bytes: int


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed (nearest rank); NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def judge_budget(measured: Measured, budget: Budget) -> tuple[str, ...]:
    """Reasons why memory or load time break the budget; empty when it is kept."""
    checks = (
        ("memory", float(measured.memory_bytes), budget.memory_bytes, "bytes"),
        ("load time", measured.load_s, budget.load_s, "s"),
    )
    return tuple(
        f"{what} is {value:.4g} {unit}, the budget is {limit:g} {unit}"
        for what, value, limit, unit in checks
        if limit is not None and not value <= limit  # NaN is not within a limit
    )
