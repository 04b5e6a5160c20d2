"""Every transition of the table, and every one that is in no row of it."""

from __future__ import annotations

import itertools
from typing import get_args

import msgspec
import pytest

from surefoot.errors import BadRequest, DeviceUnable, SurefootError
from surefoot.slots import table
from surefoot.slots.plan import Content, Facts, recover, safe, settle
from surefoot.slots.state import ReleaseRef, Slot, SlotState, State, Status, TrialState, other
from surefoot.slots.table import TABLE, Change, Kind, apply, check, step_back

OLD, NEW, OLDER = (ReleaseRef(version, version[0] * 64, "v") for version in ("1.0.0", "2.0.0", "0.9.0"))
STATUSES: tuple[Status, ...] = get_args(Status)
KINDS: tuple[Kind, ...] = get_args(Kind)


def situation(status: Status, position: str) -> State:
    """Slot b with a status; the other one is confirmed and serves, or waits to be returned to."""
    release = None if status == "empty" else NEW
    known = (OLDER, OLD, NEW) if status == "confirmed" else (OLDER, OLD)
    lineage = (OLDER, OLD, NEW) if status == "confirmed" and position == "active" else (OLDER, OLD)
    return State(
        "m",
        slots={"a": SlotState("confirmed", OLD), "b": SlotState(status, release)},
        active="b" if position == "active" else "a",
        trial=TrialState() if status == "trial" else None,
        lineage=lineage,
        known=known,
        floor="1.0.0",
    )


LEGAL = [
    (status, position)
    for status, position in itertools.product(STATUSES, ("active", "inactive"))
    if not check(situation(status, position))
]
DONE = {
    ("empty", "inactive", "fill"): "filling",
    ("filling", "inactive", "fill"): "filling",
    ("filling", "inactive", "stage"): "staged",
    ("filling", "inactive", "clear"): "empty",
    ("staged", "inactive", "fill"): "filling",
    ("staged", "inactive", "pass"): "ready",
    ("staged", "inactive", "refuse"): "empty",
    ("staged", "inactive", "clear"): "empty",
    ("ready", "inactive", "fill"): "filling",
    ("ready", "inactive", "activate"): "trial",
    ("ready", "inactive", "refuse"): "empty",
    ("ready", "inactive", "clear"): "empty",
    ("trial", "active", "try"): "trial",
    ("trial", "active", "confirm"): "confirmed",
    ("trial", "active", "reject"): "empty",
    ("trial", "active", "revert"): "ready",
    ("trial", "active", "exhaust"): "ready",
    ("trial", "active", "rollback"): "ready",
    ("trial", "active", "lose"): "empty",
    ("confirmed", "inactive", "archive"): "archiving",
    ("confirmed", "inactive", "fill"): "filling",
    ("confirmed", "inactive", "activate"): "confirmed",
    ("confirmed", "inactive", "lose"): "empty",
    ("confirmed", "active", "reject"): "empty",
    ("confirmed", "active", "rollback"): "confirmed",
    ("confirmed", "active", "lose"): "empty",
    ("archiving", "inactive", "unarchive"): "confirmed",
    ("archiving", "inactive", "fill"): "filling",
    ("archiving", "inactive", "clear"): "empty",
}
GIVES_WAY = {"reject", "revert", "exhaust", "rollback", "lose"}


def test_the_legal_situations_are_these() -> None:
    assert LEGAL == [
        ("empty", "inactive"),
        ("filling", "inactive"),
        ("staged", "inactive"),
        ("ready", "inactive"),
        ("trial", "active"),
        ("confirmed", "active"),
        ("confirmed", "inactive"),
        ("archiving", "inactive"),
    ]


@pytest.mark.parametrize(("status", "position"), LEGAL)
@pytest.mark.parametrize("kind", KINDS)
def test_each_transition_is_as_written_here_or_refused_with_a_reason(status: Status, position: str, kind: Kind) -> None:
    state = situation(status, position)
    change = Change(kind, "b", release=NEW if kind == "fill" else None, reason="why", time="now")
    expected = DONE.get((status, position, kind))
    if expected is None:
        with pytest.raises((BadRequest, DeviceUnable)) as refusal:
            apply(state, change)
        assert refusal.value.found or refusal.value.hint
        return
    after = apply(state, change)
    assert after.slots["b"].status == expected
    assert check(after) == []
    if position == "active":
        assert after.active == ("a" if kind in GIVES_WAY else "b")
    else:
        assert after.active == ("b" if kind == "activate" else "a")
    assert after.held == (kind == "rollback")
    assert bool(after.refused(NEW.digest)) == (kind in ("refuse", "reject"))


