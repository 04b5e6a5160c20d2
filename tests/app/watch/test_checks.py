"""A model's own checks: what each figure is, and that one which cannot be had is never within its limit."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from surefoot.errors import UntrustedRelease
from surefoot.release import manifest
from surefoot.release.golden import Case
from surefoot.release.manifest import Calibration, Check, Tolerance
from surefoot.runtimes.calibrated import softmax
from surefoot.watch.agreement import judge
from surefoot.watch.checks import run_checks
from tests.app.serving.device import classifier_release
from tests.app.watch.test_gates import VARIANT

# Three of class 0, all right; two of class 1, one right.
LOGITS = {
    "a": [2.0, 0.0, -1.0], "b": [3.0, 0.0, 0.0], "c": [1.0, 0.0, 0.0], "d": [0.0, 2.0, 0.0], "e": [2.0, 1.0, 0.0]
}  # fmt: skip
LABELS = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1}
OUTPUTS = {name: {"y": np.array([values], np.float32)} for name, values in LOGITS.items()}
CASES = [Case(name, {"y": softmax(np.array(LOGITS[name])).tolist()}, LABELS[name], image=b"") for name in LOGITS]


def checked(metric: str, outputs=OUTPUTS, cases=CASES, variant=VARIANT, **limit: float):
    check = Check(metric=metric, **(limit or {"at_least": 0.0}))  # type: ignore[arg-type]  # a name of the literal
    (found,) = run_checks(cases, outputs, msgspec.structs.replace(variant, checks=(check,)))
    return found


def test_each_figure_is_what_its_name_says():
    assert checked("accuracy").value == pytest.approx(4 / 5)
    assert checked("least_class_accuracy").value == pytest.approx(1 / 2)
    expected = np.mean([softmax(np.array(LOGITS[name]))[LABELS[name]] for name in LOGITS])
    assert checked("label_probability").value == pytest.approx(expected)
    assert checked("mean_difference", at_most=0.1).value == pytest.approx(0.0, abs=1e-6)


def test_the_probability_is_the_calibrated_one():
    warm = msgspec.structs.replace(VARIANT, calibration=Calibration(temperature=3.0))
    assert checked("label_probability", variant=warm).value < checked("label_probability").value


def test_a_limit_counts_from_its_own_side_and_includes_itself():
    assert checked("accuracy", at_least=0.8).passed and not checked("accuracy", at_least=0.81).passed
    assert checked("accuracy", at_most=0.8).passed and not checked("accuracy", at_most=0.79).passed


@pytest.mark.parametrize("metric", ["accuracy", "least_class_accuracy", "label_probability", "mean_difference"])
def test_what_cannot_be_computed_keeps_no_limit(metric):
    missing = {name: each for name, each in OUTPUTS.items() if name != "b"}
    spoiled = {**OUTPUTS, "b": {"y": np.full((1, 3), np.nan, np.float32)}}
    for outputs in (missing, spoiled, {}):
        for limit in ({"at_least": 0.0}, {"at_most": 9.0}):
            found = checked(metric, outputs, **limit)
            assert not found.passed and math.isnan(found.value)
    assert not checked(metric, cases=[], at_least=0.0).passed
    assert not checked(metric, cases=[], at_most=9.0).passed


def test_a_label_beyond_the_output_is_no_figure():
    cases = [msgspec.structs.replace(CASES[0], label=7)]
    assert math.isnan(checked("label_probability", cases=cases).value)
    assert checked("accuracy", cases=cases).value == 0.0


def test_a_broken_check_fails_the_golden_run_and_says_so():
    strict = msgspec.structs.replace(
        VARIANT, checks=(Check(metric="accuracy", at_least=0.9),), tolerance=Tolerance(probability=1.0, agreement=0.0)
    )
    seen = judge(CASES, OUTPUTS, strict)
    assert not seen.passed
    assert seen.reasons == ("the model's own check accuracy gives 0.8, at least 0.9 is allowed",)
    assert seen.checks[0].value == pytest.approx(0.8)


def release_with(*checks: Check, **more: object) -> bytes:
    whole = classifier_release().manifest
    variant = msgspec.structs.replace(whole.variants[0], checks=checks, **more)
    return manifest.encode(msgspec.structs.replace(whole, variants=(variant,)))


def test_a_check_needs_one_limit_and_a_metric_that_suits_the_output():
    manifest.decode(release_with(Check(metric="accuracy", at_least=0.5)))
    for checks in ((Check(metric="accuracy"),), (Check(metric="accuracy", at_least=0.1, at_most=0.9),)):
        with pytest.raises(UntrustedRelease, match="needs one limit"):
            manifest.decode(release_with(*checks))
    with pytest.raises(UntrustedRelease, match="output_kind = logits"):
        manifest.decode(
            release_with(
                Check(metric="label_probability", at_least=0.1), output_kind="other", tolerance=Tolerance(output=0.1)
            )
        )
    with pytest.raises(UntrustedRelease, match="not valid"):
        manifest.decode(release_with(Check(metric="accuracy", at_least=0.5)).replace(b"accuracy", b"__import__"))


def test_a_manifest_without_checks_is_what_it_was_before_there_were_any():
    assert b"checks" not in classifier_release().data
