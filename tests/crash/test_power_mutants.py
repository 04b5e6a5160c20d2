"""Writers and stores with one safeguard taken out, on a real ext4: power cuts show the harm, within a few images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from surefoot.durable import TEMPORARY_PREFIX, Disk
from surefoot.slots.journal import Journal
from surefoot.slots.state import State
from surefoot.slots.store import Store
from tests.app.slots import kit
from tests.crash.conftest import Releases
from tests.crash.powercuts import Bench, Violated
from tests.crash.test_mutants import AcknowledgedAfterOne, OneCopy, StateBeforeSlot
from tests.crash.transitions import Parts, explore

MOST = 350  # images until each must have been caught: all prefixes of the longest of these operations, and more


class ForgetsFiles(Disk):
    """Mutant: no fsync of files, nor of all of them."""

    def _fsync(self, descriptor: int, path: Path) -> None:
        if path.is_dir():
            super()._fsync(descriptor, path)

    def _syncfs(self, path: Path) -> None:
        pass


class ForgetsTheModel(Disk):
    """Mutant: the same, of a slot's files alone."""

    def _fsync(self, descriptor: int, path: Path) -> None:
        if path.is_dir() or not path.parent.name.startswith(f"{TEMPORARY_PREFIX}filling"):
            super()._fsync(descriptor, path)

    def _syncfs(self, path: Path) -> None:
        pass


class ForgetsDirectories(Disk):
    """Mutant: no fsync of directories."""

    def _fsync(self, descriptor: int, path: Path) -> None:
        if not path.is_dir():
            super()._fsync(descriptor, path)

    def _syncfs(self, path: Path) -> None:
        pass


class RenamesBeforeData(Disk):
    """Mutant: the new name first, the data synced after."""

    def _fsync(self, descriptor: int, path: Path) -> None:
        if path.is_dir() or not path.name.startswith(TEMPORARY_PREFIX):
            super()._fsync(descriptor, path)

    def _syncfs(self, path: Path) -> None:
        pass

    def _rename(self, source: Path, target: Path) -> None:
        super()._rename(source, target)
        if target.is_file():
            self.sync_directory(target.parent)
            descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            os.fsync(descriptor)
            os.close(descriptor)


def state_before_slot(store: Store) -> None:
    """Mutant: the state says that a release is in a slot before it is."""
    store._filler = StateBeforeSlot(store._journal, kit.STORAGE)


INSTALL, CONFIRM, LIFT, RELEASE = "third install, archiving", "confirm", "lift a quarantine", "release a hold"
MUTANTS = {
    "no fsync of files, install": (INSTALL, Parts(disk=ForgetsFiles), "acknowledged"),
    "no fsync of files, confirm": (CONFIRM, Parts(disk=ForgetsFiles), "acknowledged"),
    "no fsync of a slot's files": (INSTALL, Parts(disk=ForgetsTheModel), "is not what"),
    "no fsync of directories, install": (INSTALL, Parts(disk=ForgetsDirectories), "acknowledged"),
    "no fsync of directories, confirm": (CONFIRM, Parts(disk=ForgetsDirectories), "acknowledged"),
    "rename before data, install": (INSTALL, Parts(disk=RenamesBeforeData), "truncated|acknowledged"),
    "rename before data, confirm": (CONFIRM, Parts(disk=RenamesBeforeData), "truncated|acknowledged"),
    "state before slot": (INSTALL, Parts(mutate=state_before_slot), "is not what"),
    "one copy of the state": (CONFIRM, Parts(copies=OneCopy), "missing"),
    "acknowledged after one copy": (CONFIRM, Parts(copies=AcknowledgedAfterOne), "older than"),
    "acknowledged after one copy, lift": (LIFT, Parts(copies=AcknowledgedAfterOne), "older than"),
    "acknowledged after one copy, release": (RELEASE, Parts(copies=AcknowledgedAfterOne), "older than"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_store_without_a_safeguard_is_caught_by_power_cuts(
    mutant: str, bench: Bench, device: Callable[..., Path], releases: Releases
) -> None:
    name, parts, harm = MUTANTS[mutant]
    with pytest.raises(Violated, match=harm) as caught:
        explore(name, bench, device, releases, MOST, parts)
    print(f"{mutant}: {caught.value}")
    assert caught.value.images <= MOST


def test_mutant_that_believes_the_quarantines_file_before_the_state_is_caught(
    bench: Bench, device: Callable[..., Path], releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was lifted comes back where the file had not followed yet."""
    real = Journal._current

    def current(self: Journal) -> State:
        state, refused = self.copies.load(), self.quarantine.read()
        if state is not None and refused and not state.state.quarantine:
            return self.note(msgspec.structs.replace(state.state, quarantine=refused), "state repaired")
        return real(self)

    monkeypatch.setattr(Journal, "_current", current)
    with pytest.raises(Violated, match="the quarantine is not what was acknowledged"):
        explore(LIFT, bench, device, releases, MOST)
