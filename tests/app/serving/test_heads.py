"""Request heads: bounded in bytes and in time, and refused as JSON; other clients go on being answered."""

from __future__ import annotations

import json
import socket
import time

import pytest
import urllib3

from surefoot.serving import heads


def connect(device) -> socket.socket:
    host, port = device.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=heads.HEAD_TIMEOUT_S + 10)


def answer(connection: socket.socket) -> tuple[int, dict[str, str]]:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.fixture
def serving(device):
    device.serve()
    return device


def test_an_endless_head_gets_431_and_nobody_else_waits(serving):
    with connect(serving) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        try:
            while sent < 1024 * heads.MOST_HEAD_BYTES:
                connection.sendall(b"X-A: " + b"a" * 8000 + b"\r\n")
                sent += 8007
        except OSError:
            pass  # closed while this side was still sending
        assert sent < 512 * heads.MOST_HEAD_BYTES  # the kernel takes some megabytes before it says no
    begun = time.monotonic()
    assert serving.get("/v2/health/live") is not None
    assert time.monotonic() - begun < 2


def test_a_head_a_little_too_long_is_told_so(serving):
    with connect(serving) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        time.sleep(0.05)  # so that the rest comes as a piece of its own
        connection.sendall(b"X-A: " + b"a" * heads.MOST_HEAD_BYTES)
        status, body = answer(connection)
    assert status == 431
    assert "65536" in body["error"]


def test_a_large_body_is_no_head(serving):
    body = b"x" * (4 * heads.MOST_HEAD_BYTES)
    reply = urllib3.request("POST", f"{serving.url}/v2/models/none/infer", body=body, retries=False, timeout=10.0)
    assert reply.status == 404
    assert "none" in reply.json()["error"]


def test_a_head_that_never_ends_is_given_up(serving):
    with connect(serving) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        status, body = answer(connection)
    assert status == 408
    assert body["error"]


def test_what_is_no_http_gets_400_as_json(serving):
    with connect(serving) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        status, body = answer(connection)
    assert status == 400
    assert "HTTP" in body["error"]
