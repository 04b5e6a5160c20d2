"""The store's operations under power cuts on a real disk: how each is run, and what must hold after each cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from surefoot.durable import Disk
from surefoot.slots.copies import Copies
from surefoot.slots.layout import Layout
from surefoot.slots.sealed import read_sealed
from surefoot.slots.state import State
from surefoot.slots.store import Store
from tests.app.slots import kit
from tests.crash.conftest import Releases
from tests.crash.cuts import FastDisk, claims_are_true, holds_together, next_update_works, open_plain
from tests.crash.powercuts import Acknowledge, Bench, Count
from tests.crash.test_cuts import CASES, Case


class Acknowledged(NamedTuple):
    """A ``state`` that was acknowledged. ``returned``: with it the whole operation was."""

    state: State
    returned: bool = False


class Parts(NamedTuple):
    """The real store, or one with a safeguard taken out."""

    disk: type[Disk] = Disk
    copies: type[Copies] = Copies
    mutate: Callable[[Store], object] = lambda store: None

    def opened(self, folder: Path, acknowledge: Acknowledge[Acknowledged]) -> Store:
        """The store of a device, which says when the state's copies are acknowledged."""

        class Marking(self.copies):  # type: ignore[misc,name-defined]  # which copies is a value here
            def save(self, state: State) -> None:
                super().save(state)
                acknowledge(Acknowledged(state))

        disk = self.disk()
        copies = Marking(Layout(folder / "models", kit.NAME), disk)
        store = Store(folder / "models", kit.NAME, disk=disk, storage=kit.STORAGE, boot="boot-1", copies=copies)
        self.mutate(store)
        return store


REAL = Parts()


def explore(
    name: str, bench: Bench, device: Callable[..., Path], releases: Releases, most: int, parts: Parts = REAL
) -> Count:
    """Run one of ``test_cuts.CASES`` on a recorded disk, then judge what power cuts leave of it."""
    case = CASES[name]
    prepared = case.start(device, releases)
    return explore_on(prepared, open_plain(prepared, FastDisk()).read(), case, bench, releases, most, parts)


def explore_on(
    prepared: Path, before: State, case: Case, bench: Bench, releases: Releases, most: int, parts: Parts = REAL
) -> Count:
    """The same on a device that is prepared already, of which ``before`` was acknowledged."""

    def operate(folder: Path, acknowledge: Acknowledge[Acknowledged]) -> None:
        case.operation(parts.opened(folder, acknowledge), releases)
        acknowledge(Acknowledged(open_plain(folder, FastDisk()).read(), returned=True))

    record = bench.record(prepared, Acknowledged(before), operate)
    return bench.explore(record, most, lambda folder, last: judge(folder, last, case, releases))


def judge(folder: Path, last: Acknowledged, case: Case, releases: Releases) -> None:
    """What must hold on a device after a cut.

    Args:
        folder: the device.
        last: what was acknowledged last before it.
        case: the operation.
        releases: to go on with.
    """
    for path in Layout(folder / "models", kit.NAME).copies if last.state.generation else ():
        copy = read_sealed(path, State, 1 << 20)
        assert copy is not None, f"{path.name} is missing, and a state was acknowledged"
        assert copy.generation >= last.state.generation, f"{path.name} is older than what was acknowledged"
    store = open_plain(folder, FastDisk())
    if case is not CASES["recovery from rot"]:
        claims_are_true(store, folder)
    state = holds_together(store, last.state, folder, lifts=case.lifts)
    assert kit.serving(store) in case.serving, f"{kit.serving(store)} serves"
    if last.returned:
        for what in ("slots", "active", "trial", "lineage", "floor", "held", "quarantine", "format"):
            assert getattr(state, what) == getattr(last.state, what), f"{what} was acknowledged and is lost"
    if last.state.event is not None:
        assert last.state.event in store.history(1000), "the history leaves out what was acknowledged"
    next_update_works(store, releases["9.0.0"])
