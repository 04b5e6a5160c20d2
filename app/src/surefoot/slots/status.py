"""What ``surefoot model status --json`` prints: plain, stable names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from surefoot.slots.state import SLOTS, Refused, ReleaseRef, Slot, State, Status, TrialState

if TYPE_CHECKING:
    from surefoot.slots.store import Store


class SlotReport(msgspec.Struct, frozen=True):
    """One slot; the last three are ``None`` where it is empty."""

    slot: Slot
    status: Status
    version: str | None
    digest: str | None
    variant: str | None


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


def report(store: Store) -> StatusReport:
    """The status of a model as it is now; takes no lock and changes nothing."""
    state = store.read()
    before = state.lineage if state.trial is not None else state.lineage[:-1]
    previous = tuple(
        Previous(ref.version, ref.digest, ref.variant, store.where(ref) or "gone") for ref in reversed(before)
    )
    return describe(state, previous, store.storage.steps_back)


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
        slot, now.status, ref.version if ref else None, ref.digest if ref else None, ref.variant if ref else None
    )
