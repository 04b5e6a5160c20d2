"""What a sealed device writes to its data disk: every sector counted by the kernel, each write traced to a process."""

from __future__ import annotations

import os
import re
import time

import pytest

from tests.parts import asking
from tests.parts.machine import Machine
from tests.system.conftest import Sealing
from tests.system.sealing import SERVES
from tests.told import Told

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]
SECTOR_BYTES = 512  # of /sys/block/*/stat, whatever the disk's are
SETTLE_S = 300
SPELL_S = int(os.environ.get("SUREFOOT_WEAR_S", "600"))
IDLE_BYTES, SERVING_BYTES = 8 << 10, 64 << 10  # at most, in ten minutes


def _written(machine: Machine) -> int:
    """Bytes since the boot, after whatever waits has been written."""
    return int(machine.run("sync; cat /sys/block/vdb/stat").split()[6]) * SECTOR_BYTES


def _who(machine: Machine) -> str:
    """Who wrote to the data disk since :func:`_watch`: a line for each process, with its sectors."""
    lines = machine.run("cat /sys/kernel/tracing/trace | grep block_rq_issue; true").splitlines()
    found: dict[str, int] = {}
    for line in lines:
        seen = re.search(r"^\s*(.+)-\d+\s.*block_rq_issue: (\d+,\d+) (\w+) \d+ \(\) \d+ \+ (\d+)", line)
        if seen and "W" in seen.group(3) and seen.group(2) == "254,16":
            found[seen.group(1).strip()] = found.get(seen.group(1).strip(), 0) + int(seen.group(4))
    return ", ".join(f"{name} {sectors} sectors" for name, sectors in sorted(found.items())) or "nobody"


def _watch(machine: Machine) -> None:
    machine.run(
        "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; cd /sys/kernel/tracing && "
        "echo 0 >tracing_on && echo >trace && echo 1 >events/block/block_rq_issue/enable && echo 1 >tracing_on"
    )


def test_an_idle_device_wears_nothing_and_one_that_serves_next_to_nothing(sealed_device: Sealing, told: Told) -> None:
    device = sealed_device(boots=True)
    machine = device.machine.start()
    machine.wait(SERVES)
    time.sleep(SETTLE_S)
    _watch(machine)
    before = _written(machine)
    time.sleep(SPELL_S)
    idle = _written(machine) - before
    print(f"idle, {SPELL_S} s: {idle} bytes written by {_who(machine)}")
    _watch(machine)
    before = _written(machine)
    until, asked = time.monotonic() + SPELL_S, 0
    with asking.forwarded(machine.host) as address:
        while time.monotonic() < until:
            began = time.monotonic()
            asking.ask_at(address)
            asked += 1
            time.sleep(max(0.0, began + len(asking.LABELS) - time.monotonic()))
    serving = _written(machine) - before
    print(f"serving, {asked * len(asking.LABELS)} requests in {SPELL_S} s: {serving} bytes written by {_who(machine)}")
    told("bytes written to the data disk, idle", idle)
    told("bytes written to the data disk, serving", serving)
    assert idle <= IDLE_BYTES
    assert serving <= SERVING_BYTES
