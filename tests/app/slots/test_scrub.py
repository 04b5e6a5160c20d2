"""Rot is found on the disk and not in the kernel's memory of it; what serves is never taken away by finding it."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from surefoot.durable import locked
from surefoot.errors import DeviceUnable
from surefoot.slots import content
from surefoot.slots.scrub import CHUNK_BYTES, hash_from_disk
from surefoot.slots.status import report
from surefoot.slots.store import Recovery, Store
from tests.app.slots import kit
from tests.crash import disks, kernel


def rotten(store: Store) -> list[str]:
    return [f"{each.where}/{each.path.name}" for each in store.kept() if hash_from_disk(each.path)[0] != each.sha256]


def heal(store: Store) -> Recovery:
    return store.heal(pause=lambda _: None)


def device(folder: Path, *versions: str) -> tuple[Store, dict[str, kit.Release]]:
    releases = {version: kit.make_release(folder, version) for version in versions}
    store = kit.open_store(folder / "device")
    kit.deploy(store, *releases.values())
    return store, releases


@pytest.mark.parametrize("size", [0, 1, 511, 4096, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 77])
def test_a_file_of_any_length_is_hashed_whole(tmp_path, size):
    data = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(data)
    seen: list[int] = []
    assert hash_from_disk(tmp_path / "file", seen.append) == (hashlib.sha256(data).hexdigest(), size)
    assert sum(seen) == size


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic links"):
        hash_from_disk(tmp_path / "link")


def test_every_file_of_slots_and_archive_is_looked_at(tmp_path):
    store, _ = device(tmp_path, "1.0.0", "2.0.0", "3.0.0")
    kept = store.kept()
    assert {each.path for each in kept} == {
        path for folder in store.directories() for path in folder.iterdir() if path.is_file()
    }
    assert len(kept) == 12 and rotten(store) == []
    for each in kept:
        before = each.path.read_bytes()
        kit.flip_a_bit(each.path)
        assert f"{each.where}/{each.path.name}" in rotten(store)
        each.path.write_bytes(before)


def test_a_rotten_active_release_gives_way_to_the_confirmed_one(tmp_path):
    store, _ = device(tmp_path, "1.0.0", "2.0.0")
    kit.flip_a_bit(store.slot_path("b") / "model.onnx")
    recovery = heal(store)
    assert kit.serving(store) == "1.0.0"
    assert any("slot b was confirmed and its content is not" in action for action in recovery.actions)


def test_a_rotten_active_release_is_not_refilled_below_its_worker_but_the_other_serves(tmp_path):
    """The archive has it too, after two steps back; but a worker holds its slot."""
    store, _ = device(tmp_path, "1.0.0", "2.0.0", "3.0.0")
    store.rollback(2)
    active = store.read().active
    kit.flip_a_bit(store.slot_path(active) / "model.onnx")
    with locked(store.slot_lock_path(active), shared=True):
        heal(store)
        assert kit.serving(store) == "3.0.0"


def test_without_a_worker_it_is_healed_from_the_archive(tmp_path):
    store, _ = device(tmp_path, "1.0.0", "2.0.0", "3.0.0")
    store.rollback(2)
    kit.flip_a_bit(store.slot_path(store.read().active) / "model.onnx")
    heal(store)
    assert kit.serving(store) == "1.0.0"
    assert rotten(store) == []


def test_the_last_release_that_can_serve_is_kept_and_the_fault_told_once(tmp_path):
    store, _ = device(tmp_path, "1.0.0")
    kit.flip_a_bit(store.slot_path("a") / "model.onnx")
    before = store.read()
    with locked(store.slot_lock_path("a"), shared=True):  # as its worker has it
        for look in (partial(heal, store), store.recover, partial(heal, store)):
            recovery = look()
            assert "nothing else here can serve" in recovery.actions[0] and "fetch 1.0.0" in recovery.actions[0]
    state = store.read()
    assert (state.active, state.slots, state.lineage) == (before.active, before.slots, before.lineage)
    assert [event.what for event in store.history(10)].count("rot found") == 1


def test_it_is_fetched_again_beside_the_rotten_one_and_serves_at_once(tmp_path):
    store, releases = device(tmp_path, "1.0.0")
    kit.flip_a_bit(store.slot_path("a") / "model.onnx")
    with locked(store.slot_lock_path("a"), shared=True):
        heal(store)
        store.activate(kit.install(store, releases["1.0.0"]))
    state = store.read()
    assert (state.active, state.trial, kit.serving(store)) == ("b", None, "1.0.0")
    heal(store)
    assert rotten(store) == []


def test_a_rotten_release_of_the_archive_is_removed_and_the_status_says_so(tmp_path):
    store, _ = device(tmp_path, "1.0.0", "2.0.0", "3.0.0")
    assert report(store).problem is None
    archived = next(
        each for each in store.kept() if each.where.startswith("archive/") and each.path.name == "model.onnx"
    )
    kit.flip_a_bit(archived.path)
    assert "had rotted and is removed" in heal(store).actions[-1]
    assert "these are not on the device: 1.0.0" in str(report(store).problem)
    assert heal(store).actions == []


def test_a_healthy_device_is_not_written_to(tmp_path):
    store, _ = device(tmp_path, "1.0.0", "2.0.0", "3.0.0")
    before = store.read()
    assert heal(store).actions == []
    assert store.read() == before


def test_rot_below_the_kernels_memory_is_seen(tmp_path: Path, needs: Callable[[bool, str], None]) -> None:
    """A block changes on the disk while its pages are in memory: reading as usual sees nothing."""
    needs(disks.possible(), "root, /dev/fuse and loop devices on Linux, for a disk of our own")

    def run() -> None:
        blank = disks.blank(tmp_path / "blank.img")
        disk = disks.Disk(tmp_path, 0)
        disk.set(blank)
        with disk.mounted() as at:
            data = b"weights that nobody else has " * 1000
            (at / "model").write_bytes(data)
            synced(at / "model")
            assert (at / "model").read_bytes() == data
            image = tmp_path / "disk-0.img"
            place = image.read_bytes().index(data[:4096])
            with image.open("r+b") as stream:
                stream.seek(place)
                stream.write(b"W")
            assert (at / "model").read_bytes() == data, "what is in memory hides it"
            assert hash_from_disk(at / "model")[0] == hashlib.sha256(b"W" + data[1:]).hexdigest()
        disk.close()

    kernel.privately(run)


def test_what_is_wrong_in_memory_alone_is_whole_for_whoever_reads_it_next(
    tmp_path: Path, needs: Callable[[bool, str], None]
) -> None:
    """A bit flips on its way into memory: a worker would read it from there, and refuse a release that is whole."""
    needs(disks.possible(), "root, /dev/fuse and loop devices on Linux, for a disk of our own")

    def run() -> None:
        disk = disks.Disk(tmp_path, 0)
        disk.set(disks.blank(tmp_path / "blank.img"))
        with disk.mounted() as at:
            store = kit.open_store(at / "device")
            kit.deploy(store, kit.make_release(tmp_path, "1.0.0"))
            before, model = store.read(), store.slot_path("a") / "model.onnx"
            data, image = model.read_bytes(), tmp_path / "disk-0.img"
            synced(model)
            place = image.read_bytes().index(data)
            with image.open("r+b") as stream:
                stream.seek(place)
                stream.write(b"?")
                stream.flush()
                forgotten(model)
                assert model.read_bytes() == b"?" + data[1:]
                stream.seek(place)
                stream.write(data[:1])
            assert model.read_bytes() == b"?" + data[1:], "it is right on the disk alone"
            assert store.recover().actions == [] and store.read() == before
            assert model.read_bytes() == data, "a worker would refuse it, at each try"
        disk.close()

    kernel.privately(run)


def forgotten(path: Path) -> None:
    """The kernel drops what it has in memory of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def during_the_pause(do: Callable[[], object]) -> Callable[[float], object]:
    """A pause in which somebody else is at work."""

    def pause(seconds: float) -> None:
        assert seconds > 0
        do()

    return pause


