"""Debian's own security updates on a sealed device, a kernel among them; and the power that goes in the middle."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.parts import asking
from tests.system.conftest import Sealing
from tests.system.sealing import SERVES, UPDATES, Device, Sealed
from tests.system.test_sealed_root import STATE
from tests.system.writes import mounted
from tests.told import Told

pytestmark = [pytest.mark.vm, pytest.mark.timeout(6 * 3600)]
CUTS = int(os.environ.get("SUREFOOT_VM_MAINTENANCE_CUTS", "6"))
SEED = int(os.environ.get("SUREFOOT_SEED", "20250601"))


@pytest.fixture(scope="session")
def data_with_updates(sealed_disks: Sealed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed device's data disk with a repository of what it lacks, as an operator's mirror would have it."""
    folder = tmp_path_factory.mktemp("updates")
    disk = folder / "data.img"
    subprocess.run(["cp", "--sparse=always", sealed_disks.data, disk], check=True)
    if shutil.which("apt-ftparchive") is None:
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "apt-utils"], check=True)
    debs = folder / "debs"
    (debs / "partial").mkdir(parents=True)
    options = [
        f"Dir::State::status={sealed_disks.folder / 'status'}", f"Dir::Cache::archives={debs}",
        "Debug::NoLocking=1", "APT::Sandbox::User=root", "APT::Install-Recommends=false",
    ]  # fmt: skip
    line = ["apt-get", "-y", "-qq", *(word for each in options for word in ("-o", each))]
    subprocess.run([*line, "--download-only", "dist-upgrade"], check=True, capture_output=True, timeout=900)
    with mounted(disk, folder / "at") as at:
        mirror = at / Path(UPDATES).relative_to("/data")
        mirror.mkdir(exist_ok=True)
        for deb in debs.glob("*.deb"):
            shutil.move(deb, mirror / deb.name)
        packages = subprocess.run(["apt-ftparchive", "packages", "."], cwd=mirror, check=True, capture_output=True)
        (mirror / "Packages").write_bytes(packages.stdout)
        suite = ["-o", "APT::FTPArchive::Release::Suite=bookworm-security"]
        line = ["apt-ftparchive", *suite, "release", "."]
        release = subprocess.run(line, cwd=mirror, check=True, capture_output=True)
        (mirror / "Release").write_bytes(release.stdout)
        assert list(mirror.glob("linux-image-6*.deb")), "no newer kernel is to be had"
    return disk


def _serves_sealed(device: Device) -> None:
    device.machine.wait(SERVES)
    assert device.machine.run(STATE) == "read-only"
    assert asking.ask(device.machine.host)["version"] == "1.0.0"


def test_a_sealed_device_gets_a_kernel_and_is_sealed_again(
    sealed_device: Sealing, data_with_updates: Path, told: Told
) -> None:
    device = sealed_device(boots=True, data=data_with_updates)
    machine = device.machine.start()
    machine.wait(SERVES)
    before = machine.run("uname -r")
    refused = device.play("maintain")
    assert refused.status != 0 and "two reboots are needed" in refused.said, refused.out
    assert machine.run("ls /boot/surefoot 2>&1", check=False).startswith("ls:")

    began = time.monotonic()
    device.good("maintain", maintenance_reboot=True)
    took_s = time.monotonic() - began
    after = machine.run("uname -r")
    assert after != before
    _serves_sealed(device)
    assert device.good("maintain", maintenance_reboot=True).changed == []
    machine.reboot()
    _serves_sealed(device)
    assert machine.run("uname -r") == after
    print(f"from {before} to {after}, sealed again, in {took_s:.0f} s")
    told("maintenances of a sealed device", 1)


def test_a_kernel_that_does_not_start_leaves_the_one_that_served(
    sealed_device: Sealing, data_with_updates: Path
) -> None:
    device = sealed_device(boots=True, data=data_with_updates)
    machine = device.machine.start()
    machine.wait(SERVES)
    before = machine.run("uname -r")
    # A hook that a bad package may bring: every initramfs that is made is one that stops at once.
    play = device.controller.begin("maintain", inventory=device.inventory, maintenance_reboot=True)
    machine.wait("grep -q overlayroot=disabled /proc/cmdline", within_s=900)
    machine.run(
        "hook=/etc/initramfs/post-update.d/bad; mkdir -p $(dirname $hook) && "
        "printf '#!/bin/sh\\n: >\"$2\"\\n' >$hook && chmod +x $hook"
    )
    deadline = time.monotonic() + 1800
    while "Kernel panic" not in machine.tail(20000) and time.monotonic() < deadline and play.poll() is None:
        time.sleep(2)
    assert "Kernel panic" in machine.tail(20000), "the bad initramfs was never booted"
    play.terminate()
    play.wait()
    machine.pull_the_plug()
    machine.start()
    _serves_sealed(device)
    assert machine.run("uname -r") == before


def test_wherever_the_power_goes_in_a_maintenance_the_device_serves_sealed(
    sealed_device: Sealing, data_with_updates: Path, told: Told
) -> None:
    chance = random.Random(SEED)
    device = sealed_device(boots=True, data=data_with_updates)
    machine = device.machine.start()
    machine.wait(SERVES)
    for cut in range(CUTS):
        play = device.controller.begin("maintain", inventory=device.inventory, maintenance_reboot=True)
        time.sleep(chance.uniform(20, 500))
        machine.pull_the_plug()
        play.terminate()
        play.wait()
        machine.start()
        machine.wait(SERVES)
        state = machine.run(STATE)
        if state == "writable":  # the choice of one boot was made, and that boot was this
            machine.reboot()
        _serves_sealed(device)
        print(f"cut {cut + 1} of {CUTS} in a maintenance: {state}, serves {machine.run('uname -r')}")
        told("power cuts of a maintenance", 1)
    device.good("maintain", maintenance_reboot=True)
    _serves_sealed(device)
