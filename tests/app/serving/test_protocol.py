"""The Open Inference Protocol against a real server: what it answers, and what it refuses, with which status."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest
import urllib3

from surefoot.serving.client import Client
from tests.app.serving.device import LABELS, SIDE, Device, classifier_release, picture, weights

HTTP = urllib3.PoolManager(retries=False, timeout=15.0)
TENSOR = {"name": "image", "shape": [1, 1, SIDE, SIDE], "datatype": "FP32"}
ZEROS = np.zeros((1, 1, SIDE, SIDE), np.float32)


def ask(server: Device, method: str, path: str, body: bytes | None = None, **headers: str):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HTTP.request(method, server.url + path, body=body, headers=named)


def infer(server: Device, value: object, **headers: str):
    return ask(server, "POST", "/v2/models/tiny/infer", json.dumps(value).encode(), **headers)


def test_server_and_model_describe_themselves(shared_server):
    said = ask(shared_server, "GET", "/v2").json()
    assert said["name"] == "surefoot" and "binary_tensor_data" in said["extensions"]
    model = ask(shared_server, "GET", "/v2/models/tiny").json()
    assert model["versions"] == ["1.0.0"] and model["platform"] == "onnxruntime"
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, SIDE, SIDE]}]
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, len(LABELS)]}]
    assert model["parameters"]["digest"] == classifier_release().digest
    assert ask(shared_server, "GET", "/v2/models/tiny/versions/1.0.0").json() == model


@pytest.mark.parametrize(
    "path",
    ["/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/tiny/versions/1.0.0/ready"],
)
def test_health_is_200_with_a_body_and_with_none_sent(shared_server, path):
    assert ask(shared_server, "GET", path).status == 200
    with socket.create_connection(("127.0.0.1", int(shared_server.url.rsplit(":", 1)[1])), 5) as bare:
        bare.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert bare.recv(100).startswith(b"HTTP/1.1 200")


def test_infer_in_json_gives_what_the_model_gives_and_echoes_the_id(shared_server):
    given = np.random.default_rng(5).standard_normal((2, 1, SIDE, SIDE)).astype(np.float32)
    tensor = {**TENSOR, "shape": [2, 1, SIDE, SIDE], "data": given.reshape(-1).tolist()}
    reply = infer(shared_server, {"id": "abc", "inputs": [tensor]})
    said = reply.json()
    assert reply.status == 200 and said["id"] == "abc"
    assert (said["model_name"], said["model_version"]) == ("tiny", "1.0.0")
    matrix, bias = weights(1)
    (output,) = said["outputs"]
    assert output["shape"] == [2, 3] and output["datatype"] == "FP32"
    np.testing.assert_allclose(np.reshape(output["data"], (2, 3)), given.reshape(2, -1) @ matrix + bias, atol=1e-4)


def test_infer_takes_a_body_without_a_content_type(shared_server):
    reply = infer(shared_server, {"inputs": [{**TENSOR, "data": ZEROS.ravel().tolist()}]}, content_type="")
    assert reply.status == 200


def test_infer_in_bytes_answers_in_bytes_where_asked(shared_server):
    tensor = {**TENSOR, "parameters": {"binary_data_size": ZEROS.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    reply = ask(
        shared_server,
        "POST",
        "/v2/models/tiny/versions/1.0.0/infer",
        head + ZEROS.tobytes(),
        Inference_Header_Content_Length=str(len(head)),
    )
    length = int(reply.headers["Inference-Header-Content-Length"])
    assert json.loads(reply.data[:length])["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert reply.data[length:] == bytes(12)


def test_classify_gives_a_calibrated_answer(shared_server):
    said = ask(shared_server, "POST", "/v2/models/tiny/classify", picture(3), content_type="image/png").json()
    assert said["label"] == LABELS[said["label_index"]]
    assert said["confidence"] == max(said["probabilities"]) and sum(said["probabilities"]) == pytest.approx(1)
    assert said["model_version"] == "1.0.0" and said["latency_ms"] > 0
    by_client = Client(shared_server.url).classify(picture(3), "tiny")
    assert by_client.probabilities == said["probabilities"]


def test_the_unix_socket_answers_the_same(shared_server):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(shared_server.endpoint.http_socket)
        connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


GOOD = {"inputs": [{**TENSOR, "data": ZEROS.ravel().tolist()}]}
INFER, CLASSIFY = "/v2/models/tiny/infer", "/v2/models/tiny/classify"
PNG = {"Content-Type": "image/png"}


def changed(**values: object) -> bytes:
    return json.dumps({"inputs": [{**TENSOR, "data": [], **values}]}).encode()


REFUSED: dict[str, tuple[int, str, str, bytes | None, dict[str, str]]] = {
    "an unknown address": (404, "GET", "/v3", None, {}),
    "a slash too many": (404, "GET", "/v2/", None, {}),
    "an unknown model": (404, "GET", "/v2/models/nobody", None, {}),
    "an unknown model, ready": (404, "GET", "/v2/models/nobody/ready", None, {}),
    "an unknown model, infer": (404, "POST", "/v2/models/nobody/infer", b"{}", {}),
    "an unknown version": (404, "GET", "/v2/models/tiny/versions/9.9.9", None, {}),
    "an unknown version, infer": (404, "POST", "/v2/models/tiny/versions/9/infer", b"{}", {}),
    "a path that climbs": (404, "GET", "/v2/models/..%2f..%2fetc", None, {}),
    "the wrong method": (405, "GET", INFER, None, {}),
    "the wrong method elsewhere": (405, "POST", "/v2/health/live", b"", {}),
    "an empty body": (400, "POST", INFER, b"", {}),
    "no JSON": (400, "POST", INFER, b"nonsense", {}),
    "a wrong name": (400, "POST", INFER, changed(name="q"), {}),
    "a wrong shape": (400, "POST", INFER, changed(shape=[1, 2]), {}),
    "a wrong datatype": (400, "POST", INFER, changed(datatype="BYTES"), {}),
    "a wrong size": (400, "POST", INFER, changed(data=[1.0]), {}),
    "a header that is no number": (400, "POST", INFER, changed(), {"Inference-Header-Content-Length": "x"}),
    "a header beyond the body": (400, "POST", INFER, changed(), {"Inference-Header-Content-Length": "99999"}),
    "a compressed body": (415, "POST", INFER, b"\x1f\x8b", {"Content-Encoding": "gzip"}),
    "a body over the limit": (413, "POST", INFER, bytes((1 << 20) + 1), {}),
    "a picture that is none": (400, "POST", CLASSIFY, b"GIF89a", PNG),
    "a picture cut short": (400, "POST", CLASSIFY, picture()[:-30], PNG),
    "no picture": (400, "POST", CLASSIFY, b"", PNG),
    "a picture of another kind": (415, "POST", CLASSIFY, b"<svg/>", {"Content-Type": "image/svg+xml"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_refusal_has_its_status_and_says_why_in_json(shared_server, name):
    status, method, path, body, headers = REFUSED[name]
    reply = HTTP.request(method, shared_server.url + path, body=body, headers=headers)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    assert reply.json()["error"]
    assert ask(shared_server, "GET", "/v2/models/tiny").json()["versions"] == ["1.0.0"]


def test_a_chunked_body_over_the_limit_is_refused_and_the_server_goes_on(shared_server):
    def endless():
        for _ in range(40):
            yield bytes(1 << 16)

    reply = HTTP.request("POST", shared_server.url + "/v2/models/tiny/infer", body=endless(), chunked=True)
    assert reply.status == 413 and "at most" in reply.json()["error"]
    assert infer(shared_server, GOOD).status == 200


def test_a_client_that_stops_sending_does_not_keep_the_others_waiting(shared_server):
    address = ("127.0.0.1", int(shared_server.url.rsplit(":", 1)[1]))
    with socket.create_connection(address, 5) as slow:
        slow.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert infer(shared_server, GOOD).status == 200


def test_a_request_of_a_model_without_pictures_is_told_where_to_go(make_server):
    from tests.app.serving.device import dense_release

    server = make_server()
    server.confirm(dense_release("onnxruntime"))
    server.start()
    reply = ask(server, "POST", "/v2/models/onnxruntime/classify", picture(), content_type="image/png")
    assert reply.status == 400 and "/infer" in reply.json()["error"]
