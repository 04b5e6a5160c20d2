"""The playbooks on real devices: the first run foretold, the second without a change, and all that can be wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.parts import hosts
from tests.roles.controller import Played
from tests.roles.fleet import Fleet, small_disk

pytestmark = pytest.mark.timeout(1800)


@dataclass(frozen=True)
class FirstDay:
    """Each playbook on a new device: foretold, run, and run again."""

    fleet: Fleet
    foretold: dict[str, Played]
    first: dict[str, Played]
    second: dict[str, Played]


def first_day(fleet: Fleet, name: str) -> FirstDay:
    fleet.good("bootstrap")
    day = FirstDay(fleet, {}, {}, {})
    for playbook in ("provision", "deploy"):
        before = fleet.written(name)
        day.foretold[playbook] = fleet.good(playbook, "--check", "--diff")
        assert fleet.written(name) - before == set()
        day.first[playbook] = fleet.good(playbook, "--diff")
        day.second[playbook] = fleet.good(playbook)
    return day


@pytest.fixture(scope="module")
def venv_day(make_fleet: Callable[[str], Fleet], tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstDay]:
    """One device with the engine `systemd`, as Debian's installer leaves it; afterwards it serves 1.0.0."""
    fleet = make_fleet("test-fleet-venv")
    # A disk with somebody's data, and one with 50 MiB: for the tests of what is refused.
    disk = tmp_path_factory.mktemp("disk") / "home.img"
    with disk.open("wb") as stream:
        stream.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-L", "home", disk], check=True)
    attached = subprocess.run(["losetup", "--find", "--show", disk], check=True, capture_output=True, text=True)
    loop = attached.stdout.strip()
    try:
        with small_disk(tmp_path_factory.mktemp("small") / "data", 56) as small:
            fleet.add("box-1", "systemd", f"--device={loop}", f"--volume={small}:/small", image="bare")
            fleet.run("box-1", f"ln -s {loop} /dev/home-disk")
            yield first_day(fleet, "box-1")
            fleet.down()
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


@pytest.mark.parametrize("playbook", ["provision", "deploy"])
def test_a_dry_run_before_the_first_run_says_what_that_then_changes(venv_day: FirstDay, playbook: str) -> None:
    assert venv_day.foretold[playbook].changes == venv_day.first[playbook].changes
    assert venv_day.first[playbook].changes != set()


@pytest.mark.parametrize("playbook", ["provision", "deploy"])
def test_the_second_run_changes_nothing(venv_day: FirstDay, playbook: str) -> None:
    assert venv_day.second[playbook].changes == set()
    assert venv_day.second[playbook].counts["box-1"]["changed"] == 0


def test_the_device_answers_a_client_outside(venv_day: FirstDay) -> None:
    assert venv_day.fleet.serves("box-1") == "1.0.0"