def test_restore_is_only_for_what_was_confirmed_here() -> None:
    state = situation("staged", "inactive")
    with pytest.raises(BadRequest, match="never confirmed"):
        apply(state, Change("restore", "b"))
    state = msgspec.structs.replace(state, known=(NEW,))
    assert apply(state, Change("restore", "b")).slots["b"].status == "confirmed"


def test_nothing_is_filled_or_activated_during_a_trial() -> None:
    state = situation("trial", "active")
    for kind, slot in (("fill", "a"), ("activate", "a"), ("archive", "a")):
        with pytest.raises(DeviceUnable, match="while a trial runs"):
            apply(state, Change(kind, slot, release=OLD))


def test_what_is_quarantined_is_neither_filled_nor_activated_and_the_refusal_says_why() -> None:
    state = apply(situation("ready", "inactive"), Change("refuse", "b", reason="golden case 7", time="then"))
    with pytest.raises(DeviceUnable, match="golden case 7") as refusal:
        apply(state, Change("fill", "b", release=NEW))
    assert "lift" in refusal.value.hint


def test_what_was_confirmed_here_before_is_confirmed_at_once_when_activated() -> None:
    state = msgspec.structs.replace(situation("ready", "inactive"), known=(OLD, NEW), held=True)
    after = apply(state, Change("activate", "b"))
    assert after.slots["b"].status == "confirmed"
    assert after.trial is None
    assert not after.held
    assert after.lineage[-1] == NEW
    assert after.floor == "2.0.0"


def test_the_first_trial_that_fails_leaves_nothing_active_and_the_reason() -> None:
    first = State("m", slots={"a": SlotState("trial", NEW), "b": SlotState()}, active="a", trial=TrialState())
    for kind in ("reject", "revert", "lose"):
        after = apply(first, Change(kind, "a", reason="case 3 differs"))
        assert after.active is None
        assert after.problem == "case 3 differs"
        assert check(after) == []
    with pytest.raises(DeviceUnable, match="no earlier confirmed release"):
        apply(first, Change("rollback", "a"))


def test_a_confirmed_release_with_nothing_before_it_is_not_rejected() -> None:
    only = State("m", slots={"a": SlotState("confirmed", OLD), "b": SlotState()}, active="a", lineage=(OLD,))
    for kind in ("reject", "rollback"):
        with pytest.raises(DeviceUnable, match="no earlier"):
            apply(only, Change(kind, "a"))


def test_rolling_back_takes_the_newer_one_out_of_the_lineage() -> None:
    after = apply(situation("confirmed", "active"), Change("rollback", "b"))
    assert after.lineage == (OLDER, OLD)
    assert step_back(after, 1) == OLDER


def test_steps_back_are_counted_from_the_confirmed_one_during_a_trial() -> None:
    assert step_back(situation("trial", "active"), 1) == OLD
    assert step_back(situation("trial", "active"), 2) == OLDER
    assert step_back(situation("confirmed", "active"), 1) == OLD
    assert step_back(situation("confirmed", "active"), 2) == OLDER
    for steps, family in ((3, DeviceUnable), (0, BadRequest), (-1, BadRequest)):
        with pytest.raises(family):
            step_back(situation("confirmed", "active"), steps)


# -- recovery ----------------------------------------------------------------------------------------------------------

CONTENTS: tuple[Content, ...] = get_args(Content)


@pytest.mark.parametrize(("status", "position"), LEGAL)
def test_a_plan_leads_to_a_state_that_needs_no_plan(status: Status, position: str) -> None:
    for a, b in itertools.product(CONTENTS, CONTENTS):
        for archived in ((), (OLD.digest,), (OLDER.digest, NEW.digest)):
            plan_comes_to_an_end(status, position, a, b, archived)


