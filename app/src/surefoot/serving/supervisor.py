"""The process that holds everything together: sockets, one gateway, one worker a model. It never runs a model itself.

Foreground: :func:`run`. Detached: ``python -m surefoot.serving.supervisor`` (see ``detach``), configuration on stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import msgspec

from surefoot import __version__
from surefoot.config import Config
from surefoot.durable import Disk, locked
from surefoot.errors import BadRequest, DeviceUnable, SurefootError
from surefoot.serving import endpoint
from surefoot.serving.admin_server import AdminServer
from surefoot.serving.control import Counts
from surefoot.serving.endpoint import Endpoint
from surefoot.serving.gatekeeper import Gatekeeper
from surefoot.serving.keeper import ModelKeeper, open_store
from surefoot.serving.notify import Notifier
from surefoot.serving.scrub import Scrubber
from surefoot.serving.sockets import UnixSockets, check_host, open_tcp
from surefoot.serving.status import ModelServing, ServingStatus, SwapReport
from surefoot.slots.status import report
from surefoot.slots.store import Store
from surefoot.watch.doctor.files import Files
from surefoot.watch.likeness import Tally
from surefoot.watch.surroundings import look, too_hot

EVENTS_SHOWN = 12
CATCH_UP_S = 5.0
HTTP_SOCKET_MODE = 0o660
ADMIN_SOCKET_MODE = 0o600
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")

log = logging.getLogger("surefoot.supervisor")
OnReady = Callable[[Endpoint], None]


class Supervisor:
    """One running server."""

    def __init__(self, config: Config, where: Endpoint, gatekeeper: Gatekeeper) -> None:
        self._config = config
        self._where = where
        self._gatekeeper = gatekeeper
        self._begun_s = time.monotonic()
        self.leaving = asyncio.Event()
        self._keepers: dict[str, ModelKeeper] = {}
        self.scrubber = Scrubber(config.scrub, self._keepers)

    # -- what the admin socket asks for ----------------------------------------------------------------------------

    async def swap(self, name: str) -> SwapReport:
        """Bring one model in line with its store, also one that is new since the start or gone from the disk.

        Raises:
            BadRequest: not a model's name.
        """
        if not NAME.match(name):
            raise BadRequest("not a model's name", found=repr(name[:80]))
        if name not in Store.names(self._config.models_dir):
            return await self._take_out(name)
        return await self._keeper(name).align()

    async def _take_out(self, name: str) -> SwapReport:
        keeper = self._keepers.pop(name, None)
        if keeper is not None:
            try:
                await self._gatekeeper.withdraw(name)
            finally:
                await keeper.close()
        return SwapReport(name=name, swapped=True, reason="the model is not on this device")

    def stop(self) -> None:
        """Drain, then leave."""
        self.leaving.set()

    async def status(self) -> ServingStatus:
        """Everything a person or a machine wants to know."""
        counts, tallies = await self._gatekeeper.counts()
        models = tuple([await self._model(keeper, counts, tallies) for _, keeper in sorted(self._keepers.items())])
        problem = "; ".join(
            f"{model.name}: {model.reason or model.state}"
            for model in models
            if not model.ready and model.state != "empty"
        )
        if not any(model.ready for model in models):
            problem = problem or "no model is active on this device"
        gateway = self._gatekeeper.pid
        if gateway is None:
            problem = problem or "the gateway is starting"
        return ServingStatus(
            version=__version__,
            pid=self._where.pid,
            url=self._where.url,
            http_socket=self._where.http_socket,
            admin_socket=self._where.admin_socket,
            started_at=self._where.started_at,
            uptime_s=time.monotonic() - self._begun_s,
            ready=not problem,
            problem=problem,
            gateway_pid=gateway,
            gateway_restarts=self._gatekeeper.restarts,
            models=models,
        )

    async def status_document(self) -> bytes:
        """The same as JSON."""
        return msgspec.json.encode(await self.status())

    async def _model(self, keeper: ModelKeeper, counts: dict[int, Counts], tallies: dict[int, Tally]) -> ModelServing:
        def from_store() -> tuple[dict[str, object], list[object], str]:
            try:
                said = report(keeper.swap.store)
                events = keeper.swap.store.history(EVENTS_SHOWN)
            except SurefootError as error:
                return {}, [], str(error)
            return msgspec.to_builtins(said), msgspec.to_builtins(events), said.problem or ""

        slots, events, problem = await asyncio.to_thread(from_store)
        serving = keeper.current
        scrub = self.scrubber.status(keeper.name)
        common = {"name": keeper.name, "restarts": keeper.restarts, "slots": slots, "events": events, "scrub": scrub}
        common["again"] = keeper.again.status()
        if serving is None:
            active = bool(slots.get("active"))
            state = "loading" if keeper.loading else "failed" if active or keeper.reason else "empty"
            return ModelServing(state=state, reason=keeper.reason or problem, **common)  # type: ignore[arg-type]  # values of their fields
        loaded = serving.loaded
        seen = counts.get(serving.worker.number)
        return ModelServing(
            state="serving",
            ready=serving.worker.alive,
            reason=keeper.reason,
            version=loaded.version,
            digest=loaded.digest,
            variant=loaded.variant,
            slot=serving.slot,
            runtime=loaded.runtime,
            runtime_version=loaded.runtime_version,
            provider=loaded.provider,
            pid=serving.worker.process.pid,
            uptime_s=time.monotonic() - serving.since_s,
            load_s=loaded.load_s,
            memory_bytes=loaded.memory_bytes,
            shadow=keeper.shadow.status(tallies),
            standby=keeper.swap.standby.status(),
            inferences=serving.proved + (seen.inferences if seen else 0),
            failures=seen.failures if seen else 0,
            in_flight=seen.in_flight if seen else 0,
            p50_ms=seen.p50_ms if seen else None,
            p99_ms=seen.p99_ms if seen else None,
            **common,  # type: ignore[arg-type]  # values of their fields
        )

    # -- running ---------------------------------------------------------------------------------------------------

    def _keeper(self, name: str) -> ModelKeeper:
        keeper = self._keepers.get(name)
        if keeper is None:
            keeper = self._keepers[name] = ModelKeeper(self._config, name, self._gatekeeper)
        return keeper

    async def boot(self) -> None:
        """Start every model of the device. Each is tried; none keeps another from being served."""
        names = Store.names(self._config.models_dir)
        await asyncio.gather(*(self._keeper(name).boot() for name in names))

    async def keep_up(self) -> None:
        """Now and then, look whether what serves is what is recorded, and still there."""
        while True:
            await asyncio.sleep(CATCH_UP_S)
            try:
                for name in tuple(self._keepers):
                    if await asyncio.to_thread(Store.gone, self._config.models_dir, name):
                        log.warning("%s was removed; it is no longer served", name)
                        await self._take_out(name)
                for name in await asyncio.to_thread(Store.names, self._config.models_dir):
                    keeper = self._keeper(name)
                    await keeper.catch_up()
                    await self._look_after(keeper)
                    keeper.shadow.follow(keeper.current)
                    await keeper.swap.standby.follow()
            except (OSError, SurefootError) as error:  # the disk does not answer now; what serves goes on
                log.error("cannot look at the models: %s", error)

    async def _look_after(self, keeper: ModelKeeper) -> None:
        """What a model's store is owed now and then, and what may wait for the next time."""
        try:
            await keeper.migrate()
            slot = await keeper.due()
            if slot is None:
                return
            keeper.again.waits_for = await asyncio.to_thread(self._in_the_way)
            if not keeper.again.waits_for:
                await keeper.try_again(slot)
        except DeviceUnable as error:  # another operation is under way, for one
            if keeper.again.waits_for != str(error):
                log.info("%s: later: %s", keeper.name, error)
            keeper.again.waits_for = str(error)

    def _in_the_way(self) -> str:
        """Why no release may be tried again by itself now."""
        for name in self._keepers:
            if open_store(self._config, name).read().trial is not None:
                return f"a release of {name} is on trial"
        return too_hot(look(Files()), None)

    async def close(self) -> None:
        """Drain the gateway, then let the workers go."""
        await self._gatekeeper.stop()
        await self.scrubber.close()
        await asyncio.gather(*(keeper.close() for keeper in self._keepers.values()))