WRONG: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "the wrong hardware": (
        "provision",
        {"surefoot_roles": ["base", "raspberry_pi"]},
        ["raspberry_pi cannot work here", "Nothing was changed"],
    ),
    "no data partition": (
        "provision",
        {
            "surefoot_roles": ["data_partition"],
            "data_partition_kind": "partition",
            "data_partition_mount_point": "/mnt/data",
        },
        ["data_partition cannot make /mnt/data here", "and no empty partition", "Nothing was changed"],
    ),
    "somebody's data": (
        "provision",
        {
            "surefoot_roles": ["data_partition"],
            "data_partition_kind": "partition",
            "data_partition_mount_point": "/mnt/data",
            "data_partition_device": "/dev/home-disk",
            "data_partition_least_bytes": 1048576,
        },
        ["found someone's data on", "ext4 with the label home", "Nothing was changed"],
    ),
    "50 MB free": (
        "deploy",
        {"inference_app_data_dir": "/small/surefoot"},
        ["the app cannot be brought here", "bytes free at /small/surefoot (expected", "Nothing was changed"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_work_is_refused_and_the_device_serves_on(venv_day: FirstDay, what: str) -> None:
    fleet = venv_day.fleet
    playbook, variables, reasons = WRONG[what]
    disk = fleet.run("box-1", "sha256sum /dev/home-disk")
    refused = fleet.play(playbook, **variables)
    assert refused.status == 2
    assert [reason for reason in reasons if reason not in refused.said] == [], refused.out
    assert refused.changes == set()
    assert fleet.run("box-1", "sha256sum /dev/home-disk") == disk
    assert fleet.serves("box-1", within_s=10) == "1.0.0"


def test_a_release_of_debian_that_is_not_known_is_refused(venv_day: FirstDay) -> None:
    fleet = venv_day.fleet
    fleet.run("box-1", "cp --dereference /etc/os-release /root/ && rm /etc/os-release")
    fleet.run("box-1", "sed 's/12/11/; s/bookworm/bullseye/' /root/os-release >/etc/os-release")
    fleet.run("box-1", "cp /etc/debian_version /root/ && echo 11.9 >/etc/debian_version")
    try:
        refused = fleet.play("provision")
    finally:
        fleet.run("box-1", "cp /root/os-release /etc/os-release; cp /root/debian_version /etc/debian_version")
    assert refused.status == 2
    assert "base cannot work here; found Debian 11" in refused.said
    assert "expected one of Debian 12 or 13" in refused.said
    assert refused.changes == set()
    assert fleet.serves("box-1", within_s=10) == "1.0.0"


def test_without_a_mirror_of_packages_the_reason_is_said_and_with_one_it_goes_on(venv_day: FirstDay) -> None:
    fleet = venv_day.fleet
    # Port 9 of the device itself: nobody listens there.
    proxy = "/etc/apt/apt.conf.d/99unplugged"
    more = {"base_packages": ["ca-certificates", "systemd-timesyncd", "tree"]}
    lines = "".join(f'Acquire::{way}::Proxy "http://127.0.0.1:9";' for way in ("http", "https"))
    fleet.run("box-1", f"echo '{lines}' >{proxy}")
    try:
        failed = fleet.play("provision", **more)
    finally:
        fleet.run("box-1", f"rm {proxy}")
    assert failed.status == 2
    assert "127.0.0.1" in failed.said and "onnect" in failed.said, failed.out
    assert fleet.serves("box-1", within_s=10) == "1.0.0"
    assert ("box-1", "Install packages") in fleet.good("provision", **more).changes
    assert fleet.run("box-1", "command -v tree") == "/usr/bin/tree"


@pytest.mark.full
def test_a_new_device_with_docker_is_foretold_and_changes_nothing_twice(make_fleet: Callable[[str], Fleet]) -> None:
    fleet = make_fleet("test-fleet-docker")
    fleet.add("box-1", "docker", image="bare")
    day = first_day(fleet, "box-1")
    for playbook in ("provision", "deploy"):
        assert day.foretold[playbook].changes == day.first[playbook].changes != set()
        assert day.second[playbook].changes == set()
    assert fleet.serves("box-1") == "1.0.0"


@pytest.mark.full
def test_of_twelve_devices_ten_are_updated_and_two_reported(make_fleet: Callable[[str], Fleet], tmp_path: Path) -> None:
    fleet = make_fleet("test-fleet-of-12")
    names = [f"cam-{number:02}" for number in range(1, 13)]
    away, full = "cam-05", "cam-09"
    kinds = {name: "docker" if name in ("cam-01", "cam-08") else "systemd" for name in names}
    with small_disk(tmp_path / "data", 900) as small:
        fleet.add(full, kinds.pop(full), data=f"--volume={small}:/data")
        fleet.add_many(kinds)
        fleet.good("provision")
        fleet.good("deploy")
        assert {name: fleet.serves(name) for name in names} == dict.fromkeys(names, "1.0.0")

        fleet.engine.docker("pause", hosts.PREFIX + fleet.devices[away].instance)
        fleet.run(full, "fallocate --length $(($(stat --file-system --format '%a * %S' /data) - 1048576)) /data/full")
        played = fleet.play("deploy", surefoot_version="2.0.0")
        fleet.engine.docker("unpause", hosts.PREFIX + fleet.devices[away].instance)
        serve = {name: fleet.serves(name) for name in names}
        fleet.down()
    assert played.status == 2, played.out
    updated = [name for name in names if name not in (away, full)]
    assert serve == {**dict.fromkeys(updated, "2.0.0"), away: "1.0.0", full: "1.0.0"}
    report = " ".join(played.out.partition("PLAY [Report the devices")[2].split())
    assert f"fatal: [{away}]" in report and "left out, and nothing was changed on it: out of reach:" in report
    assert f"fatal: [{full}]" in report and "bytes free (expected more than 16777216)" in report
    assert [name for name in names if played.counts[name]["failed"]] == [away, full]
    assert {device for device, _ in played.changes} == set(updated)
