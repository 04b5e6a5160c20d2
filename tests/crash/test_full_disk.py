"""A disk without room, and one that takes no writes: real small file systems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from surefoot.errors import DeviceUnable
from surefoot.slots.content import fault
from surefoot.slots.store import Store
from tests.app.slots import kit
from tests.crash.cuts import FastDisk, holds_together, next_update_works
from tests.told import Told

SIZE_KIB = 1024
MODEL_BYTES = 60_000


@pytest.fixture
def small_disk(tmp_path: Path, needs: Callable[[bool, str], None]) -> Iterator[Path]:
    """A file system of 1 MiB."""
    needs(os.geteuid() == 0, "root, to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KIB}k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    needs(mounted.returncode == 0, "the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class FillingUp(FastDisk):
    """Before its n-th create, write or append somebody else takes all the room that is left."""

    def __init__(self, folder: Path, at: int) -> None:
        self.ballast, self.left = folder / "ballast", at

    def step(self, primitive: str, path: Path) -> None:
        if primitive in ("create", "write", "append"):
            self.left -= 1
            if self.left == -1:
                take_all(self.ballast)


def take_all(path: Path) -> None:
    with path.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(b"x" * 512):
            pass


def big(folder: Path, version: str) -> kit.Release:
    return kit.make_release(folder, version, size_bytes=MODEL_BYTES)


def test_a_disk_that_fills_up_at_any_write_leaves_the_active_model_and_the_next_try_works(
    small_disk: Path, tmp_path: Path, told: Told
) -> None:
    first, second = big(tmp_path, "1.0.0"), big(tmp_path, "2.0.0")
    refused = 0
    for at in range(100):
        device = small_disk / "device"
        subprocess.run(["rm", "-rf", str(device)], check=True)
        kit.deploy(kit.open_store(device, FastDisk()), first)
        before = kit.open_store(device, FastDisk()).read()
        disk = FillingUp(small_disk, at)
        try:
            kit.install(kit.open_store(device, disk), second)
        except DeviceUnable as error:
            refused += 1
            assert "ENOSPC" in error.found or "room" in error.what, error
            assert error.hint
        serves_still(device, before.serving)
        disk.ballast.unlink(missing_ok=True)
        holds_together(kit.open_store(device, FastDisk()), before, device)
        assert kit.install(kit.open_store(device, FastDisk()), second) == "b", "debris blocks the next try"
        if disk.left >= 0:
            break
    print(f"the disk was filled at {at} writes, {refused} of them refused")
    assert refused >= 10
    told("disks full, out of inodes, over their quota", at)
    next_update_works(kit.open_store(device, FastDisk()), big(tmp_path, "9.0.0"))


def serves_still(device: Path, release: object) -> None:
    store = kit.open_store(device, FastDisk())
    state = store.read()
    assert state.serving == release
    assert state.active and state.serving
    assert fault(store.slot_path(state.active), state.serving) is None


def test_a_release_that_does_not_fit_is_refused_before_anything_changes(small_disk: Path, tmp_path: Path) -> None:
    device = small_disk / "device"
    store = kit.open_store(device, FastDisk())
    kit.deploy(store, big(tmp_path, "1.0.0"))
    before = store.read()
    huge = kit.make_release(tmp_path, "2.0.0", size_bytes=900_000)
    with pytest.raises(DeviceUnable, match="no room") as caught:
        store.fill(huge.manifest, huge.data, kit.VARIANT, huge.files)
    assert "bytes free" in caught.value.found and caught.value.hint
    with pytest.raises(DeviceUnable, match="no room"):
        store.check_room(900_000)
    assert store.read() == before


def test_a_confirmation_on_a_full_disk_is_refused_and_the_trial_goes_on(small_disk: Path, tmp_path: Path) -> None:
    device = small_disk / "device"
    store = kit.open_store(device, FastDisk())
    kit.deploy(store, big(tmp_path, "1.0.0"))
    trial = kit.put_on_trial(store, big(tmp_path, "2.0.0"))
    take_all(small_disk / "ballast")
    with pytest.raises(DeviceUnable, match="cannot write"):
        store.confirm("enough")
    assert store.read() == trial
    (small_disk / "ballast").unlink()
    assert store.confirm("enough").slots["b"].status == "confirmed"


@pytest.fixture
def read_only(small_disk: Path, tmp_path: Path) -> Iterator[Store]:
    """A device with a trial, on a file system that was then remounted read-only."""
    kit.put_on_trial(_deployed(small_disk, tmp_path), big(tmp_path, "2.0.0"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    yield kit.open_store(small_disk / "device", FastDisk(), boot="another")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def _deployed(small_disk: Path, tmp_path: Path) -> Store:
    store = kit.open_store(small_disk / "device", FastDisk())
    kit.deploy(store, big(tmp_path, "1.0.0"))
    return store


def test_a_try_that_cannot_be_recorded_is_refused_and_the_confirmed_slot_is_named(read_only: Store) -> None:
    with pytest.raises(DeviceUnable) as caught:
        read_only.record_try()
    assert "EROFS" in caught.value.found
    assert read_only.read().fallback == "a"


def test_on_a_read_only_disk_recovery_tells_what_is_true(read_only: Store) -> None:
    recovery = read_only.recover()
    assert recovery.state.serving is not None
    assert recovery.state == read_only.read()
    assert all(health.ok for health in read_only.verify())


def test_on_a_read_only_disk_a_rotten_active_slot_is_passed_over(small_disk: Path, tmp_path: Path) -> None:
    store = _deployed(small_disk, tmp_path)
    kit.deploy(store, big(tmp_path, "2.0.0"))
    kit.flip_a_bit(store.slot_path("b") / "model.onnx")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        recovery = kit.open_store(small_disk / "device", FastDisk()).recover()
        assert not recovery.written
        assert recovery.state.active == "a"
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
