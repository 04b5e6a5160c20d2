"""What ``surefoot model status --json`` prints: plain, stable names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from surefoot.slots.state import SLOTS, Refused, ReleaseRef, Slot, State, Status, TrialState

if TYPE_CHECKING:
    from surefoot.slots.store import Store


class SlotReport(msgspec.Struct, frozen=True):
    """One slot; ``version`` to ``variant`` are ``None`` where it is empty. ``put_off``: see ``PutOff``."""

    slot: Slot
    status: Status
    version: str | None
    digest: str | None
    variant: str | None
    put_off: int = 0


class PutOff(msgspec.Struct, frozen=True):
    """A release whose trial was put off ``times`` times, its tries used up; tried again ``retries`` times at most.

    ``again``: whether the device tries it again by itself. ``left_s``: of confirmed service until then, where a server
    runs. ``why``: what it waits for, or why it stays ready until somebody activates it.
    """

    slot: Slot
    version: str
    times: int
    retries: int
    again: bool
    why: str
    left_s: float | None = None


class Previous(msgspec.Struct, frozen=True):
    """A release that was confirmed before. ``where``: ``a``, ``b``, ``archive``, or ``gone``: to be fetched again."""

    version: str
    digest: str
    variant: str
    where: str


class SlotHealth(msgspec.Struct, frozen=True):
    """``where``: ``a``, ``b`` or ``archive/<entry>``. ``problem``: what is wrong, or "" when every byte is right."""

    where: str
    ok: bool
    problem: str
    status: str
    release: ReleaseRef | None


class StatusReport(msgspec.Struct, frozen=True):
    """One model's state. ``previous``: what was confirmed before, the nearest step back first."""

    name: str
    active: SlotReport | None
    slots: dict[Slot, SlotReport]
    trial: TrialState | None
    previous: tuple[Previous, ...]
    held: bool
    floor: str | None
    quarantine: tuple[Refused, ...]
    generation: int
    problem: str | None
    put_off: PutOff | None = None


def report(store: Store) -> StatusReport:
    """The status of a model as it is now; takes no lock and changes nothing."""
    state = store.read()
    before = state.lineage if state.trial is not None else state.lineage[:-1]
    previous = tuple(
        Previous(ref.version, ref.digest, ref.variant, store.where(ref) or "gone") for ref in reversed(before)
    )
    found = describe(state, previous, store.storage.steps_back)
    return msgspec.structs.replace(found, put_off=put_off(state, store.retries))


def put_off(state: State, retries: int) -> PutOff | None:
    """The release that was put off and is ready, if there is one.

    Args:
        state: as read.
        retries: how often it is tried again.
    """
    for slot in SLOTS:
        now = state.slots[slot]
        if now.status == "ready" and now.release is not None and now.put_off:
            again = state.waiting == slot and now.put_off <= retries
            if again:
                why = "confirmed service"
            elif state.held:
                why = "an operator rolled back"
            elif state.trial is not None:
                why = "another release is on trial"
            elif state.active is None:
                why = "nothing confirmed serves beside it"
            else:
                why = "it was tried again often enough" if retries else "trial.retries is 0"
            return PutOff(slot, now.release.version, now.put_off, retries, again, why)
    return None


def describe(state: State, previous: tuple[Previous, ...], steps_back: int) -> StatusReport:
    """The status of a state.

    Args:
        state: as read.
        previous: what was confirmed before, the nearest first.
        steps_back: how many of them a rollback must reach.
    """
    slots = {slot: _slot(state, slot) for slot in SLOTS}
    promised = previous[: steps_back + 1] if state.trial is not None else previous[:steps_back]
    gone = ", ".join(one.version for one in promised if one.where == "gone")
    problem = state.problem
    if gone and not problem:
        problem = f"of {steps_back} promised steps back these are not on the device: {gone}; see storage.archive_bytes"
    return StatusReport(
        name=state.name,
        active=slots[state.active] if state.active else None,
        slots=slots,
        trial=state.trial,
        previous=previous,
        held=state.held,
        floor=state.floor,
        quarantine=state.quarantine,
        generation=state.generation,
        problem=problem or None,
    )


def _slot(state: State, slot: Slot) -> SlotReport:
    now = state.slots[slot]
    ref = now.release
    return SlotReport(
        slot,
        now.status,
        ref.version if ref else None,
        ref.digest if ref else None,
        ref.variant if ref else None,
        now.put_off,
    )
