"""HTTP connections whose request heads are bounded in bytes and in time: the parser itself bounds neither.

Without it one client that sends header bytes for ever takes the gateway's memory and its turn from everybody else.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 15.0


class BoundedHeads(HttpToolsProtocol):
    """One connection. A head that is too long gets 431, one that is too slow 408, what is no HTTP 400, each as JSON."""

    _head_bytes = 0
    _in_head = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client is there; its first head may take so long."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._head_is_there()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a head. Its piece may hold the end of a body too, so counting begins with the next one."""
        self._head_bytes = -1
        self._wait_for_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head_is_there()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, then look whether it still waits for the end of a head."""
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes = 0 if self._head_bytes < 0 else self._head_bytes + len(data)
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the request's head is too long; expected: at most {MOST_HEAD_BYTES} bytes",
            )

    def send_400_response(self, msg: str) -> None:
        """What the parser does not understand."""
        self._refuse(HTTPStatus.BAD_REQUEST, "this is not HTTP/1.1; expected: a request line, headers, an empty line")

    def _wait_for_head(self) -> None:
        self._head_is_there()
        self._in_head = True
        self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._late)

    def _head_is_there(self) -> None:
        self._in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"no whole request head came within {HEAD_TIMEOUT_S:g} s")

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._head_is_there()
        body = msgspec.json.encode({"error": message})
        lines: list[Any] = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()
