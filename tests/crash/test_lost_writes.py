"""Cuts that lose what was never synced. The disks that forget a sync are the mutants, and each is caught."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from surefoot.slots.state import State
from tests.app.slots import kit
from tests.crash.conftest import Releases
from tests.crash.cuts import Copied, FastDisk, holds_together, open_plain
from tests.crash.losing import RecordingDisk, images
from tests.crash.test_cuts import CASES
from tests.told import Told

SEED = 20250601
NAMES = ["first install", "third install, archiving", "confirm", "activate", "reject a trial", "rollback"]
NAMES += ["rollback of two steps, from the archive", "record a try", "first confirm", "revert"]


def explore(
    name: str,
    device: Callable[..., Path],
    releases: Releases,
    scratch: Path,
    disk_type: type[RecordingDisk] = RecordingDisk,
) -> int:
    """Run a case, then recover from every image; returns how many there were."""
    case = CASES[name]
    prepared = case.start(device, releases)
    before = kit.open_store(prepared, FastDisk()).read()
    with Copied(prepared, scratch / "run") as folder:
        disk = disk_type(folder)
        case.operation(kit.open_store(folder, disk), releases)
        after = kit.open_store(folder, FastDisk()).read()
    tried = 0
    for loss, folder, last in images(prepared, disk.record, scratch, random.Random(SEED)):
        tried += 1
        store = open_plain(folder, FastDisk())
        try:
            state = holds_together(store, before, folder)
            assert kit.serving(store) in case.serving
            if last:
                _acknowledged(state, after)
        except Exception as error:
            raise AssertionError(f"{name}, {loss}: {error}") from error
        finally:
            shutil.rmtree(folder)
    return tried


def _acknowledged(state: State, after: State) -> None:
    for what in ("slots", "active", "trial", "lineage", "floor", "held", "quarantine"):
        assert getattr(state, what) == getattr(after, what), f"{what} was acknowledged and is lost"


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_that_loses_what_was_not_synced_leaves_the_old_or_the_new(
    name: str, device: Callable[..., Path], releases: Releases, scratch: Path, told: Told
) -> None:
    tried = explore(name, device, releases, scratch)
    told("images that lost what was not synced", tried)
    print(f"{name}: {tried} images, seed {SEED}")
    assert tried > 8


class ForgetsFiles(RecordingDisk):
    """Mutant: no fsync of files, nor of all of them."""

    def _fsync(self, descriptor: int, path: Path) -> None:
        if path.is_dir():
            super()._fsync(descriptor, path)

    def _syncfs(self, path: Path) -> None:
        pass


class ForgetsDirectories(RecordingDisk):
    """Mutant: no fsync of directories."""

    def _fsync(self, descriptor: int, path: Path) -> None:
        if not path.is_dir():
            super()._fsync(descriptor, path)

    def _syncfs(self, path: Path) -> None:
        pass


class RenamesBeforeData(RecordingDisk):
    """Mutant: the new name first, the data synced after."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._late: list[Path] = []

    def _fsync(self, descriptor: int, path: Path) -> None:
        if not path.is_dir():
            self._late.append(path)
            return
        super()._fsync(descriptor, path)

    def _syncfs(self, path: Path) -> None:
        pass

    def _rename(self, source: Path, target: Path) -> None:
        super()._rename(source, target)
        self.sync_directory(target.parent)
        if source in self._late:
            self._late.remove(source)
            self._note("fsync", target)


@pytest.mark.parametrize(
    ("mutant", "name"),
    [
        (ForgetsFiles, "third install, archiving"),
        (ForgetsFiles, "confirm"),
        (ForgetsDirectories, "third install, archiving"),
        (ForgetsDirectories, "confirm"),
        (RenamesBeforeData, "confirm"),  # a slot filled so is cleared by recovery: its state is still "filling"
    ],
)
def test_a_disk_that_forgets_a_sync_is_caught(
    mutant: type[RecordingDisk], name: str, device: Callable[..., Path], releases: Releases, scratch: Path
) -> None:
    with pytest.raises(AssertionError) as caught:
        explore(name, device, releases, scratch, mutant)
    print(f"{mutant.__name__}: {caught.value}")