def run(config: Config, on_ready: OnReady | None = None) -> int:
    """Serve until SIGTERM, SIGINT or ``surefoot stop``; then drain and leave.

    Args:
        config: the device's.
        on_ready: called once connections are accepted and every model was loaded or has failed to.

    Returns:
        The exit status.

    Raises:
        BadRequest: the configuration cannot be served.
        DeviceUnable: another server runs in the same ``run_dir``, or a socket cannot be opened.
    """
    check_host(config.gateway.host)
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceUnable(f"cannot make {config.run_dir}", found=str(error.strerror)) from error
    if endpoint.running(config.run_dir):
        raise endpoint.already_running(config.run_dir)
    try:
        lock = contextlib.ExitStack()
        lock.enter_context(locked(config.run_dir / endpoint.LOCK_NAME, wait_s=0.5, what="the server"))
    except DeviceUnable as error:
        raise endpoint.already_running(config.run_dir) from error
    with lock:
        return asyncio.run(_run(config, on_ready))


async def _run(config: Config, on_ready: OnReady | None) -> int:
    notifier = Notifier.take(os.environ)
    listener = open_tcp(config, Disk())
    unix = UnixSockets(config.run_dir)
    try:
        http, http_path = unix.listen("http.sock", HTTP_SOCKET_MODE)
        admin, admin_path = unix.listen("admin.sock", ADMIN_SOCKET_MODE)
        host, port = listener.getsockname()[:2]
        where = Endpoint(
            pid=os.getpid(),
            url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
            http_socket=str(http_path),
            admin_socket=str(admin_path),
            started_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        supervisor: Supervisor

        async def status() -> bytes:
            return await supervisor.status_document()

        gatekeeper = Gatekeeper(config, [listener, http], status)
        supervisor = Supervisor(config, where, gatekeeper)
        loop = asyncio.get_running_loop()
        # One thread for all that waits for the disk: two threads that decode a msgspec type for the first time at the
        # same moment crash the process (seen with msgspec 0.22 when several models were recovered side by side).
        loop.set_default_executor(ThreadPoolExecutor(max_workers=1, thread_name_prefix="store"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        accepting = asyncio.Event()
        async with AdminServer(admin, supervisor):
            keeping = loop.create_task(gatekeeper.keep(accepting))
            leaving = loop.create_task(supervisor.leaving.wait())
            booting = loop.create_task(supervisor.boot())  # loads while the gateway starts
            up = loop.create_task(supervisor.keep_up())
            scrubbing = loop.create_task(supervisor.scrubber.run())
            tasks = [booting, up, scrubbing, keeping, leaving]
            try:
                await _first(accepting.wait(), keeping, leaving)
                endpoint.publish(config.run_dir, where)
                log.info("serving at %s and %s", where.url, where.http_socket)
                notifier.tell("READY=1")  # before the models: a slow load is no failed start
                tasks.append(loop.create_task(notifier.feed(http_path)))
                await _first(asyncio.shield(booting), keeping, leaving)
                if on_ready is not None and not leaving.done():
                    on_ready(where)
                await _first(leaving, keeping)
            finally:
                notifier.tell("STOPPING=1")
                booting.cancel()
                up.cancel()
                scrubbing.cancel()
                await supervisor.close()
                for task in tasks:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
    finally:
        unix.remove()
        with contextlib.suppress(SurefootError):
            endpoint.withdraw(config.run_dir)
    log.info("left in order")
    return 0


async def _first(*awaitables: object) -> None:
    """Wait for the first to end; what it raises is raised here."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]  # type: ignore[call-overload]  # coroutines and tasks alike
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def main() -> int:
    """A detached server: the configuration comes on stdin, the outcome of the start goes to stdout as one line."""
    from surefoot.serving.detach import serve_detached

    return serve_detached()


if __name__ == "__main__":
    sys.exit(main())
