"""The two copies of the state on disk."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from surefoot.durable import Disk
from surefoot.errors import DeviceUnable
from surefoot.slots.formats import sealed
from surefoot.slots.layout import Layout
from surefoot.slots.sealed import UnreadableError, newer, read_sealed
from surefoot.slots.state import FORMAT, State

MOST_STATE_BYTES = 512 * 1024


class Loaded(NamedTuple):
    """``fell_back``: a copy is lost and may have been the newer one. ``lagging``: the copies are not the same."""

    state: State
    fell_back: bool
    lagging: bool


class Copies:
    """``state.0`` and ``state.1``. A transition is acknowledged when both hold it."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout, self._disk = layout, disk

    def load(self) -> Loaded | None:
        """The newest valid copy; ``None`` when there is none.

        Raises:
            NewerFormat: a newer app wrote one of them.
        """
        found: list[State] = []
        for path in self._layout.copies:
            try:
                state = read_sealed(path, State, MOST_STATE_BYTES)
            except UnreadableError:
                continue
            if state is not None and state.format > FORMAT:
                raise newer(str(path), f"state format {state.format}", f"state format {FORMAT} at most")
            if state is not None and state.name == self._layout.root.name:
                found.append(state)
        if not found:
            return None
        state = max(found, key=lambda one: one.generation)
        lost = len(found) < len(self._layout.copies)
        return Loaded(state, fell_back=lost, lagging=lost or found[0] != found[1])

    def save(self, state: State) -> None:
        """Write both copies, and read them back: a transition that did not happen must not be reported.

        Raises:
            DeviceUnable: they could not be written, or do not hold what was written.
        """
        data = sealed(state)
        self._disk.write_all(dict.fromkeys(self._layout.copies, data))
        loaded = self.load()
        if (
            loaded is None
            or loaded.lagging
            or loaded.state != msgspec.json.decode(msgspec.json.encode(state), type=State)
        ):
            raise DeviceUnable(
                "the state was written and is not what is read back",
                found=f"{self._layout.root}",
                hint="check the kernel log for disk errors",
            )
