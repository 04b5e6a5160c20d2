"""Questions and answers between supervisor and gateway, both ways, over one socket that can carry descriptors."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from surefoot.errors import DeviceUnable
from surefoot.serving.channel import Channel
from surefoot.serving.frames import Frame, FrameError
from surefoot.serving.messages import Loaded
from surefoot.watch.likeness import Tally

log = logging.getLogger("surefoot.control")


class Note(msgspec.Struct, frozen=True, array_like=True):
    """Base of what is said on the control socket."""


class Route(Note, frozen=True, tag="route"):
    """To the gateway: requests for this model go to the worker behind the descriptor; the one before drains."""

    worker: int
    slot: str
    loaded: Loaded


class Expect(Note, frozen=True, tag="expect"):
    """To the gateway: this model ought to be served; it is not ready until a route comes."""

    model: str


class Withdraw(Note, frozen=True, tag="withdraw"):
    """To the gateway: the model is gone from this device."""

    model: str


class Show(Note, frozen=True, tag="show"):
    """To the gateway: the worker behind the descriptor sees a sample of its model's inputs, and answers nobody.

    ``tolerance``: largest difference of the first output that agrees; ``None`` where it is logits.
    """

    worker: int
    loaded: Loaded
    share: float
    most_per_s: float
    most_input_bytes: int
    tolerance: float | None


class Hide(Note, frozen=True, tag="hide"):
    """To the gateway: no longer. The answer is :class:`Watched`."""

    model: str


class Watched(Note, frozen=True, tag="watched"):
    """The answer to :class:`Hide`."""

    tally: Tally


class AskCounts(Note, frozen=True, tag="ask-counts"):
    """To the gateway: what have the workers answered?"""


class AskStatus(Note, frozen=True, tag="ask-status"):
    """To the supervisor: the whole status, for a page."""


class Started(Note, frozen=True, tag="started"):
    """To the supervisor: the gateway accepts connections."""


class Drained(Note, frozen=True, tag="drained"):
    """To the supervisor: this worker holds no request any more and will get none."""

    worker: int


class Stalled(Note, frozen=True, tag="stalled"):
    """To the supervisor: this worker has answered nothing for as long as a request may take."""

    worker: int


class Done(Note, frozen=True, tag="done"):
    """The answer where there is nothing to say."""


class Counts(Note, frozen=True):
    """What one worker has answered since this gateway serves it. Times in milliseconds, as clients saw them."""

    worker: int
    inferences: int
    failures: int
    in_flight: int
    p50_ms: float | None
    p99_ms: float | None


class AllCounts(Note, frozen=True, tag="counts"):
    """The answer to :class:`AskCounts`."""

    workers: tuple[Counts, ...]
    shadows: tuple[tuple[int, Tally], ...] = ()


class Status(Note, frozen=True, tag="status"):
    """The answer to :class:`AskStatus`: a JSON object."""

    document: bytes


class Trouble(Note, frozen=True, tag="trouble"):
    """The answer where the question could not be answered."""

    what: str


Content = (
    Route
    | Expect
    | Withdraw
    | Show
    | Hide
    | Watched
    | AskCounts
    | AskStatus
    | Started
    | Drained
    | Stalled
    | Done
    | AllCounts
    | Status
    | Trouble
)


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    id: int
    answers: bool
    content: Content


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Envelope).decode
Answerer = Callable[[Content, tuple[int, ...]], Awaitable[Content]]


class Peer:
    """The other end of the control socket."""

    def __init__(self, connection: socket.socket, answer: Answerer, on_closed: Callable[[], None]) -> None:
        self._answer = answer
        self._waiting: dict[int, asyncio.Future[Content]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._next = 0
        self._tell_closed = on_closed
        self._channel = Channel(connection, self._received, self._closed)

    @property
    def closed(self) -> bool:
        """Whether the other side is gone."""
        return self._channel.closed

    async def ask(self, content: Content, timeout_s: float, descriptors: Sequence[int] = ()) -> Content:
        """Ask and wait for the answer. Descriptors are closed here.

        Raises:
            DeviceUnable: the other side is gone, does not answer in time, or says that it cannot.
        """
        self._next += 1
        number = self._next
        future: asyncio.Future[Content] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._channel.send(_encode(_Envelope(number, False, content)), (), descriptors)
            answer = await asyncio.wait_for(future, timeout_s)
        except asyncio.TimeoutError as error:
            raise DeviceUnable(
                f"no answer to {type(content).__name__} between our processes", found=f"nothing in {timeout_s:g} s"
            ) from error
        finally:
            self._waiting.pop(number, None)
        if isinstance(answer, Trouble):
            raise DeviceUnable(answer.what)
        return answer

    def _received(self, frame: Frame) -> None:
        try:
            envelope = _decode(frame.header)
        except msgspec.DecodeError as error:
            log.error("the control socket carries something else: %s", error)
            for descriptor in frame.descriptors:
                os.close(descriptor)
            return
        if envelope.answers:
            future = self._waiting.get(envelope.id)
            if future is not None and not future.done():
                future.set_result(envelope.content)
            return
        task = asyncio.get_running_loop().create_task(self._reply(envelope, frame.descriptors))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, envelope: _Envelope, descriptors: tuple[int, ...]) -> None:
        try:
            answer = await self._answer(envelope.content, descriptors)
        except Exception as error:  # the other side waits: it must hear of every failure
            log.exception("could not answer %s", type(envelope.content).__name__)
            answer = Trouble(f"{type(error).__name__}: {error}")
        try:
            self._channel.send(_encode(_Envelope(envelope.id, True, answer)))
        except FrameError:
            log.info("the other side left before its answer")

    def _closed(self, reason: str) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(FrameError("the process on the other side went away", found=reason))
        self._tell_closed()

    def close(self) -> None:
        """Close the socket from this side."""
        self._channel.close()
