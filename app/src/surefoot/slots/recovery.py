"""Recovery on disk: look, ask ``plan.recover`` what to do, do it, look again until nothing is left to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from surefoot.durable import TEMPORARY_PREFIX, locked
from surefoot.errors import DeviceUnable, SurefootError
from surefoot.slots import table
from surefoot.slots.content import fault
from surefoot.slots.filling import Filler
from surefoot.slots.journal import Journal
from surefoot.slots.operation import Operation
from surefoot.slots.plan import Content, Facts, Step, recover
from surefoot.slots.scrub import Rotten, fault_on_disk
from surefoot.slots.sealed import NewerFormat
from surefoot.slots.state import SLOTS, ReleaseRef, Slot, State

MOST_ROUNDS = 16


class Recovery(msgspec.Struct, frozen=True):
    """``actions``: what was done, in words; empty when all was well.

    ``written``: false where the disk takes no writes; then ``state`` is what is true all the same.
    """

    state: State
    actions: list[str]
    written: bool = True


class Recoverer:
    """Recovers one model's slots."""

    def __init__(self, journal: Journal, filler: Filler, operation: Operation) -> None:
        self._journal, self._filler, self._operation = journal, filler, operation
        self._layout = journal.layout

    def recover(self, unread: Collection[Slot] = (), rotten: Sequence[Rotten] = ()) -> Recovery:
        """See ``Store.recover`` and, for slots that are left ``unread``, ``Store.repair`` and ``Store.heal``."""
        actions: list[str] = []
        healed: set[ReleaseRef | None] = set()
        try:
            with self._alone() as alone:
                for _ in range(MOST_ROUNDS):
                    state = self._repaired(actions)
                    found = self.look(state, busy=not alone, unread=unread, rotten=rotten)
                    steps = [one for one in recover(state, found) if one.kind != "drop" and one.release not in healed]
                    healed |= {
                        one.release for one in steps if one.kind == "heal"
                    }  # what does not stay is not tried again
                    if self._is_mapped(state.active):
                        steps = self._while_serving(state, steps, actions)
                    if not steps:
                        break
                    for step in steps:
                        self._do(step, actions)
                if alone:
                    actions += filter(None, [self._journal.migrate()])
                    actions += self.tidy()
            return Recovery(self._journal.read(), actions)
        except NewerFormat:
            raise
        except DeviceUnable as error:
            return self._unwritten(actions, error, unread, rotten)

    def _repaired(self, actions: list[str]) -> State:
        before = self._journal.copies.load()
        with self._journal.changing() as state:
            if state.event is not None and (before is None or before.state.generation != state.generation):
                actions.append(f"{state.event.what}: {state.event.reason}")
            return state

    def _is_mapped(self, slot: Slot | None) -> bool:
        """Whether a worker has a slot: its content in memory, as it was verified, or about to be.

        One that is still verifying leaves no rotten release serving: it hashes after it has taken the lock, refuses
        what is not what was installed, and who started it recovers again once it has let go (``ModelKeeper``).
        """
        if slot is None or not self._layout.slot_lock(slot).exists():
            return False
        try:
            with locked(self._layout.slot_lock(slot), wait_s=0):
                return False
        except DeviceUnable:
            return True

    def _while_serving(self, state: State, steps: list[Step], actions: list[str]) -> list[Step]:
        """What may be done beside a worker of the active release: it stays where nothing else can serve."""
        steps = [step for step in steps if not step.serve]  # its worker holds the slot
        after = state
        for step in steps:
            if step.kind != "heal" and step.kind != "drop":
                after = table.apply(after, table.Change(step.kind, step.slot, reason=step.why))
        if state.active is None or after.active is not None:
            return steps
        why = f"{steps[0].why}, and nothing else here can serve: what was loaded goes on; fetch {state.serving} again"
        actions.append(why)
        if state.event is None or state.event.reason != why:
            with self._journal.changing() as now:
                self._journal.note(now, "rot found", why, now.active, now.serving)
        return []

    def look(
        self,
        state: State,
        *,
        busy: bool,
        unread: Collection[Slot] = (),
        rotten: Sequence[Rotten] = (),
        tolerant: bool = False,
    ) -> Facts:
        """What is on the disk: every byte of the slots read, but for those that are taken for whole where they are.

        What was found ``rotten`` before is so while it lies there. What this user may not read is an error, or where
        that is ``tolerant`` not to be served.
        """
        content: dict[Slot, Content] = {}
        for slot in SLOTS:
            release = state.slots[slot].release
            if not self._layout.slot(slot).exists():
                content[slot] = "none"
                continue
            try:
                known = any((each.where, each.release) == (slot, release) and each.lies_there() for each in rotten)
                whole = (
                    release is not None
                    and not known
                    and (slot in unread or not _rotten(self._layout.slot(slot), release))
                )
            except DeviceUnable:
                if not tolerant:
                    raise
                whole = False
            content[slot] = "whole" if whole else "broken"
        return Facts(content, self._journal.archive.digests(), busy)

    def tidy(self) -> list[str]:
        """Remove what no slot and no step back needs. The caller holds the operation."""
        with self._journal.changing() as state:
            pass
        actions = self._journal.archive.prune(state)
        for slot in SLOTS:
            left = [self._layout.slot(slot), self._layout.slot_record(slot), self._layout.filling(slot)]
            debris = state.slots[slot].status == "empty" and any(path.exists() for path in left)
            if debris and self._filler.discard_if_free(slot):
                actions.append(f"removed what was left in slot {slot}")
        for path in self._layout.root.glob(f"{TEMPORARY_PREFIX}*"):
            if path.is_dir():
                self._journal.disk.remove_directory(path)
        return actions

    def _do(self, step: Step, actions: list[str]) -> None:
        actions.append(step.why)
        if step.kind == "heal":
            self._heal(step, actions)
        elif step.kind != "drop":  # that is tidied up at the end, when nobody has it open
            self._journal.change(table.Change(step.kind, step.slot, reason=step.why))

    def _heal(self, step: Step, actions: list[str]) -> None:
        entry = self._journal.archive.find(step.release.digest) if step.release else None
        if entry is None or entry.record is None:
            return
        try:
            slot = self._filler.restore(entry)
        except SurefootError as error:
            if not _rotten(entry.path, entry.record.release):
                raise
            actions.append(f"the archived {step.release} is damaged and removed: {error}")
            self._journal.archive.remove(entry)
            return
        actions.append(f"slot {slot} holds {step.release} again")
        if step.serve and self._journal.read().active != slot:
            self._journal.change(table.Change("activate", slot, reason=step.why))

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """The operation lock if it is free: what another process is filling must not be taken for debris."""
        with ExitStack() as stack:
            alone = True
            try:
                stack.enter_context(self._operation.holding("recover"))
            except DeviceUnable:
                alone = False
            yield alone

    def _unwritten(
        self, actions: list[str], error: DeviceUnable, unread: Collection[Slot], rotten: Sequence[Rotten]
    ) -> Recovery:
        """What is true, told without writing it: the confirmed slot serves."""
        state = self._journal.read()
        facts = self.look(state, busy=False, unread=unread, rotten=rotten, tolerant=True)
        for step in recover(state, msgspec.structs.replace(facts, archived=())):
            if step.kind != "drop" and step.kind != "heal":
                state = table.apply(state, table.Change(step.kind, step.slot, reason=step.why))
        return Recovery(state, [*actions, f"nothing was written: {error}"], written=False)


def _rotten(directory: Path, release: ReleaseRef) -> bool:
    """Whether it is not what was installed, seen twice, the second time on the disk itself: a disk may fail once."""
    return fault(directory, release) is not None and fault_on_disk(directory, release) is not None
