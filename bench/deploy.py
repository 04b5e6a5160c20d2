"""`make bench-deploy`: how long deploy.yml takes a device that lacks nothing, against its bar.

Devices are containers that systemd booted, reached over SSH with pipelining as an operator reaches them, one with each
engine. A first run brings them there. Then the same run, with nothing to do, is timed: for each alone, and for both.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.parts import docker, hosts
from tests.roles.controller import Controller
from tests.roles.fleet import Fleet

BAR_S = 3.0  # a device
RUNS = 5
ENGINES = ("docker", "systemd")


def timed(fleet: Fleet, *arguments: str) -> tuple[float, int]:
    """Seconds of one run of deploy.yml, and how many tasks it had.

    Raises:
        AssertionError: it failed, or changed something: then it is no run with nothing to do.
    """
    start = time.monotonic()
    played = fleet.good("deploy", *arguments)
    elapsed_s = time.monotonic() - start
    assert played.changes == set(), f"this run had something to do: {played.changes}"
    return elapsed_s, played.tasks


def main() -> int:
    """Measure, print, and say where the bar was missed."""
    engine = docker.start()
    hosts.prepare(engine)
    folder = Path(tempfile.mkdtemp(prefix="sf-"))
    fleet = Fleet(engine, Controller(folder, timeout_s=900), "bench-deploy")
    try:
        for name in ENGINES:
            fleet.add(name, name)
        for playbook in ("provision", "deploy"):
            fleet.good(playbook)
        rows = {}
        for limit in (*ENGINES, ",".join(ENGINES)):
            runs = [timed(fleet, "--limit", limit) for _ in range(RUNS)]
            rows[limit] = (statistics.median(each[0] for each in runs) / len(limit.split(",")), runs)
    finally:
        fleet.down()
        shutil.rmtree(folder)
    busy = os.getloadavg()[0]
    print(f"deploy.yml with nothing to do, on {platform.node()}: {os.cpu_count()} cores, load {busy:.1f}")
    for limit, (median_s, runs) in rows.items():
        each = " ".join(f"{seconds:.1f}" for seconds, _ in runs)
        print(f"  {limit:<16} {median_s:5.1f} s a device (at most {BAR_S:.0f}), {runs[0][1]} tasks; whole runs: {each}")
    if "--json" in sys.argv:
        figures = {limit: {"median_s": row[0], "runs_s": [each[0] for each in row[1]]} for limit, row in rows.items()}
        Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({**figures, "load": busy}))
    return 0 if all(median_s <= BAR_S for median_s, _ in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
