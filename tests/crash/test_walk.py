"""Any order of operations, cuts, rot and lost copies: the promise holds after each."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from surefoot.errors import SurefootError
from surefoot.release.manifest import version_key
from surefoot.slots.state import State
from surefoot.slots.store import Store
from tests.app.slots import kit
from tests.crash.conftest import MEMORY
from tests.crash.cuts import Cut, CutDisk, FastDisk, holds_together
from tests.told import Told

FULL = os.environ.get("SUREFOOT_FULL") == "1"
WALKS = 1000 if FULL else 15


class Walk(RuleBasedStateMachine):
    """One device. ``made``: every release so far; ``number``: the next version."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
        self.made: list[kit.Release] = []
        self.boots = 0
        self.acknowledged = State(kit.NAME)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def store(self, disk: FastDisk | None = None) -> Store:
        return kit.open_store(self.folder, disk or FastDisk(), boot=f"boot-{self.boots}")

    def attempt(self, operation: Callable[[Store], object], cut: int | None) -> None:
        """Do it, or be cut before primitive ``cut``, or be refused; then start again."""
        self.acknowledged = self.store().read()
        try:
            operation(self.store(CutDisk(cut)))
        except SurefootError:
            pass
        except Cut:
            self.boots += 1
            holds_together(self.store(), self.acknowledged, self.folder)

    cuts = st.one_of(st.none(), st.integers(0, 120))

    @initialize()
    def first_model(self) -> None:
        kit.deploy(self.store(), self.new_release())

    def new_release(self) -> kit.Release:
        self.made.append(kit.make_release(self.folder / "inbox", f"{len(self.made) + 1}.0.0"))
        return self.made[-1]

    @rule(cut=cuts)
    def install_a_new_one(self, cut: int | None) -> None:
        release = self.new_release()
        self.attempt(lambda store: kit.install(store, release), cut)

    @rule(which=st.integers(0, 30), cut=cuts)
    def install_one_again(self, which: int, cut: int | None) -> None:
        release = self.made[which % len(self.made)]
        self.attempt(lambda store: kit.install(store, release), cut)

    @rule(cut=cuts)
    def activate(self, cut: int | None) -> None:
        self.attempt(lambda store: store.activate(store.read().inactive), cut)

    @rule(cut=cuts)
    def try_it(self, cut: int | None) -> None:
        self.boots += 1
        self.attempt(lambda store: store.record_try(), cut)

    @rule(cut=cuts)
    def confirm(self, cut: int | None) -> None:
        self.attempt(lambda store: store.confirm("enough"), cut)

    @rule(cut=cuts)
    def deploy(self, cut: int | None) -> None:
        release = self.new_release()
        self.attempt(lambda store: kit.deploy(store, release), cut)

    @rule(steps=st.integers(1, 3), cut=cuts)
    def roll_back(self, steps: int, cut: int | None) -> None:
        self.attempt(lambda store: store.rollback(steps), cut)

    @rule(cut=cuts)
    def reject(self, cut: int | None) -> None:
        self.attempt(lambda store: store.reject("bad"), cut)

    @rule(cut=cuts)
    def revert(self, cut: int | None) -> None:
        self.attempt(lambda store: store.revert("later"), cut)

    @rule(cut=cuts)
    def try_again_by_itself(self, cut: int | None) -> None:
        self.attempt(lambda store: store.try_again(store.read().inactive), cut)

    @rule(cuts=st.lists(cuts, min_size=1, max_size=6))
    def run_out_of_tries_again_and_again(self, cuts: list[int | None]) -> None:
        release = self.new_release()
        self.attempt(lambda store: kit.put_on_trial(store, release), None)
        for cut in cuts:
            self.attempt(lambda store: store.put_off("no try is left"), cut)
            self.attempt(lambda store: store.try_again(store.read().inactive), cut)

    @rule(evidence=st.booleans(), cut=cuts)
    def refuse(self, evidence: bool, cut: int | None) -> None:
        self.attempt(lambda store: store.refuse(store.read().inactive, "gate", evidence), cut)

    @rule(number=st.integers(0, 1))
    def lose_a_copy_of_the_state(self, number: int) -> None:
        before = self.store().read()
        (self.folder / "models" / kit.NAME / f"state.{number}").write_bytes(b"rot")
        state = holds_together(self.store(), before, self.folder)
        assert (state.lineage, state.floor, state.held) == (before.lineage, before.floor, before.held)

    @rule()
    def lose_both_copies_of_the_state(self) -> None:
        before = self.store().read()
        for number in (0, 1):
            (self.folder / "models" / kit.NAME / f"state.{number}").unlink()
        state = holds_together(self.store(), before, self.folder)
        assert state.serving in before.known, "a release that was never confirmed is promoted"
        assert state.floor == before.floor
        assert {ref.digest for ref in state.known} == {ref.digest for ref in before.known}
        if before.trial is None:
            assert state.serving == before.serving
        assert state.lineage == before.lineage

    @rule()
    def rot_the_active_slot(self) -> None:
        before = self.store().read()
        assert before.active is not None
        other = before.slots["b" if before.active == "a" else "a"]
        if other.status != "confirmed":
            return  # there would be nothing left: recovery from that is another test
        kit.flip_a_bit(self.store().slot_path(before.active) / "model.onnx")
        self.store().recover()
        state = self.store().read()
        assert state.active is not None and state.serving is not None
        holds_together(self.store(), state, self.folder)

    @invariant()
    def the_promise(self) -> None:
        if not self.made:
            return
        state = holds_together(self.store(), self.store().read(), self.folder)
        assert state.serving is not None
        assert state.refused(state.serving.digest) is None, "a quarantined release serves"
        if self.acknowledged.floor and state.floor:
            assert version_key(state.floor) >= version_key(self.acknowledged.floor), "the floor went down"
        returns = Counter[str]()
        for event in self.store().history(1000):
            if event.what == "activated":
                del returns[event.digest]
            returns[event.digest] += event.what == "tried again"
        assert max(returns.values(), default=0) <= self.store().retries, "a release is tried again for ever"


@pytest.mark.timeout(7200 if FULL else 300)
def test_the_promise_holds_after_any_order_of_operations_cuts_and_rot(told: Told) -> None:
    run_state_machine_as_test(
        Walk,
        settings=settings(
            max_examples=WALKS,
            stateful_step_count=20,
            deadline=None,
            print_blob=True,
            derandomize=not FULL,
            suppress_health_check=list(HealthCheck),
        ),
    )
    told("random walks of 20 steps", WALKS)
