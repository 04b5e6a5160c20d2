"""One transition at a time, made durable: both copies, then the history, the quarantine's file and the records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from surefoot.config import Storage
from surefoot.durable import Disk, locked
from surefoot.errors import DeviceUnable
from surefoot.slots import formats, table
from surefoot.slots.archive import Archive
from surefoot.slots.content import Record, fault, read_record, write_record
from surefoot.slots.copies import Copies
from surefoot.slots.history import History
from surefoot.slots.layout import Layout
from surefoot.slots.plan import settle
from surefoot.slots.quarantine import Quarantine
from surefoot.slots.rebuild import Found, rebuild
from surefoot.slots.state import FORMAT, MOST_LINEAGE, MOST_REASON, SLOTS, Event, ReleaseRef, Slot, State

STATE_LOCK_WAIT_S = 30.0
WHAT: dict[table.Kind, str] = {
    "archive": "archiving",
    "unarchive": "archiving undone",
    "fill": "filling",
    "stage": "staged",
    "restore": "restored",
    "pass": "ready",
    "refuse": "refused",
    "clear": "cleared",
    "activate": "activated",
    "again": "tried again",
    "try": "tried",
    "confirm": "confirmed",
    "reject": "rejected",
    "revert": "put off",
    "exhaust": "put off",
    "rollback": "rolled back",
    "lose": "lost",
}


class Journal:
    """The state of one model on disk.

    Args:
        layout: where.
        disk: how to write.
        storage: bounds on what is kept.
        copies: how the state is kept.
        newest_format: the newest format of the state that may be written now.
    """

    def __init__(
        self,
        layout: Layout,
        disk: Disk,
        storage: Storage,
        copies: Copies | None = None,
        newest_format: Callable[[], int] = lambda: FORMAT,
    ) -> None:
        self.layout, self.disk, self.newest_format = layout, disk, newest_format
        self.keep = min(storage.steps_back + 1, MOST_LINEAGE)
        self.copies = copies or Copies(layout, disk)
        self.history = History(layout.history, disk, storage.history_bytes)
        self.quarantine = Quarantine(layout.quarantine, disk)
        self.archive = Archive(layout.archive, disk, storage)
        self.postponing = False  # what follows a transition waits for the next look at the state

    def read(self) -> State:
        """What can be believed, without a lock and without writing."""
        loaded = self.copies.load()
        return self._rebuilt() if loaded is None else settle(loaded.state, fell_back=loaded.fell_back)

    def change(self, change: table.Change) -> State:
        """Let one thing of the table happen.

        Raises:
            DeviceUnable, BadRequest: as ``table.apply``; the disk does not take it.
        """
        with self.changing() as state:
            return self.commit(state, table.apply(state, change), change)

    @contextmanager
    def changing(self) -> Iterator[State]:
        """Hold the state's lock, with the copies repaired and the history complete."""
        self.disk.make_directory(self.layout.root)
        with locked(self.layout.state_lock, wait_s=STATE_LOCK_WAIT_S, what=f"the state of {self.layout.root.name}"):
            yield self._current()

    def _current(self) -> State:
        loaded = self.copies.load()
        if loaded is None:
            rebuilt = self._rebuilt()
            if not self.layout.used():
                return rebuilt
            return self.note(rebuilt, "rebuilt", "both copies of the state were lost")
        state = settle(loaded.state, fell_back=loaded.fell_back)
        if loaded.lagging or state != loaded.state:
            why = "a copy of the state was lost" if loaded.fell_back else "the copies of the state were not the same"
            with suppress(DeviceUnable):
                self.history.ensure(loaded.state.event)
            return self.note(state, "state repaired", why)
        self._follow(state)
        return state

    def _rebuilt(self) -> State:
        name = self.layout.root.name
        if not self.layout.used():
            return State(name, format=self.newest_format())
        records = {slot: record for slot in SLOTS if (record := read_record(self.layout.slot_record(slot)))}
        whole: dict[Slot, Record] = {
            slot: record for slot, record in records.items() if fault(self.layout.slot(slot), record.release) is None
        }
        archived = tuple(entry.record for entry in self.archive.entries() if entry.record)
        found = Found(
            whole,
            archived,
            history=tuple(self.history.read()),
            quarantine=self.quarantine.read(),
            records=tuple(records.values()),
        )
        return rebuild(name, found, self.newest_format())

    def commit(self, before: State, after: State, change: table.Change) -> State:
        """Acknowledge a change: returns when both copies hold it."""
        what = WHAT[change.kind]
        if change.kind == "activate" and after.trial is None:
            what = "confirmed"
        release = change.release or before.slots[change.slot].release
        return self.note(after, what, change.reason, change.slot, release)

    def note(
        self, state: State, what: str, reason: str = "", slot: Slot | None = None, release: ReleaseRef | None = None
    ) -> State:
        """Write the next generation of the state, and what led to it."""
        event = Event(
            generation=state.generation + 1,
            what=what,
            time=now(),
            monotonic_s=round(time.monotonic(), 3),
            slot=slot,
            version=release.version if release else "",
            digest=release.digest if release else "",
            variant=release.variant if release else "",
            reason=reason[:MOST_REASON],
            serving=state.serving.digest if state.serving else "",
            lineage=tuple(ref.digest for ref in state.lineage),
            held=state.held,
        )
        state = formats.kept(msgspec.structs.replace(state, generation=state.generation + 1, event=event))
        self.copies.save(state)
        if not self.postponing:
            self._follow(state)
        return state

    def migrate(self) -> str:
        """Write the state in the newest format that may be written. Returns what was done; empty where nothing was."""
        with self.changing() as state:
            wanted = self.newest_format()
            if state.format >= wanted:
                return ""
            why = f"state format {state.format} to {wanted}"
            self.note(msgspec.structs.replace(state, format=wanted), "migrated", why)
            return f"migrated: {why}"

    def _follow(self, state: State) -> None:
        """Everything that follows the state; what fails here is made good by the next transition or recovery."""
        with suppress(DeviceUnable):
            self.history.ensure(state.event)
            self.quarantine.follow(state.quarantine)
            for slot in SLOTS:
                here, path = state.slots[slot], self.layout.slot_record(slot)
                if here.status == "confirmed" and here.release is not None:
                    record = read_record(path)
                    order = record.order if record else 0
                    if state.event and state.event.what == "confirmed" and state.event.slot == slot:
                        order = state.event.generation
                    floor = record.floor if record and record.order == order else state.floor
                    write_record(self.disk, path, Record(here.release, True, order, floor))


def now() -> str:
    """The clock, UTC, RFC 3339. For people and for the record; no rule is derived from it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
