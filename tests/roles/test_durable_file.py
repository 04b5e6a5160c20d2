"""The module that writes a boot file: what a power cut may leave is the old file or the new one."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "plugins" / "modules" / "surefoot_durable_file.py"
_spec = importlib.util.spec_from_file_location("surefoot_durable_file", SOURCE)
assert _spec
assert _spec.loader
durable: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(durable)

OLD, NEW = "root=/dev/mmcblk0p2 rootwait\n", "root=/dev/mmcblk0p2 rootwait cgroup_enable=memory\n"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the disk, in order, each with the file that it was about."""
    seen: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        seen.append("fsync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def watched_rename(source: str, target: str) -> None:
        seen.append(f"rename {Path(source).name} {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(durable.os, "fsync", watched_fsync)
    monkeypatch.setattr(durable.os, "rename", watched_rename)
    return seen


def test_what_is_written_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, calls: list[str]) -> None:
    file, kept = tmp_path / "cmdline.txt", tmp_path / "cmdline.txt.before-surefoot"
    file.write_text(OLD)
    assert durable.bring(str(file), NEW, str(kept), False) == OLD
    assert (file.read_text(), kept.read_text()) == (NEW, OLD)
    assert calls == [
        "fsync cmdline.txt.before-surefoot.surefoot-part",
        "rename cmdline.txt.before-surefoot.surefoot-part cmdline.txt.before-surefoot",
        f"fsync {tmp_path.name}",
        "fsync cmdline.txt.surefoot-part",
        "rename cmdline.txt.surefoot-part cmdline.txt",
        f"fsync {tmp_path.name}",
    ]


def test_what_was_kept_first_stays(tmp_path: Path) -> None:
    file, kept = tmp_path / "cmdline.txt", tmp_path / "kept"
    file.write_text(OLD)
    durable.bring(str(file), NEW, str(kept), False)
    durable.bring(str(file), NEW + "more\n", str(kept), False)
    assert kept.read_text() == OLD


def test_a_file_that_is_right_is_not_touched(tmp_path: Path, calls: list[str]) -> None:
    file = tmp_path / "config.txt"
    file.write_text(OLD)
    inode = file.stat().st_ino
    assert durable.bring(str(file), OLD, str(tmp_path / "kept"), False) == OLD
    assert (calls, file.stat().st_ino, [path.name for path in tmp_path.iterdir()]) == ([], inode, ["config.txt"])


def test_check_mode_writes_nothing(tmp_path: Path, calls: list[str]) -> None:
    file = tmp_path / "config.txt"
    file.write_text(OLD)
    assert durable.bring(str(file), NEW, str(tmp_path / "kept"), True) == OLD
    assert (calls, file.read_text()) == ([], OLD)


def test_a_failed_flush_leaves_the_old_file_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cmdline.txt"
    file.write_text(OLD)

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable.os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        durable.bring(str(file), NEW, None, False)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("cmdline.txt", OLD)]


def test_debris_of_a_cut_is_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "cmdline.txt"
    file.write_text(OLD)
    (tmp_path / "cmdline.txt.surefoot-part").write_text("half")
    durable.bring(str(file), NEW, None, False)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("cmdline.txt", NEW)]


def test_permissions_and_bytes_that_are_no_text_survive(tmp_path: Path) -> None:
    file, kept = tmp_path / "config.txt", tmp_path / "kept"
    file.write_bytes(b"# caf\xe9\n")
    file.chmod(0o600)
    before = durable.bring(str(file), durable.read(str(file)) + "gpu_mem=16\n", str(kept), False)
    assert before is not None
    assert (file.read_bytes(), kept.read_bytes()) == (b"# caf\xe9\ngpu_mem=16\n", b"# caf\xe9\n")
    assert file.stat().st_mode & 0o777 == 0o600
