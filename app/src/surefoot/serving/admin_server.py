"""Administration: one line of JSON in, one line out, on a Unix socket that only the server's own user may use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING, Protocol

import msgspec

from surefoot.errors import BadRequest, SurefootError
from surefoot.serving.orders import MOST_LINE_BYTES, Order, Result
from surefoot.serving.sockets import peer_uid
from surefoot.serving.status import ServingStatus, SwapReport

if TYPE_CHECKING:
    from typing_extensions import Self

READ_TIMEOUT_S = 5.0

log = logging.getLogger("surefoot.admin")


class Server(Protocol):
    """The supervisor, as administration needs it."""

    async def status(self) -> ServingStatus:
        """See the supervisor."""

    async def swap(self, name: str) -> SwapReport:
        """See the supervisor."""

    def stop(self) -> None:
        """See the supervisor."""


class AdminServer:
    """Serves the admin socket while it is entered."""

    def __init__(self, listener: socket.socket, server: Server, allowed_uids: frozenset[int] | None = None) -> None:
        self._listener = listener
        self._server = server
        self._allowed_uids = allowed_uids if allowed_uids is not None else frozenset({0, os.geteuid()})
        self._serving: asyncio.AbstractServer | None = None

    async def __aenter__(self) -> Self:
        self._serving = await asyncio.start_unix_server(self._client, sock=self._listener, limit=MOST_LINE_BYTES)
        return self

    async def __aexit__(self, *problem: object) -> None:
        if self._serving is not None:
            self._serving.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            result = await self._result(reader, peer_uid(writer.get_extra_info("socket")))
            writer.write(msgspec.json.encode(result) + b"\n")
            await writer.drain()
        except (OSError, asyncio.TimeoutError) as error:
            log.info("an administrator left: %s", error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _result(self, reader: asyncio.StreamReader, uid: int) -> Result:
        try:
            order = await _order(reader)  # read first: who is still writing would not see the refusal
            if uid not in self._allowed_uids:
                log.warning("user %d was refused administration", uid)
                raise BadRequest("this user may not administer the server", found=f"user {uid}")
            return await self._do(order)
        except SurefootError as error:
            return Result(error=error.as_dict())
        except Exception as error:
            log.exception("unexpected")
            return Result(error={"error": "DeviceUnable", "what": f"{type(error).__name__}: {error}"})

    async def _do(self, order: Order) -> Result:
        if order.op == "status":
            return Result(status=await self._server.status())
        if order.op == "swap":
            # Shielded: an administrator who goes away must not leave a swap half done.
            return Result(swap=await asyncio.shield(self._server.swap(order.name)))
        self._server.stop()
        return Result(stopping=True)


async def _order(reader: asyncio.StreamReader) -> Order:
    try:
        line = await asyncio.wait_for(reader.readline(), READ_TIMEOUT_S)
        return msgspec.json.decode(line, type=Order)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadRequest("not an order", found=str(error)[:200], expected='{"op":"status"}') from error
