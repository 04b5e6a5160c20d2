"""The real process on the real disk, killed at random."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

from surefoot.slots.store import Store
from tests.app.slots import kit
from tests.crash.cuts import FastDisk, holds_together, next_update_works, open_plain
from tests.told import Told

KILLS = 200 if os.environ.get("SUREFOOT_FULL") == "1" else 10


def test_a_process_killed_at_random_leaves_a_device_that_serves_and_goes_on(tmp_path: Path, told: Told) -> None:
    seed = int(os.environ.get("SUREFOOT_SEED", str(random.SystemRandom().randrange(1 << 30))))
    print(f"seed {seed}")
    chance = random.Random(seed)
    folder = tmp_path / "device"
    kit.deploy(open_plain(folder, FastDisk()), kit.make_release(tmp_path, "0.1.0"))
    for _ in range(KILLS):
        before = _store(folder).read()
        acknowledged = _run_and_kill(folder, chance)
        state = holds_together(_store(folder), before, folder)
        assert state.generation >= acknowledged, "what was acknowledged is lost"
    next_update_works(_store(folder), kit.make_release(tmp_path, "999999.0.0"))
    told("processes killed at random", KILLS)


def _store(folder: Path) -> Store:
    return open_plain(folder, FastDisk())


def _run_and_kill(folder: Path, chance: random.Random) -> int:
    """Returns the generation that the process spoke of last."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.cycling", str(folder), str(chance.randrange(1 << 30))],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert process.stdout is not None
    last = 0
    for _ in range(chance.randrange(1, 6)):
        last = int(process.stdout.readline())
    timer = threading.Timer(chance.random() * 0.05, process.kill)  # the moment is the point, not a wait for anything
    timer.start()
    for line in process.stdout:
        last = int(line) if line.endswith("\n") else last
    process.wait()
    timer.cancel()
    return last
