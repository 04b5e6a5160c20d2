from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from surefoot.release.golden import Case
from surefoot.release.manifest import Budget, File, Tensor, Tolerance, Variant
from surefoot.runtimes.calibrated import softmax
from surefoot.watch.agreement import judge
from surefoot.watch.gates import Measured, judge_budget, percentile

LOGITS = np.array([[2.0, 0.0, -1.0]], np.float32)
VARIANT = Variant(
    id="v",
    device_classes=("generic-amd64",),
    runtime="onnxruntime",
    artifact=File(name="m", sha256="0" * 64, length_bytes=1),
    inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 3)),),
    outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 3)),),
    tolerance=Tolerance(probability=0.05),
    output_kind="logits",
)


def case(name: str = "one", label: int | None = 0) -> Case:
    return Case(name, {"y": softmax(LOGITS)[0].tolist()}, label, image=b"")


def verdict(outputs: np.ndarray | None, variant: Variant = VARIANT, **more: object):
    given = {} if outputs is None else {"one": {"y": outputs}}
    return judge([case()], given, variant, **more)


def with_tolerance(**values: float) -> Variant:
    return msgspec.structs.replace(VARIANT, tolerance=Tolerance(**values))


def test_the_expected_output_passes():
    seen = verdict(LOGITS)
    assert seen.passed and (seen.cases, seen.agreed) == (1, 1) and seen.worst_difference < 1e-6


def test_logits_shifted_by_a_constant_are_the_same_probabilities():
    assert verdict(LOGITS + 5).passed


def test_a_difference_within_the_tolerance_passes_and_one_beyond_it_does_not():
    near = verdict(LOGITS + np.array([[0.1, 0, 0]], np.float32))
    far = verdict(LOGITS + np.array([[1.0, 0, 0]], np.float32))
    assert near.passed and 0 < near.worst_difference <= 0.05
    assert not far.passed and far.worst_difference > 0.05 and far.failures[0].id == "one"
    assert verdict(LOGITS + np.array([[1.0, 0, 0]], np.float32), with_tolerance(probability=0.5)).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_always_fails(bad):
    spoiled = LOGITS.copy()
    spoiled[0, 2] = bad
    for variant in (
        VARIANT,
        with_tolerance(probability=1.0, agreement=0.0),
        with_tolerance(output=1e30, agreement=0.0),
    ):
        assert not verdict(spoiled, variant).passed


@pytest.mark.parametrize("shape", [(3,), (1, 1, 3), (1, 2), (3, 1)])
def test_a_wrong_shape_fails(shape):
    assert not verdict(np.zeros(shape, np.float32), with_tolerance(probability=1.0, agreement=0.0)).passed


def test_a_missing_output_fails_and_says_why():
    assert "no output" in verdict(None).failures[0].reason
    seen = verdict(None, errors={"one": "the picture is damaged"})
    assert not seen.passed and "the picture is damaged" in seen.reasons[-1]
    assert not judge([case()], {"one": {"z": LOGITS}}, VARIANT).passed


def test_labels_must_agree_as_often_as_the_release_says():
    cases = [case(f"c{index}", label=0 if index else 1) for index in range(4)]
    outputs = {one.id: {"y": LOGITS} for one in cases}
    strict = judge(cases, outputs, VARIANT)
    assert not strict.passed and strict.agreed == 3 and "3 of 4" in strict.reasons[0]
    assert judge(cases, outputs, with_tolerance(probability=0.05, agreement=0.75)).passed


def test_without_a_label_the_most_probable_expected_class_is_the_label():
    seen = judge([case(label=None)], {"one": {"y": LOGITS[:, ::-1].copy()}}, with_tolerance(probability=1.0))
    assert not seen.passed and seen.agreed == 0


def test_no_cases_and_another_count_of_cases_than_declared_fail():
    assert not judge([], {}, VARIANT).passed
    assert not verdict(LOGITS, declared_cases=2).passed
    assert verdict(LOGITS, declared_cases=1).passed


def test_raw_outputs_are_compared_where_the_output_is_no_logits():
    variant = msgspec.structs.replace(VARIANT, output_kind="other", tolerance=Tolerance(output=0.1))
    raw = Case("one", {"y": LOGITS[0].tolist()}, None, image=b"")
    assert judge([raw], {"one": {"y": LOGITS + np.float32(0.09)}}, variant).passed
    assert not judge([raw], {"one": {"y": LOGITS + np.float32(0.2)}}, variant).passed


def measured(**values: object) -> Measured:
    return Measured(**{"load_s": 1.0, "memory_bytes": 100, **values})


def test_the_budget_is_absolute_and_each_limit_counts():
    assert judge_budget(measured(), Budget()) == ()
    assert judge_budget(measured(), Budget(memory_bytes=100, load_s=1.0)) == ()
    assert "memory" in judge_budget(measured(memory_bytes=101), Budget(memory_bytes=100))[0]
    assert "load" in judge_budget(measured(load_s=1.1), Budget(load_s=1.0))[0]


def test_what_is_no_number_is_not_within_a_limit():
    assert judge_budget(measured(load_s=math.nan), Budget(load_s=1.0))


def test_percentiles_are_values_that_were_seen():
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 0.50) == 50.0 and percentile(values, 0.99) == 99.0 and percentile(values, 1.0) == 100.0
    assert percentile([3.0], 0.99) == 3.0 and math.isnan(percentile([], 0.5))
