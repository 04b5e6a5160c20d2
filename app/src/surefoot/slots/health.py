"""Every byte read again: is it what was installed?"""

from __future__ import annotations

from pathlib import Path

from surefoot.errors import DeviceUnable
from surefoot.slots.content import fault
from surefoot.slots.journal import Journal
from surefoot.slots.state import SLOTS, ReleaseRef, Slot, State
from surefoot.slots.status import SlotHealth


def problem(journal: Journal, state: State, slot: Slot) -> str | None:
    """What is wrong with the content of a slot, or ``None``."""
    release = state.slots[slot].release
    return fault(journal.layout.slot(slot), release) if release else "it is empty"


def _said(directory: Path, release: ReleaseRef) -> str:
    try:
        return fault(directory, release) or ""
    except DeviceUnable as error:
        return str(error)


def verify(journal: Journal, state: State) -> list[SlotHealth]:
    """The health of both slots and of every archived release."""
    found = []
    for slot in SLOTS:
        here = state.slots[slot]
        if here.release is not None and here.status not in ("filling", "archiving"):
            wrong = _said(journal.layout.slot(slot), here.release)
            found.append(SlotHealth(slot, not wrong, wrong, here.status, here.release))
    for entry in journal.archive.entries():
        release = entry.record.release if entry.record else None
        wrong = _said(entry.path, release) if release else "its record is missing or damaged"
        found.append(SlotHealth(f"archive/{entry.path.name}", not wrong, wrong, "archived", release))
    return found
