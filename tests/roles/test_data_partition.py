"""Where a device's data goes, and what is never formatted: the rules of data_partition, on plain values."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "roles" / "data_partition" / "files" / "survey.py"
spec = importlib.util.spec_from_file_location("data_partition_survey", FILE)
assert spec
assert spec.loader
survey: Any = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = survey  # dataclasses look their own module up
spec.loader.exec_module(survey)

GIB = 1 << 30
OPTIONS = ["noatime", "data=ordered", "barrier", "errors=remount-ro"]
WANTED = survey.Wanted(
    kind="partition", mount_point="/data", label="surefoot-data", uuid="", disk="", device="", format_device="",
    create=False, size_bytes=0, least_bytes=GIB, options=OPTIONS, unit="data.mount",
)  # fmt: skip
CARD = "/dev/mmcblk0"
ROOT = survey.Device(f"{CARD}p2", CARD, 8 * GIB, "ext4", "rootfs", "r", "ext4", "mounted at /", True)
WHOLE = survey.Device(CARD, CARD, 32 * GIB, "dos", holds="dos", used="in use")
EMPTY = survey.Device(f"{CARD}p3", CARD, 23 * GIB, linux=True)
OURS = replace(EMPTY, type="ext4", label="surefoot-data", uuid="u", holds="ext4 with the label surefoot-data")
HOME = replace(EMPTY, type="ext4", label="home", uuid="h", holds="ext4 with the label home")
ON_ROOT = survey.Mount(ROOT.path, "ext4", "/", ["rw", *OPTIONS])
FULL = survey.Disk(CARD, 32 * GIB, "dos", 0, f"{CARD}p3", "")
ROOMY = replace(FULL, free_bytes=23 * GIB)


def seen(*devices: Any, disk: Any = FULL, **more: Any) -> Any:
    return survey.Seen(**{"mounted": None, "below": ON_ROOT, "devices": [WHOLE, ROOT, *devices], "disk": disk, **more})


def mounted(*options: str, source: str = OURS.path, kind: str = "ext4") -> Any:
    return survey.Mount(source, kind, "/data", ["rw", *options])


def decide(found: Any, **wanted: Any) -> tuple[str, str]:
    """The action and the device."""
    plan = survey.decide(replace(WANTED, **wanted), found)
    return plan.action, plan.device


def reason(found: Any, **wanted: Any) -> str:
    plan = survey.decide(replace(WANTED, **wanted), found)
    assert plan.action == "refuse"
    return str(plan.problem)


def test_a_file_system_with_the_label_is_taken_as_it_is() -> None:
    assert decide(seen(OURS)) == ("take", OURS.path)


def test_a_device_named_for_formatting_is_not_formatted_once_it_is_ours() -> None:
    assert decide(seen(OURS), format_device=OURS.path, device=OURS.path) == ("take", OURS.path)


def test_the_only_empty_partition_of_the_roots_disk_is_formatted() -> None:
    assert decide(seen(EMPTY)) == ("format", EMPTY.path)


def test_an_empty_partition_that_is_not_for_linux_is_a_boot_loaders_and_left_alone() -> None:
    assert decide(seen(replace(EMPTY, linux=False)))[0] == "refuse"


def test_an_empty_partition_of_another_disk_is_left_alone() -> None:
    assert decide(seen(replace(EMPTY, path="/dev/sda1", disk="/dev/sda")))[0] == "refuse"


def test_two_empty_partitions_are_one_too_many() -> None:
    other = replace(EMPTY, path=f"{CARD}p4")
    assert "Name one by data_partition_device" in reason(seen(EMPTY, other))
    assert decide(seen(EMPTY, other), device=other.path) == ("format", other.path)


@pytest.mark.parametrize("holds", ["ext4 with the label home", "crypto_LUKS", "gpt", "data of an unknown kind"])
def test_what_holds_data_is_formatted_only_if_it_is_named(holds: str) -> None:
    found = seen(replace(HOME, label="", holds=holds))
    for wanted in ({}, {"device": HOME.path}, {"device": HOME.path, "format_device": ROOT.path}):
        assert decide(found, **wanted)[0] == "refuse"
    assert f"{holds}. If that may be lost: data_partition_format_device={HOME.path}" in reason(found)
    assert decide(found, format_device=HOME.path) == ("format", HOME.path)


@pytest.mark.parametrize("used", ["mounted at /", "used as swap", "in use"])
def test_what_is_in_use_is_not_formatted_by_name_either(used: str) -> None:
    found = replace(HOME, used=used)
    assert decide(seen(found), format_device=found.path)[0] == "refuse"
    assert used in reason(seen(found), format_device=found.path, device=found.path)


def test_a_disk_without_room_is_refused_with_what_there_is_and_what_prevents_it() -> None:
    text = reason(seen(), create=True)
    assert f"{CARD} has 32768 MiB, of which 0 MiB belong to no partition" in text
    assert "surefoot device seed --root-size" in text


def test_a_partition_is_made_only_if_asked_for() -> None:
    assert "data_partition_create: true" in reason(seen(disk=ROOMY))
    assert decide(seen(disk=ROOMY), create=True) == ("create", f"{CARD}p3")


def test_no_partition_is_made_over_what_an_older_one_held() -> None:
    disk = replace(ROOMY, free_holds="ext4")
    assert "someone's data where no partition is" in reason(seen(disk=disk), create=True)
    assert decide(seen(disk=disk), create=True, format_device=disk.next) == ("create", disk.next)


def test_a_full_partition_table_is_refused() -> None:
    assert "takes no further partition" in reason(seen(disk=replace(ROOMY, next="")), create=True)


def test_nothing_is_made_that_is_smaller_than_asked_for() -> None:
    assert decide(seen(disk=replace(ROOMY, free_bytes=2 * GIB)), create=True, size_bytes=4 * GIB)[0] == "refuse"
    assert decide(seen(replace(EMPTY, size_bytes=GIB - 1)))[0] == "refuse"


def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    assert ROOT.path in reason(seen(), device="/dev/sdz")


def test_two_file_systems_with_the_label_are_refused_until_one_is_named() -> None:
    stick = replace(OURS, path="/dev/sda1", disk="/dev/sda", uuid="s")
    assert "/dev/sda1" in reason(seen(OURS, stick))
    assert decide(seen(OURS, stick), uuid="s") == ("take", "/dev/sda1")


def test_ours_with_another_file_system_is_someones_data() -> None:
    assert decide(seen(replace(OURS, type="vfat")))[0] == "refuse"


def test_ours_that_is_mounted_elsewhere_is_refused() -> None:
    assert "mounted at /srv" in reason(seen(replace(OURS, used="mounted at /srv")))


def test_a_folder_that_a_mount_would_hide_is_refused() -> None:
    assert "docker" in reason(seen(OURS, content=["docker"]))


def test_a_line_in_fstab_is_refused() -> None:
    assert "LABEL=x /data ext4" in reason(seen(OURS, fstab="LABEL=x /data ext4"))


def test_options_that_can_be_put_right_are_found_one_by_one() -> None:
    found = mounted("relatime", "data=ordered", "nobarrier", "errors=continue")
    plan = survey.decide(WANTED, seen(OURS, mounted=found))
    assert (plan.action, plan.wrong) == ("take", ["noatime", "barrier", "errors=remount-ro"])


@pytest.mark.parametrize("mode", ["data=writeback", "data=journal"])
def test_a_mode_that_the_kernel_does_not_change_is_refused(mode: str) -> None:
    found = mounted("noatime", mode, "barrier", "errors=remount-ro")
    assert f"mounted with {mode}, expected data=ordered" in reason(seen(OURS, mounted=found))


def test_a_file_system_that_became_read_only_by_an_error_is_not_mounted_for_writing_again() -> None:
    found = survey.Mount(OURS.path, "ext4", "/data", ["ro", *OPTIONS])
    assert "e2fsck" in reason(seen(OURS, mounted=found))


def test_something_else_at_the_mount_point_is_refused() -> None:
    assert "is not the file system with the label" in reason(seen(HOME, mounted=mounted(*OPTIONS, source=HOME.path)))
    assert decide(seen(OURS, mounted=mounted(*OPTIONS, kind="tmpfs")))[0] == "refuse"


@pytest.mark.parametrize(
    ("below", "words"),
    [
        (survey.Mount("tmpfs", "tmpfs", "/data", ["rw"]), "which a restart empties"),
        (survey.Mount("overlayroot", "overlay", "/", ["rw"]), "which a restart empties"),
        (survey.Mount("/dev/sda1", "ext4", "/", ["rw", "data=writeback", "barrier"]), "with data=writeback"),
        (survey.Mount("/dev/sda1", "ext4", "/", ["rw", "data=ordered", "nobarrier"]), "with nobarrier"),
        (survey.Mount("/dev/sda1", "ext4", "/", ["ro", *OPTIONS]), "with ro"),
    ],
)
def test_a_directory_that_keeps_nothing_is_refused(below: Any, words: str) -> None:
    assert words in reason(survey.Seen(None, below), kind="directory")


def test_a_directory_is_taken_with_what_it_lacks() -> None:
    below = survey.Mount("/dev/vda", "ext4", "/", ["rw", "relatime", "data=ordered", "barrier", "errors=continue"])
    plan = survey.decide(replace(WANTED, kind="directory"), survey.Seen(None, below))
    assert (plan.action, plan.wrong) == ("take", [])
    assert plan.report.endswith("(/dev/vda, mounted at /), without noatime, errors=remount-ro")
