"""The gate on the device: a worker of its own loads a filled slot, runs the golden cases, and is measured.

Three outcomes. *Passed*. *Failed*: the release is at fault, and may be quarantined. *Deferred*: it cannot be told now
(hot, no memory, busy, the interval holds the limit, the active release is itself sick), and nobody is blamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from surefoot.config import Config
from surefoot.durable import read_bounded
from surefoot.release import manifest
from surefoot.release.manifest import Manifest, Variant
from surefoot.serving.baseline import ActiveRelease, Baseline, Sick
from surefoot.serving.measuring import Bench, NotMeasured, Started, opened
from surefoot.serving.messages import Load
from surefoot.serving.process import WorkerFailed, WorkerProcess
from surefoot.watch.doctor.files import Files
from surefoot.watch.gates import CheckResult, Measured, judge_budget, percentile
from surefoot.watch.pace import LOOKS, Decision, busy, judge_p99, judge_ratio, p99_interval, ratio_interval
from surefoot.watch.surroundings import look, too_hot, too_little

WORKER_BYTES = 64 * 1024 * 1024  # of a worker beside its model: interpreter, NumPy, a runtime's library


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. ``reasons`` says why it did not pass; ``provider`` is what the runtime really used.

    ``deferred``: not passed, and not the release's fault as far as can be told. ``notes``: what a passed gate could not
    judge, and why. ``ratio_low``, ``ratio_high``: where the latency's ratio to the active release lies, by ``pairs``.
    """

    passed: bool
    deferred: bool = False
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cases: int = 0
    agreed: int = 0
    worst_difference: float = 0.0
    checks: tuple[CheckResult, ...] = ()
    load_s: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p99_ms: float = 0.0
    pairs: int = 0
    ratio_low: float | None = None
    ratio_high: float | None = None
    memory_bytes: int = 0
    runtime: str = ""
    runtime_version: str = ""
    provider: str = ""

    def summary(self) -> str:
        """One line for people."""
        if not self.passed:
            return f"{'deferred' if self.deferred else 'failed'}: " + "; ".join(self.reasons + self.notes)
        own = "".join(f"{check.metric} {check.value:.4g}, " for check in self.checks)
        ratio = "" if self.ratio_low is None else f"{self.ratio_low:.2f} to {self.ratio_high:.2f} of the active one's, "
        return (
            f"passed: {self.agreed} of {self.cases} golden cases agree, worst difference {self.worst_difference:.4f}, "
            f"{own}p50 {self.latency_p50_ms:.2f} ms, p99 {self.latency_p99_ms:.2f} ms, {ratio}"
            f"load {self.load_s:.2f} s, {self.memory_bytes / 1e6:.0f} MB" + "".join(f"; {note}" for note in self.notes)
        )


class _Settled(Exception):  # ends the gate early; never leaves this module
    """The verdict is known."""

    def __init__(self, *reasons: str, deferred: bool = False) -> None:
        super().__init__("; ".join(reasons))
        self.reasons, self.deferred = reasons, deferred


