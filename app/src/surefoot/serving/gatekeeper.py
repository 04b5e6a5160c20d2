"""The supervisor's side of the gateway: starts it, restarts it on the same sockets, tells it which workers serve."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from surefoot.config import Config
from surefoot.errors import DeviceUnable, SurefootError
from surefoot.serving.control import (
    AllCounts,
    AskCounts,
    AskStatus,
    Content,
    Counts,
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
from surefoot.serving.messages import Loaded
from surefoot.serving.process import WorkerProcess, epitaph, spawn
from surefoot.watch.likeness import Tally

START_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 5.0
COUNTS_TIMEOUT_S = 1.0
BACKOFF_FIRST_S = 0.05
BACKOFF_MOST_S = 5.0

log = logging.getLogger("surefoot.supervisor")


class Routed(msgspec.Struct, frozen=True):
    """What a gateway has to be told of one model."""

    worker: WorkerProcess
    slot: str
    loaded: Loaded


class Gatekeeper:
    """Keeps one gateway running."""

    def __init__(
        self,
        config: Config,
        listeners: Iterable[socket.socket],
        status: Callable[[], Awaitable[bytes]],
    ) -> None:
        self.restarts = 0
        self._config = config
        self._listeners = list(listeners)
        self._status = status
        self._routed: dict[str, Routed] = {}
        self._expected: set[str] = set()
        self._draining: dict[int, WorkerProcess] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._peer: Peer | None = None
        self._up = asyncio.Event()  # a gateway accepts connections
        self._turn = asyncio.Lock()  # what a gateway is told, it is told in order
        self._leaving = False

    @property
    def pid(self) -> int | None:
        """The gateway that accepts connections now."""
        return self._process.pid if self._process is not None and self._up.is_set() else None

    async def keep(self, accepting: asyncio.Event) -> None:
        """Run until :meth:`stop`. ``accepting`` is set when the first gateway accepts connections."""
        backoff_s = BACKOFF_FIRST_S
        loop = asyncio.get_running_loop()
        while not self._leaving:
            begun = loop.time()
            process = await self._start()
            code_task = loop.create_task(process.wait())
            up_task = loop.create_task(self._up.wait())
            await asyncio.wait({code_task, up_task}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if self._up.is_set():
                accepting.set()
            elif not code_task.done():
                log.error("the gateway does not come up")
                process.kill()
            up_task.cancel()
            code = await code_task
            self._up.clear()
            if self._peer is not None:
                self._peer.close()
            self._release_draining()
            if self._leaving:
                return
            self.restarts += 1
            log.error("the gateway died (%s): starting another", epitaph(code))
            backoff_s = BACKOFF_FIRST_S if loop.time() - begun > BACKOFF_MOST_S else min(2 * backoff_s, BACKOFF_MOST_S)
            await asyncio.sleep(backoff_s)

    async def _start(self) -> asyncio.subprocess.Process:
        ours, theirs = socket.socketpair()
        arguments = [
            "--control",
            str(theirs.fileno()),
            "--settings",
            msgspec.json.encode(self._config.gateway).decode(),
        ]
        for listener in self._listeners:
            arguments += ["--socket", str(listener.fileno())]
        try:
            self._process = await spawn(
                "surefoot.serving.gateway",
                arguments,
                [theirs.fileno(), *(listener.fileno() for listener in self._listeners)],
            )
        finally:
            theirs.close()
        self._peer = Peer(ours, self._answer, lambda: None)
        return self._process

    async def _answer(self, content: Content, _: tuple[int, ...]) -> Content:
        if isinstance(content, Started):
            async with self._turn:
                for name in self._expected | set(self._routed):
                    await self._ask(Expect(name))
                self._up.set()
                await asyncio.gather(*map(self._send_again, list(self._routed.values())))
            return Done()
        if isinstance(content, Drained):
            worker = self._draining.pop(content.worker, None)
            if worker is not None:
                worker.drained.set()
            return Done()
        if isinstance(content, Stalled):
            for routed in self._routed.values():
                if routed.worker.number == content.worker:
                    log.error("the worker of %s is stuck: killing it", routed.loaded.name)
                    routed.worker.kill()
            return Done()
        if isinstance(content, AskStatus):
            return Status(await self._status())
        return Trouble(f"a supervisor does not answer {type(content).__name__}")

    # -- what a swap asks for --------------------------------------------------------------------------------------

    async def route(self, worker: WorkerProcess, slot: str, loaded: Loaded) -> None:
        """Send the model's requests to this worker from now on. Waits for a gateway that is being restarted.

        Raises:
            DeviceUnable: the worker or the gateway does not answer.
        """
        routed = Routed(worker, slot, loaded)
        await self._wait_up()
        async with self._turn:
            before = self._routed.get(loaded.name)
            if before is not None:  # noted first: the gateway may say that it drained before it answers
                self._draining[before.worker.number] = before.worker
            try:
                await self._send_route(routed)
            except BaseException:
                if before is not None:
                    self._draining.pop(before.worker.number, None)
                raise
            self._routed[loaded.name] = routed
            self._expected.add(loaded.name)

    async def expect(self, name: str) -> None:
        """The model ought to be served, and the server is not ready until it is."""
        self._expected.add(name)
        if self._up.is_set():
            async with self._turn:
                await self._ask(Expect(name))

    async def withdraw(self, name: str) -> None:
        """The model is no longer served."""
        self._expected.discard(name)
        before = self._routed.pop(name, None)
        if before is not None:
            self._draining[before.worker.number] = before.worker
        if self._up.is_set():
            async with self._turn:
                await self._ask(Withdraw(name))
        else:
            self._release_draining()

    async def show(self, worker: WorkerProcess, show: Show) -> None:
        """Let a worker see a sample of its model's inputs. A gateway that starts later is not told.

        Raises:
            DeviceUnable: the worker or the gateway does not answer.
        """
        descriptor = await worker.attach(self._config.gateway.request_timeout_s + ASK_TIMEOUT_S)
        async with self._turn:
            await self._ask(show, [descriptor])

    async def hide(self, name: str) -> Tally:
        """No longer. Returns what it came to."""
        async with self._turn:
            answer = await self._ask(Hide(name))
        return answer.tally if isinstance(answer, Watched) else Tally()

    async def _wait_up(self) -> None:
        try:
            await asyncio.wait_for(self._up.wait(), START_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            raise DeviceUnable("the gateway does not come up", hint="see the server's log") from error

    async def _send_again(self, routed: Routed) -> None:
        with contextlib.suppress(SurefootError):  # a dead worker is its keeper's business
            await self._send_route(routed)

    async def _send_route(self, routed: Routed) -> None:
        # A worker answers between two inferences, and one may take as long as a request may.
        descriptor = await routed.worker.attach(self._config.gateway.request_timeout_s + ASK_TIMEOUT_S)
        await self._ask(Route(routed.worker.number, routed.slot, routed.loaded), [descriptor])

    async def _ask(self, content: Content, descriptors: Iterable[int] = ()) -> Content:
        if self._peer is None:
            for descriptor in descriptors:
                os.close(descriptor)
            raise DeviceUnable("no gateway runs")
        return await self._peer.ask(content, ASK_TIMEOUT_S, list(descriptors))

    def forget(self, worker: WorkerProcess) -> None:
        """A worker is dead: a new gateway must not be told of it."""
        for name, routed in list(self._routed.items()):
            if routed.worker is worker:
                del self._routed[name]

    async def counts(self) -> tuple[dict[int, Counts], dict[int, Tally]]:
        """What each worker has answered, and what each shadow came to; empty while no gateway answers."""
        if self._peer is None or not self._up.is_set():
            return {}, {}
        try:
            answer = await self._peer.ask(AskCounts(), COUNTS_TIMEOUT_S)
        except DeviceUnable:
            return {}, {}
        if not isinstance(answer, AllCounts):
            return {}, {}
        return {counts.worker: counts for counts in answer.workers}, dict(answer.shadows)

    def _release_draining(self) -> None:
        """No gateway holds a request any more: what drained is drained."""
        for worker in self._draining.values():
            worker.drained.set()
        self._draining.clear()

    async def stop(self) -> None:
        """Let the gateway finish what it has begun, within its drain time, then end it."""
        self._leaving = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._config.gateway.drain_timeout_s + ASK_TIMEOUT_S)
        except asyncio.TimeoutError:
            log.error("the gateway did not drain in time")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
