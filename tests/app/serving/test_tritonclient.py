"""``tritonclient[http]``, unchanged, against both runtimes and in both encodings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from tests.app.runtimes.contract.test_contract import BIAS, WEIGHTS, x
from tests.app.serving.device import Device, dense_release

RUNTIMES = ("onnxruntime", "tflite")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    device = Device(Path(tmp_path_factory.mktemp("triton")) / "device")
    for runtime in RUNTIMES:
        device.confirm(dense_release(runtime))
    device.start()
    yield device
    device.stop()


@pytest.fixture
def client(both: Device) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(both.url.removeprefix("http://")) as client:
        yield client


def test_health_and_metadata(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.get_server_metadata()["name"] == "surefoot"
    for runtime in RUNTIMES:
        assert client.is_model_ready(runtime) and client.is_model_ready(runtime, "1.0.0")
        assert client.get_model_metadata(runtime)["platform"] == runtime


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer(client, runtime, binary_in, binary_out):
    given = x(3, seed=4)
    tensor = triton.InferInput("x", list(given.shape), "FP32")
    tensor.set_data_from_numpy(given, binary_data=binary_in)
    wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
    result = client.infer(runtime, [tensor], outputs=[wanted], request_id="r-1", model_version="1.0.0")
    np.testing.assert_allclose(result.as_numpy("y"), given @ WEIGHTS + BIAS, rtol=1e-4, atol=1e-4)
    assert result.get_response()["id"] == "r-1"
    assert result.get_response()["model_version"] == "1.0.0"


def test_infer_with_no_outputs_named(client):
    tensor = triton.InferInput("x", [1, 12], "FP32")
    tensor.set_data_from_numpy(x())
    assert client.infer("tflite", [tensor]).as_numpy("y").shape == (1, 4)


def test_what_is_refused_becomes_the_clients_own_error_with_our_words(client):
    tensor = triton.InferInput("x", [1, 5], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 5), np.float32))
    with pytest.raises(triton.InferenceServerException, match=r"wrong shape.*expected: \[-1, 12\]"):
        client.infer("onnxruntime", [tensor])


def test_many_at_once(client, both):
    with triton.InferenceServerClient(both.url.removeprefix("http://"), concurrency=8) as many:
        given = [x(1, seed=seed) for seed in range(64)]
        tensors = []
        for one in given:
            tensors.append(triton.InferInput("x", [1, 12], "FP32"))
            tensors[-1].set_data_from_numpy(one)
        pending = [many.async_infer("onnxruntime", [tensor]) for tensor in tensors]
        for one, asked in zip(given, pending, strict=True):
            np.testing.assert_allclose(asked.get_result().as_numpy("y"), one @ WEIGHTS + BIAS, rtol=1e-4, atol=1e-4)
