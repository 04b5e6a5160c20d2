"""Whether the golden cases agree. Pure.

What cannot be judged fails: a missing output, a wrong shape, NaN or infinity, a golden file with another count of
cases than the manifest says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from surefoot.release.golden import Case
from surefoot.release.manifest import Variant
from surefoot.runtimes.calibrated import softmax
from surefoot.runtimes.protocol import Array
from surefoot.watch.checks import run_checks
from surefoot.watch.gates import CaseFailure, Verdict

MOST_REASONS = 20


def judge(
    cases: Sequence[Case],
    outputs: Mapping[str, Mapping[str, Array]],
    variant: Variant,
    errors: Mapping[str, str] | None = None,
    declared_cases: int | None = None,
) -> Verdict:
    """Compare what came out of the golden cases with what must come out.

    Args:
        cases: the golden cases of the release.
        outputs: for each case id the raw outputs by name. Logits are compared as softmax at temperature 1.
        variant: its tolerance and the kind of its output.
        errors: for a case that could not be run, why.
        declared_cases: how many the manifest says there are.
    """
    errors = errors or {}
    failures: list[CaseFailure] = []
    reasons: list[str] = []
    worst = 0.0
    agreed = labelled = 0
    if declared_cases is not None and declared_cases != len(cases):
        reasons.append(f"the golden file holds {len(cases)} cases, the manifest says {declared_cases}")
    if not cases:
        reasons.append("there are no golden cases")
    for case in cases:
        if case.id in errors or case.id not in outputs:
            failures.append(CaseFailure(id=case.id, reason=errors.get(case.id, "no output")))
            labelled += 1
            continue
        reason, difference, label = _compare(case, outputs[case.id], variant)
        worst = max(worst, difference)
        if reason:
            failures.append(CaseFailure(id=case.id, reason=reason))
        expected = _expected_label(case, variant)
        if expected is not None:
            labelled += 1
            agreed += label == expected
    share = agreed / labelled if labelled else 1.0
    if share < variant.tolerance.agreement:
        reasons.append(
            f"{agreed} of {labelled} golden cases gave the expected label, at least "
            f"{variant.tolerance.agreement:.1%} must"
        )
    if failures:
        listed = "; ".join(f"{failure.id}: {failure.reason}" for failure in failures[:3])
        reasons.append(f"{len(failures)} of {len(cases)} golden cases disagree ({listed})")
    checks = run_checks(cases, outputs, variant)
    reasons += [
        f"the model's own check {check.metric} gives {check.value:.4g}, {check.limit} is allowed"
        for check in checks
        if not check.passed
    ]
    return Verdict(
        passed=not reasons,
        cases=len(cases),
        agreed=agreed,
        worst_difference=worst,
        failures=tuple(failures[:MOST_REASONS]),
        reasons=tuple(reasons),
        checks=checks,
    )


def _compare(case: Case, outputs: Mapping[str, Array], variant: Variant) -> tuple[str, float, int | None]:
    """Reason (empty when it agrees), largest difference, label of the first output."""
    label: int | None = None
    worst = 0.0
    reasons: list[str] = []
    first = variant.outputs[0].name
    if first not in case.expected:
        return f"the golden case expects nothing of output {first}", worst, None
    for name, values in case.expected.items():
        if name not in outputs:
            return f"output {name} is missing", worst, label
        raw = np.asarray(outputs[name])
        declared = next((tensor for tensor in variant.outputs if tensor.name == name), None)
        if declared is None or not _fits(raw.shape, declared.shape):
            return f"output {name} has shape {list(raw.shape)}", worst, label
        expected = np.asarray(values, np.float64)
        if raw.size != expected.size:
            return f"output {name} has {raw.size} values, {expected.size} are expected", worst, label
        if not (np.isfinite(raw).all() and np.isfinite(expected).all()):
            return f"output {name} is not finite", worst, label
        if name == first:
            label = int(raw.reshape(-1).argmax()) if raw.size else None
        reason, difference = _within(raw.astype(np.float64), expected, variant)
        worst = max(worst, difference)
        if reason:
            reasons.append(f"output {name} {reason}")
    return "; ".join(reasons), worst, label


def _within(raw: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], variant: Variant) -> tuple[str, float]:
    tolerance = variant.tolerance
    worst, reasons = 0.0, []
    if tolerance.probability is not None:
        worst = float(np.abs(softmax(raw).reshape(-1) - expected).max(initial=0.0))
        if not worst <= tolerance.probability:
            reasons.append(f"is {worst:.4f} away in probability, {tolerance.probability:g} is allowed")
    if tolerance.output is not None:
        away = float(np.abs(raw.reshape(-1) - expected).max(initial=0.0))
        if not away <= tolerance.output:
            reasons.append(f"is {away:.4g} away, {tolerance.output:g} is allowed")
        worst = max(worst, away)
    if tolerance.probability is None and tolerance.output is None:
        reasons.append("has no tolerance to be judged by")
    return "; ".join(reasons), worst


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(b in (a, -1) for a, b in zip(shape, declared, strict=True))


def _expected_label(case: Case, variant: Variant) -> int | None:
    if case.label is not None:
        return case.label
    values = case.expected.get(variant.outputs[0].name, [])
    return int(np.argmax(values)) if variant.output_kind == "logits" and values else None
