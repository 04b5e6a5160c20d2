"""In the supervisor: the worker of a release that waits in its slot and may see a sample of real inputs.

Off by default. Its process has the lowest priority and is the first that the kernel ends for memory; one that grows
over its bound, dies or does not load is not started again for that release. Nothing of it is evidence: a shadow's fate
quarantines nobody and counts no try.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Protocol

import msgspec

from surefoot.config import Config
from surefoot.durable import locked, read_bounded
from surefoot.errors import SurefootError
from surefoot.release import manifest
from surefoot.serving.control import Show
from surefoot.serving.messages import Load
from surefoot.serving.process import WorkerFailed, WorkerProcess, epitaph, resident_bytes
from surefoot.serving.status import ShadowServing
from surefoot.serving.swap import Serving
from surefoot.slots.state import ReleaseRef, Slot
from surefoot.slots.store import Store
from surefoot.watch.doctor.files import Files
from surefoot.watch.likeness import Tally
from surefoot.watch.surroundings import look, too_little

LOWEST_NICE = 19
LOAD_MOST_S = 20.0  # an install that needs the slot waits longer than that for its lock

log = logging.getLogger("surefoot.supervisor")


class Stage(Protocol):
    """The gateway, as a shadow needs it."""

    @property
    def pid(self) -> int | None:
        """The one that runs now."""

    async def show(self, worker: WorkerProcess, show: Show) -> None:
        """Let a worker see a sample of its model's inputs."""

    async def hide(self, name: str) -> Tally:
        """No longer; what it came to."""


class Watching(msgspec.Struct, frozen=True):
    """A shadow that runs."""

    worker: WorkerProcess
    slot: Slot
    release: ReleaseRef
    gateway: int | None


class ModelShadow:
    """The shadow of one model, if it has one now."""

    def __init__(self, config: Config, store: Store, stage: Stage) -> None:
        self._config, self._store, self._stage = config, store, stage
        self._now: Watching | None = None
        self._task: asyncio.Task[None] | None = None
        self._gone: dict[str, str] = {}  # digest: why it is not started again
        self._tallies: dict[str, Tally] = {}
        self._last: ReleaseRef | None = None

    def follow(self, serving: Serving | None) -> None:
        """Start, keep or end the shadow, as the store and the machine have it now. Waits for nothing."""
        if self._config.shadow.enabled and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._follow(serving))

    async def _follow(self, serving: Serving | None) -> None:
        try:
            wanted = await asyncio.to_thread(self._wanted) if serving is not None else None
            if self._now is not None:
                await self._check(self._now, wanted)
            if self._now is None and wanted is not None and wanted[1].digest not in self._gone and serving is not None:
                await self._start(wanted[0], wanted[1], serving)
        except (SurefootError, OSError) as error:
            log.warning("%s: no shadow now: %s", self._store.name, error)
            await self._end()

    def _wanted(self) -> tuple[Slot, ReleaseRef] | None:
        state = self._store.read()
        slot = state.inactive
        release = state.slots[slot].release
        ready = state.trial is None and state.slots[slot].status == "ready"
        return (slot, release) if ready and release is not None else None

    async def _check(self, now: Watching, wanted: tuple[Slot, ReleaseRef] | None) -> None:
        most = self._config.shadow.most_memory_bytes
        if not now.worker.alive:
            await self._end(f"it died ({epitaph(now.worker.process.returncode)})")
        elif (held := resident_bytes(now.worker.process.pid)) > most:
            await self._end(f"it holds {held} bytes of memory, shadow.most_memory_bytes is {most}")
        elif wanted != (now.slot, now.release) or now.gateway != self._stage.pid:
            await self._end()

    async def _start(self, slot: Slot, release: ReleaseRef, serving: Serving) -> None:
        settings = self._config.shadow
        if serving.loaded.exclusive:
            return  # a second process would take the accelerator from the one that serves
        if reason := too_little(look(Files()), settings.most_memory_bytes):
            log.info("%s: no shadow now: %s", self._store.name, reason)
            return
        directory, gateway = self._store.slot_path(slot), self._stage.pid
        data = read_bounded(directory / manifest.FILE_NAME, manifest.MOST_MANIFEST_BYTES)
        variant = manifest.decode(data).variant(release.variant)
        worker = await WorkerProcess.start()
        self._now, self._last = Watching(worker, slot, release, gateway), release
        lower(worker.process.pid)
        try:
            # Held while it loads; later an install may have the slot, whose files stay readable for who mapped them.
            with locked(self._store.slot_lock_path(slot), shared=True, wait_s=0, what="the slot"):
                load = Load(str(directory), "", release.digest, release.variant, threads=1)
                loaded = await worker.load(load, min(LOAD_MOST_S, self._config.runtime.load_timeout_s))
        except WorkerFailed as failed:
            await self._end(f"it does not load ({failed})" if failed.evidence else "")
            return
        if loaded.inputs != serving.loaded.inputs:
            await self._end("it takes other inputs than the active release")
            return
        show = Show(
            worker.number,
            loaded,
            settings.share,
            settings.most_per_s,
            settings.most_input_bytes,
            None if variant.output_kind == "logits" else variant.tolerance.output or 0.0,
        )
        await self._stage.show(worker, show)
        log.info("%s %s watches from slot %s", self._store.name, release, slot)

    async def _end(self, why: str = "") -> None:
        now, self._now = self._now, None
        if now is None:
            return
        if why:
            self._gone[now.release.digest] = why
            log.warning("%s: the shadow %s ends: %s", self._store.name, now.release, why)
        with contextlib.suppress(SurefootError):
            self._add(now.release, await self._stage.hide(self._store.name))
        await now.worker.leave()

    def _add(self, release: ReleaseRef, tally: Tally) -> None:
        self._tallies = {release.digest: self._tallies.get(release.digest, Tally()).plus(tally)}

    def status(self, tallies: dict[int, Tally]) -> ShadowServing | None:
        """For the status; ``None`` where there was none since the start. ``tallies``: the gateway's, by worker."""
        now, release = self._now, self._last
        if release is None:
            return None
        tally = self._tallies.get(release.digest, Tally())
        if now is not None:
            tally = tally.plus(tallies.get(now.worker.number, Tally()))
        return ShadowServing(
            version=release.version,
            digest=release.digest,
            watching=now is not None,
            reason=self._gone.get(release.digest, ""),
            pid=now.worker.process.pid if now is not None else None,
            memory_bytes=resident_bytes(now.worker.process.pid) if now is not None else 0,
            agreed=tally.agreed,
            disagreed=tally.disagreed,
            failed=tally.failed,
            skipped=tally.skipped,
        )

    async def close(self) -> None:
        """Let it go."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end()


def lower(pid: int) -> None:
    """Lowest priority for a process that has just started, and the first to go where memory runs out (proc(5))."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, LOWEST_NICE)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")
