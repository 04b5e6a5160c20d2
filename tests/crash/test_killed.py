"""Real processes on the real disk, killed: at random, and before each primitive of each operation."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from surefoot.durable import Disk
from surefoot.slots.store import Store
from tests.app.slots import kit
from tests.crash.conftest import Releases
from tests.crash.cuts import Copied, FastDisk, holds_together, next_update_works, open_plain
from tests.crash.test_cuts import CASES
from tests.told import Told

KILLS = 200 if os.environ.get("SUREFOOT_FULL") == "1" else 10


def test_a_process_killed_at_random_leaves_a_device_that_serves_and_goes_on(tmp_path: Path, told: Told) -> None:
    seed = int(os.environ["SUREFOOT_SEED"])
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


class Killing(Disk):
    """Kills its own process before primitive ``at``: by the kernel, in the middle of whatever it was at."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self, primitive: str, path: Path) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("name", CASES)
def test_a_process_killed_before_any_primitive_of_any_operation_leaves_the_old_or_the_new(
    name: str, device: Callable[..., Path], releases: Releases, scratch: Path, told: Told
) -> None:
    """Real fsyncs, real locks that go with the process, and every state of a slot on the way."""
    case = CASES[name]
    prepared = case.start(device, releases)
    before = _store(prepared).read()
    kills = 0
    while True:
        with Copied(prepared, scratch / "killed") as folder:
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    case.operation(kit.open_store(folder, Killing(kills), boot="boot-1"), releases)
                os._exit(0)
            _, ended = os.waitpid(pid, 0)
            state = holds_together(_store(folder), before, folder, lifts=case.lifts)
            if not os.WIFSIGNALED(ended):
                break
            assert kit.serving(_store(folder)) in case.serving, (kills, state)
            next_update_works(_store(folder), releases["9.0.0"])
            kills += 1
    told("processes killed, one before each primitive", kills)
    assert kills >= 5


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
