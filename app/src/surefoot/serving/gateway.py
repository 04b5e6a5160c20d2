"""The process that clients talk to: ``python -m surefoot.serving.gateway --control FD --socket FD…``.

It holds no state and no model: the listening sockets are the supervisor's, workers come over the control socket, and
when it dies another takes its place while connections wait in the sockets' backlog.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import uvicorn

from surefoot.config import Gateway as Settings
from surefoot.errors import DeviceUnable
from surefoot.serving.application import Pages, application
from surefoot.serving.backend import Backend
from surefoot.serving.control import (
    AllCounts,
    AskCounts,
    AskStatus,
    Content,
    Done,
    Drained,
    Expect,
    Hide,
    Peer,
    Route,
    Show,
    Stalled,
    Started,
    Status,
    Trouble,
    Watched,
    Withdraw,
)
from surefoot.serving.exchange import BodyMeter
from surefoot.serving.heads import BoundedHeads
from surefoot.serving.inference import ClassifyOperation, InferOperation, Models
from surefoot.serving.metrics import Metrics
from surefoot.serving.onlooker import Onlooker
from surefoot.serving.status import ServingStatus
from surefoot.watch.likeness import Tally

BODIES_AT_ONCE = 4  # bodies of the greatest length that all requests together may hold
STATUS_TIMEOUT_S = 3.0
KEEP_ALIVE_S = 75
BACKLOG = 1024

log = logging.getLogger("surefoot.gateway")


class Gateway:
    """One gateway process."""

    def __init__(self, settings: Settings, control: socket.socket) -> None:
        self._settings = settings
        self._models = Models()
        self._metrics = Metrics()
        self._tasks: set[asyncio.Task[object]] = set()
        self._peer = Peer(control, self._answer, self._supervisor_gone)
        self._server: uvicorn.Server | None = None

    async def run(self, sockets: list[socket.socket]) -> None:
        """Serve until told to leave, then finish what was begun."""
        meter = BodyMeter(BODIES_AT_ONCE * self._settings.most_body_bytes)
        limits = (self._models, self._metrics, meter, self._settings.most_body_bytes, self._settings.request_timeout_s)
        app = application(
            Pages(self._models, self._metrics, self._status), InferOperation(*limits), ClassifyOperation(*limits)
        )
        config = uvicorn.Config(
            app,
            loop="none",
            http=BoundedHeads,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, int(self._settings.drain_timeout_s)),
        )
        self._server = _Server(config, self._accepting)
        await self._server.serve(sockets)

    def _accepting(self) -> None:
        self._spawn(self._peer.ask(Started(), STATUS_TIMEOUT_S))

    def _supervisor_gone(self) -> None:
        log.warning("the supervisor is gone: leaving")
        if self._server is not None:
            self._server.should_exit = True

    def _spawn(self, coroutine: Awaitable[object]) -> None:
        task: asyncio.Task[object] = asyncio.ensure_future(_quietly(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, content: Content, descriptors: tuple[int, ...]) -> Content:
        if isinstance(content, Route):
            loaded = content.loaded
            self._backend(loaded.name).move_to(content, socket.socket(fileno=descriptors[0]))
            log.info("%s %s serves from slot %s", loaded.name, loaded.version, content.slot)
            return Done()
        if isinstance(content, Expect):
            self._backend(content.model)
            return Done()
        if isinstance(content, Withdraw):
            gone = self._models.backends.pop(content.model, None)
            if gone is not None:
                gone.withdraw()
            return Done()
        if isinstance(content, Show):
            self._backend(content.loaded.name).show(Onlooker(content, socket.socket(fileno=descriptors[0])))
            return Done()
        if isinstance(content, Hide):
            backend = self._models.backends.get(content.model)
            return Watched(backend.show(None) if backend is not None else Tally())
        if isinstance(content, AskCounts):
            backends = self._models.backends.values()
            onlookers = [backend.onlooker for backend in backends if backend.onlooker is not None]
            links = [backend.current for backend in backends if backend.current is not None]
            shadows = tuple((onlooker.show.worker, onlooker.tally) for onlooker in onlookers)
            return AllCounts(tuple(link.counts() for link in links), shadows)
        return Trouble(f"a gateway does not answer {type(content).__name__}")

    def _backend(self, name: str) -> Backend:
        backend = self._models.backends.get(name)
        if backend is None:
            backend = self._models.backends[name] = Backend(name, self._settings, self._drained, self._stalled)
        return backend

    def _drained(self, worker: int) -> None:
        self._spawn(self._peer.ask(Drained(worker), STATUS_TIMEOUT_S))

    def _stalled(self, worker: int) -> None:
        log.error("worker number %d answers nothing", worker)
        self._spawn(self._peer.ask(Stalled(worker), STATUS_TIMEOUT_S))

    async def _status(self) -> ServingStatus:
        answer = await self._peer.ask(AskStatus(), STATUS_TIMEOUT_S)
        if not isinstance(answer, Status):
            raise DeviceUnable("the supervisor answered something else than its status")
        return msgspec.json.decode(answer.document, type=ServingStatus)


class _Server(uvicorn.Server):
    """Says when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


async def _quietly(coroutine: Awaitable[object]) -> None:
    with contextlib.suppress(Exception):  # the supervisor is gone or busy; it finds out by itself
        await coroutine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway.

    Returns:
        The exit status: 0 after an orderly end.
    """
    parser = argparse.ArgumentParser(prog="surefoot.serving.gateway")
    parser.add_argument("--control", type=int, required=True, help="descriptor of the supervisor's socket")
    parser.add_argument("--socket", type=int, action="append", default=[], help="descriptor of a listening socket")
    parser.add_argument("--settings", required=True, help="the [gateway] section as JSON")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s[%(process)d] %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    settings = msgspec.json.decode(chosen.settings, type=Settings)
    sockets = [socket.socket(fileno=descriptor) for descriptor in chosen.socket]
    for connection in sockets:
        os.set_inheritable(connection.fileno(), False)
    loop = _new_loop()
    asyncio.set_event_loop(loop)

    async def serve() -> None:
        await Gateway(settings, socket.socket(fileno=chosen.control)).run(sockets)

    loop.run_until_complete(serve())
    return 0


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


if __name__ == "__main__":
    sys.exit(main())
