"""``make bench-gates``: how often the latency gate errs, by real workers on a machine that has other work.

A trial is one judgement of the ratio, as the gate makes it: the same harness, rounds, looks and rule. A release against
itself must not fail, one with 1.5 times the work must. New processes are started every few trials, because two of them
with the same model differ by themselves. Beside them runs other work in bursts; there are no rests.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bench.quick import machine
from surefoot.config import Gate
from surefoot.release import golden, manifest
from surefoot.release.manifest import Card, File, Golden, Manifest, Tensor, Tolerance, Variant
from surefoot.serving.measuring import Bench, opened
from surefoot.serving.messages import Load
from surefoot.watch.pace import LOOKS, judge_ratio, ratio_interval
from tests.app.serving import tiny_onnx

LIMIT = 1.2
SIDE, ROUNDS = 192, 8  # a chain of matrix products, float32 [SIDE, SIDE], 1.5 ms: a call costs little beside them
SLOWER = 1.5
TRIALS_A_START = 10
WRONG_MOST = 0.01  # of a release against itself
CAUGHT_LEAST = 0.99  # of one that is 1.5 times slower


def main() -> int:
    """Run the trials, print a table, and leave the figures as JSON where ``--json PATH`` says.

    Returns:
        1 where a bar is missed.
    """
    parser = argparse.ArgumentParser(prog="bench.gates")
    parser.add_argument("--trials", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=1, help="of the bursts of other work")
    parser.add_argument("--quiet", action="store_true", help="no other work of our own beside it")
    parser.add_argument("--json", type=Path, help="where to leave the figures")
    chosen = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    others = [] if chosen.quiet else [multiprocessing.Process(target=_bursts, args=(chosen.seed,), daemon=True)]
    for other in others:
        other.start()
    try:
        with tempfile.TemporaryDirectory(prefix="surefoot-bench-") as folder:
            active = _lay_down(ROUNDS, Path(folder) / "active")
            slower = _lay_down(int(ROUNDS * SLOWER), Path(folder) / "slower")
            for name, candidate in (("against itself", active), (f"{SLOWER:g} times slower", slower)):
                found[name] = asyncio.run(_trials(active, candidate, chosen.trials))
    finally:
        for other in others:
            other.terminate()
    load = os.getloadavg()[0]
    print(f"{machine()}; limit {LIMIT:g}, seed {chosen.seed}, load average at the end {load:.1f}\n")
    print(f"{'':<18}{'trials':>8}{'failed':>8}{'passed':>8}{'deferred':>10}{'pairs':>8}{'ratio':>8}{'s each':>8}")
    for name, row in found.items():
        print(
            f"{name:<18}{row['trials']:>8}{row['failed']:>8}{row['passed']:>8}{row['deferred']:>10}"
            f"{row['pairs']:>8.0f}{row['ratio']:>8.2f}{row['seconds']:>8.2f}"
        )
    if chosen.json:
        chosen.json.write_text(
            json.dumps({"machine": machine(), "load": load, "limit": LIMIT, "results": found}, indent=1)
        )
    itself, other_one = found.values()
    wrong, caught = itself["failed"] / itself["trials"], other_one["failed"] / other_one["trials"]
    print(f"\nwrongly failed {wrong:.1%} (at most {WRONG_MOST:.0%}), caught {caught:.1%} (at least {CAUGHT_LEAST:.0%})")
    return 0 if wrong <= WRONG_MOST and caught >= CAUGHT_LEAST else 1


def _lay_down(rounds: int, directory: Path) -> Load:
    """A release in a folder, as in a slot."""
    zeros = bytes(4 * SIDE * SIDE)
    case = golden.Case("zeros", {"y": [0.0] * SIDE * SIDE}, inputs={"x": golden.RawTensor("FP32", (SIDE, SIDE), zeros)})
    files = {
        "model.onnx": tiny_onnx.slow(rounds, SIDE),
        "golden.msgpack": golden.encode([case]),
        "card.md": b"# A chain of matrix products\n",
    }
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    variant = Variant(
        id="onnx",
        device_classes=("generic-amd64",),
        runtime="onnxruntime",
        artifact=_file("model.onnx", files),
        inputs=(Tensor(name="x", datatype="FP32", shape=(SIDE, SIDE)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(SIDE, SIDE)),),
        tolerance=Tolerance(output=0.001),
    )
    release = Manifest(
        name="chain",
        version="1.0.0",
        created="2026-01-01T00:00:00Z",
        variants=(variant,),
        golden=Golden(file=_file("golden.msgpack", files), cases=1),
        card=Card(file=_file("card.md", files), data="none", limits="a benchmark", fails_where="everywhere"),
    )
    data = manifest.encode(release)
    (directory / manifest.FILE_NAME).write_bytes(data)
    return Load(str(directory), "", manifest.digest(data), variant.id, threads=1)


def _file(name: str, files: dict[str, bytes]) -> File:
    return File(name=name, sha256=hashlib.sha256(files[name]).hexdigest(), length_bytes=len(files[name]))


async def _trials(active: Load, candidate: Load, trials: int) -> dict[str, float]:
    decisions: list[str] = []
    pairs: list[int] = []
    ratios: list[float] = []
    began_s = time.monotonic()
    while len(decisions) < trials:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(opened(active, 60.0))
            second = await stack.enter_async_context(opened(candidate, 60.0))
            for _ in range(min(TRIALS_A_START, trials - len(decisions))):
                bench = Bench(Gate(), lambda: "", rest_most_s=0.0)
                decision = "open"
                for total in LOOKS:
                    await bench.pairs(first.worker, second.worker, total)
                    decision = judge_ratio(bench.pace, LIMIT)
                    if decision != "open":
                        break
                interval = ratio_interval(bench.pace)
                decisions.append(decision)
                pairs.append(len(bench.pace.active_ms))
                ratios.append((interval.low * interval.high) ** 0.5)
        print(f"  {len(decisions)} of {trials}: {decisions.count('failed')} failed", end="\r", file=sys.stderr)
    return {
        "trials": trials,
        "failed": decisions.count("failed"),
        "passed": decisions.count("passed"),
        "deferred": decisions.count("open"),
        "pairs": sum(pairs) / trials,
        "ratio": sorted(ratios)[trials // 2],
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        "seconds": (time.monotonic() - began_s) / trials,
    }


def _bursts(seed: int) -> None:
    """Other work: a CPU taken whole for 5 to 200 ms, then left for as long, until the end."""
    chance = random.Random(seed)
    while True:
        until_s = time.monotonic() + chance.uniform(0.005, 0.2)
        while time.monotonic() < until_s:
            pass
        time.sleep(chance.uniform(0.005, 0.2))


if __name__ == "__main__":
    sys.exit(main())
