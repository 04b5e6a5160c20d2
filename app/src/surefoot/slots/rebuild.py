"""The state made again from what lies on the disk, when both copies are lost. Never blank, never promoting. Pure."""

from __future__ import annotations

import msgspec

from surefoot.errors import UntrustedRelease
from surefoot.release.manifest import version_key
from surefoot.slots.content import Record
from surefoot.slots.plan import safe
from surefoot.slots.state import (
    FORMAT,
    MOST_KNOWN,
    MOST_LINEAGE,
    MOST_QUARANTINED,
    SLOTS,
    Event,
    Refused,
    ReleaseRef,
    Slot,
    SlotState,
    State,
    advance,
    newest,
)


class Found(msgspec.Struct, frozen=True):
    """What the disk still tells. ``slots``: the records of slots whose content is what the record says."""

    slots: dict[Slot, Record]
    archived: tuple[Record, ...]
    history: tuple[Event, ...]
    quarantine: tuple[Refused, ...]
    records: tuple[Record, ...] = ()  # of slots, whatever their content


NOTHING = Event(generation=0, what="", time="", monotonic_s=0.0)


def rebuild(name: str, found: Found, format_: int = FORMAT) -> State:
    """The state that the disk proves: confirmed is only what its record or the history says was confirmed."""
    quarantine = _quarantine(found)
    refused = {entry.digest for entry in quarantine}
    known: tuple[ReleaseRef, ...] = ()
    for event in found.history:
        if event.what == "confirmed" and _is_version(event.version):
            known = advance(known, ReleaseRef(event.version, event.digest, event.variant), MOST_KNOWN)
    last = max(found.history, key=lambda event: event.generation, default=NOTHING)
    every = sorted((*found.records, *found.archived), key=lambda record: record.order)
    for record in every:
        if record.ever_confirmed and record.release.digest not in {ref.digest for ref in known}:
            known = (record.release, *known)
    by_digest = {ref.digest: ref for ref in known}
    lineage = tuple(by_digest[digest] for digest in last.lineage if digest in by_digest)
    for record in every:  # confirmed after the history ends
        if record.ever_confirmed and record.order > last.generation:
            lineage = advance(lineage, record.release, MOST_LINEAGE)
    generation = max([last.generation, *(record.order for record in every)])
    floor = newest(*(record.floor for record in every))
    floor = newest(floor, *(ref.version for ref in known))
    lineage = tuple(ref for ref in lineage if ref.digest not in refused)
    confirmed = {ref.digest for ref in known} - refused
    slots: dict[Slot, SlotState] = {}
    for slot in SLOTS:
        here = found.slots.get(slot)
        if here is None or here.release.digest in refused:
            slots[slot] = SlotState()
        else:
            slots[slot] = SlotState("confirmed" if here.release.digest in confirmed else "staged", here.release)
    state = State(
        name,
        format=format_,
        generation=generation,
        slots=slots,
        lineage=lineage,
        floor=floor,
        held=last.held,
        known=known[-MOST_KNOWN:],
        quarantine=quarantine,
        problem="the state was lost and no slot holds a confirmed release",
    )
    state = safe(state)
    if state.serving is None:
        return state
    places = [place for place, ref in enumerate(lineage) if ref.digest == state.serving.digest]
    lineage = lineage[: places[0] + 1] if places else advance(lineage, state.serving, MOST_LINEAGE)
    result: State = msgspec.structs.replace(state, lineage=lineage, problem="")
    return result


def _is_version(text: str) -> bool:
    """The history has no checksums: a line that rotted must not keep the rest from being believed."""
    try:
        return bool(version_key(text))
    except UntrustedRelease:
        return False


def _quarantine(found: Found) -> tuple[Refused, ...]:
    entries = {entry.digest: entry for entry in found.quarantine}
    for event in found.history:
        if event.what in ("rejected", "refused"):
            entries.setdefault(event.digest, Refused(event.digest, event.version, event.reason, event.time))
        elif event.what == "quarantine lifted":
            entries.pop(event.digest, None)
    return tuple(entries.values())[-MOST_QUARANTINED:]
