"""One model in the supervisor: bring what serves in line with what its slot store says, without a gap."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

import msgspec

from surefoot.config import Config
from surefoot.errors import DeviceUnable, SurefootError
from surefoot.serving.measuring import GOLDEN_TIMEOUT_S
from surefoot.serving.messages import Load, Loaded
from surefoot.serving.process import WorkerFailed, WorkerProcess
from surefoot.serving.standby import ModelStandby
from surefoot.serving.status import SwapReport
from surefoot.slots.state import ReleaseRef, Slot, State
from surefoot.slots.store import Store, TriesUsedUp

log = logging.getLogger("surefoot.supervisor")


class Traffic(Protocol):
    """The gateway, as a swap needs it."""

    async def route(self, worker: WorkerProcess, slot: str, loaded: Loaded) -> None:
        """Send the model's requests to this worker from now on; the one before drains."""

    async def withdraw(self, name: str) -> None:
        """The model is no longer served."""

    async def expect(self, name: str) -> None:
        """The model ought to be served, and is not ready until it is."""

    def forget(self, worker: WorkerProcess) -> None:
        """The worker is dead."""


class Serving(msgspec.Struct, frozen=True):
    """What serves."""

    worker: WorkerProcess
    slot: Slot
    loaded: Loaded
    since_s: float  # CLOCK_MONOTONIC
    proved: int = 0  # golden cases it answered before it took traffic: inferences like any other


class NotLoaded(DeviceUnable):
    """A release could not be taken into service. ``evidence``: the release is at fault, not the device."""

    def __init__(self, error: SurefootError, digest: str, *, evidence: bool) -> None:
        super().__init__(error.what, found=error.found, expected=error.expected, hint=error.hint)
        self.digest = digest
        self.evidence = evidence


