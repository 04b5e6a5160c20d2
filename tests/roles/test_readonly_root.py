"""Which devices can have a read-only root, and what tells one that only seems to: the rules of readonly_root."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).parents[2] / "roles" / "readonly_root" / "files"
spec = importlib.util.spec_from_file_location("readonly_root_survey", FILES / "survey.py")
assert spec
assert spec.loader
survey: Any = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = survey  # dataclasses look their own module up
spec.loader.exec_module(survey)

KERNEL = "6.12.25+rpt-rpi-v8"
LISTING = [
    "init", "scripts/functions", "scripts/init-bottom/overlayroot", "usr/bin/busybox",
    f"usr/lib/modules/{KERNEL}/kernel/fs/overlayfs/overlay.ko.xz",
]  # fmt: skip
GOOD = survey.read_listing("/boot/firmware/initramfs8", LISTING, [])
WANTED = survey.Wanted(
    enabled=True, releases={"debian": ["12", "13"]}, data_dir="/data", keep_dir="/data/system",
    keep=[], files={}, first_boot_units=[],
)  # fmt: skip
WRITABLE = survey.Seen(system="debian", release="12", data_source="/dev/mmcblk0p3", initramfs=[GOOD])
SEALED = replace(WRITABLE, state="read-only", root_options=["rw", "relatime"], initramfs=[])


def reason(seen: Any, **wanted: Any) -> str:
    return str(survey.decide(replace(WANTED, **wanted), seen))


def test_a_device_with_all_that_overlayroot_needs_is_taken() -> None:
    assert GOOD.lacks == []
    assert reason(WRITABLE) == ""
    assert survey.unmet(WANTED, WRITABLE) == ""


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("usr/bin/busybox", "busybox"),
        ("scripts/init-bottom/overlayroot", "the script overlayroot"),
        (LISTING[-1], f"the module overlay for {KERNEL}"),
    ],
)
def test_an_initramfs_that_leaves_the_root_writable_is_told_by_what_it_lacks(name: str, lacks: str) -> None:
    rest = [each for each in LISTING if each != name] + [f"usr/lib/modules/{KERNEL}/modules.dep"]
    assert survey.read_listing("/boot/x", rest, []).lacks == [lacks]


def test_a_kernel_that_has_overlay_in_itself_needs_no_module() -> None:
    assert survey.read_listing("/boot/x", LISTING[:-1], [KERNEL], KERNEL).lacks == []
    assert survey.read_listing("/boot/x", LISTING[:-1], [], KERNEL).lacks != []


def test_the_initramfs_of_a_raspberry_pi_5_is_looked_at_as_well_as_that_of_a_4() -> None:
    other = survey.read_listing("/boot/firmware/initramfs_2712", ["init", "scripts/functions"], [])
    seen = replace(WRITABLE, set_up=True, initramfs=[GOOD, other])
    assert reason(seen) == ""  # it is built anew, not taken for a boot that failed
    assert [each.path for each in seen.initramfs if each.lacks] == [other.path]


def test_a_boot_that_did_not_seal_the_root_is_noticed() -> None:
    text = reason(replace(WRITABLE, set_up=True, log="Unable to find a driver"))
    assert "should have sealed the root and did not" in text
    assert "Unable to find a driver" in text
    assert reason(replace(WRITABLE, set_up=True, marked=True)) == ""  # that boot has not been yet


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (replace(WRITABLE, release="11"), "found debian 11, expected one of debian 12, 13"),
        (replace(WRITABLE, system="fedora"), "found fedora 12"),
        (replace(WRITABLE, initramfs=[]), "found no initramfs"),
        (replace(WRITABLE, initramfs=[replace(GOOD, tools=False)]), "not built by initramfs-tools"),
        (replace(WRITABLE, tegra=True, initramfs=[replace(GOOD, tools=False)]), "root of this Jetson stays writable"),
        (replace(WRITABLE, loads_initramfs=False), "auto_initramfs=1"),
        (replace(WRITABLE, without_overlay=[KERNEL]), f"{KERNEL} has no overlay"),
        (replace(WRITABLE, command_line="overlayroot=disabled"), "counts more than any file"),
        (replace(WRITABLE, machine_id=False), "systemd-machine-id-setup"),
        (replace(WRITABLE, host_keys=False), "ssh-keygen -A"),
        (replace(WRITABLE, first_boot_units=["regenerate_ssh_host_keys.service"]), "would run at each boot"),
    ],
)
def test_a_device_is_refused_by_name_of_what_stands_against_it(seen: Any, words: str) -> None:
    assert words in reason(seen)


def test_a_jetson_whose_boot_loader_takes_what_initramfs_tools_built_is_taken() -> None:
    assert reason(replace(WRITABLE, tegra=True)) == ""


def test_what_other_roles_do_before_is_named() -> None:
    assert "data_partition comes first" in survey.unmet(WANTED, replace(WRITABLE, data_source=""))
    assert "/var/lib/docker lies on the root" in survey.unmet(WANTED, replace(WRITABLE, on_root=["/var/lib/docker"]))


def test_a_sealed_device_is_left_as_it_is() -> None:
    assert reason(SEALED) == ""


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (replace(SEALED, differs=["/etc/overlayroot.local.conf"]), "would have to change: /etc/overlayroot.local.conf"),
        (replace(SEALED, unbound=["/etc/netplan"]), "/etc/netplan, which is not on the data partition"),
        (replace(SEALED, root_options=["ro", "relatime"]), "nothing can write to /var"),
        (replace(SEALED, state="writable at next boot"), "Reboot it"),
    ],
)
def test_a_sealed_device_where_something_would_have_to_change_is_refused(seen: Any, words: str) -> None:
    assert words in reason(seen)


def test_a_root_is_left_writable_on_any_device_but_one_that_the_kernel_is_told_to_seal() -> None:
    assert reason(survey.Seen(system="fedora", tegra=True), enabled=False) == ""
    assert reason(SEALED, enabled=False) == ""
    assert "Take it out" in reason(replace(SEALED, command_line="overlayroot=tmpfs"), enabled=False)


@pytest.mark.parametrize(
    ("mount", "setting", "marked", "line", "state"),
    [
        ("/dev/vda ext4", "", False, "", "writable"),
        ("overlay overlay", "", False, "", "writable"),  # a container
        ("/dev/vda ext4", 'overlayroot="tmpfs:recurse=0"', True, "", "sealed at next boot"),
        ("/dev/vda ext4", 'overlayroot="tmpfs:recurse=0"', False, "", "writable"),
        ("/dev/vda ext4", 'overlayroot="tmpfs:recurse=0"', True, "overlayroot=disabled", "writable"),
        ("/dev/vda ext4", 'overlayroot=""', True, "", "writable"),
        ("overlayroot overlay", 'overlayroot="tmpfs:recurse=0"', False, "", "read-only"),
        ("overlayroot overlay", "", False, "", "writable at next boot"),
        ("overlayroot overlay", "", False, "overlayroot=tmpfs:recurse=0", "read-only"),
    ],
)
def test_the_state_of_the_root_is_what_the_kernel_says_and_not_what_was_set(
    tmp_path: Path, mount: str, setting: str, marked: bool, line: str, state: str
) -> None:
    """Doubles: findmnt, and the places that the script reads."""
    lower = tmp_path / "lower"
    for root in (tmp_path, lower):
        (root / "etc").mkdir(parents=True)
    (lower if mount.startswith("overlayroot") else tmp_path).joinpath("etc/overlayroot.local.conf").write_text(setting)
    (tmp_path / "cmdline").write_text(f"quiet {line} rootwait\n")
    (tmp_path / "marker").touch() if marked else None
    findmnt = tmp_path / "findmnt"
    findmnt.write_text(f"#!/bin/sh\necho '{mount}'\n")
    findmnt.chmod(0o755)
    script = (FILES / "root-state").read_text()
    for real, double in (
        ("/media/root-ro", str(lower)), ('"$lower/etc', f'"${{lower:-{tmp_path}}}/etc'),
        ("/proc/cmdline", str(tmp_path / "cmdline")), ("/run/surefoot-root", str(tmp_path / "marker")),
    ):  # fmt: skip
        assert real in script
        script = script.replace(real, double)
    done = subprocess.run(
        ["sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{state}\n"


def test_what_is_kept_is_put_back_as_it_is_now(tmp_path: Path) -> None:
    """Without a mount: that is for molecule. A later run finds nothing to move."""
    folder, root = tmp_path / "data", tmp_path / "root"
    (root / "wifi").mkdir(parents=True)
    (root / "wifi" / "old").write_text("old")
    (root / "seed").write_text("old")
    kept = Path(f"{folder}{root}")
    (kept / "wifi").mkdir(parents=True)
    (kept / "wifi" / "new").write_text("new")
    (kept / "seed").write_text("new")
    command = ["sh", FILES / "keep", "undo", folder, root / "wifi", root / "seed", root / "absent"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert first.stdout.split() == [str(root / "wifi"), str(root / "seed")]
    assert [path.name for path in (root / "wifi").iterdir()] == ["new"]
    assert (root / "seed").read_text() == "new"
    assert not folder.exists()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
