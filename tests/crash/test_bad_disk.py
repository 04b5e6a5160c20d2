"""A disk that fails once and then answers again as if nothing had been: one write or flush gets EIO, on a real ext4.

The kernel marks the pages that it could not write as clean, so a second fsync of them succeeds and they are gone at the
next power cut: https://www.usenix.org/conference/atc20/presentation/rebello. Where the journal was hit, ext4 takes no
writes any more. Either way the power is cut after the device has gone on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from surefoot.durable import Disk
from surefoot.errors import DeviceUnable
from surefoot.slots.state import State
from surefoot.slots.store import Store
from tests.crash.conftest import Releases
from tests.crash.cuts import FastDisk, holds_together, next_update_works, open_plain
from tests.crash.powercuts import Bench
from tests.crash.test_cuts import CASES
from tests.crash.transitions import Acknowledged, Parts
from tests.told import Told

IN_CI = ("install, its files moved", "confirm", "rollback, the traffic first")
STEP = 9  # of these, each so manieth is failed in CI, and of all every other one by make test-full
MOST = 1000  # no operation writes so often
REFUSALS = ("EIO", "EROFS")


class Outcome:
    """What a run on the bad disk came to. ``last``: acknowledged last. ``refused``: what the device said, in order."""

    def __init__(self, before: State) -> None:
        self.last = before
        self.refused: list[str] = []

    def acknowledge(self, what: Acknowledged) -> None:
        self.last = what.state

    def attempt(self, do: Callable[[], object]) -> None:
        try:
            do()
        except DeviceUnable as error:
            assert error.hint, error
            self.refused.append(error.found)


def every_failure(
    name: str,
    bench: Bench,
    device: Callable[..., Path],
    releases: Releases,
    parts: Parts,
    step: int = 1,
    first: int = 0,
) -> tuple[int, int]:
    """Fail each write and flush of an operation, go on, cut the power, judge.

    Returns:
        How many were failed, and how many of these the device noticed.
    """
    case = CASES[name]
    prepared = case.start(device, releases)
    before = open_plain(prepared, FastDisk()).read()
    noticed = 0
    for after in range(first, MOST, step):

        def operate(folder: Path) -> Outcome:
            outcome = Outcome(before)
            outcome.attempt(lambda: case.operation(parts.opened(folder, outcome.acknowledge), releases))
            # The disk answers again. Whoever comes next goes on, the same process or another.
            outcome.attempt(lambda: go_on(parts.opened(folder, outcome.acknowledge), releases))
            return outcome

        ran = bench.fail(prepared, after, operate)
        if ran is None:
            return len(range(first, after, step)), noticed
        outcome, left = ran
        assert all(each.startswith(REFUSALS) for each in outcome.refused), outcome.refused
        noticed += bool(outcome.refused)
        try:
            bench.look(left, partial(judge, outcome.last, releases, case.lifts))
        except AssertionError as error:
            raise AssertionError(f"after {after} writes and flushes, refused {outcome.refused}: {error}") from error
    raise AssertionError(f"{name} wrote more than {MOST} times")


def judge(last: State, releases: Releases, lifts: bool, folder: Path) -> None:
    """What must hold after the cut; ``last`` was acknowledged."""
    store = open_plain(folder, FastDisk())
    state = holds_together(store, last, folder, lifts=lifts)
    assert state.generation >= last.generation, "a state was acknowledged and is lost"
    for what in ("lineage", "floor", "quarantine") if last.generation == state.generation else ():
        assert getattr(state, what) == getattr(last, what), f"{what} was acknowledged and is lost"
    if last.event is not None:
        assert last.event in store.history(1000), "the history leaves out what was acknowledged"
    next_update_works(store, releases["9.0.0"])


def go_on(store: Store, releases: Releases) -> None:
    store.recover()
    next_update_works(store, releases["8.0.0"])


@pytest.mark.parametrize(
    ("name", "step"),
    [(name, STEP) for name in IN_CI]
    + [pytest.param(name, 2, marks=[pytest.mark.full, pytest.mark.timeout(900)]) for name in CASES],
)
def test_a_write_that_fails_once_loses_nothing_that_was_acknowledged(
    name: str,
    step: int,
    bench: Bench,
    device: Callable[..., Path],
    releases: Releases,
    told: Told,
) -> None:
    first = random.Random(f"{bench.seed} {name}").randrange(step)
    failed, noticed = every_failure(name, bench, device, releases, Parts(), step, first)
    print(f"{name}: {failed} writes and flushes failed, {noticed} of them noticed, seed {bench.seed}")
    told("writes and flushes answered with EIO", failed)
    assert failed >= 5 and noticed >= 3


class Careless(Disk):
    """Tries an fsync again that has failed."""

    def _fsync(self, descriptor: int, path: Path) -> None:
        try:
            super()._fsync(descriptor, path)
        except OSError:
            super()._fsync(descriptor, path)


def test_mutant_that_tries_an_fsync_again_is_caught(
    bench: Bench, device: Callable[..., Path], releases: Releases
) -> None:
    with pytest.raises(AssertionError, match=r"after \d+ writes and flushes"):
        every_failure("install, its files moved", bench, device, releases, Parts(disk=Careless))
