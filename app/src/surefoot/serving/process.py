"""Starting our own processes, and the supervisor's side of a worker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from surefoot.config import PROCESS_ENVIRONMENT
from surefoot.errors import DeviceUnable
from surefoot.serving import messages
from surefoot.serving.channel import Channel
from surefoot.serving.frames import Frame, FrameError
from surefoot.serving.messages import (
    Answer,
    Attach,
    Attached,
    Clock,
    Clocked,
    Failed,
    Golden,
    GoldenRun,
    Held,
    Hold,
    Load,
    Loaded,
    Question,
)

LEAVE_WAIT_S = 5.0
_numbers = itertools.count(1)


class WorkerFailed(DeviceUnable):
    """A worker could not do it. ``evidence``: the release is at fault (a gate, a crash, a hang), not the device."""

    def __init__(self, what: str, *, found: str = "", expected: str = "", hint: str = "", evidence: bool) -> None:
        super().__init__(what, found=found, expected=expected, hint=hint)
        self.evidence = evidence


async def spawn(module: str, arguments: Sequence[str], descriptors: Sequence[int]) -> asyncio.subprocess.Process:
    """Start ``python -m module`` with this very interpreter, in a session of its own, with these descriptors only.

    The working directory is ``/``: with ``-m`` Python would otherwise import from wherever the server was started.
    """
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            cwd="/",
            env={**os.environ, **PROCESS_ENVIRONMENT},
            pass_fds=tuple(descriptors),
            start_new_session=True,
        )
    except OSError as error:
        raise DeviceUnable(f"cannot start {module}", found=str(error.strerror)) from error


class WorkerProcess:
    """One worker. Asks one question at a time; dies with this process, whatever happens to it."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket, lifeline: int) -> None:
        self.number = next(_numbers)
        self.process = process
        self.drained = asyncio.Event()
        self._lifeline = lifeline
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[tuple[Answer, memoryview]] | None = None
        self._channel = Channel(control, self._received, self._closed)

    @classmethod
    async def start(cls) -> WorkerProcess:
        """Start an empty worker."""
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        try:
            process = await spawn(
                "surefoot.serving.worker",
                ["--control", str(theirs.fileno()), "--lifeline", str(reading)],
                [theirs.fileno(), reading],
            )
        except BaseException:
            ours.close()
            os.close(writing)
            raise
        finally:
            theirs.close()
            os.close(reading)
        return cls(process, ours, writing)

    @property
    def alive(self) -> bool:
        """Whether the process has not been reaped."""
        return self.process.returncode is None

    async def load(self, load: Load, timeout_s: float) -> Loaded:
        """Verify, load and warm. Raises WorkerFailed."""
        answer, _ = await self._ask(load, timeout_s)
        if not isinstance(answer, Loaded):
            raise _unexpected(answer)
        return answer

    async def golden(self, timeout_s: float) -> GoldenRun:
        """Run and judge the golden cases. Raises WorkerFailed."""
        answer, _ = await self._ask(Golden(), timeout_s)
        if not isinstance(answer, GoldenRun):
            raise _unexpected(answer)
        return answer

    async def clock(self, at: int, runs: int, timeout_s: float) -> Clocked:
        """Time so many inferences of one golden input; after :meth:`golden`. Raises WorkerFailed."""
        answer, _ = await self._ask(Clock(at, runs), timeout_s)
        if not isinstance(answer, Clocked):
            raise _unexpected(answer)
        return answer

    async def hold(self, lock: str, timeout_s: float) -> None:
        """Hold the lock of a slot, or with "" none. Raises WorkerFailed."""
        answer, _ = await self._ask(Hold(lock), timeout_s)
        if not isinstance(answer, Held):
            raise _unexpected(answer)

    async def attach(self, timeout_s: float) -> int:
        """Make a socket pair, give one end to the worker, return the other's descriptor, which the caller owns."""
        ours, theirs = socket.socketpair()
        try:
            answer, _ = await self._ask(Attach(), timeout_s, [theirs.detach()])
            if not isinstance(answer, Attached):
                raise _unexpected(answer)
        except BaseException:
            ours.close()
            raise
        return ours.detach()

    async def _ask(
        self, question: Question, timeout_s: float, descriptors: Sequence[int] = ()
    ) -> tuple[Answer, memoryview]:
        async with self._turn:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                self._channel.send(messages.encode(question), (), descriptors)
                answer, payload = await asyncio.wait_for(self._waiting, timeout_s)
            except asyncio.TimeoutError as error:
                self.kill()
                raise WorkerFailed(
                    f"the worker did not finish {type(question).__name__.lower()}",
                    found=f"nothing in {timeout_s:g} s",
                    hint="raise runtime.load_timeout_s if this model is that slow",
                    evidence=True,
                ) from error
            except FrameError as error:
                raise WorkerFailed(
                    f"the worker died during {type(question).__name__.lower()}",
                    found=await self._epitaph(),
                    evidence=True,
                ) from error
            finally:
                self._waiting = None
        if isinstance(answer, Failed):
            raise WorkerFailed(
                answer.what, found=answer.found, expected=answer.expected, hint=answer.hint, evidence=answer.evidence
            )
        return answer, payload

    def _received(self, frame: Frame) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((messages.decode_answer(frame.header), frame.payload))

    def _closed(self, reason: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(FrameError("the worker went away", found=reason))

    async def _epitaph(self) -> str:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.process.wait()), LEAVE_WAIT_S)
        return epitaph(self.process.returncode)

    async def leave(self) -> None:
        """Let it go: it ends as its lifeline closes, and is killed if it does not."""
        self._channel.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        try:
            await asyncio.wait_for(self.process.wait(), LEAVE_WAIT_S)
        except asyncio.TimeoutError:
            self.kill()
            await self.process.wait()

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                self.process.kill()


def _unexpected(answer: Answer) -> WorkerFailed:
    return WorkerFailed("the worker answered something else", found=type(answer).__name__, evidence=False)


def resident_bytes(pid: int) -> int:
    """Of another process; 0 where it is gone, or the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def epitaph(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "it still runs"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
