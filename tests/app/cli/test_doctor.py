"""``surefoot doctor`` on this very machine: a real ext4, a read-only root, no network, no rights."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from surefoot.watch.doctor import live
from tests.boards import NAMES, unpack

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "reference" / "doctor.md"
DOCTOR = [sys.executable, "-m", "surefoot", "doctor", "--json"]


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    assert done.returncode in (0, 4), done.stderr
    seen = json.loads(done.stdout)
    assert (done.returncode == 0) == seen["ok"] == (seen["status"] != "problem")
    return {each["name"]: each for each in seen["findings"]}


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


@pytest.fixture
def alone(needs, tmp_path):
    """Makes the beginning of a command in mounts and a network of its own.

    The root is bound to a folder first: in a chroot ``/`` is no mount that could be made private or read-only.
    """
    needs(sys.platform == "linux" and os.geteuid() == 0, "root on Linux")
    needs(all(map(shutil.which, ("unshare", "setpriv"))), "unshare and setpriv (util-linux)")
    root = tmp_path / "root"
    root.mkdir()
    bind = f"mount --rbind / {root}; mount --make-rprivate {root}; "

    def inside(outer: str, inner: str) -> list[str]:
        """``outer`` sees the new root as $root; ``inner`` runs in it, and then the command that is appended."""
        script = f"root={root}; {bind}{outer}; exec chroot {root} sh -ec '{inner}' \"$@\""
        return ["unshare", "--mount", "--propagation", "unchanged", "--net", "sh", "-ec", script, "sh", "sh"]

    return inside


def test_a_configured_device_in_a_folder_is_judged_where_it_lies(device):
    seen = findings(device.run("doctor", "--json"))
    assert seen["configuration"] == {
        "name": "configuration", "status": "ok", "found": str(device.config), "expected": "", "hint": "",
    }  # fmt: skip
    assert seen["data-writable"]["found"].startswith(str(device.folder))
    assert seen["runtimes"]["status"] == "ok"


def test_a_configuration_that_was_named_and_is_missing_is_a_problem_and_the_rest_is_still_judged(tmp_path):
    seen = findings(run([*DOCTOR[:3], "--config", str(tmp_path / "none.toml"), *DOCTOR[3:]]))
    assert seen["configuration"]["status"] == "problem"
    assert seen["architecture"]["status"] == "ok"


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path):
    for name in NAMES:
        seen = findings(run([*DOCTOR, "--facts", str(unpack(name, tmp_path / name))]))
        assert [each for each in seen.values() if each["status"] != "ok" and not each["hint"]] == []


def test_it_works_on_a_read_only_root_without_network_capabilities_or_a_writable_place(alone):
    """As an image is run: ``--read-only --network none --cap-drop ALL``."""
    command = alone(
        "mount -o remount,bind,ro $root; mount -o remount,bind,ro $root/tmp 2>/dev/null || true",  # where it is a mount
        "touch /tmp/.surefoot-doctor 2>/dev/null && exit 99; "
        'exec setpriv --bounding-set -all --inh-caps -all --no-new-privs "$@"',
    )
    seen = findings(run([*command, *DOCTOR], HOME="/nonexistent"))
    assert seen["root"]["found"].endswith("read-only")
    assert [seen[name]["status"] for name in ("runtimes", "runtime/onnxruntime", "runtime/tflite")] == ["ok"] * 3


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        ("true", set()),
        ("tune2fs -o journal_data_writeback,nobarrier {disk}", {"data-journal", "data-barriers"}),
        ("tune2fs -O ^has_journal {disk}", {"data-journal"}),
        ("debugfs -w -R 'set_super_value error_count 3' {disk}", {"data-damage"}),
    ],
)
def test_a_real_ext4_is_seen_through_whatever_its_mount_line_hides(alone, needs, tmp_path, make, bad):
    needs(
        all(map(shutil.which, ("mkfs.ext4", "tune2fs", "debugfs"))) and Path("/dev/loop-control").exists(),
        "loop devices",
    )
    disk, point = tmp_path / "disk", tmp_path / "mounted"
    with disk.open("wb") as stream:
        stream.truncate(32 << 20)
    point.mkdir()
    (tmp_path / "surefoot.toml").write_text('data_dir = "mounted/data"\nrun_dir = "run"\n')
    prepare = f"(mkfs.ext4 -q {disk}; {make.format(disk=disk)}) >/dev/null 2>&1"
    start = alone(prepare, f'mount -o loop,noatime {disk} {point}; mkdir {point}/data; exec "$@"')
    seen = findings(run([*start, *DOCTOR[:3], "--config", str(tmp_path / "surefoot.toml"), *DOCTOR[3:]]))
    assert seen["data-filesystem"]["found"].startswith(f"ext4 on {point}")
    assert {name for name, each in seen.items() if name.startswith("data-") and each["status"] == "problem"} == bad
    assert {seen[name]["status"] for name in ("data-filesystem", "data-atime", "data-writable", "data-space")} <= {
        "ok",
        "warning",
    }


@pytest.mark.parametrize(
    ("body", "heard"), [("echo throttled=0x50000", "throttled=0x50000"), ("exit 1", ""), ("cat /dev/zero", "")]
)
def test_a_command_that_answers_fails_or_never_ends_is_heard_for_a_while_and_no_longer(
    tmp_path, monkeypatch, body, heard
):
    """A double: vcgencmd as a script."""
    shim = tmp_path / "vcgencmd"
    shim.write_text(f"#!/bin/sh\n{body}\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(live, "COMMAND_TIMEOUT_S", 2.0)
    assert live.ask(tmp_path, tmp_path).vcgencmd == heard


def test_each_finding_is_in_the_reference_and_the_reference_has_no_other(tmp_path):
    seen = set(findings(run(DOCTOR)))  # without a configuration: `data`
    for name in NAMES:
        seen |= set(findings(run([*DOCTOR, "--facts", str(unpack(name, tmp_path / name))])))
    table = DOCUMENT.read_text().split("| finding |")[1]
    documented = set(re.findall(r"^\| `([a-z-]+)", table, re.MULTILINE))
    assert documented == {name.split("/")[0] for name in seen}
