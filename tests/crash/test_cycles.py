"""Cycle after cycle of install, confirm and rollback on a real ext4, interrupted at random."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from surefoot.slots.journal import Journal
from surefoot.slots.store import Store
from tests.crash import cycles as cycling
from tests.crash import disks, kernel
from tests.crash.cycles import STORAGE, Cycles, Mutate, ext4
from tests.crash.test_mutants import StateBeforeSlot
from tests.told import Told

FULL = int(os.environ.get("SUREFOOT_CYCLES", "20000"))
MOST = 1000  # cycles until a mutant must have been caught
SAID_EVERY = 1000


def _seed() -> int:
    return int(os.environ["SUREFOOT_SEED"])


def _cycles(folder: Path, count: int, mutate: Mutate = lambda store: None) -> str:
    """Go through them, and say how it went.

    Raises:
        AssertionError: the promise did not hold; with the seed.
    """
    seed = _seed()

    def go() -> str:
        with ext4(folder) as at:
            cycles = Cycles(at / "device", folder / "inbox", seed, mutate)
            began = time.monotonic()
            for done in range(0, count, SAID_EVERY):
                try:
                    cycles.run(min(SAID_EVERY, count - done))
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}, after {cycles.cycles} cycles: {error}") from error
                seconds = time.monotonic() - began
                said = (
                    f"{cycles.cycles} cycles on ext4, interrupted: {cycles.cuts} cuts, {cycles.cut_again} again inside "
                    f"the recovery, {cycles.kills} killed; {cycles.others} with another update before what is left; "
                    f"0 left without a serving verified model; "
                    f"{seconds:.0f} s, {cycles.cycles / seconds:.0f} a second, seed {seed}"
                )
                print(said, flush=True)
            return said

    return kernel.privately(go)


@pytest.mark.parametrize(
    "count", [200, pytest.param(FULL, marks=[pytest.mark.full, pytest.mark.timeout(60 + FULL)], id="full")]
)
def test_no_interruption_leaves_a_device_without_a_serving_verified_model(
    count: int,
    needs: Callable[[bool, str], None],
    scratch: Path,
    told: Told,
) -> None:
    needs(disks.possible(), "root, /dev/fuse and loop devices on Linux, for an ext4 of its own")
    _cycles(scratch, count)
    told("cycles of install, confirm and rollback", count)


def _state_before_slot(store: Store) -> None:
    store._filler = StateBeforeSlot(store._journal, STORAGE, 0.2)


def _prune_before_the_record(store: Store) -> None:
    """Mutant: what the state to come no longer needs is removed before that state is durable."""
    journal = store._journal
    real = Journal.note

    def note(state, *arguments, **named):
        journal.archive.prune(state)
        return real(journal, state, *arguments, **named)

    journal.note = note  # type: ignore[method-assign]  # so that one store alone is the mutant


@pytest.mark.parametrize("mutate", [_state_before_slot, _prune_before_the_record])
def test_a_store_with_a_safeguard_taken_out_is_caught_within_a_few_cycles(
    mutate: Mutate, needs: Callable[[bool, str], None], scratch: Path
) -> None:
    needs(disks.possible(), "root, /dev/fuse and loop devices on Linux, for an ext4 of its own")
    with pytest.raises(AssertionError, match=r"seed \d+, after \d+ cycles: .*(is not what|cannot be returned to)"):
        _cycles(scratch, MOST, mutate)


def _trials_are_not_put_off(store: Store) -> None:
    """Mutant: what an interruption left on trial stays there, whoever wants to go on."""
    store.revert = lambda reason: store.read()  # type: ignore[method-assign]  # so that one store alone is the mutant


def test_a_store_that_another_update_does_not_get_past_is_caught_within_a_few_cycles(
    needs: Callable[[bool, str], None], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(disks.possible(), "root, /dev/fuse and loop devices on Linux, for an ext4 of its own")
    monkeypatch.setattr(cycling, "ANOTHER", 1.0)
    with pytest.raises(AssertionError, match="another update does not work"):
        _cycles(scratch, MOST, _trials_are_not_put_off)
