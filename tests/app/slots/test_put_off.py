"""A release whose tries were used up: counted, tried again so often and no more, and never against anybody's will."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.durable import Disk
from surefoot.errors import BadRequest, DeviceUnable, SurefootError
from surefoot.slots import table
from surefoot.slots.state import SlotState, State
from surefoot.slots.status import report
from surefoot.slots.store import Store, TriesUsedUp
from tests.app.slots import kit


class Fast(Disk):
    def _fsync(self, descriptor: int, path: Path) -> None:
        pass


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], kit.Release]:
    return lambda version: kit.make_release(tmp_path / "releases", version)


@pytest.fixture
def store(tmp_path: Path, made: Callable[[str], kit.Release]) -> Store:
    """1.0.0 is confirmed, 2.0.0 was put off once."""
    store = kit.open_store(tmp_path, Fast())
    kit.deploy(store, made("1.0.0"))
    kit.put_on_trial(store, made("2.0.0"))
    store.put_off("no try is left")
    return store


def test_what_used_up_its_tries_is_ready_and_counted(store: Store) -> None:
    state = store.read()
    assert (kit.serving(store), state.slots["b"].status, state.slots["b"].put_off) == ("1.0.0", "ready", 1)
    assert state.waiting == "b" and not state.held and state.quarantine == ()
    assert store.history(1)[0].what == "put off"


def test_tries_are_used_up_by_boots_and_each_return_has_its_own(store: Store, tmp_path: Path) -> None:
    store.try_again("b")
    for boot in range(3):
        kit.open_store(tmp_path, Fast(), boot=f"boot-{boot}").record_try()
    with pytest.raises(TriesUsedUp):
        kit.open_store(tmp_path, Fast(), boot="boot-9").record_try()
    assert store.put_off("no try is left").slots["b"].put_off == 2


def test_it_comes_back_three_times_and_then_waits_for_somebody(store: Store) -> None:
    for times in range(1, store.retries + 1):
        state = store.try_again("b")
        assert state.trial is not None and state.slots["b"].put_off == times
        state = store.put_off("no try is left")
        assert state.slots["b"].put_off == times + 1
    with pytest.raises(DeviceUnable, match="not tried again by itself"):
        store.try_again("b")
    said = report(store).put_off
    assert said is not None and (said.times, said.again) == (4, False)
    assert store.history(1)[0].reason.startswith("it stays ready until somebody activates it: ")
    assert store.activate("b").slots["b"].put_off == 0, "an operator begins the count anew"


def test_a_return_that_ends_without_blame_is_counted_too(store: Store) -> None:
    store.try_again("b")
    assert store.revert("no memory was left").slots["b"].put_off == 2


@pytest.mark.parametrize(
    "end", [lambda store: store.revert("later"), lambda store: store.rollback()], ids=["revert", "rollback"]
)
def test_a_trial_that_ends_otherwise_is_not_tried_again(store: Store, end: Callable[[Store], State]) -> None:
    store.activate("b")
    state = end(store)
    assert (state.slots["b"].status, state.slots["b"].put_off, state.waiting) == ("ready", 0, None)
    with pytest.raises(DeviceUnable, match="not tried again by itself"):
        store.try_again("b")


def test_a_rollback_of_a_return_holds_and_ends_it(store: Store) -> None:
    store.try_again("b")
    state = store.rollback()
    assert state.held and state.slots["b"].put_off == 0 and state.waiting is None


def test_a_confirmed_return_is_as_any_other(store: Store) -> None:
    store.try_again("b")
    state = store.confirm("30 inferences")
    assert (kit.serving(store), state.slots["b"].put_off, state.floor) == ("2.0.0", 0, "2.0.0")


def test_a_rejected_return_is_quarantined_and_gone(store: Store) -> None:
    store.try_again("b")
    state = store.reject("it crashed")
    assert state.slots["b"] == SlotState() and [entry.version for entry in state.quarantine] == ["2.0.0"]
    with pytest.raises(SurefootError):
        store.try_again("b")


def test_a_new_install_takes_its_place(store: Store, made: Callable[[str], kit.Release]) -> None:
    kit.install(store, made("3.0.0"))
    assert store.read().slots["b"].put_off == 0 and store.read().waiting is None
    with pytest.raises(DeviceUnable, match="not tried again by itself"):
        store.try_again("b")


def test_what_is_held_or_rotten_is_not_tried_again(store: Store) -> None:
    kit.flip_a_bit(store.slot_path("b") / "model.onnx")
    with pytest.raises(DeviceUnable, match="not tried again"):
        store.try_again("b")
    held = State("m", slots=store.read().slots, active="a", held=True)
    with pytest.raises(DeviceUnable, match="found: an operator's rollback holds"):
        table.apply(held, table.Change("again", "b", retries=3))


def test_during_a_trial_nothing_is_tried_again(store: Store) -> None:
    store.activate("b")
    for slot in ("a", "b"):
        with pytest.raises((DeviceUnable, BadRequest)):
            store.try_again(slot)  # type: ignore[arg-type]  # each of both


def test_none_is_none(tmp_path: Path, store: Store) -> None:
    never = Store(tmp_path / "models", kit.NAME, storage=kit.STORAGE, retries=0, boot="boot-1")
    with pytest.raises(DeviceUnable, match="at most 0 times"):
        never.try_again("b")
    said = report(never).put_off
    assert said is not None and (said.again, said.why) == (False, "trial.retries is 0")


def test_a_first_release_has_nothing_beside_it_that_serves(tmp_path: Path, made: Callable[[str], kit.Release]) -> None:
    store = kit.open_store(tmp_path / "first", Fast())
    kit.put_on_trial(store, made("1.0.0"))
    state = store.put_off("no try is left")
    said = report(store).put_off
    assert state.active is None and state.waiting is None
    assert said is not None and (said.again, said.why) == (False, "nothing confirmed serves beside it")


def test_neither_hours_nor_a_network_end_a_trial(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No deadline of a trial asks for a connection: a device that is offline for years stays where it is."""
    store.try_again("b")
    store.record_try()
    now_s, monotonic_s = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: now_s + 3e8)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic_s + 3e8)
    monkeypatch.setattr(socket, "socket", None)
    for _ in range(5):
        store.recover()
        state = store.record_try()
        assert state.trial is not None and state.trial.tries == 1 and kit.serving(store) == "2.0.0"


