"""A watchdog of the machine's hardware: it resets a device whose gateway hangs, and no other."""

from __future__ import annotations

import json
import time

import pytest

from tests.parts import asking
from tests.parts.machine import Machine
from tests.roles.fleet import MODEL
from tests.system.conftest import Sealing
from tests.system.sealing import SERVES
from tests.told import Told

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]
BOOT = "cat /proc/sys/kernel/random/boot_id"
SILENCES = "/data/surefoot/watchdog/silences.jsonl"
RESET_WITHIN_S = 60 + 15 + 300  # watchdog_silence_s, the hardware's own timeout, and a boot


def _hang(machine: Machine) -> None:
    """Stop the gateway's processes where they are: they are there, and answer nothing."""
    machine.run("systemctl kill --signal=STOP surefoot.service")


def test_a_gateway_that_hangs_resets_the_device_and_a_slow_model_does_not(sealed_device: Sealing, told: Told) -> None:
    device = sealed_device(boots=True)
    machine = device.machine.start()
    machine.wait(SERVES)
    first = machine.run(BOOT)
    assert json.loads(machine.run("cat /run/surefoot-watchdog/state.json"))["fed"] is True

    # Slow beyond the time that a silent gateway has: each answer of the disk is kept back while a model is loaded.
    device.install("2.0.0")
    machine.run("systemctl set-property --runtime surefoot.service CPUQuota=3%")
    began = time.monotonic()
    device.model("activate", MODEL, "--version", "2.0.0", check=False, timeout_s=600)
    slow_s = time.monotonic() - began
    machine.run("systemctl set-property --runtime surefoot.service CPUQuota=")
    assert machine.run(BOOT) == first, f"a model that took {slow_s:.0f} s to load was taken for a hang"

    _hang(machine)
    took_s = machine.wait(f'test "$({BOOT})" != {first}', within_s=RESET_WITHIN_S)
    machine.wait(SERVES)
    assert asking.ask(machine.host)["right"] >= 9
    silences = [json.loads(line) for line in machine.run(f"cat {SILENCES}").splitlines()]
    assert silences and silences[-1]["reason"], silences
    assert int(machine.run(f"stat --format %s {SILENCES}")) <= 1 << 20
    print(f"a model that took {slow_s:.0f} s to load: no reset; a gateway that hangs: back after {took_s:.0f} s")
    told("resets by a watchdog", 1)


def test_resets_that_do_not_end_return_to_the_confirmed_model(sealed_device: Sealing, told: Told) -> None:
    device = sealed_device(boots=True)
    machine = device.machine.start()
    machine.wait(SERVES)
    device.install("2.0.0")
    # Confirmed by nobody: each reset is one more start of the trial.
    device.model("activate", MODEL, "--version", "2.0.0")
    assert device.status()["trial"]
    for _ in range(4):
        if not device.status()["trial"]:
            break
        before = machine.run(BOOT)
        machine.run("echo c >/proc/sysrq-trigger & sleep 1", check=False, timeout_s=20)  # a kernel that crashed
        machine.wait(f'test "$({BOOT})" != {before}', within_s=RESET_WITHIN_S)
        machine.wait(SERVES)
        told("resets by a watchdog", 1)
    assert asking.ask(machine.host)["version"] == "1.0.0"
    assert "2.0.0" in device.model("history", MODEL)
