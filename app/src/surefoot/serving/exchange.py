"""One HTTP exchange, on ASGI: a bounded body in, one answer out, every refusal as ``{"error": …}``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec

from surefoot.errors import SurefootError
from surefoot.serving.refusals import RETRY_AFTER_S, BodyTooLarge, Overloaded, SlowClient, WrongMedia, status_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

DRAIN_BYTES = 16 * 1024 * 1024
DRAIN_S = 2.0
_json = msgspec.json.Encoder()


class ClientGoneError(Exception):
    """The client closed before its request was whole. Nobody waits for an answer."""


class BodyMeter:
    """Bytes of request bodies held at one time, over all requests, so that many clients cannot take all memory."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0

    def take(self, size: int) -> None:
        """Count bytes in.

        Raises:
            Overloaded: too many are held.
        """
        if self.held_bytes + size > self.most_bytes:
            raise Overloaded(
                "too many bytes of requests are held at the same time", expected=f"at most {self.most_bytes} bytes"
            )
        self.held_bytes += size


def header(scope: Scope, name: bytes) -> str | None:
    """The first value of a header (lower-case name), or ``None``."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


async def read_body(scope: Scope, receive: Receive, most_bytes: int, deadline_s: float, meter: BodyMeter) -> bytes:
    """The whole body; ``meter`` is charged for it, and the caller gives back what :func:`len` says.

    Args:
        scope: of the request.
        receive: of the request.
        most_bytes: a longer body is refused.
        deadline_s: on CLOCK_MONOTONIC.
        meter: for all bodies together.

    Raises:
        BodyTooLarge: longer than ``most_bytes``; what is sent is read and thrown away within bounds, since a client
            that is still sending would not see the answer.
        SlowClient: not whole by the deadline.
        WrongMedia: compressed.
        ClientGoneError: the client closed.
    """
    encoding = header(scope, b"content-encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        raise WrongMedia("compressed bodies are not taken", found=encoding[:40], expected="no Content-Encoding")
    stated = header(scope, b"content-length")
    if stated is not None and int(stated) > most_bytes:
        if header(scope, b"expect") is None and int(stated) <= most_bytes + DRAIN_BYTES:
            await _discard(receive)
        raise _too_large(f"{stated} bytes", most_bytes)
    parts: list[bytes] = []
    held = 0
    try:
        while True:
            message = await _next(receive, deadline_s, first=not parts)
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            if held + len(part) > most_bytes:
                if message.get("more_body", False):
                    await _discard(receive)
                raise _too_large(f"more than {most_bytes} bytes", most_bytes)
            meter.take(len(part))
            held += len(part)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)
    except BaseException:
        meter.held_bytes -= held
        raise


async def _next(receive: Receive, deadline_s: float, first: bool) -> MutableMapping[str, Any]:
    message = receive()
    if first:  # nearly always already there: asking for a timer first would cost every request
        task = asyncio.ensure_future(message)
        await asyncio.sleep(0)
        if task.done():
            return task.result()
        message = task
    try:
        return await asyncio.wait_for(message, max(0.001, deadline_s - time.monotonic()))
    except asyncio.TimeoutError as error:
        raise SlowClient("the body did not arrive in time", hint="send faster, or less") from error


async def _discard(receive: Receive) -> None:
    left, deadline = DRAIN_BYTES, time.monotonic() + DRAIN_S
    while left > 0:
        try:
            message = await asyncio.wait_for(receive(), max(0.001, deadline - time.monotonic()))
        except asyncio.TimeoutError:
            return
        left -= len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


def _too_large(found: str, most_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        "the body is too long", found=found, expected=f"at most {most_bytes} bytes", hint="send less at once"
    )


async def answer(
    send: Send, status: int, content_type: bytes, parts: Sequence[bytes | memoryview], headers: Headers | None = None
) -> None:
    """Send a whole answer."""
    body = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
    fields = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, value: Any, status: int = 200, headers: Headers | None = None) -> None:
    """Send a JSON object."""
    await answer(send, status, b"application/json", [_json.encode(value)], headers)


async def answer_error(send: Send, error: SurefootError, headers: Headers | None = None) -> int:
    """Send a refusal and return its status. The body's ``error`` is a sentence; the rest says the same in parts."""
    status = status_of(error)
    fields = list(headers or [])
    if status == 503:
        fields.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    if status in (408, 413):
        fields.append((b"connection", b"close"))
    parts = {key: value for key, value in error.as_dict().items() if value and key != "error"}
    await answer_json(send, {"error": str(error), **parts}, status, fields)
    return status