ENDS = st.lists(st.sampled_from(["exhaust", "revert", "try"]), max_size=60)


def _returns(ends: list[str]) -> int:
    """How often a device comes back to a release by itself, whatever ends its trials."""
    new, old = (SlotState("confirmed", kit_ref(1)), SlotState("trial", kit_ref(2)))
    state = State("m", slots={"a": new, "b": old}, active="b", trial=table.TrialState(), lineage=(kit_ref(1),))
    returns = 0
    for kind in ends:
        state = table.apply(state, table.Change(kind, "b"))  # type: ignore[arg-type]  # one of these kinds
        if state.trial is None:
            try:
                state = table.apply(state, table.Change("again", "b", retries=3))
            except DeviceUnable:
                return returns
            returns += 1
    return returns


def kit_ref(number: int) -> table.ReleaseRef:
    return table.ReleaseRef(f"{number}.0.0", f"{number}" * 64, kit.VARIANT)


@given(ENDS)
def test_a_device_never_goes_round_for_ever(ends: list[str]) -> None:
    assert _returns(ends) <= 3


@pytest.mark.parametrize("uncounted", ["exhaust", "revert"])
def test_a_table_that_does_not_count_an_end_is_caught(uncounted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = table._put_off
    monkeypatch.setattr(
        table, "_put_off", lambda times, kind: max(times, 1) if kind == uncounted else real(times, kind)
    )
    with pytest.raises(AssertionError, match="round for ever"):
        assert _returns(["exhaust", *[uncounted] * 20]) <= 3, "round for ever"
