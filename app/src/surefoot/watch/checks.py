"""A model's own checks: figures over its golden cases that the signed manifest names and bounds. Pure; no model's code.

Judged in the worker, where the outputs are. A figure that cannot be computed (no labels, a value that is not finite, a
case that could not be run) does not keep its limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from surefoot.release.golden import Case
from surefoot.release.manifest import Check, Variant
from surefoot.runtimes.calibrated import softmax
from surefoot.runtimes.protocol import Array
from surefoot.watch.gates import CheckResult

Values = npt.NDArray[np.float64]
Outputs = Mapping[str, Mapping[str, Array]]


def run_checks(cases: Sequence[Case], outputs: Outputs, variant: Variant) -> tuple[CheckResult, ...]:
    """Hold each figure against its limit.

    Args:
        cases: the golden cases of the release.
        outputs: for each case id the raw outputs by name; the first one of the variant is judged.
        variant: with the checks.
    """
    whole = all(np.isfinite(_first(case, outputs, variant)).all() for case in cases)
    return tuple(
        _result(check, _METRICS[check.metric](cases, outputs, variant) if whole else math.nan)
        for check in variant.checks
    )


def _result(check: Check, value: float) -> CheckResult:
    if check.at_least is not None:
        return CheckResult(check.metric, value, f"at least {check.at_least:g}", value >= check.at_least)
    limit = check.at_most if check.at_most is not None else math.nan
    return CheckResult(check.metric, value, f"at most {limit:g}", value <= limit)


def _first(case: Case, outputs: Outputs, variant: Variant) -> Values:
    """Of the first output, flat; NaN where there is none."""
    raw = outputs.get(case.id, {}).get(variant.outputs[0].name)
    return np.full(1, np.nan) if raw is None or raw.size == 0 else np.asarray(raw, np.float64).reshape(-1)


def _right(cases: Sequence[Case], outputs: Outputs, variant: Variant) -> dict[int, list[bool]]:
    """By label, whether each of its cases got it."""
    found: dict[int, list[bool]] = {}
    for case in cases:
        if case.label is not None:
            found.setdefault(case.label, []).append(int(_first(case, outputs, variant).argmax()) == case.label)
    return found


def _accuracy(cases: Sequence[Case], outputs: Outputs, variant: Variant) -> float:
    every = [right for each in _right(cases, outputs, variant).values() for right in each]
    return sum(every) / len(every) if every else math.nan


def _least_class_accuracy(cases: Sequence[Case], outputs: Outputs, variant: Variant) -> float:
    return min((sum(each) / len(each) for each in _right(cases, outputs, variant).values()), default=math.nan)


def _label_probability(cases: Sequence[Case], outputs: Outputs, variant: Variant) -> float:
    given = []
    for case in cases:
        if case.label is not None:
            values = softmax(_first(case, outputs, variant), variant.calibration.temperature)
            given.append(float(values[case.label]) if case.label < values.size else math.nan)
    return float(np.mean(given)) if given else math.nan


def _mean_difference(cases: Sequence[Case], outputs: Outputs, variant: Variant) -> float:
    away = []
    for case in cases:
        values, expected = _first(case, outputs, variant), case.expected.get(variant.outputs[0].name, [])
        if values.size != len(expected):
            return math.nan
        if variant.output_kind == "logits":
            values = softmax(values)
        away.append(float(np.abs(values - np.asarray(expected)).max(initial=0.0)))
    return float(np.mean(away)) if away else math.nan


_METRICS: dict[str, Callable[[Sequence[Case], Outputs, Variant], float]] = {
    "accuracy": _accuracy,
    "least_class_accuracy": _least_class_accuracy,
    "label_probability": _label_probability,
    "mean_difference": _mean_difference,
}