def plan_comes_to_an_end(status: Status, position: str, a: Content, b: Content, archived: tuple[str, ...]) -> None:
    state = situation(status, position)
    content: dict[Slot, Content] = {"a": a, "b": b}
    for _ in range(8):
        steps = recover(state, Facts(content, archived))
        if not steps:
            break
        for step in steps:
            state = carry_out(state, step, content)
        state = safe(state)
    else:
        pytest.fail(f"recovery does not come to an end: {steps}")
    assert check(state) == []
    for slot, now in state.slots.items():
        if now.status != "empty":
            assert content[slot] == "whole", f"slot {slot} is {now.status} and {content[slot]}"
    held = [a == "whole", b == "whole" and status in ("confirmed", "archiving"), bool(archived)]
    if state.active is None:
        assert not any(held), "something confirmed was there and does not serve"


def carry_out(state: State, step: object, content: dict[Slot, Content]) -> State:
    """What the disk would do, on plain values."""
    assert hasattr(step, "kind") and hasattr(step, "slot")
    slot: Slot = step.slot
    if step.kind == "drop":
        content[slot] = "none"
        return state
    if step.kind == "heal":
        for kind in ("fill", "stage", "restore"):
            state = apply(state, Change(kind, slot, release=step.release))
        content[slot] = "whole"
        return apply(state, Change("activate", slot)) if step.serve and state.active != slot else state
    return apply(state, Change(step.kind, slot, reason="recovery"))


def test_a_fallback_that_is_broken_too_is_not_returned_to() -> None:
    state = situation("trial", "active")
    facts = Facts({"a": "broken", "b": "broken"})
    steps = recover(state, facts)
    assert [(step.kind, step.slot) for step in steps] == [("lose", "a"), ("lose", "b")]


def test_what_another_process_is_filling_is_left_alone() -> None:
    state = situation("filling", "inactive")
    assert recover(state, Facts({"a": "whole", "b": "broken"}, busy=True)) == ()
    assert [step.kind for step in recover(state, Facts({"a": "whole", "b": "broken"}))] == ["clear"]


# -- states of no row --------------------------------------------------------------------------------------------------


def test_any_state_fails_safe_to_the_last_confirmed_slot() -> None:
    actives: tuple[Slot | None, ...] = (None, "a", "b")
    for a, b, active in itertools.product(STATUSES, STATUSES, actives):
        for trial in (None, TrialState(1, 3, "boot")):
            fails_safe(a, b, active, trial)


def fails_safe(a: Status, b: Status, active: Slot | None, trial: TrialState | None) -> None:
    state = State(
        "m",
        slots={
            "a": SlotState(a, OLD if a != "empty" else None),
            "b": SlotState(b, NEW if b != "empty" else None),
        },
        active=active,
        trial=trial,
        lineage=(OLD, NEW),
    )
    made = safe(state)
    assert check(made) == []
    if not check(state):
        assert made == state
    if "confirmed" in (a, b):
        assert made.active is not None
        assert made.slots[made.active].status == "confirmed" or made.slots[other(made.active)].status == "confirmed"
    if made.active is not None and check(state) and made.trial is None:
        assert made.slots[made.active].status == "confirmed"


def test_a_state_with_a_release_where_none_can_be_fails_safe() -> None:
    broken = State("m", slots={"a": SlotState("confirmed", OLD), "b": SlotState("ready", None)}, active="b")
    made = safe(broken)
    assert (made.active, made.slots["b"]) == ("a", SlotState())


def test_falling_back_a_generation_puts_the_trial_off() -> None:
    made = settle(situation("trial", "active"), fell_back=True)
    assert (made.active, made.trial, made.slots["b"].status) == ("a", None, "ready")
    kept = settle(situation("trial", "active"), fell_back=False)
    assert kept == situation("trial", "active")


def test_every_row_says_what_recovery_does_with_it() -> None:
    assert set(TABLE) == set(STATUSES)
    for status, row in TABLE.items():
        for kind in (row.whole, row.broken):
            assert kind in (None, "drop") or kind in row.on, f"{status}: recovery by a transition of another row"


def test_refusals_are_of_the_families_that_say_who_acts() -> None:
    with pytest.raises(SurefootError) as refusal:
        apply(situation("empty", "inactive"), Change("activate", "b"))
    assert isinstance(refusal.value, BadRequest)
    assert "install" in refusal.value.hint
    assert "ready and inactive or confirmed and inactive" in refusal.value.expected
    assert table.HINTS["activate"]
