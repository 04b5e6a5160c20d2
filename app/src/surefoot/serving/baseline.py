"""The active release, as what a candidate is measured against. It is judged first, by its own golden cases and budget.

A release that is itself sick is no measure: it must neither take the blame for the new one nor lend it praise
(aws-greengrass-nucleus#646).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from surefoot.config import Runtime
from surefoot.durable import read_bounded
from surefoot.errors import UntrustedRelease
from surefoot.release import manifest
from surefoot.release.manifest import Variant
from surefoot.serving.measuring import NotMeasured, opened
from surefoot.serving.messages import Load
from surefoot.serving.process import WorkerFailed, WorkerProcess
from surefoot.watch.gates import judge_budget
from surefoot.watch.pace import judge_p99, p99_interval


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Where the active release lies. ``lock``: its slot's, held shared while it is measured."""

    directory: Path
    lock: Path
    digest: str
    variant: str


class Sick(Exception):  # caught by the gate, and said in its result
    """The active release is no measure for another. The text says why."""


class ActiveRelease:
    """Starts workers with the active release, apart from the one that serves.

    Args:
        baseline: where it lies.
        runtime: threads and time to load, as in serving.
    """

    def __init__(self, baseline: Baseline, runtime: Runtime) -> None:
        self._baseline, self._runtime = baseline, runtime

    def variant(self) -> Variant:
        """What its own manifest says of it.

        Raises:
            Sick: it cannot be read.
        """
        try:
            data = read_bounded(self._baseline.directory / manifest.FILE_NAME, manifest.MOST_MANIFEST_BYTES)
            return manifest.decode(data).variant(self._baseline.variant)
        except (OSError, UntrustedRelease) as error:
            raise Sick(f"the active release cannot be read ({error})") from error

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[WorkerProcess]:
        """A worker with it, if it is well.

        Raises:
            Sick: it does not load, its golden cases disagree, it breaks its own budget, or it dies meanwhile.
            NotMeasured: the device cannot load it now.
        """
        budget, base = self.variant().budget, self._baseline
        load = Load(str(base.directory), str(base.lock), base.digest, base.variant, self._runtime.threads)
        async with contextlib.AsyncExitStack() as stack:
            try:
                started = await stack.enter_async_context(opened(load, self._runtime.load_timeout_s))
            except WorkerFailed as failed:
                if failed.evidence:
                    raise Sick(f"the active release does not run ({failed})") from failed
                raise NotMeasured(f"the active release cannot be loaded beside it ({failed})") from failed
            broken = started.golden.verdict.reasons + judge_budget(started.measured, budget)
            if broken:
                raise Sick(f"the active release fails its own gate ({'; '.join(broken)})")
            try:
                yield started.worker
            except WorkerFailed as failed:
                if started.worker.alive:
                    raise  # it was the other one
                raise Sick(f"the active release does not run ({failed})") from failed

    def check_pace(self, latencies_ms: Sequence[float]) -> None:
        """Hold its latencies against its own budget.

        Raises:
            Sick: they break it.
        """
        limit = self.variant().budget.latency_p99_ms
        if limit is not None and judge_p99(latencies_ms, limit) == "failed":
            found = p99_interval(latencies_ms)
            said = f"p99 latency from {found.low:.4g} ms, allowed {limit:g} ms"
            raise Sick(f"the active release breaks its own budget ({said})")