def test_nobody_who_wants_the_operation_waits_while_it_is_hashed(tmp_path: Path) -> None:
    """An operator's rollback in the middle; another store is another process, as far as locks are concerned."""
    store, _ = device(tmp_path, "1.0.0", "2.0.0", "3.0.0")
    kit.flip_a_bit(store.slot_path("a") / "card.md")

    def roll_back() -> None:
        operator = kit.open_store(tmp_path / "device")
        with operator.operation("rollback"):
            operator.rollback(reason="the operator wants it")

    with store.operation("heal"), pytest.raises(DeviceUnable, match="another operation"):
        roll_back()  # so it would be refused
    store.heal(during_the_pause(roll_back))
    assert kit.serving(store) == "2.0.0", "the rollback was made"
    assert rotten(store) == []


def test_a_slot_that_was_filled_meanwhile_is_not_given_up(tmp_path: Path) -> None:
    """What was seen is not what lies there now, though both are of one release."""
    store, releases = device(tmp_path, "1.0.0", "2.0.0")
    kit.flip_a_bit(store.slot_path("a") / "model.onnx")

    def refill() -> None:
        other = kit.open_store(tmp_path / "device")
        other.recover()
        assert kit.install(other, releases["1.0.0"]) == "a"
        kit.flip_a_bit(store.slot_path("a") / "model.onnx")  # so that the second look finds it wrong too

    store.heal(during_the_pause(refill))
    assert store.read().slots["a"].release is not None, "what another process has put there was removed"
    heal(store)
    assert store.read().slots["a"].release is None, "the next look sees to it"


