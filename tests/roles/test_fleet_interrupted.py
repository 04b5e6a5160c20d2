"""Playbooks that are killed at any task: the device serves what it served, and the next run brings it to the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.parts import artifacts
from tests.roles.fleet import Fleet

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

# Two states that a deploy goes to and fro between: app, its settings and the model are others.
FIRST = {"surefoot_version": "1.0.0", "inference_app_http_queue_depth": 64}
OTHER = {"surefoot_version": "2.0.0", "inference_app_http_queue_depth": 32}
# What a device may still be at when it is asked again: the command of the run that was killed.
AT_WORK = "another deploy is at work on this device"
MOST_RUNS = 6


def descendants(pid: int) -> list[int]:
    """A process and all that came of it, whatever group they are in."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def kill_at(process: subprocess.Popen[str], task: int, delay_s: float) -> str:
    """Kill a playbook, with all its processes, so long after its so-manieth task began. Returns what it had said."""
    said, seen = [], 0
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        seen += line.startswith(("TASK [", "RUNNING HANDLER ["))
        if seen == task:
            time.sleep(delay_s)
            break
    for pid in descendants(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    process.stdout.close()
    return "".join(said)


def run_to_the_end(fleet: Fleet, playbook: str, **wanted: Any) -> None:
    """Run a playbook again until it completes. Each run before that must say clearly what is in its way."""
    for _ in range(MOST_RUNS):
        played = fleet.play(playbook, **wanted)
        if played.status == 0:
            return
        assert AT_WORK in played.said, played.out
        time.sleep(10)
    raise AssertionError(f"{playbook} did not come to its end in {MOST_RUNS} runs")


def test_a_playbook_that_is_killed_at_ten_tasks_always_completes_and_never_takes_away_what_serves(
    make_fleet: Callable[[str], Fleet],
) -> None:
    seed = int(os.environ.get("SUREFOOT_SEED", random.randrange(1 << 32)))
    print(f"SUREFOOT_SEED={seed}")
    chance = random.Random(seed)
    fleet = make_fleet("test-fleet-killed")
    fleet.add("box-1", "systemd", image="bare")

    # A new device, whose provisioning is killed four times before it may end.
    tasks = fleet.good("provision", "--check").tasks
    for _ in range(4):
        at = chance.randint(1, tasks)
        said = kill_at(fleet.controller.begin("provision", inventory=fleet.inventory), at, chance.uniform(0, 1.5))
        print(f"provision killed at task {at} of {tasks}: {said.strip().splitlines()[-1:]}")
    run_to_the_end(fleet, "provision")
    assert fleet.good("provision").changes == set()

    first = {**FIRST, "inference_app_bundle": str(artifacts.bundle())}
    other = {**OTHER, "inference_app_bundle": str(artifacts.bundle(variant="second"))}
    tasks = fleet.good("deploy", **first).tasks
    assert fleet.serves("box-1") == "1.0.0"
    now, wanted = first, other
    for _ in range(6):
        at = chance.randint(1, tasks)
        process = fleet.controller.begin("deploy", inventory=fleet.inventory, **wanted)
        said = kill_at(process, at, chance.uniform(0, 3))
        print(f"deploy killed at task {at} of {tasks}: {said.strip().splitlines()[-1:]}")
        # Nobody comes to help: what is there answers by itself, old or new.
        assert fleet.serves("box-1") in (now["surefoot_version"], wanted["surefoot_version"])
        run_to_the_end(fleet, "deploy", **wanted)
        assert fleet.serves("box-1") == wanted["surefoot_version"]
        assert fleet.good("deploy", **wanted).changes == set()
        now, wanted = wanted, now
