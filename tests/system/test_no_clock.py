"""A device without a clock: it starts in 1970, has no network, and then the time jumps by 56 years."""

from __future__ import annotations

import os
import time

import pytest

from tests.parts import asking
from tests.roles.fleet import MODEL
from tests.system.conftest import Sealing
from tests.system.sealing import SERVES

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]
WITHOUT_S = int(os.environ.get("SUREFOOT_CLOCKLESS_S", "600"))  # how long nobody tells it the time


def test_it_serves_and_its_trial_counts_right_whatever_the_clock_says(sealed_device: Sealing) -> None:
    device = sealed_device(boots=True, clock="1970-01-01T00:00:10")
    machine = device.machine.start()
    machine.wait(SERVES)
    began = time.monotonic()
    # What the device noted before it was switched off keeps it from 1970: that is taken away too.
    machine.run("systemctl stop systemd-timesyncd; date --set=@60")
    assert int(machine.run("date +%s")) < 3600
    machine.run("systemctl restart surefoot")
    machine.wait(SERVES)
    assert asking.ask(machine.host)["version"] == "1.0.0"

    # Signed this year: whether it has expired cannot be told in 1970, and it is newer than what the device believes.
    device.install("2.0.0")
    device.model("activate", MODEL, "--version", "2.0.0")
    trial = device.status()["trial"]
    while time.monotonic() - began < WITHOUT_S:
        assert asking.ask(machine.host)["version"] == "2.0.0"
        time.sleep(15)
    assert device.status()["trial"]["tries"] == trial["tries"], "time alone costs no try"

    uptime_s = float(machine.run("cat /proc/uptime").split()[0])
    machine.run(f"date --set=@{int(time.time())}")
    assert asking.ask(machine.host)["version"] == "2.0.0"
    assert device.status()["trial"]["tries"] == trial["tries"], "nor does a jump of 56 years"
    device.model("confirm", MODEL, "--wait", "60")
    events = machine.run(f"surefoot model history {MODEL} --json")
    assert '"confirm' in events
    assert float(machine.run("cat /proc/uptime").split()[0]) - uptime_s < 300
    device.model("rollback", MODEL)
    assert asking.ask(machine.host)["version"] == "1.0.0"
