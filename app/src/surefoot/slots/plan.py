"""What to do after a cut: derived from the columns of ``table.TABLE``. Pure, like the table."""

from __future__ import annotations

from typing import Literal

import msgspec

from surefoot.slots import table
from surefoot.slots.state import SLOTS, ReleaseRef, Slot, SlotState, State, other

Content = Literal["none", "whole", "broken"]  # of a slot's directory, judged against what the state says is in it


class Facts(msgspec.Struct, frozen=True):
    """What recovery saw. ``archived``: digests in the archive. ``busy``: another process is filling a slot."""

    content: dict[Slot, Content]
    archived: tuple[str, ...] = ()
    busy: bool = False


class Step(msgspec.Struct, frozen=True):
    """One thing to do: a change of the table, ``drop`` what lies in an empty slot, or ``heal`` from the archive.

    ``serve``: what is healed becomes active again.
    """

    kind: table.Kind | Literal["drop", "heal"]
    slot: Slot
    why: str
    release: ReleaseRef | None = None
    serve: bool = False


def recover(state: State, facts: Facts) -> tuple[Step, ...]:
    """The steps that bring the disk to a state of the table; none when it is in one."""
    steps: list[Step] = []
    lost: list[tuple[ReleaseRef, bool]] = []
    for slot in sorted(SLOTS, key=lambda slot: slot == state.active):  # the fallback is judged before it is needed
        now, content = state.slots[slot], facts.content[slot]
        if facts.busy and slot != state.active:
            continue
        row = table.TABLE[now.status]
        kind = row.whole if content == "whole" else row.broken
        entry = state.refused(now.release.digest) if now.release else None
        if entry is not None and now.status in ("staged", "ready"):
            kind = "clear"
        if kind is None or (kind == "drop" and content == "none"):
            continue
        why = f"slot {slot} was {now.status} and its content is {WORDS[content]}"
        steps.append(Step(kind, slot, why))
        if kind == "drop":
            continue
        if kind == "lose" and now.status == "confirmed" and now.release is not None:
            lost.append((now.release, slot == state.active))
        state = table.apply(state, table.Change(kind, slot, reason=why))
    return (*steps, *_heal(state, facts, lost))


WORDS: dict[Content, str] = {"none": "missing", "whole": "whole", "broken": "not what was installed"}


def _heal(state: State, facts: Facts, lost: list[tuple[ReleaseRef, bool]]) -> list[Step]:
    if facts.busy or state.trial is not None:
        return []
    for release, served in lost:
        if release.digest in facts.archived:
            why = f"the archive holds {release}"
            return [Step("heal", state.inactive, why, release, serve=served or state.active is None)]
    if state.active is None:
        for release in reversed(state.lineage):
            if release.digest in facts.archived and state.was_confirmed(release.digest):
                return [Step("heal", state.inactive, f"the archive holds {release}", release, serve=True)]
    return []


def safe(state: State) -> State:
    """A state that is in no row of the table, made one that is: the last confirmed slot serves."""
    if not table.check(state):
        return state
    slots: dict[Slot, SlotState] = {}
    for slot in SLOTS:
        now = state.slots.get(slot, SlotState())
        if (now.release is None) != (now.status == "empty"):
            now = SlotState()
        if now.status == "trial" and (state.active != slot or state.trial is None):
            now = SlotState("ready", now.release)
        slots[slot] = now
    active = state.active if state.active and slots[state.active].status in ("trial", "confirmed") else None
    if active is None:
        active = _last_confirmed(slots, state.lineage)
    trial = state.trial if active and slots[active].status == "trial" else None
    if active is not None and trial is not None and slots[other(active)].status == "trial":
        slots[other(active)] = SlotState("ready", slots[other(active)].release)
    problem = state.problem if active else state.problem or "the state made no sense and no slot is confirmed"
    result: State = msgspec.structs.replace(state, slots=slots, active=active, trial=trial, problem=problem)
    return result


def _last_confirmed(slots: dict[Slot, SlotState], lineage: tuple[ReleaseRef, ...]) -> Slot | None:
    order = [ref.digest for ref in lineage]
    confirmed = [
        (order.index(now.release.digest) if now.release.digest in order else -1, slot)
        for slot, now in slots.items()
        if now.status == "confirmed" and now.release is not None
    ]
    return max(confirmed)[1] if confirmed else None


def settle(state: State, *, fell_back: bool) -> State:
    """A state as it may be believed: one of the table, and without a trial where a generation may be missing.

    A copy that is lost may have counted a try that the other does not know of: the trial is put off, so that old
    tries are not revived.
    """
    state = safe(state)
    if fell_back and state.trial is not None and state.active is not None:
        why = "a copy of the state was lost during the trial"
        state = table.apply(state, table.Change("revert", state.active, reason=why))
    return state
