"""Cutting an operation before each of its primitives, and what must hold afterwards.

A cut here is an exception that no code of the store may catch: the process is gone, what it wrote is there. What a
cut also does to bytes that were never synced is modelled in ``losing``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from surefoot.durable import Disk, read_bounded
from surefoot.slots import table
from surefoot.slots.content import fault
from surefoot.slots.sealed import read_sealed
from surefoot.slots.state import FORMAT, State, other
from surefoot.slots.store import Store
from tests.app.slots import kit

T = TypeVar("T")
Operation = Callable[[Store, Path], object]


class Cut(BaseException):
    """The power is gone."""


class FastDisk(Disk):
    """Everything but the wait for the disk: a cut in the process loses nothing from the page cache anyway."""

    def _fsync(self, descriptor: int, path: Path) -> None:
        self.step("fsync", path)

    def _syncfs(self, path: Path) -> None:
        self.step("syncfs", path)


class CutDisk(FastDisk):
    """Cuts before primitive ``at`` (from 0), and before every one after it: the dead write nothing."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.names = at, list[str]()

    def step(self, primitive: str, path: Path) -> None:
        if self.at is not None and len(self.names) >= self.at:
            raise Cut(f"before primitive {self.at}: {primitive} {path}")
        self.names.append(primitive)


def open_plain(folder: Path, disk: Disk) -> Store:
    return kit.open_store(folder, disk, boot="boot-1")


def primitives(
    prepared: Path,
    scratch: Path,
    operation: Callable[[T, Path], object],
    opened: Callable[[Path, Disk], T] = open_plain,
) -> list[str]:
    """The primitives of an operation, in order."""
    disk = CutDisk()
    with Copied(prepared, scratch) as folder:
        operation(opened(folder, disk), folder)
    return disk.names


class Copied:
    """A copy of a folder for one experiment."""

    def __init__(self, source: Path, scratch: Path) -> None:
        self.source, self.target = source, scratch

    def __enter__(self) -> Path:
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(self.source, self.target)
        return self.target

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.target, ignore_errors=True)


def cut_everywhere(
    prepared: Path,
    scratch: Path,
    operation: Callable[[T, Path], object],
    opened: Callable[[Path, Disk], T] = open_plain,
) -> Iterator[tuple[int, Path]]:
    """The folder as each cut leaves it, one after the other.

    A cut after a sync that waited for nothing leaves what the cut before it left, and is not tried twice.
    """
    names = primitives(prepared, scratch, operation, opened)
    for at in range(len(names)):
        if at and names[at - 1] in ("fsync", "syncfs"):
            continue
        with Copied(prepared, scratch) as folder:
            try:
                operation(opened(folder, CutDisk(at)), folder)
            except Cut:
                yield at, folder
            else:
                raise AssertionError(f"primitive {at} was not reached the second time")


# -- what must hold ----------------------------------------------------------------------------------------------------


def claims_are_true(store: Store, folder: Path) -> None:
    """Before any recovery: what the copies say is in a slot is in it, byte for byte."""
    root = folder / "models" / kit.NAME
    for path in (root / "state.0", root / "state.1"):
        state = read_sealed(path, State, 1 << 20)
        for slot, now in state.slots.items() if state else ():
            if now.status in ("staged", "ready", "trial", "confirmed") and now.release is not None:
                other_copy = store.read().slots[slot]
                if other_copy == now:  # the older copy may speak of what was replaced since
                    assert fault(store.slot_path(slot), now.release) is None, f"slot {slot} is not what {path} says"


def holds_together(store: Store, before: State, folder: Path, *, lifts: bool = False) -> State:
    """After recovery, whatever was cut.

    Args:
        store: freshly opened.
        before: the state that was acknowledged last.
        folder: the device.
        lifts: what was cut takes a digest out of quarantine: then none comes in.
    """
    store.recover()
    again = store.recover()
    assert again.actions == [] and again.written, f"recovery is not idempotent: {again.actions}"
    state = store.read()
    assert table.check(state) == []
    assert state.format == FORMAT, "the state was not migrated"
    root = folder / "models" / kit.NAME
    copies = [read_bounded(root / f"state.{number}", 1 << 20) for number in (0, 1)] if state.generation else []
    assert len(set(copies)) <= 1, "the copies differ after recovery"
    for health in store.verify():
        assert health.ok, f"{health.where}: {health.problem}"
    if before.lineage:
        assert state.active is not None, "a device with a confirmed model has none"
        assert state.serving is not None
        assert fault(store.slot_path(state.active), state.serving) is None
        if state.trial is not None:
            back = state.slots[other(state.active)]
            assert back.status == "confirmed" and back.release is not None, "a trial without a way back"
            assert fault(store.slot_path(other(state.active)), back.release) is None
    for ref in state.lineage[:-1][-kit.STORAGE.steps_back :]:
        assert store.where(ref) is not None, f"{ref} cannot be returned to"
    generations = [event.generation for event in store.history(1000)]
    assert generations == sorted(set(generations)), f"the history does not tell the truth: {generations}"
    if state.generation:
        assert generations[-1] == state.generation, "the last event is missing from the history"
    refused, now_refused = ({entry.digest for entry in each.quarantine} for each in (before, state))
    assert now_refused <= refused if lifts else refused <= now_refused, "the quarantine is not what was acknowledged"
    debris = [path.name for path in root.iterdir() if path.name.startswith(".tmp-") and path.is_dir()]
    assert debris == []
    return state


def next_update_works(store: Store, release: kit.Release) -> None:
    """The device goes on: a trial ends, a new release is confirmed, and a rollback returns."""
    state = store.read()
    if state.trial is not None:
        state = store.revert("the test goes on")
    was = state.serving
    kit.deploy(store, release)
    assert kit.serving(store) == release.version
    if was is not None:
        assert store.rollback().serving == was
