"""The gateway's view of one model: which worker serves it, what waits, and how traffic moves to another worker."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from surefoot.config import Gateway
from surefoot.errors import SurefootError
from surefoot.serving import messages
from surefoot.serving.channel import Channel
from surefoot.serving.control import Counts, Route
from surefoot.serving.frames import Buffer, Frame, FrameError
from surefoot.serving.latency import Latencies
from surefoot.serving.messages import Answer, Classify, Failed, Infer
from surefoot.serving.onlooker import Onlooker
from surefoot.serving.refusals import DeadlinePassed, NoWorker, Overloaded, WorkerLost
from surefoot.watch.likeness import Tally

# One request runs, one lies ready in the worker's socket, so that the worker never waits for the gateway; the rest
# waits here, where it can still go to another worker.
AT_WORKER = 2

STALL_SHARE = 0.95  # a request's own timer may fire a moment before the worker's full time is over

Reply = tuple[Answer, memoryview]


class Pending:
    """One request on its way."""

    __slots__ = ("deadline_s", "future", "header", "id", "link", "payload", "timer")

    def __init__(self, question: Infer | Classify, payload: Sequence[Buffer], future: asyncio.Future[Reply]) -> None:
        self.id = question.id
        self.deadline_s = question.deadline_s
        self.header = messages.encode(question)
        self.payload = payload
        self.future = future
        self.link: Link | None = None
        self.timer: asyncio.TimerHandle | None = None


class Link:
    """The socket to one worker, and what it holds."""

    def __init__(self, route: Route, connection: socket.socket, owner: Backend) -> None:
        self.route = route
        self.latencies = Latencies()
        self.inferences = 0
        self.failures = 0
        self.held: dict[int, Pending] = {}
        self.progress_s = time.monotonic()  # when it last answered, or began to have something to answer
        self._owner = owner
        self.channel = Channel(connection, self._received, self._closed)

    @property
    def free(self) -> bool:
        """Whether it may be given another request."""
        return len(self.held) < AT_WORKER and not self.channel.closed

    def send(self, pending: Pending) -> None:
        """Give it a request."""
        if not self.held:
            self.progress_s = time.monotonic()
        self.held[pending.id] = pending
        pending.link = self
        try:
            self.channel.send(pending.header, pending.payload)
        except FrameError:
            self.held.pop(pending.id, None)
            fail(pending, _lost(self))

    def _received(self, frame: Frame) -> None:
        try:
            answer = messages.decode_answer(frame.header)
        except msgspec.DecodeError as error:
            fail_all(self.held, WorkerLost("the worker answered something else", found=str(error)))
            self.channel.close()
            self._closed(str(error))
            return
        self.progress_s = time.monotonic()
        pending = self.held.pop(getattr(answer, "id", 0), None)
        if pending is not None:
            # The view lies in the read buffer, which nobody else changes, and outlives it by its own reference.
            if not pending.future.done():
                pending.future.set_result((answer, frame.payload))
            if pending.timer is not None:
                pending.timer.cancel()
        self._owner.pump(self)

    def _closed(self, _: str) -> None:
        fail_all(self.held, _lost(self))
        self._owner.lost(self)

    def counts(self) -> Counts:
        """What it has answered."""
        return Counts(
            worker=self.route.worker,
            inferences=self.inferences,
            failures=self.failures,
            in_flight=len(self.held),
            p50_ms=self.latencies.quantile_ms(0.50),
            p99_ms=self.latencies.quantile_ms(0.99),
        )


class Backend:
    """All workers of one model: one serves, older ones drain."""

    def __init__(
        self, name: str, settings: Gateway, on_drained: Callable[[int], None], on_stalled: Callable[[int], None]
    ) -> None:
        self.name = name
        self.current: Link | None = None
        self.onlooker: Onlooker | None = None
        self._draining: set[Link] = set()
        self._queue: deque[Pending] = deque()
        self._queue_depth = settings.queue_depth
        self._stall_s = settings.request_timeout_s
        self._on_drained = on_drained
        self._on_stalled = on_stalled
        self._numbers = itertools.count(1)
        self._loop = asyncio.get_running_loop()

    def serving(self) -> Link:
        """The worker that new requests go to.

        Raises:
            NoWorker: there is none; the supervisor is starting one, or says why not in its status.
        """
        if self.current is None:
            raise NoWorker(f"no worker serves {self.name} now", hint="try again; GET / says what the supervisor does")
        return self.current

    def number(self) -> int:
        """An id for a request, unique in this gateway."""
        return next(self._numbers)

    async def ask(self, question: Infer | Classify, payload: Sequence[Buffer], timeout_s: float) -> tuple[Link, Reply]:
        """Send one request and wait for its answer.

        Returns:
            The worker that answered, and its answer with payload.

        Raises:
            NoWorker: nothing serves the model.
            Overloaded: too many requests wait already.
            DeadlinePassed: no answer in time.
            WorkerLost: the worker died with the request.
            SurefootError: what the worker itself refused.
        """
        link = self.serving()
        pending = Pending(question, payload, self._loop.create_future())
        if link.free and not self._queue:
            link.send(pending)
        elif len(self._queue) >= self._queue_depth:
            raise Overloaded(
                f"too many requests wait for {self.name}",
                found=f"{len(self._queue)} waiting",
                expected=f"at most {self._queue_depth}",
                hint="send it again after Retry-After",
            )
        else:
            self._queue.append(pending)
        pending.timer = self._loop.call_later(timeout_s, self._expire, pending, timeout_s)
        try:
            answer, view = await pending.future
        finally:
            pending.timer.cancel()
        if isinstance(answer, Failed):
            raise messages.error_of(answer)
        return pending.link or link, (answer, view)

    def _expire(self, pending: Pending, timeout_s: float) -> None:
        if pending in self._queue:
            self._queue.remove(pending)
        link = self.current
        if link is not None and link.held and time.monotonic() - link.progress_s >= self._stall_s * STALL_SHARE:
            self._on_stalled(link.route.worker)  # it is not slow with many, it is stuck with one
        fail(
            pending,
            DeadlinePassed(f"{self.name} did not answer in time", expected=f"an answer within {timeout_s:.3g} s"),
        )

    def pump(self, link: Link) -> None:
        """A worker has answered: give it the next request, or let it go if it is drained."""
        if link is self.current:
            while self._queue and link.free:
                pending = self._queue.popleft()
                if not pending.future.done() and pending.deadline_s > time.monotonic():
                    link.send(pending)
        elif not link.held:
            self._draining.discard(link)
            link.channel.close()
            self._on_drained(link.route.worker)

    def move_to(self, route: Route, connection: socket.socket) -> None:
        """From the next request on, another worker serves. The one before finishes what it holds."""
        before, self.current = self.current, Link(route, connection, self)
        if before is not None:
            self._draining.add(before)
            self.pump(before)
        self.pump(self.current)

    def show(self, onlooker: Onlooker | None) -> Tally:
        """Let another release look on, or none. Returns what the one before came to."""
        before, self.onlooker = self.onlooker, onlooker
        if before is None:
            return Tally()
        before.close()
        return before.tally

    def withdraw(self) -> None:
        """The model is gone: what waits is refused, the worker drains."""
        self.show(None)
        before, self.current = self.current, None
        self._refuse_queue(NoWorker(f"{self.name} was taken off this device"))
        if before is not None:
            self._draining.add(before)
            self.pump(before)

    def lost(self, link: Link) -> None:
        """A worker is gone. Ready must say so at once, and nothing may hang."""
        self._draining.discard(link)
        if link is self.current:
            self.current = None
            self._refuse_queue(_lost(link))
        self._on_drained(link.route.worker)

    def _refuse_queue(self, error: SurefootError) -> None:
        while self._queue:
            fail(self._queue.popleft(), error)

    def waiting(self) -> int:
        """Requests that wait or run."""
        links = [*self._draining, *([self.current] if self.current else [])]
        return len(self._queue) + sum(len(link.held) for link in links)


def fail(pending: Pending, error: SurefootError) -> None:
    """End a request with an error, if nothing has ended it yet."""
    if not pending.future.done():
        pending.future.set_exception(error)


def fail_all(held: dict[int, Pending], error: SurefootError) -> None:
    """End all of them with the same error."""
    for pending in held.values():
        fail(pending, error)
    held.clear()


def _lost(link: Link) -> WorkerLost:
    return WorkerLost(f"the worker of {link.route.loaded.name} died with the request", hint="send it again")
