"""In which format the state is written: an app on trial leaves it readable for the one that it would return to.

Format 2 added ``SlotState.put_off``. A state is written in the format that it was read in until it is migrated, and it
is migrated by an app that has passed its own trial alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from surefoot.slots.sealed import seal
from surefoot.slots.state import FORMAT, OLDEST_FORMAT, SlotState, State

APP_VARIABLE = "SUREFOOT_APP"  # the folder of the app that a process is of, as the unit and the command found it


def newest(data_dir: Path, environment: Mapping[str, str] = os.environ) -> int:
    """The newest format that this process may write now.

    Where apps have trials of their own (``<data_dir>/apps``, see ADR 12) only the current one that is confirmed writes
    what the one before it may be unable to read. A process that does not know which app it is of counts as on trial.

    Args:
        data_dir: the device's.
        environment: of this process.
    """
    current = data_dir / "apps" / "current"
    if not current.is_symlink():
        return FORMAT
    app = Path(environment.get(APP_VARIABLE, "")).name
    here = current.parent / app
    settled = app == current.readlink().name and (here / "confirmed").is_file() and not (here / "tries").exists()
    return FORMAT if settled else OLDEST_FORMAT


def kept(state: State) -> State:
    """A state without what its format has no place for."""
    if state.format > 1:
        return state
    slots = {slot: SlotState(now.status, now.release) for slot, now in state.slots.items()}
    result: State = msgspec.structs.replace(state, slots=slots)
    return result


def sealed(state: State) -> bytes:
    """A state as the bytes of a record, each format as its own apps wrote it."""
    if state.format > 1:
        return seal(state)
    plain = msgspec.to_builtins(state)
    for slot in plain["slots"].values():
        del slot["put_off"]
    return seal(plain)
