"""The way back: seeing to it that the other slot holds a release that was confirmed before."""

from __future__ import annotations

from surefoot.errors import DeviceUnable
from surefoot.slots import health
from surefoot.slots.archive import Entry
from surefoot.slots.content import fault
from surefoot.slots.filling import Filler
from surefoot.slots.journal import Journal
from surefoot.slots.operation import Operation
from surefoot.slots.state import ReleaseRef, Slot, State, other


class Returner:
    """Brings confirmed releases back into a slot."""

    def __init__(self, journal: Journal, filler: Filler, operation: Operation) -> None:
        self._journal, self._filler, self._operation = journal, filler, operation

    def check(self, state: State, target: ReleaseRef) -> None:
        """Refuse a way back that nothing here can go, before anything changes.

        Raises:
            DeviceUnable: neither the other slot nor the archive holds the release whole.
        """
        if not self._beside(state, target):
            self._archived(target)

    def bring(self, state: State, target: ReleaseRef) -> None:
        """Have the release in the other slot: from the archive, where it is not there already.

        Raises:
            DeviceUnable: as :meth:`check`; no room; another operation is under way.
        """
        if not self._beside(state, target):
            entry = self._archived(target)
            with self._operation.holding("rollback"):
                self._filler.restore(entry)

    def _beside(self, state: State, target: ReleaseRef) -> bool:
        slot: Slot | None = other(state.active) if state.active else None
        if slot is None or state.slots[slot].status != "confirmed" or state.slots[slot].release != target:
            return False
        return health.problem(self._journal, state, slot) is None

    def _archived(self, target: ReleaseRef) -> Entry:
        entry = self._journal.archive.find(target.digest)
        problem = fault(entry.path, target) if entry else "it is not in the archive"
        if entry is None or problem:
            raise DeviceUnable(
                f"nothing on this device holds {target} whole",
                found=problem or "",
                hint=f"fetch it again: surefoot model install --version {target.version}",
            )
        return entry
