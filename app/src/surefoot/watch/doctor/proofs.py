"""Proving each runtime in a process of its own, which may abort, hang or be killed: the doctor goes on.

Nothing of :mod:`surefoot.runtimes` is imported here: that would bring NumPy into this process, which itself dies of
SIGILL on a processor that is older than its build.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points

import msgspec

from surefoot.config import PROCESS_ENVIRONMENT
from surefoot.watch.doctor.facts import NOT_STARTED, Outcome, Proof
from surefoot.watch.doctor.programs import drained, end

GROUP = "surefoot.runtimes"  # as surefoot.runtimes.protocol has it
TIMEOUT_S = 60.0
MOST_PROVIDERS = 8
_MOST_REPORT_BYTES = 64 * 1024
_NOISE_BYTES = 2048
# As the workers are started: telemetry off before any import, no module from wherever the doctor was called.


def names() -> list[str]:
    """The runtimes that are found, by entry point."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def prove_all(timeout_s: float = TIMEOUT_S) -> tuple[Proof, ...]:
    """Each runtime found, and each provider that it offers beyond the one that it takes by itself."""
    return tuple(proof for name in names() for proof in _prove_runtime(name, timeout_s))


def _prove_runtime(name: str, timeout_s: float) -> Iterator[Proof]:
    first = prove(name, "", timeout_s)
    yield first
    for provider in first.offered[:MOST_PROVIDERS]:
        if provider != first.used:
            yield prove(name, provider, timeout_s)


def prove(name: str, provider: str, timeout_s: float) -> Proof:
    """One runtime with one provider (empty: its own choice), within ``timeout_s``."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "surefoot.runtimes.proof", name),
                *("--provider", provider, "--report", str(writing)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, **PROCESS_ENVIRONMENT},
            pass_fds=(writing,),
            start_new_session=True,
        )
    except OSError as error:
        os.close(reading)
        return Proof(runtime=name, provider=provider, outcome="died", reason=f"{NOT_STARTED}: {error.strerror}")
    finally:
        os.close(writing)
    assert process.stdout is not None  # noqa: S101  # asked for above
    try:
        bounds = {reading: _MOST_REPORT_BYTES, process.stdout.fileno(): _NOISE_BYTES}
        (report, noise), in_time = drained(bounds, timeout_s)
    finally:
        end(process)
        process.stdout.close()
        os.close(reading)
    if report:
        try:
            told = msgspec.json.decode(report, type=_Told)
            return Proof(
                runtime=name,
                provider=provider,
                outcome=told.outcome,
                used=told.provider,
                version=told.version,
                reason=told.reason,
                offered=told.offered,
            )
        except msgspec.DecodeError:
            noise = report
    last = (noise.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:300]
    how = _how_it_ended(process.returncode) if in_time else f"no answer within {timeout_s:g} s"
    return Proof(runtime=name, provider=provider, outcome="died", reason=f"{how}; last words: {last}")


class _Told(msgspec.Struct, frozen=True):
    outcome: Outcome
    reason: str = ""
    provider: str = ""
    version: str = ""
    offered: tuple[str, ...] = ()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"left with status {status}"
    try:
        return f"died of {signal.Signals(-status).name}"
    except ValueError:
        return f"died of signal {-status}"