def fails_once(monkeypatch: pytest.MonkeyPatch, module: str) -> list[Path]:
    """The first file that is hashed answers EIO. Returns what was hashed."""
    seen: list[Path] = []

    def hashed(path: Path, *arguments: Callable[[int], object]) -> tuple[str, int]:
        seen.append(path)
        if len(seen) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return hash_from_disk(path, *arguments)

    monkeypatch.setattr(module, hashed)
    return seen


def test_a_disk_that_fails_once_has_not_rotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = device(tmp_path, "1.0.0", "2.0.0", "3.0.0")
    before = store.read()
    seen = fails_once(monkeypatch, "surefoot.slots.scrub.hash_from_disk")
    assert heal(store).actions == [] and store.read() == before
    assert seen[0] in seen[1:], "it was looked at again"


def test_mutant_that_believes_the_first_look_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = device(tmp_path, "1.0.0", "2.0.0", "3.0.0")
    before = store.read()
    monkeypatch.setattr("surefoot.slots.scrub.twice", lambda look, pause: look())
    fails_once(monkeypatch, "surefoot.slots.scrub.hash_from_disk")
    assert heal(store).actions != [] and store.read() != before


def test_a_disk_that_fails_twice_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = device(tmp_path, "1.0.0", "2.0.0")
    rot = store.slot_path("b") / "model.onnx"

    def hashed(path: Path, *arguments: Callable[[int], object]) -> tuple[str, int]:
        if path == rot:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return hash_from_disk(path, *arguments)

    monkeypatch.setattr("surefoot.slots.scrub.hash_from_disk", hashed)
    heal(store)
    assert kit.serving(store) == "1.0.0"


def test_a_disk_that_fails_once_at_a_start_loses_no_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = device(tmp_path, "1.0.0", "2.0.0", "3.0.0")
    before, real = store.read(), content.fault
    answers = iter(["Input/output error"])

    def fault(*arguments: Any) -> str | None:
        return next(answers, None) or real(*arguments)

    monkeypatch.setattr("surefoot.slots.recovery.fault", fault)
    assert store.recover().actions == [] and store.read() == before


def synced(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.EINTR])
def test_what_says_nothing_of_the_content_gives_nothing_up(tmp_path, monkeypatch, number):
    store, _ = device(tmp_path, "1.0.0", "2.0.0", "3.0.0")
    kit.flip_a_bit(store.slot_path("a") / "card.md")  # so that there is something to heal
    before = store.read()

    def failing(path: Path) -> tuple[str, int]:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("surefoot.slots.scrub.hash_from_disk", failing)
    with pytest.raises(DeviceUnable, match="cannot read"):
        heal(store)
    assert store.read() == before
    assert len(store.kept()) == 12, "the archive is whole"


def test_a_file_system_that_takes_direct_reads_at_the_open_alone_is_read_another_way(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"content")
    real, asked = os.readv, []

    def refusing(descriptor: int, buffers: list[bytearray]) -> int:
        asked.append(descriptor)
        if len(asked) == 1:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(descriptor, buffers)

    monkeypatch.setattr(os, "readv", refusing)
    assert hash_from_disk(tmp_path / "file") == (hashlib.sha256(b"content").hexdigest(), 7)
