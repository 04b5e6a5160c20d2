"""Two processes at one store: real ones, with real locks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from surefoot.durable import locked
from surefoot.errors import DeviceUnable
from surefoot.slots import filling
from tests.app.slots import kit
from tests.crash.cuts import FastDisk, holds_together

ROOT = Path(__file__).parents[2]
HOLD_SHARED = """
import fcntl, sys
f = open(sys.argv[1])
fcntl.flock(f, fcntl.LOCK_SH)
print("held", flush=True)
input()
"""


@contextmanager
def paused_install(folder: Path, version: str, primitive: str, pattern: str) -> Iterator[subprocess.Popen[str]]:
    """An installer that waits in the middle. Leaving the block lets it finish, if it was not killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.pausing", str(folder), version, primitive, pattern],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        assert process.stdout.readline() == "paused\n"
        yield process
        if process.poll() is None:
            process.stdin.write("go on\n")
            process.stdin.flush()
            assert process.stdout.readline() == "installed\n"
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def device(tmp_path: Path) -> Path:
    kit.deploy(kit.open_store(tmp_path / "device", FastDisk()), kit.make_release(tmp_path, "1.0.0"))
    return tmp_path / "device"


def test_the_second_installer_is_refused_at_once_and_told_who_the_first_is(device: Path, tmp_path: Path) -> None:
    second = kit.make_release(tmp_path, "3.0.0")
    store = kit.open_store(device, FastDisk())
    with paused_install(device, "2.0.0", "create", ".tmp-model.onnx") as first:
        with pytest.raises(DeviceUnable, match="another operation") as caught, store.operation("install"):
            pytest.fail("two installers at once")
        assert f"install (pid {first.pid})" in caught.value.found
        with pytest.raises(DeviceUnable, match="another operation"):
            store.fill(second.manifest, second.data, kit.VARIANT, second.files)
        assert kit.serving(store) == "1.0.0"
    assert store.read().slots["b"].status == "ready"
    holds_together(store, store.read(), device)


def test_recovery_leaves_alone_what_another_process_is_filling(device: Path) -> None:
    store = kit.open_store(device, FastDisk())
    with paused_install(device, "2.0.0", "create", ".tmp-model.onnx"):
        assert store.recover().actions == []
        assert store.read().slots["b"].status == "filling"
    assert store.read().slots["b"].release is not None


def test_reading_waits_for_nobody(device: Path) -> None:
    store = kit.open_store(device, FastDisk())
    with paused_install(device, "2.0.0", "rename", "state.1"):
        assert kit.serving(store) == "1.0.0"
        assert all(health.ok for health in store.verify())


def test_an_installer_that_was_killed_blocks_nobody(device: Path) -> None:
    """Its lock file stays, with its name in it; only the lock counts."""
    store = kit.open_store(device, FastDisk())
    with paused_install(device, "2.0.0", "rename", "b") as first:
        first.kill()
        first.wait()
        assert (device / "models" / kit.NAME / "operation.lock").exists()
        holds_together(store, store.read(), device)
        assert kit.install(store, kit.make_release(device, "2.0.0")) == "b"


def test_a_slot_that_a_worker_still_maps_is_not_replaced(device: Path, tmp_path: Path) -> None:
    store = kit.open_store(device, FastDisk())
    kit.deploy(store, kit.make_release(tmp_path, "2.0.0"))
    third, before = kit.make_release(tmp_path, "3.0.0"), store.read()
    worker = subprocess.Popen(
        [sys.executable, "-c", HOLD_SHARED, str(store.slot_lock_path("a"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None and worker.stdin is not None
    assert worker.stdout.readline() == "held\n"
    try:
        with pytest.raises(DeviceUnable, match="slot a of tiny is in use"):
            store.fill(third.manifest, third.data, kit.VARIANT, third.files)
        assert store.read() == before
    finally:
        worker.communicate("go\n", timeout=10)
    assert kit.install(store, third) == "a"


def test_mutant_without_the_slots_lock_it_is_replaced(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlocked(path: Path, **how: object) -> AbstractContextManager[int]:
        return nullcontext(0) if path.name in ("a.lock", "b.lock") else locked(path, **how)

    monkeypatch.setattr(filling, "locked", unlocked)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_slot_that_a_worker_still_maps_is_not_replaced(device, tmp_path)


def test_locks_work_on_descriptors_that_cannot_write(device: Path) -> None:
    path = device / "models" / kit.NAME / "state.lock"
    with locked(path, wait_s=0) as descriptor:
        assert os.get_inheritable(descriptor) is False
        with pytest.raises(OSError):
            os.write(descriptor, b"x")
