"""More than the server can take: bounded queues, honoured deadlines, nothing that grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import urllib3

from tests.app.serving.device import Device, settles, slow_release

BODY = np.zeros((256, 256), np.float32).tobytes()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A model that needs some tenths of a second for each answer, and a queue of one."""
    device = Device(Path(tmp_path_factory.mktemp("slow")) / "device", queue_depth=1, request_timeout_s=20.0)
    device.confirm(slow_release(100))
    device.start()
    yield device
    device.stop()


def infer(server: Device, timeout_us: int | None = None) -> urllib3.BaseHTTPResponse:
    extra = b"" if timeout_us is None else b',"timeout":%d' % timeout_us
    head = (
        b'{"inputs":[{"name":"x","shape":[256,256],"datatype":"FP32","parameters":{"binary_data_size":%d}}],'
        b'"parameters":{"binary_data_output":true%b}}' % (len(BODY), extra)
    )
    headers = {"Inference-Header-Content-Length": str(len(head))}
    url = f"{server.url}/v2/models/slow/infer"
    return urllib3.request("POST", url, body=head + BODY, headers=headers, retries=False, timeout=60.0)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(slow):
    replies: list[urllib3.BaseHTTPResponse] = []
    clients = [threading.Thread(target=lambda: replies.append(infer(slow))) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    statuses = sorted(reply.status for reply in replies)
    assert set(statuses) == {200, 503} and statuses.count(200) >= 3, statuses
    refused = next(reply for reply in replies if reply.status == 503)
    assert refused.headers["Retry-After"] == "1" and "too many requests wait" in refused.json()["error"]
    assert infer(slow).status == 200, "and it goes on"


def test_a_deadline_that_passes_is_504_and_the_next_request_is_answered(slow):
    reply = infer(slow, timeout_us=5_000)
    assert reply.status == 504 and "did not answer in time" in reply.json()["error"]
    assert infer(slow).status == 200


def test_what_expired_does_not_stay_in_the_queue(slow):
    late = [threading.Thread(target=infer, args=(slow, 2_000)) for _ in range(6)]
    for client in late:
        client.start()
    for client in late:
        client.join(60)
    assert settles(lambda: slow.admin.status().models[0].in_flight == 0)
    assert infer(slow).status == 200


def test_bodies_of_all_requests_together_are_bounded():
    from surefoot.serving.exchange import BodyMeter
    from surefoot.serving.refusals import Overloaded, status_of

    meter = BodyMeter(100)
    meter.take(60)
    with pytest.raises(Overloaded) as refusal:
        meter.take(41)
    assert status_of(refusal.value) == 503 and meter.held_bytes == 60
    meter.take(40)
