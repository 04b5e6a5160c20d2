"""How traffic moves from one worker to the next. The test holds the workers' end of real sockets."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from surefoot.config import Gateway
from surefoot.serving import messages
from surefoot.serving.backend import AT_WORKER, Backend
from surefoot.serving.channel import Channel
from surefoot.serving.control import Route
from surefoot.serving.frames import Frame
from surefoot.serving.messages import Classified, Classify, Loaded
from surefoot.serving.refusals import DeadlinePassed, NoWorker, Overloaded, WorkerLost


def route(worker: int) -> Route:
    loaded = Loaded("m", f"{worker}.0.0", "d", "v", "onnxruntime", "1", "CPU", (), (), (), True, True, 0.0, 0)
    return Route(worker, "a", loaded)


class End:
    """The other end: keeps what it is asked until told to answer."""

    def __init__(self, connection: socket.socket) -> None:
        self.asked: list[int] = []
        self.closed = asyncio.Event()
        self._arrived = asyncio.Event()
        self.channel = Channel(connection, self._take, lambda reason: self.closed.set())

    def _take(self, frame: Frame) -> None:
        self.asked.append(messages.decode_question(frame.header).id)
        self._arrived.set()

    async def holds(self, count: int) -> None:
        while len(self.asked) < count:
            self._arrived.clear()
            await asyncio.wait_for(self._arrived.wait(), 5.0)

    def answer(self) -> None:
        self.channel.send(messages.encode(Classified(self.asked.pop(0), 0, "l", 1.0, (1.0,), 0.1)))


class Room:
    """One model with workers that the test plays."""

    def __init__(self, kind: type[Backend] = Backend, depth: int = 4) -> None:
        self.drained: list[int] = []
        self.stalled: list[int] = []
        settings = Gateway(queue_depth=depth, request_timeout_s=0.3)
        self.backend = kind("m", settings, self.drained.append, self.stalled.append)

    def move(self, worker: int) -> End:
        ours, theirs = socket.socketpair()
        self.backend.move_to(route(worker), ours)
        return End(theirs)

    def ask(self, timeout_s: float = 5.0) -> asyncio.Task[str]:
        async def one() -> str:
            question = Classify(self.backend.number(), time.monotonic() + timeout_s)
            link, _ = await self.backend.ask(question, [b"picture"], timeout_s)
            return link.route.loaded.version

        return asyncio.get_running_loop().create_task(one())


def test_a_request_under_way_is_finished_by_the_worker_that_has_it():
    async def scene() -> None:
        room = Room()
        old = room.move(1)
        first = room.ask()
        await old.holds(1)
        new = room.move(2)
        second = room.ask()
        await new.holds(1)
        assert room.drained == []
        new.answer()
        assert await second == "2.0.0"
        old.answer()
        assert await first == "1.0.0"
        assert room.drained == [1]
        await asyncio.wait_for(old.closed.wait(), 5.0)

    asyncio.run(scene())


class DoesNotDrain(Backend):
    """The mutant: the old worker is let go at once."""

    def move_to(self, route: Route, connection: socket.socket) -> None:
        before = self.current
        super().move_to(route, connection)
        if before is not None:
            before.channel._close("not drained")


def test_without_draining_the_request_under_way_would_be_lost():
    async def scene() -> None:
        room = Room(DoesNotDrain)
        old = room.move(1)
        first = room.ask()
        await old.holds(1)
        room.move(2)
        with pytest.raises(WorkerLost):
            await first

    asyncio.run(scene())


def test_what_waits_in_the_gateway_goes_to_the_new_worker():
    async def scene() -> None:
        room = Room()
        old = room.move(1)
        asked = [room.ask() for _ in range(AT_WORKER + 2)]
        await old.holds(AT_WORKER)
        new = room.move(2)
        await new.holds(2)
        for end, count in ((old, AT_WORKER), (new, 2)):
            for _ in range(count):
                end.answer()
        assert await asyncio.gather(*asked) == ["1.0.0"] * AT_WORKER + ["2.0.0"] * 2

    asyncio.run(scene())


def test_a_dead_worker_fails_all_that_waits_for_it_and_nothing_hangs():
    async def scene() -> None:
        room = Room()
        end = room.move(1)
        asked = [room.ask() for _ in range(AT_WORKER + 1)]
        await end.holds(AT_WORKER)
        end.channel.close()
        for one in asked:
            with pytest.raises(WorkerLost):
                await one
        assert room.drained == [1]
        with pytest.raises(NoWorker):
            room.backend.serving()

    asyncio.run(scene())


def test_the_queue_is_bounded_and_a_deadline_frees_its_place():
    async def scene() -> None:
        room = Room(depth=1)
        end = room.move(1)
        held = [room.ask() for _ in range(AT_WORKER)]
        await end.holds(AT_WORKER)
        waiting = room.ask(timeout_s=0.2)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await room.ask()
        with pytest.raises(DeadlinePassed):
            await waiting
        assert room.backend.waiting() == AT_WORKER
        for _ in range(AT_WORKER):
            end.answer()
        await asyncio.gather(*held)

    asyncio.run(scene())


def test_an_answer_that_comes_too_late_is_thrown_away():
    async def scene() -> None:
        room = Room()
        end = room.move(1)
        late = room.ask(timeout_s=0.05)
        await end.holds(1)
        with pytest.raises(DeadlinePassed):
            await late
        end.answer()
        in_time = room.ask()
        await end.holds(1)
        end.answer()
        assert await in_time == "1.0.0"

    asyncio.run(scene())


def test_a_worker_that_answers_nothing_for_a_whole_request_is_reported_and_a_busy_one_is_not():
    async def scene() -> None:
        room = Room()
        end = room.move(1)
        for _ in range(8):  # answers all the time, for longer than one request may take
            busy, impatient = room.ask(), room.ask(timeout_s=0.05)
            await end.holds(2)
            with pytest.raises(DeadlinePassed):
                await impatient
            end.answer()
            end.answer()
            await busy
        assert room.stalled == []
        with pytest.raises(DeadlinePassed):
            await room.ask(timeout_s=0.3)
        assert room.stalled == [1]

    asyncio.run(scene())
