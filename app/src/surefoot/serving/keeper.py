"""One model kept alive: started at boot, restarted with back-off, and a trial that dies sent back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from surefoot.config import Config
from surefoot.durable import Disk
from surefoot.errors import DeviceUnable, SurefootError
from surefoot.serving.again import Again
from surefoot.serving.gatekeeper import Gatekeeper
from surefoot.serving.process import epitaph
from surefoot.serving.shadow import ModelShadow
from surefoot.serving.status import SwapReport
from surefoot.serving.swap import ModelSwap, NotLoaded, Serving
from surefoot.slots.state import Slot
from surefoot.slots.store import Store, TriesUsedUp

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 30.0
HEALTHY_S = 60.0  # a worker that served so long starts the back-off anew
OPERATION_WAIT_S = 60.0
OPERATION_POLL_S = 0.1
MOST_RETURNS = 3  # trial to confirmed, and what may go wrong on the way

log = logging.getLogger("surefoot.supervisor")


class OperationRunning(DeviceUnable):
    """Another process changes the store now."""


class ModelKeeper:
    """Sees to it that a model's active release is what serves."""

    def __init__(self, config: Config, name: str, traffic: Gatekeeper) -> None:
        self._config = config
        self._store = open_store(config, name)
        self.swap = ModelSwap(config, self._store, traffic)
        self.shadow = ModelShadow(config, open_store(config, name), traffic)
        self.again = Again(config.trial)
        self.restarts = 0
        self.reason = ""
        self.loading = False
        self._backoff_s = BACKOFF_FIRST_S
        self._not_before_s = 0.0
        self._watching: dict[int, asyncio.Task[None]] = {}
        self._retrying: asyncio.Task[None] | None = None
        self._one = asyncio.Lock()  # of what brings the store and what serves together

    @property
    def name(self) -> str:
        """The model."""
        return self._store.name

    @property
    def current(self) -> Serving | None:
        """What serves now."""
        return self.swap.current

    async def boot(self) -> None:
        """Recover the store and start what it wants; a trial that fails gives way to what is confirmed."""
        self.loading = True
        try:
            recovery = await asyncio.to_thread(self._store.recover)
            for action in recovery.actions:
                log.info("%s: %s", self.name, action)
            await self._return_to_service()
        except SurefootError as error:
            self._failed(error)
            self._retry()
        finally:
            self.loading = False

    async def align(self) -> SwapReport:
        """Swap as asked from outside. A failure is reported, and the caller judges it in the store."""
        self.loading = True
        try:
            report = await self.swap.align()
        except SurefootError as error:
            log.warning("%s: %s", self.name, error)
            if self.current is None:
                self.reason = str(error)
                self._retry()
            evidence = isinstance(error, NotLoaded) and error.evidence
            return SwapReport(name=self.name, swapped=False, reason=str(error), evidence=evidence)
        finally:
            self.loading = False
        self._succeeded()
        return report

    async def catch_up(self) -> None:
        """Serve what the store says, where an operation was cut off between its record and the traffic."""
        busy = self.loading or (self._retrying is not None and not self._retrying.done())
        if busy or time.monotonic() < self._not_before_s or not await asyncio.to_thread(self._left_behind):
            return
        log.warning("%s: what serves is not what is recorded; catching up", self.name)
        self.loading = True
        try:
            await self._return_to_service()
        except SurefootError as error:
            self._failed(error)
            self._not_before_s = time.monotonic() + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_MOST_S)
        finally:
            self.loading = False

    async def due(self) -> Slot | None:
        """The slot whose release was put off and is to be tried again now. To be asked now and then, for it counts."""

        def look() -> Slot | None:
            state, current = open_store(self._config, self.name).read(), self.current
            serves = current is not None and state.serving is not None and current.loaded.digest == state.serving.digest
            return self.again.look(state, serves=serves)

        return await asyncio.to_thread(look)

    async def try_again(self, slot: Slot) -> None:
        """Put a release that is due on trial once more, unless somebody else is at work on the model."""

        def begin() -> None:
            store = open_store(self._config, self.name)
            with store.operation("try again"):
                store.try_again(slot)

        log.info("%s: the release in slot %s was put off, and is tried again", self.name, slot)
        await asyncio.to_thread(begin)
        await self.catch_up()

    async def migrate(self) -> None:
        """Write the state in the format of this app, once that is confirmed itself."""
        done = await asyncio.to_thread(open_store(self._config, self.name).migrate)
        if done:
            log.info("%s: %s", self.name, done)

    async def mend(self) -> tuple[str, ...]:
        """Something here has rotted: see ``Store.heal``. What serves follows. Returns what was done."""
        async with self._one:
            self.loading = True
            try:
                recovery = await asyncio.to_thread(open_store(self._config, self.name).heal)
                for action in recovery.actions:
                    log.warning("%s: %s", self.name, action)
                await self._return_to_service()
            except SurefootError as error:
                self._failed(error)
                return (str(error),)
            finally:
                self.loading = False
            return tuple(recovery.actions)

    def _left_behind(self) -> bool:
        store = open_store(self._config, self.name)  # an object is for one thread

        def differs() -> bool:
            wanted, current = store.read().serving, self.current
            return (wanted.digest if wanted else None) != (current.loaded.digest if current else None)

        try:
            if not differs():
                return False
            with store.operation("catch up"):  # whoever is at work moves the traffic when it is done
                return differs()
        except SurefootError:
            return False

    async def _return_to_service(self) -> None:
        for _ in range(MOST_RETURNS):
            try:
                await self.swap.align()
            except TriesUsedUp as error:
                if not await self._end_trial(None, str(error), Store.put_off):
                    raise
            except NotLoaded as error:
                self.reason = str(error)
                reason = f"it could not be taken into service: {error}"
                if not await self._end_trial(error.digest, reason, Store.reject if error.evidence else Store.revert):
                    raise
            else:
                self._succeeded()
                return
        raise DeviceUnable(f"{self.name}: no release could be taken into service", found=self.reason)

    def _succeeded(self) -> None:
        self.reason = ""
        current = self.current
        if current is not None and current.worker.number not in self._watching:
            watch = asyncio.get_running_loop().create_task(self._watch(current))
            self._watching[current.worker.number] = watch

    def _failed(self, error: Exception) -> None:
        self.reason = str(error)
        log.error("%s: %s", self.name, error)

    async def _watch(self, serving: Serving) -> None:
        code = await serving.worker.process.wait()
        await serving.worker.leave()  # closes what is left of it here
        self._watching.pop(serving.worker.number, None)
        if not self.swap.forget(serving.worker):
            return  # it was relieved before: an orderly end
        if time.monotonic() - serving.since_s > HEALTHY_S:
            self._backoff_s = BACKOFF_FIRST_S
        self.restarts += 1
        error = DeviceUnable(f"the worker of {self.name} {serving.loaded.version} died", found=epitaph(code))
        self._failed(error)
        with contextlib.suppress(SurefootError):
            await self._end_trial(serving.loaded.digest, f"{error}, on trial", Store.reject)
        self._retry()

    async def _end_trial(self, digest: str | None, reason: str, end: Callable[[Store, str], object]) -> bool:
        """Send the trial back by ``end``, if it still runs and is of that release (``None``: of whichever).

        Whoever else changes which slot serves holds the store's operation, so that between the look and the change
        nobody can: a rejection must never hit the confirmed release. An activation that is just ending is waited for.

        Returns:
            Whether there was such a trial.

        Raises:
            DeviceUnable: another operation went on for too long, or the disk takes no writes.
        """
        deadline = time.monotonic() + OPERATION_WAIT_S
        while True:
            try:
                return await asyncio.to_thread(self._end_trial_now, digest, reason, end)
            except OperationRunning:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(OPERATION_POLL_S)

    def _end_trial_now(self, digest: str | None, reason: str, end: Callable[[Store, str], object]) -> bool:
        store = open_store(self._config, self.name)  # an object is for one thread
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(store.operation("end the trial"))
            except DeviceUnable as error:
                raise OperationRunning(error.what, found=error.found, hint=error.hint) from error
            state = store.read()
            if state.trial is None or state.serving is None or digest not in (None, state.serving.digest):
                return False
            end(store, reason)
            return True

    def _retry(self) -> None:
        if self._retrying is None or self._retrying.done():
            self._retrying = asyncio.get_running_loop().create_task(self._retry_until_it_serves())

    async def _retry_until_it_serves(self) -> None:
        while True:
            await asyncio.sleep(self._backoff_s)
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_MOST_S)
            async with self._one:
                if self.current is not None:
                    return  # a swap from outside was quicker
                self.loading = True
                try:
                    await self._return_to_service()
                    return
                except (OSError, SurefootError) as error:  # no descriptor or no process is left for a worker, for one
                    self._failed(error)
                    with contextlib.suppress(SurefootError):
                        store = open_store(self._config, self.name)
                        await asyncio.to_thread(store.recover)  # the slot itself may be damaged
                finally:
                    self.loading = False

    async def close(self) -> None:
        """Stop watching and let the workers go."""
        for task in (self._retrying, *self._watching.values()):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self.shadow.close()
        await self.swap.close()


def open_store(config: Config, name: str) -> Store:
    """The slot store of one model."""
    trial = config.trial
    return Store(config.models_dir, name, disk=Disk(), storage=config.storage, tries=trial.tries, retries=trial.retries)
