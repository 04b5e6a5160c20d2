"""The gate on the device: a worker of its own loads a filled slot, runs the golden cases, and is measured."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from surefoot.config import Config
from surefoot.durable import read_bounded
from surefoot.release import manifest
from surefoot.release.manifest import Manifest, Variant
from surefoot.serving.messages import GoldenRun, Load, Loaded
from surefoot.serving.process import WorkerFailed, WorkerProcess
from surefoot.watch.gates import Measured, judge_budget, percentile

SAMPLES = 200  # so that a p99 stands on more than one value
GOLDEN_TIMEOUT_S = 180.0


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. ``reasons`` says why it did not pass; ``provider`` is what the runtime really used."""

    passed: bool
    reasons: tuple[str, ...] = ()
    cases: int = 0
    agreed: int = 0
    worst_difference: float = 0.0
    load_s: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p99_ms: float = 0.0
    memory_bytes: int = 0
    runtime: str = ""
    runtime_version: str = ""
    provider: str = ""

    def summary(self) -> str:
        """One line for people."""
        if not self.passed:
            return "failed: " + "; ".join(self.reasons)
        return (
            f"passed: {self.agreed} of {self.cases} golden cases agree, worst difference {self.worst_difference:.4f}, "
            f"p50 {self.latency_p50_ms:.2f} ms, p99 {self.latency_p99_ms:.2f} ms, load {self.load_s:.2f} s, "
            f"{self.memory_bytes / 1e6:.0f} MB"
        )


def prove(config: Config, directory: Path, release: Manifest, variant: Variant, lock: Path | None = None) -> Proof:
    """Run the gate on a filled directory. Nothing that serves is touched.

    Args:
        config: threads and time limits.
        directory: the slot.
        release: its manifest.
        variant: the one to load.
        lock: the slot's lock, held shared meanwhile; ``None`` where the caller keeps others away.

    Returns:
        The proof; ``passed`` is false where the release is at fault: it does not load, crashes, hangs, disagrees.

    Raises:
        DeviceUnable: the device is at fault: no such runtime or accelerator here, no process could be started.
    """
    return asyncio.run(_prove(config, directory, release, variant, lock))


async def _prove(config: Config, directory: Path, release: Manifest, variant: Variant, lock: Path | None) -> Proof:
    try:
        data = read_bounded(directory / manifest.FILE_NAME, manifest.MOST_MANIFEST_BYTES)
    except OSError as error:
        return Proof(passed=False, reasons=(f"the manifest cannot be read: {error.strerror}",))
    if manifest.decode(data) != release:
        return Proof(passed=False, reasons=("the slot holds another manifest than the release",))
    load = Load(
        directory=str(directory),
        lock=str(lock or ""),
        digest=manifest.digest(data),
        variant=variant.id,
        threads=config.runtime.threads,
    )
    worker = await WorkerProcess.start()
    try:
        loaded = await worker.load(load, config.runtime.load_timeout_s)
        run = await worker.golden(SAMPLES, GOLDEN_TIMEOUT_S)
    except WorkerFailed as failed:
        if not failed.evidence:
            raise
        return Proof(passed=False, reasons=(str(failed),))
    finally:
        await worker.leave()
    return _proof(loaded, run, variant)


def _proof(loaded: Loaded, run: GoldenRun, variant: Variant) -> Proof:
    verdict = run.verdict
    memory = max(loaded.memory_bytes, run.memory_bytes)
    measured = Measured(load_s=loaded.load_s, memory_bytes=memory, latencies_ms=run.latencies_ms)
    reasons = verdict.reasons + judge_budget(measured, variant.budget)
    return Proof(
        passed=not reasons,
        reasons=reasons,
        cases=verdict.cases,
        agreed=verdict.agreed,
        worst_difference=verdict.worst_difference,
        load_s=loaded.load_s,
        latency_p50_ms=percentile(run.latencies_ms, 0.50),
        latency_p99_ms=percentile(run.latencies_ms, 0.99),
        memory_bytes=memory,
        runtime=loaded.runtime,
        runtime_version=loaded.runtime_version,
        provider=loaded.provider,
    )
