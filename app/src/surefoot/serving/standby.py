"""In the supervisor: the worker that served before stays loaded for a while, so that a rollback has nothing to load.

Only a confirmed release stands by, and only where memory is plenty. It is in no install's way: it holds no lock, and
leaves when its slot holds something else. It is the first that the kernel ends for memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

import msgspec

from surefoot.config import Standby
from surefoot.errors import DeviceUnable, SurefootError
from surefoot.serving.messages import Loaded
from surefoot.serving.process import WorkerProcess, resident_bytes
from surefoot.serving.status import StandbyServing
from surefoot.slots.state import ReleaseRef, Slot
from surefoot.slots.store import Store
from surefoot.watch.doctor.files import Files
from surefoot.watch.surroundings import look, too_little

HOLD_TIMEOUT_S = 1.0
FIRST_TO_GO, AS_OTHERS = "1000", "0"  # proc(5), oom_score_adj

log = logging.getLogger("surefoot.supervisor")


class Waiting(msgspec.Struct, frozen=True):
    """A worker that stands by, drained. ``until_s``: CLOCK_MONOTONIC."""

    worker: WorkerProcess
    slot: Slot
    loaded: Loaded
    until_s: float


class ModelStandby:
    """The worker of one model that stands by, if there is one now.

    Args:
        settings: for how long, and at what cost.
        store: of the model.
    """

    def __init__(self, settings: Standby, store: Store) -> None:
        self._settings, self._store = settings, store
        self._now: Waiting | None = None

    async def keep(self, worker: WorkerProcess, slot: Slot, loaded: Loaded) -> bool:
        """Have a worker that has drained stand by. Returns whether it does; else the caller lets it go."""
        if self._settings.seconds == 0 or loaded.exclusive or not worker.alive:
            return False
        offered = Waiting(worker, slot, loaded, time.monotonic() + self._settings.seconds)
        try:
            if why := await asyncio.to_thread(self._why_not, offered):
                log.info("%s: %s does not stand by: %s", self._store.name, loaded.version, why)
                return False
            await worker.hold("", HOLD_TIMEOUT_S)
        except (SurefootError, OSError) as error:
            log.warning("%s: %s does not stand by: %s", self._store.name, loaded.version, error)
            return False
        before, self._now = self._now, offered
        _spare(worker, FIRST_TO_GO)
        if before is not None:
            await before.worker.leave()
        log.info("%s %s stands by, for %.0f s", self._store.name, loaded.version, self._settings.seconds)
        return True

    async def take(self, slot: Slot, release: ReleaseRef, lock: Path) -> tuple[WorkerProcess, Loaded] | None:
        """The worker of that release in that slot, if it stands by; it holds the slot's lock again."""
        now = self._now
        if now is None or (now.slot, now.loaded.digest) != (slot, release.digest) or not now.worker.alive:
            return None
        self._now = None
        try:
            await now.worker.hold(str(lock), HOLD_TIMEOUT_S)
        except DeviceUnable as error:
            log.warning("%s: the worker that stood by cannot serve: %s", self._store.name, error)
            await now.worker.leave()
            return None
        _spare(now.worker, AS_OTHERS)
        now.worker.drained.clear()
        return now.worker, now.loaded

    async def follow(self) -> None:
        """Let it go when its time is over, memory grows scarce, or its slot is wanted."""
        now = self._now
        if now is None:
            return
        try:
            why = await asyncio.to_thread(self._why_not, now)
        except (SurefootError, OSError) as error:
            why = str(error)
        if why and self._now is now:
            log.info("%s: %s no longer stands by: %s", self._store.name, now.loaded.version, why)
            await self.close()

    def _why_not(self, one: Waiting) -> str:
        state = self._store.read()
        here = state.slots[one.slot]
        confirmed = here.status == "confirmed" and here.release is not None
        if not one.worker.alive:
            return "it died"
        if state.active is None or state.active == one.slot or not confirmed:
            return f"slot {one.slot} holds nothing to return to"
        if here.release is None or here.release.digest != one.loaded.digest:
            return f"slot {one.slot} holds another release"
        if time.monotonic() > one.until_s:
            return "its time is over"
        if (held := resident_bytes(one.worker.process.pid)) > self._settings.most_memory_bytes:
            return f"it holds {held} bytes of memory, standby.most_memory_bytes is {self._settings.most_memory_bytes}"
        return too_little(look(Files()), self._settings.least_available_bytes)

    def forget(self, worker: WorkerProcess) -> None:
        """A worker has died."""
        if self._now is not None and self._now.worker is worker:
            self._now = None

    def status(self) -> StandbyServing | None:
        """For the status."""
        now = self._now
        if now is None:
            return None
        pid = now.worker.process.pid
        left_s = max(0.0, now.until_s - time.monotonic())
        return StandbyServing(
            version=now.loaded.version,
            digest=now.loaded.digest,
            pid=pid,
            memory_bytes=resident_bytes(pid),
            left_s=left_s,
        )

    async def close(self) -> None:
        """Let it go."""
        now, self._now = self._now, None
        if now is not None:
            await now.worker.leave()


def _spare(worker: WorkerProcess, score: str) -> None:
    with contextlib.suppress(OSError):  # not Linux, or it is gone
        Path(f"/proc/{worker.process.pid}/oom_score_adj").write_text(score, encoding="ascii")
