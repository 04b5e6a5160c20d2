"""The contract that every runtime passes, whoever brings it. Parametrised by entry point.

A runtime whose library is not here is not verified: reported as skipped, and a failure under CI=true.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surefoot.errors import BadRequest, DeviceUnable
from surefoot.runtimes import ModelRefused, Options, Runtime, available, load_runtime

WIDE, CLASSES = 12, 4
RNG = np.random.default_rng(7)
WEIGHTS = RNG.standard_normal((WIDE, CLASSES)).astype(np.float32)
BIAS = RNG.standard_normal(CLASSES).astype(np.float32)


def onnx_model(free_batch: bool) -> bytes:
    from tests.app.serving import tiny_onnx

    batch = "batch" if free_batch else 1
    return tiny_onnx.model(
        tiny_onnx.node("Gemm", ["x", "w", "b"], ["y"]),
        tiny_onnx.constant("w", WEIGHTS),
        tiny_onnx.constant("b", BIAS),
        tiny_onnx.tensor(11, "x", "FP32", [batch, WIDE]),
        tiny_onnx.tensor(12, "y", "FP32", [batch, CLASSES]),
    )


def tflite_model(free_batch: bool) -> bytes:
    from tests.app.runtimes import tiny_tflite

    return tiny_tflite.dense(WEIGHTS, BIAS, free_batch=free_batch)


# What each runtime is given; a runtime without an entry here fails, so that none comes in unexamined.
MODELS: dict[str, Callable[[bool], bytes]] = {"onnxruntime": onnx_model, "tflite": tflite_model}


@pytest.fixture(params=sorted(available()))
def runtime(request: pytest.FixtureRequest) -> Runtime:
    try:
        return load_runtime(request.param)
    except DeviceUnable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"runtime {request.param} is not verified: {error}")
        pytest.skip(f"runtime {request.param} is not verified: {error}")


@pytest.fixture
def write(runtime: Runtime, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bool], Path]:
    name = request.node.callspec.params["runtime"]
    assert name in MODELS, f"runtime {name} has no model in the contract suite"

    def make(free_batch: bool = True) -> Path:
        path = tmp_path / f"model-{free_batch}"
        path.write_bytes(MODELS[name](free_batch))
        return path

    return make


def proof_model(name: str) -> bytes:
    """``y = 2 x + 1``, as the runtimes of this project ship it."""
    twice, one = 2 * np.eye(4, dtype=np.float32), np.ones(4, np.float32)
    if name == "tflite":
        from tests.app.runtimes import tiny_tflite

        return tiny_tflite.dense(twice, one, free_batch=False)
    from tests.app.serving import tiny_onnx

    return tiny_onnx.model(
        tiny_onnx.node("Gemm", ["x", "w", "b"], ["y"]),
        tiny_onnx.constant("w", twice),
        tiny_onnx.constant("b", one),
        tiny_onnx.tensor(11, "x", "FP32", [1, 4]),
        tiny_onnx.tensor(12, "y", "FP32", [1, 4]),
    )


def x(batch: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, WIDE)).astype(np.float32)


def test_the_signature_is_what_the_file_says(runtime, write):
    signature = runtime.load(write(True), Options())
    (given,), (made,) = signature.inputs, signature.outputs
    assert (given.name, given.datatype, given.shape) == ("x", "FP32", (-1, WIDE))
    assert (made.name, made.datatype, made.shape[-1]) == ("y", "FP32", CLASSES)


def test_the_answer_is_right_for_any_batch_where_the_batch_is_free(runtime, write):
    runtime.load(write(True), Options())
    for batch in (1, 3, 2, 1):
        given = x(batch, seed=batch)
        np.testing.assert_allclose(runtime.infer({"x": given})["y"], given @ WEIGHTS + BIAS, rtol=1e-4, atol=1e-4)


def test_a_fixed_batch_takes_no_other_and_goes_on_afterwards(runtime, write):
    signature = runtime.load(write(False), Options())
    assert signature.inputs[0].shape == (1, WIDE)
    with pytest.raises(BadRequest):
        runtime.infer({"x": x(2)})
    np.testing.assert_allclose(runtime.infer({"x": x()})["y"], x() @ WEIGHTS + BIAS, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"z": x()},
        {"x": x(), "z": x()},
        {"x": x().astype(np.float64)},
        {"x": x()[:, :5].copy()},
        {"x": x()[0]},
    ],
    ids=["none", "another name", "one too many", "another dtype", "too narrow", "a dimension less"],
)
def test_inputs_that_do_not_fit_are_refused_and_the_model_goes_on(runtime, write, inputs):
    runtime.load(write(True), Options())
    with pytest.raises(BadRequest):
        runtime.infer(inputs)
    assert runtime.infer({"x": x()})["y"].shape == (1, CLASSES)


@pytest.mark.parametrize("damage", ["empty", "noise", "cut short", "missing"])
def test_a_file_that_is_no_model_is_refused(runtime, write, damage):
    path = write(True)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "noise": os.urandom(4096), "cut short": whole[: len(whole) // 2]}[damage])
    with pytest.raises(ModelRefused) as refusal:
        runtime.load(path, Options())
    assert refusal.value.found


def test_a_provider_that_is_not_there_is_an_error_and_never_the_cpu(runtime, write):
    with pytest.raises(DeviceUnable) as refusal:
        runtime.load(write(True), Options(provider="NoSuchAccelerator"))
    assert refusal.value.expected == "NoSuchAccelerator"
    assert not isinstance(refusal.value, ModelRefused), "the device is at fault, not the release"


def test_facts_say_what_is_really_used(runtime, write, request):
    runtime.load(write(True), Options())
    facts = runtime.facts()
    assert facts.runtime == request.node.callspec.params["runtime"]
    assert facts.version[0].isdigit()
    assert "CPU" in facts.provider


def test_an_answer_is_not_changed_by_the_next_one(runtime, write):
    runtime.load(write(True), Options())
    first = runtime.infer({"x": x(seed=1)})["y"]
    kept = first.copy()
    runtime.infer({"x": x(seed=2)})
    np.testing.assert_array_equal(first, kept)


def test_more_threads_give_the_same_answer(runtime, write):
    runtime.load(write(True), Options(threads=3))
    np.testing.assert_allclose(runtime.infer({"x": x()})["y"], x() @ WEIGHTS + BIAS, rtol=1e-4, atol=1e-4)


def test_an_idle_model_uses_no_processor_time(runtime, write):
    runtime.load(write(True), Options(threads=3))
    runtime.infer({"x": x()})
    before = time.process_time()
    time.sleep(0.3)  # the span over which use is measured
    assert time.process_time() - before < 0.1


def test_another_model_can_be_loaded_after_one_was_closed(runtime, write, request):
    runtime.load(write(True), Options())
    runtime.close()
    again = load_runtime(request.node.callspec.params["runtime"])
    again.load(write(False), Options())
    assert again.infer({"x": x()})["y"].shape == (1, CLASSES)


def test_the_proof_model_that_comes_with_a_runtime_doubles_and_adds_one(runtime, request):
    (given,) = runtime.load(runtime.proof, Options()).inputs
    answer = runtime.infer({given.name: np.array([[0.0, 1.0, -2.0, 3.5]], np.float32)})
    np.testing.assert_array_equal(next(iter(answer.values())), [[1.0, 3.0, -3.0, 8.0]])
    assert runtime.proof.read_bytes() == proof_model(request.node.callspec.params["runtime"])


def test_what_is_used_is_among_what_is_offered(runtime):
    runtime.load(runtime.proof, Options())
    assert runtime.facts().provider in runtime.providers()