class _Doubted(Exception):  # likewise
    """It breaks its budget: the release's fault, unless the active one is no better."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def prove(
    config: Config,
    directory: Path,
    release: Manifest,
    variant: Variant,
    lock: Path | None = None,
    *,
    baseline: Baseline | None = None,
    files: Files | None = None,
) -> Proof:
    """Run the gate on a filled directory. Nothing that serves is touched.

    Args:
        config: threads and time limits.
        directory: the slot.
        release: its manifest.
        variant: the one to load.
        lock: the slot's lock, held shared meanwhile; ``None`` where the caller keeps others away.
        baseline: the active release, ``None`` where there is none: then a ratio is not judged, and a note says so.
        files: the machine's /proc and /sys; a test's own folder is hot.

    Returns:
        The proof. Failed where the release is at fault: it does not load, crashes, hangs, disagrees, breaks its budget.

    Raises:
        DeviceUnable: the device is at fault: no such runtime or accelerator here, no process could be started.
    """
    try:
        data = read_bounded(directory / manifest.FILE_NAME, manifest.MOST_MANIFEST_BYTES)
    except OSError as error:
        return Proof(passed=False, reasons=(f"the manifest cannot be read: {error.strerror}",))
    if manifest.decode(data) != release:
        return Proof(passed=False, reasons=("the slot holds another manifest than the release",))
    load = Load(str(directory), str(lock or ""), manifest.digest(data), variant.id, config.runtime.threads)
    active = ActiveRelease(baseline, config.runtime) if baseline is not None else None
    return asyncio.run(_Gate(config, variant, load, active, files or Files()).run())


class _Gate:
    """One run of the gate."""

    def __init__(
        self, config: Config, variant: Variant, load: Load, active: ActiveRelease | None, files: Files
    ) -> None:
        self._config, self._variant, self._load, self._active, self._files = config, variant, load, active, files
        self._bench = Bench(config.gate, self._hot)
        self._notes: list[str] = []
        self._started: Started | None = None

    async def run(self) -> Proof:
        """See :func:`prove`."""
        try:
            await self._judge()
        except WorkerFailed as failed:
            if not failed.evidence:
                raise
            return self._proof(str(failed))
        except _Settled as settled:
            return self._proof(*settled.reasons, deferred=settled.deferred)
        except _Doubted as doubted:
            sick = await self._why_not_to_blame()
            return self._proof(*doubted.reasons, *([sick] if sick else []), deferred=bool(sick))
        except NotMeasured as hindered:
            return self._proof(f"it cannot be measured now: {hindered}", deferred=True)
        return self._proof(passed=True)

    async def _judge(self) -> None:
        self._check_surroundings()
        async with self._candidate() as worker:
            if broken := judge_budget(self._measured, self._variant.budget):
                raise _Doubted(*broken)
            together = self._fit_together()
            if together:
                await self._judge_ratio(worker)
                await self._judge_p99(worker)
        if not together:
            await self._judge_ratio(None)
            async with self._candidate() as worker:
                await self._judge_p99(worker)

    def _check_surroundings(self) -> None:
        now, limit_c = look(self._files), self._variant.budget.temperature_c
        if reason := too_little(now, needed_bytes(self._variant)):
            raise NotMeasured(f"there is no room for it beside what serves: {reason}")
        if limit_c is not None and not now.zones:  # no waiting helps
            raise NotMeasured(too_hot(now, limit_c))

    def _fit_together(self) -> bool:
        if self._started is None or self._started.loaded.exclusive:
            return False
        return not too_little(look(self._files), needed_bytes(self._variant))

    # -- latency ---------------------------------------------------------------------------------------------------

    async def _judge_ratio(self, worker: WorkerProcess | None) -> None:
        """Against the active release. ``worker``: the candidate's, ``None`` where the two must not run together."""
        limit = self._variant.budget.latency_ratio
        if limit is None:
            return
        if self._active is None:
            self._notes.append("there is no active release to compare its latency with")
            return
        try:
            decision = await self._compare(self._active, worker, limit)
            self._active.check_pace(self._bench.pace.active_ms)
        except Sick as sick:
            self._notes.append(f"{sick}, so the ratio to its latency was not judged")
            return
        found = ratio_interval(self._bench.pace)
        said = (
            f"it takes {found.low:.3f} to {found.high:.3f} times as long as the active one, {limit:g} times is allowed"
        )
        if decision != "passed":
            raise _Settled(said, deferred=decision == "open")

    async def _compare(self, active: ActiveRelease, worker: WorkerProcess | None, limit: float) -> Decision:
        async with contextlib.AsyncExitStack() as stack:
            other = await stack.enter_async_context(active.open()) if worker is not None else None
            for total in LOOKS:
                if worker is not None and other is not None:
                    await self._bench.pairs(other, worker, total)
                else:
                    await self._bench.apart(active.open, self._candidate, total)
                if (decision := judge_ratio(self._bench.pace, limit)) != "open":
                    return decision
        return "open"

    async def _judge_p99(self, worker: WorkerProcess) -> None:
        limit = self._variant.budget.latency_p99_ms
        decision: Decision = "open"
        for total in LOOKS if limit is not None else LOOKS[:1]:
            await self._bench.alone(worker, total)
            if limit is None or (decision := judge_p99(self._bench.pace.candidate_ms, limit)) == "passed":
                return
            if decision == "failed":
                break
        found = p99_interval(self._bench.pace.candidate_ms)
        said = f"p99 latency is {found.low:.4g} to {found.high:.4g} ms, the budget is {limit:g} ms"
        if decision == "open":
            raise _Settled(said, deferred=True)
        if busy(self._bench.pace, limit or 0.0):
            raise _Settled(f"{said}; but for its waiting for a CPU that others had it would keep it", deferred=True)
        raise _Doubted(said)

    async def _why_not_to_blame(self) -> str:
        """Why a broken budget is perhaps not the candidate's doing; empty where the active release keeps its own."""
        if self._active is None:
            return ""
        bench = Bench(self._config.gate, self._hot)
        try:
            async with self._active.open() as worker:
                await bench.alone(worker, LOOKS[0])
            self._active.check_pace(bench.pace.candidate_ms)
        except Sick as sick:
            return f"but {sick}, so the new one is not blamed"
        except NotMeasured as hindered:
            return f"but how the active release fares cannot be told now: {hindered}"
        return ""

    # -- the candidate ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _candidate(self) -> AsyncIterator[WorkerProcess]:
        """A worker with the candidate, its golden cases agreed."""
        async with opened(self._load, self._config.runtime.load_timeout_s) as self._started:
            if not self._started.golden.verdict.passed:
                raise _Settled(*self._started.golden.verdict.reasons)
            yield self._started.worker

    @property
    def _measured(self) -> Measured:
        return self._started.measured if self._started is not None else Measured(load_s=math.nan, memory_bytes=0)

    def _hot(self) -> str:
        return too_hot(look(self._files), self._variant.budget.temperature_c)

    def _proof(self, *reasons: str, passed: bool = False, deferred: bool = False) -> Proof:
        proof = Proof(passed=passed, deferred=deferred, reasons=reasons, notes=tuple(self._notes))
        if self._started is None:
            return proof
        verdict, loaded, pace = self._started.golden.verdict, self._started.loaded, self._bench.pace
        ratio = ratio_interval(pace) if pace.active_ms else None
        return msgspec.structs.replace(
            proof,
            cases=verdict.cases,
            agreed=verdict.agreed,
            worst_difference=verdict.worst_difference,
            checks=verdict.checks,
            load_s=loaded.load_s,
            latency_p50_ms=percentile(pace.candidate_ms, 0.50) if pace.candidate_ms else 0.0,
            latency_p99_ms=percentile(pace.candidate_ms, 0.99) if pace.candidate_ms else 0.0,
            pairs=len(pace.active_ms),
            ratio_low=ratio.low if ratio is not None and math.isfinite(ratio.low) else None,
            ratio_high=ratio.high if ratio is not None and math.isfinite(ratio.high) else None,
            memory_bytes=self._measured.memory_bytes,
            runtime=loaded.runtime,
            runtime_version=loaded.runtime_version,
            provider=loaded.provider,
        )


def needed_bytes(variant: Variant) -> int:
    """Memory of a worker with that variant: its budget, or what may be expected where it has none."""
    return variant.budget.memory_bytes or WORKER_BYTES + 2 * variant.artifact.length_bytes
