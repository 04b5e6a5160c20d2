"""A root that is sealed: what a boot takes back, what lives on, and what is said where it could not be sealed."""

from __future__ import annotations

import pytest

from tests.parts import asking
from tests.roles.fleet import MODEL
from tests.system.conftest import Sealing
from tests.system.sealing import SERVES, Device
from tests.system.writes import mounted

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]
STATE = "/usr/local/lib/surefoot/root-state"
# Who a device is, and what it knows of the outside. Its own keys, not their dates.
LASTING = (
    "cat /etc/machine-id /etc/hostname /etc/ssh/ssh_host_*.pub; "
    "for each in /var/lib/systemd/random-seed /var/lib/systemd/timesync /etc/netplan; do "
    "findmnt --noheadings --raw --output FSROOT --mountpoint $each; done; "
    "cat /etc/netplan/*"
)


def test_a_boot_takes_back_what_was_written_to_the_root_and_keeps_the_rest(sealed_device: Sealing) -> None:
    device = sealed_device()
    machine = device.machine
    assert machine.run("findmnt --noheadings --raw --output SOURCE,FSTYPE /") == "overlayroot overlay"
    assert machine.run("findmnt --noheadings --raw --output OPTIONS /media/root-ro").split(",")[0] == "ro"
    assert machine.run(STATE) == "read-only"
    lasting = machine.run(LASTING)
    assert lasting.count("/system/") == 3, lasting
    machine.run("echo by hand >/etc/by-hand; echo by hand >/data/by-hand; rm /etc/hostname; sync")
    machine.run("head -c 512 /dev/urandom >/var/lib/systemd/random-seed; md5sum /var/lib/systemd/random-seed")

    machine.reboot()
    machine.wait(SERVES)

    assert machine.run("ls /etc/by-hand", check=False) == ""
    assert machine.run("cat /data/by-hand") == "by hand"
    assert machine.run(LASTING) == lasting
    assert asking.ask(machine.host)["version"] == "1.0.0"


def test_what_a_playbook_reported_is_so_after_a_boot(sealed_device: Sealing) -> None:
    device = sealed_device()
    provisioned = device.good("provision")
    assert provisioned.changed == []
    device.good("deploy", surefoot_version="2.0.0")
    assert asking.ask(device.machine.host)["version"] == "2.0.0"
    _is_the_same_after_a_boot(device, "2.0.0")
    device.good("rollback")
    _is_the_same_after_a_boot(device, "1.0.0")
    assert device.good("status").said.count("read-only") >= 1
    refused = device.play("maintain")
    assert refused.status != 0 and "Nothing was changed" in refused.said


def _is_the_same_after_a_boot(device: Device, version: str) -> None:
    before = device.status()
    device.machine.reboot()
    device.machine.wait(SERVES)
    after = device.status()
    assert asking.ask(device.machine.host)["version"] == version
    for what in ("slots", "active", "lineage", "floor", "held", "quarantine", "trial"):
        assert after.get(what) == before.get(what), what


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param("rm -f usr/bin/busybox bin/busybox", id="no busybox"),
        pytest.param("find . -name overlay.ko -delete", id="no overlay module"),
    ],
)
def test_an_initramfs_that_cannot_seal_the_root_leaves_a_device_that_says_so(
    sealed_device: Sealing, mutant: str
) -> None:
    device = sealed_device()
    machine = device.machine
    # As a later update of a package would leave it: what is under the overlay is not touched, /boot is of its own.
    machine.run(
        "set -e; cd $(mktemp -d); initramfs=$(echo /boot/initrd.img-*-amd64); "
        "unmkinitramfs $initramfs .; if [ -d main ]; then cd main; fi; "
        f"{mutant}; find . | cpio --quiet --create --format=newc | gzip -1 >/boot/new; mv /boot/new $initramfs; sync",
        timeout_s=600,
    )
    machine.reboot()
    machine.wait(SERVES)
    assert machine.run("findmnt --noheadings --raw --output FSTYPE /") == "ext4"
    assert machine.run(STATE) == "writable"
    assert asking.ask(machine.host)["version"] == "1.0.0"
    said = device.play("provision")
    assert said.status != 0
    assert "this boot should have sealed the root and did not" in said.said


def test_a_device_without_its_data_can_be_reached_and_says_what_is_missing(sealed_device: Sealing) -> None:
    device = sealed_device(boots=True, data=None)
    machine = device.machine.start()
    machine.wait()
    assert machine.run(STATE) == "read-only"
    assert machine.run("findmnt --noheadings --mountpoint /data", check=False) == ""
    assert "data.mount" in machine.run("systemctl list-units --failed --plain --no-legend; systemctl list-jobs")
    refused = device.play("deploy")
    assert refused.status != 0


def test_a_full_data_disk_takes_no_model_away(sealed_device: Sealing) -> None:
    device = sealed_device()
    machine = device.machine
    machine.run("dd if=/dev/zero of=/data/filler bs=1M 2>/dev/null; sync; df /data", check=False, timeout_s=600)
    with pytest.raises(AssertionError, match=r"No space left|no room|not enough"):
        device.install("2.0.0")
    machine.reboot()
    machine.wait(SERVES)
    assert machine.run(STATE) == "read-only"
    assert asking.ask(machine.host)["version"] == "1.0.0"
    machine.run("rm /data/filler")
    device.install("2.0.0")


def test_a_data_disk_that_was_not_unmounted_is_mended_at_the_boot(sealed_device: Sealing) -> None:
    device = sealed_device()
    machine = device.machine
    machine.run("dd if=/dev/urandom of=/data/big bs=1M count=64 2>/dev/null; rm /data/big")
    machine.pull_the_plug()
    machine.start()
    machine.wait(SERVES)
    assert asking.ask(machine.host)["version"] == "1.0.0"
    machine.shut_down()
    with mounted(machine.data_disk, machine.folder / "at", "loop,ro") as at:
        assert (at / "surefoot" / "models" / MODEL).is_dir()