class ModelSwap:
    """Loads what the store wants beside what serves, proves it, and moves the traffic."""

    def __init__(self, config: Config, store: Store, traffic: Traffic) -> None:
        self.store = store
        self.current: Serving | None = None
        self._config = config
        self._traffic = traffic
        self.standby = ModelStandby(config.standby, store)
        self._turn = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def align(self) -> SwapReport:
        """Make the active release serve.

        Returns:
            The report. Where nothing is active, the model is taken out of service.

        Raises:
            NotLoaded: it could not; what served before goes on serving.
            TriesUsedUp: the trial may not be loaded again.
            DeviceUnable: the store cannot be read.
        """
        async with self._turn:
            state = await asyncio.to_thread(self.store.read)
            slot, release = state.active, state.serving
            if slot is None or release is None:
                await self._withdraw()
                return SwapReport(name=self.store.name, swapped=True, reason="nothing is active")
            if self._serves(slot, release):
                return self._report(slot, release, "it serves already")
            slot, release = await self._count_try(state, slot, release)
            await self._traffic.expect(self.store.name)
            if self._serves(slot, release):
                return self._report(slot, release, "it serves already")
            if state.trial is None and await self._take(slot, release):
                return self._report(slot, release, "its worker stood by")
            loaded, cases = await self._load(slot, release)
            return SwapReport(
                name=self.store.name,
                slot=slot,
                version=release.version,
                digest=release.digest,
                load_s=loaded.load_s,
                golden=cases,
                swapped=True,
            )

    def _serves(self, slot: Slot, release: ReleaseRef) -> bool:
        current = self.current
        return (
            current is not None
            and current.worker.alive
            and current.slot == slot
            and current.loaded.digest == release.digest
        )

    def _report(self, slot: Slot, release: ReleaseRef, reason: str) -> SwapReport:
        return SwapReport(
            name=self.store.name,
            slot=slot,
            version=release.version,
            digest=release.digest,
            swapped=True,
            reason=reason,
        )

    async def _count_try(self, state: State, slot: Slot, release: ReleaseRef) -> tuple[Slot, ReleaseRef]:
        """What may be loaded: a trial only once its try is on the disk, else what is confirmed."""
        if state.trial is None:
            return slot, release
        try:
            await asyncio.to_thread(self.store.record_try)
        except TriesUsedUp:
            raise
        except DeviceUnable as error:
            fallback = state.fallback
            confirmed = state.slots[fallback].release if fallback is not None else None
            if fallback is None or confirmed is None:
                raise
            log.error("%s: the try cannot be recorded, so the confirmed release serves: %s", self.store.name, error)
            return fallback, confirmed
        return slot, release

    async def _take(self, slot: Slot, release: ReleaseRef) -> bool:
        """Let the worker serve that stands by, if it is of that release."""
        kept = await self.standby.take(slot, release, self.store.slot_lock_path(slot))
        if kept is None:
            return False
        worker, loaded = kept
        try:
            await self._traffic.route(worker, slot, loaded)
        except SurefootError as error:
            log.warning("%s: the worker that stood by cannot serve: %s", self.store.name, error)
            await worker.leave()
            return False
        except BaseException:
            await worker.leave()
            raise
        self._relieve(Serving(worker, slot, loaded, time.monotonic()))
        log.info("%s %s serves from slot %s, its worker stood by", self.store.name, release, slot)
        return True

    def _relieve(self, serving: Serving) -> None:
        before, self.current = self.current, serving
        if before is not None:
            self._retire(before)

    async def _load(self, slot: Slot, release: ReleaseRef) -> tuple[Loaded, dict[str, int]]:
        directory = self.store.slot_path(slot)
        load = Load(
            directory=str(directory),
            lock=str(self.store.slot_lock_path(slot)),
            digest=release.digest,
            variant=release.variant,
            threads=self._config.runtime.threads,
        )
        worker = await WorkerProcess.start()
        try:
            loaded = await worker.load(load, self._config.runtime.load_timeout_s)
            cases = await self._prove(worker, release)
            serving = Serving(worker, slot, loaded, time.monotonic(), cases["cases"])
            await self._traffic.route(worker, slot, loaded)
        except BaseException as error:
            await worker.leave()
            if isinstance(error, WorkerFailed):
                raise NotLoaded(error, release.digest, evidence=error.evidence) from error
            if isinstance(error, SurefootError) and not isinstance(error, NotLoaded):
                raise NotLoaded(error, release.digest, evidence=False) from error
            raise
        self._relieve(serving)
        log.info("%s %s serves from slot %s, loaded in %.2f s", self.store.name, release, slot, loaded.load_s)
        return loaded, cases

    async def _prove(self, worker: WorkerProcess, release: ReleaseRef) -> dict[str, int]:
        verdict = (await worker.golden(GOLDEN_TIMEOUT_S)).verdict
        if not verdict.passed:
            error = DeviceUnable("the golden cases disagree", found="; ".join(verdict.reasons))
            raise NotLoaded(error, release.digest, evidence=True)
        return {"cases": verdict.cases, "agreed": verdict.agreed}

    async def _withdraw(self) -> None:
        await self._traffic.withdraw(self.store.name)
        before, self.current = self.current, None
        if before is not None:
            self._retire(before)
        await self.standby.close()

    def forget(self, worker: WorkerProcess) -> bool:
        """A worker has died. Returns whether it was the one that served."""
        worker.drained.set()
        self._traffic.forget(worker)
        self.standby.forget(worker)
        if self.current is None or self.current.worker is not worker:
            return False
        self.current = None
        return True

    def _retire(self, before: Serving) -> None:
        task = asyncio.get_running_loop().create_task(self._drain(before))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _drain(self, before: Serving) -> None:
        worker = before.worker
        try:
            await asyncio.wait_for(worker.drained.wait(), self._config.gateway.drain_timeout_s)
        except asyncio.TimeoutError:
            log.warning("worker %d did not drain in time", worker.process.pid)
        else:
            if await self.standby.keep(worker, before.slot, before.loaded):
                return
        await worker.leave()

    async def close(self) -> None:
        """Let every worker of the model go."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self.standby.close()
        if self.current is not None:
            await self.current.worker.leave()
            self.current = None
