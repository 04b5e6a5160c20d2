"""What the store knows, as plain values. How it changes is in ``table``, how it is kept in ``copies``."""

from __future__ import annotations

from typing import Literal

import msgspec

from surefoot.release.manifest import version_key

FORMAT = 2
OLDEST_FORMAT = 1  # that this app still reads, and writes where it may not write the other: see formats
Slot = Literal["a", "b"]
SLOTS: tuple[Slot, Slot] = ("a", "b")
# Health of a slot. Position (which one is active) is another thing, held by State.active.
Status = Literal["empty", "filling", "staged", "ready", "trial", "confirmed", "archiving"]

MOST_LINEAGE = 16  # confirmed releases that a rollback can count back through
MOST_KNOWN = 64  # digests once confirmed here that may be taken again below the floor
MOST_QUARANTINED = 128
MOST_REASON = 300  # characters


class ReleaseRef(msgspec.Struct, frozen=True):
    """A release as this device holds it. ``digest``: SHA-256 (hex) of the manifest's bytes."""

    version: str
    digest: str
    variant: str

    def __str__(self) -> str:
        return f"{self.version} ({self.digest[:12]})"


class SlotState(msgspec.Struct, frozen=True):
    """One slot. ``release`` is ``None`` exactly when the status is ``empty``.

    ``put_off``: how often the trial of that release was put off since somebody activated it, its tries used up.
    """

    status: Status = "empty"
    release: ReleaseRef | None = None
    put_off: int = 0  # since format 2


class TrialState(msgspec.Struct, frozen=True):
    """``tries`` loads were recorded of ``allowed``; ``boot``: the boot that the last one was counted in."""

    tries: int = 0
    allowed: int = 3
    boot: str = ""


class Refused(msgspec.Struct, frozen=True):
    """A digest that this device refuses to try again."""

    digest: str
    version: str
    reason: str
    time: str


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened. ``time``: UTC, RFC 3339, as the clock said. ``monotonic_s``: seconds since boot.

    ``generation``: the state that it led to. ``serving``, ``lineage``: digests of the active and of the confirmed
    releases in it, for a rebuild.
    """

    generation: int
    what: str
    time: str
    monotonic_s: float
    slot: Slot | None = None
    version: str = ""
    digest: str = ""
    variant: str = ""
    reason: str = ""
    serving: str = ""
    lineage: tuple[str, ...] = ()
    held: bool = False


class State(msgspec.Struct, frozen=True):
    """The whole state of one model on this device.

    ``lineage``: confirmed releases in the order of confirmation, the last is the one confirmed now. ``floor``: the
    newest version ever confirmed. ``known``: every release ever confirmed here, the latest last, bounded.
    ``held``: an operator rolled back; pull stops until released. ``problem``: why nothing is ready, or "".
    """

    name: str
    format: int = FORMAT
    generation: int = 0
    slots: dict[Slot, SlotState] = msgspec.field(default_factory=lambda: {"a": SlotState(), "b": SlotState()})
    active: Slot | None = None
    trial: TrialState | None = None
    lineage: tuple[ReleaseRef, ...] = ()
    floor: str | None = None
    held: bool = False
    known: tuple[ReleaseRef, ...] = ()
    quarantine: tuple[Refused, ...] = ()
    problem: str = ""
    event: Event | None = None  # what led here; a cut before it reached the history is made good from this

    @property
    def inactive(self) -> Slot:
        """The slot that an install goes to: the one that does not serve, or the one that is worth the least."""
        if self.active is not None:
            return other(self.active)
        worth: dict[Status, int] = {"empty": 0, "filling": 1, "staged": 2, "ready": 3, "archiving": 4}
        return min(SLOTS, key=lambda slot: worth.get(self.slots[slot].status, 5))

    @property
    def fallback(self) -> Slot | None:
        """The confirmed slot that serves when a trial cannot or may not."""
        if self.trial is None or self.active is None:
            return None
        return other(self.active) if self.slots[other(self.active)].status == "confirmed" else None

    @property
    def waiting(self) -> Slot | None:
        """The slot whose release was put off and may be tried again beside the confirmed one that serves."""
        if self.active is None or self.trial is not None or self.held:
            return None
        here = self.slots[other(self.active)]
        if here.status != "ready" or here.release is None or not here.put_off:
            return None
        return None if self.refused(here.release.digest) else other(self.active)

    @property
    def serving(self) -> ReleaseRef | None:
        """The release in the active slot."""
        return self.slots[self.active].release if self.active else None

    def was_confirmed(self, digest: str) -> bool:
        """Whether this device once confirmed that very digest and does not refuse it."""
        return any(ref.digest == digest for ref in self.known) and self.refused(digest) is None

    def refused(self, digest: str) -> Refused | None:
        """The quarantine's entry of a digest."""
        return next((entry for entry in self.quarantine if entry.digest == digest), None)


def other(slot: Slot) -> Slot:
    """The other of the two."""
    return "b" if slot == "a" else "a"


def newest(*versions: str | None) -> str | None:
    """The newest of some versions."""
    return max((version for version in versions if version), key=version_key, default=None)


def advance(refs: tuple[ReleaseRef, ...], ref: ReleaseRef, most: int) -> tuple[ReleaseRef, ...]:
    """``ref`` put last, once, and the oldest dropped beyond ``most``."""
    return (*(one for one in refs if one.digest != ref.digest), ref)[-most:]
