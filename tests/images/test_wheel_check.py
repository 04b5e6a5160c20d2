"""Every wheel in a folder is for the target, or the reason is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from images.wheels.check import Refused, Target, check, main, read_folder, read_lock
from tests.images import wheelwright
from tests.images.wheelwright import make, pin

ROOT = Path(__file__).parents[2]
MAC = Target.of(["macosx_14_0_arm64"], "3.11")
PI = Target.of(["manylinux_2_36_aarch64"], "3.11")


def reasons(folder: Path, target: Target = MAC, lock: str | None = None, wanted: tuple[str, ...] = ()) -> str:
    """Why a folder is refused; empty where it is taken."""
    try:
        check(read_folder([folder]), target, read_lock(lock, target) if lock is not None else None,
              map(Requirement, wanted))  # fmt: skip
    except Refused as refused:
        return "\n".join(refused.reasons)
    return ""


@pytest.mark.parametrize(
    ("target", "tag"),
    [
        (MAC, "py3-none-any"),
        (MAC, "py2.py3-none-any"),
        (MAC, "cp311-cp311-macosx_14_0_arm64"),
        (MAC, "cp311-cp311-macosx_10_9_universal2"),
        (MAC, "cp38-abi3-macosx_11_0_arm64"),
        (PI, "cp311-cp311-manylinux_2_28_aarch64"),
        (PI, "cp311-cp311-manylinux2014_aarch64"),
        (PI, "cp39-abi3-manylinux_2_17_aarch64"),
    ],
)
def test_a_wheel_for_the_target_is_taken(tmp_path, target, tag):
    make(tmp_path, "one", tag)
    assert reasons(tmp_path, target) == ""


@pytest.mark.parametrize(
    ("target", "tag"),
    [
        (MAC, "cp311-cp311-macosx_15_0_arm64"),  # a newer macOS
        (MAC, "cp311-cp311-macosx_11_0_x86_64"),  # an Intel Mac
        (MAC, "cp312-cp312-macosx_11_0_arm64"),  # another Python
        (MAC, "cp312-abi3-macosx_11_0_arm64"),  # a newer stable ABI
        (MAC, "cp311-cp311-manylinux_2_28_aarch64"),  # Linux
        (PI, "cp311-cp311-manylinux_2_39_aarch64"),  # a newer glibc
        (PI, "cp311-cp311-manylinux_2_28_x86_64"),  # another machine
        (PI, "cp311-cp311-musllinux_1_2_aarch64"),  # another C library
    ],
)
def test_a_wheel_for_another_target_is_refused(tmp_path, target, tag):
    make(tmp_path, "one", tag)
    assert f"is not for {target}" in reasons(tmp_path, target)


def test_a_renamed_wheel_is_refused_for_what_it_says_inside(tmp_path):
    make(tmp_path, "one", "cp311-cp311-macosx_11_0_arm64", inner_tag="cp311-cp311-macosx_11_0_x86_64")
    assert "its WHEEL file says cp311-cp311-macosx_11_0_x86_64" in reasons(tmp_path)


def test_native_code_for_the_target_is_taken(tmp_path):
    make(tmp_path / "mac", "one", "cp311-cp311-macosx_11_0_arm64", native=wheelwright.MACH_ARM64)
    make(tmp_path / "mac", "two", "cp311-cp311-macosx_10_9_universal2", native=wheelwright.MACH_BOTH)
    make(tmp_path / "pi", "one", "cp311-cp311-manylinux2014_aarch64", native=wheelwright.ELF_AARCH64)
    assert reasons(tmp_path / "mac") == reasons(tmp_path / "pi", PI) == ""


@pytest.mark.parametrize(
    ("native", "found"), [(wheelwright.MACH_X86_64, "macOS x86_64"), (wheelwright.ELF_AARCH64, "Linux aarch64")]
)
def test_a_wheel_whose_tags_lie_about_its_native_code_is_refused(tmp_path, native, found):
    make(tmp_path, "one", native=native)
    assert f"carries native code for {found}, expected macOS arm64" in reasons(tmp_path)


def test_a_wheel_for_another_python_is_refused(tmp_path):
    make(tmp_path, "one", requires_python=">=3.12")
    assert "asks for Python >=3.12" in reasons(tmp_path)


def test_a_source_archive_is_refused(tmp_path):
    make(tmp_path, "one")
    (tmp_path / "two-1.0.tar.gz").write_bytes(b"source")
    assert "two-1.0.tar.gz is not a wheel" in reasons(tmp_path)


def test_a_damaged_wheel_is_refused(tmp_path):
    path = make(tmp_path, "one")
    path.write_bytes(path.read_bytes()[:-30])
    assert "not a wheel that can be read" in reasons(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    assert "no wheel in" in reasons(tmp_path)


def test_the_wheels_that_the_lock_names_are_taken(tmp_path):
    lock = "".join(pin(make(tmp_path, name)) for name in ("one", "two"))
    assert reasons(tmp_path, lock=lock) == ""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("two>=1.0 --hash=sha256:00\n", "two is not pinned: found 'two>=1.0'"),
        ("two==1.* --hash=sha256:00\n", "two is not pinned"),
        ("two --hash=sha256:00\n", "two is not pinned"),
        ("two==1.0\n", "two has no hash"),
        ("two==1.0 --hash=md5:00\n", "two has no hash"),
        ("--index-url https://example.com\n", "cannot be read"),
    ],
)
def test_a_lock_with_an_unpinned_dependency_is_refused(tmp_path, line, reason):
    lock = pin(make(tmp_path, "one")) + line
    assert reason in reasons(tmp_path, lock=lock)


def test_another_file_than_the_lock_names_is_refused(tmp_path):
    lock = pin(make(tmp_path / "first", "one"))
    make(tmp_path / "second", "one", requires=("two; sys_platform == 'win32'",))
    assert "is not the file that the lock names" in reasons(tmp_path / "second", lock=lock)


def test_another_version_than_the_lock_names_is_refused(tmp_path):
    lock = pin(make(tmp_path / "first", "one"))
    make(tmp_path / "second", "one", version="2.0")
    assert "another version than the lock's 1.0" in reasons(tmp_path / "second", lock=lock)


def test_a_wheel_that_the_lock_names_and_nobody_fetched_is_missed(tmp_path):
    lock = pin(make(tmp_path / "a", "one")) + pin(make(tmp_path / "b", "two"))
    assert "the lock names two" in reasons(tmp_path / "a", lock=lock)


def test_a_wheel_that_is_not_in_the_lock_is_refused(tmp_path):
    lock = pin(make(tmp_path, "one"))
    make(tmp_path, "stray")
    assert "stray-1.0-py3-none-any.whl is not in the lock" in reasons(tmp_path, lock=lock)


@pytest.mark.parametrize("asked", ["two>=1.5", "three"])
def test_a_lock_that_is_older_than_what_the_app_asks_for_is_refused(tmp_path, asked):
    lock = pin(make(tmp_path, "two"))
    make(tmp_path, "app", requires=(asked,))
    found = reasons(tmp_path, lock=lock, wanted=("app",))
    assert f"app 1.0 asks for {asked}" in found
    assert "the lock is out of date; make lock" in found


def test_an_extra_brings_what_it_asks_for(tmp_path):
    make(tmp_path, "app", requires=("two; extra == 'tflite'",))
    assert reasons(tmp_path, wanted=("app",)) == ""
    assert "app 1.0 asks for two" in reasons(tmp_path, wanted=("app[tflite]",))


def test_markers_are_read_for_the_target_and_not_for_this_machine(tmp_path):
    make(tmp_path, "one", requires=("two; sys_platform == 'linux'", "three; platform_machine == 'x86_64'"))
    lock = pin(tmp_path / "one-1.0-py3-none-any.whl") + "two==1.0 ; sys_platform == 'linux' --hash=sha256:00\n"
    assert reasons(tmp_path, lock=lock) == ""
    assert "the lock names two" in reasons(tmp_path, PI, lock=lock)


@pytest.mark.parametrize("platform", ["macosx_14_arm64", "darwin", "manylinux_2_36_s390x", "win_amd64", ""])
def test_a_platform_that_no_wheel_can_name_is_refused(platform):
    with pytest.raises(Refused, match="is no platform known here"):
        Target.of([platform], "3.11")


@pytest.mark.parametrize("python", ["3", "2.7", "3.11.4", "cp311"])
def test_a_python_that_no_wheel_can_name_is_refused(python):
    with pytest.raises(Refused, match="is not a Python"):
        Target.of(["macosx_14_0_arm64"], python)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["macosx_14_0_arm64", "manylinux_2_36_aarch64", "manylinux_2_36_x86_64"])
def test_the_device_lock_is_pinned_and_hashed_for_every_target(platform, python):
    pins = read_lock((ROOT / "requirements" / "device.lock").read_text(), Target.of([platform], python))
    assert {"numpy", "onnxruntime", "ai-edge-litert", "uvloop", "tuf"} <= pins.keys()
    assert "colorama" not in pins


def test_the_command_says_how_many_or_why_not(tmp_path, capsys):
    make(tmp_path, "one")
    script = [sys.executable, "images/wheels/check.py", "--platform", "macosx_14_0_arm64", "--python", "3.11"]
    done = subprocess.run([*script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "surefoot: 1 wheels, all for macosx_14_0_arm64, CPython 3.11\n")
    make(tmp_path, "two", "cp311-cp311-win_amd64")
    assert main([*script[2:], str(tmp_path)]) == 2
    assert "two-1.0-cp311-cp311-win_amd64.whl is not for" in capsys.readouterr().err
