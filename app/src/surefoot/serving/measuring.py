"""Timing a candidate beside the active release: workers as in serving, at serving's priority, by one harness.

Both are asked over the same kind of socket, on the same golden input, in the order active, candidate, candidate,
active, and then the same with the roles exchanged: who comes second in a row finds the caches warm, and each must be
that as often as the other (without the exchange a release was 7 % faster than itself). The time is taken in the worker,
around the call of the runtime alone. After four inferences the harness rests for as long as they took, so that what
serves keeps at least half of the CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec

from surefoot.config import Gate
from surefoot.serving.messages import Clocked, GoldenRun, Load, Loaded
from surefoot.serving.process import WorkerProcess
from surefoot.watch.gates import Measured
from surefoot.watch.pace import ROUND_PAIRS, Pace

GOLDEN_TIMEOUT_S = 180.0
CLOCK_TIMEOUT_S = 180.0  # for a few inferences
REST_MOST_S = 0.02
CHUNK_PAIRS = 20  # between two looks at heat and time

Open = Callable[[], AbstractAsyncContextManager[WorkerProcess]]  # a worker with the golden cases run, let go at the end
TooHot = Callable[[], str]


class NotMeasured(Exception):  # caught where it is raised for; never an error of the project's tree
    """The surroundings do not allow a measurement. The text says why."""


class Bench:
    """Takes latencies, as many as asked for, and keeps them.

    Args:
        settings: how long it may take, and wait for the device to cool.
        too_hot: why latencies taken now would say nothing; empty where they would.
        rest_most_s: longest rest between two rounds.
    """

    def __init__(self, settings: Gate, too_hot: TooHot, rest_most_s: float = REST_MOST_S) -> None:
        self._settings, self._too_hot, self._rest_most_s = settings, too_hot, rest_most_s
        self._ends_s = time.monotonic() + settings.most_seconds
        self._cool_s = settings.cool_wait_s
        self._candidate: list[float] = []
        self._active: list[float] = []
        self._waited: list[float] = []
        self._round = 0

    @property
    def pace(self) -> Pace:
        """What was timed so far."""
        return Pace(candidate_ms=tuple(self._candidate), active_ms=tuple(self._active), waited_ms=tuple(self._waited))

    async def alone(self, worker: WorkerProcess, total: int) -> None:
        """Time one worker alone, as the candidate, until there are so many latencies of it. After any pairs.

        Raises:
            NotMeasured: it stays too hot, or takes too long.
            WorkerFailed: the worker.
        """
        while len(self._candidate) < total:
            await self._allowed()
            rounds = range(min(CHUNK_PAIRS, total - len(self._candidate) + 1) // 2)
            self._keep([await self._rested(worker.clock(at, 2, CLOCK_TIMEOUT_S)) for at in rounds], [])

    async def pairs(self, active: WorkerProcess, candidate: WorkerProcess, total: int) -> None:
        """Time both in turn, until there are so many pairs.

        Raises:
            NotMeasured, WorkerFailed: as :meth:`alone`.
        """
        while len(self._active) < total:
            await self._allowed()
            taken: dict[WorkerProcess, list[Clocked]] = {active: [], candidate: []}
            for at in range(min(CHUNK_PAIRS, total - len(self._active) + ROUND_PAIRS - 1) // ROUND_PAIRS):
                for outer, inner in ((active, candidate), (candidate, active)):
                    began_s = time.monotonic()
                    first = await outer.clock(at, 1, CLOCK_TIMEOUT_S)
                    taken[inner].append(await inner.clock(at, 2, CLOCK_TIMEOUT_S))
                    taken[outer] += [first, await outer.clock(at, 1, CLOCK_TIMEOUT_S)]
                    await asyncio.sleep(min(self._rest_most_s, time.monotonic() - began_s))
            self._keep(taken[candidate], taken[active])

    async def apart(self, active: Open, candidate: Open, total: int) -> None:
        """The same where only one process can have the accelerator: in blocks, with the declared gap between two.

        Raises:
            NotMeasured, WorkerFailed: as :meth:`alone`.
        """
        while len(self._active) < total:
            blocks: list[list[Clocked]] = []
            for opened in (active, candidate, candidate, active):
                await asyncio.sleep(self._settings.exclusive_gap_s)
                await self._allowed()
                async with opened() as worker:
                    rounds = range((total - len(self._active)) // 2)
                    blocks.append([await self._rested(worker.clock(at, 1, CLOCK_TIMEOUT_S)) for at in rounds])
            first, second, third, fourth = blocks
            self._keep(_in_turn(second, third), _in_turn(first, fourth))

    async def _rested(self, turn: Awaitable[Clocked]) -> Clocked:
        began_s = time.monotonic()
        taken = await turn
        await asyncio.sleep(min(self._rest_most_s, time.monotonic() - began_s))
        return taken

    def _keep(self, candidate: list[Clocked], active: list[Clocked]) -> None:
        if self._too_hot():
            return  # a CPU that slows down at the end may have slowed down before
        self._candidate += [each for one in candidate for each in one.latencies_ms]
        self._waited += [each for one in candidate for each in one.waited_ms]
        self._active += [each for one in active for each in one.latencies_ms]

    async def _allowed(self) -> None:
        """Wait until it is cool enough."""
        while reason := self._too_hot():
            if self._cool_s <= 0:
                raise NotMeasured(reason)
            pause_s = min(1.0, self._cool_s)
            self._cool_s -= pause_s
            await asyncio.sleep(pause_s)
        if time.monotonic() > self._ends_s:
            raise NotMeasured(f"gate.most_seconds ({self._settings.most_seconds:g} s) were too few")


def _in_turn(first: list[Clocked], second: list[Clocked]) -> list[Clocked]:
    return [each for both in zip(first, second, strict=True) for each in both]


class Started(msgspec.Struct, frozen=True):
    """A worker with a release in it, and what it said of it."""

    worker: WorkerProcess
    loaded: Loaded
    golden: GoldenRun

    @property
    def measured(self) -> Measured:
        """What a budget is held against."""
        memory_bytes = max(self.loaded.memory_bytes, self.golden.memory_bytes)
        return Measured(load_s=self.loaded.load_s, memory_bytes=memory_bytes)


@contextlib.asynccontextmanager
async def opened(load: Load, load_timeout_s: float) -> AsyncIterator[Started]:
    """Start a worker, load, run the golden cases; let it go at the end. Raises WorkerFailed, DeviceUnable."""
    worker = await WorkerProcess.start()
    try:
        loaded = await worker.load(load, load_timeout_s)
        yield Started(worker, loaded, await worker.golden(GOLDEN_TIMEOUT_S))
    finally:
        await worker.leave()
