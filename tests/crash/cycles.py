"""Install, confirm, roll back, again and again on one device, interrupted at random; judged after each interruption.

A cycle that was interrupted is begun anew by the next start, and counts when it is through. An interruption is a cut
before a random primitive of the cycle (a share of them followed by another inside the recovery), or a SIGKILL of a
process that goes through the cycle, at a random moment. Neither loses what the kernel has cached, so that only a share
of the cycles waits for fsyncs. What a power cut loses is another test.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from surefoot.durable import Disk
from surefoot.errors import SurefootError
from surefoot.slots.content import fault
from surefoot.slots.copies import Copies
from surefoot.slots.layout import Layout
from surefoot.slots.state import Slot, State
from surefoot.slots.store import Store
from tests.app.slots import kit
from tests.crash import disks
from tests.crash.cuts import Cut, FastDisk, claims_are_true, holds_together, next_update_works

STORAGE = kit.with_storage(history_bytes=6 * 1024)  # so that the history turns over often
CUT, AGAIN, KILLED = 0.5, 0.2, 0.04  # of cycles cut; of those, cut in the recovery too; of cycles killed
SYNCED = 0.1  # of the times that a cycle is begun
ANOTHER = 0.02  # of cycles, interrupted or not, that another update and a rollback come before


class CuttingDisk(Disk):
    """The real disk, until it stops before primitive ``at``."""

    def __init__(self, at: int | None, synced: bool) -> None:
        self.at, self.count, self._synced = at, 0, synced

    def step(self, primitive: str, path: Path) -> None:
        if self.at is not None and self.count >= self.at:
            raise Cut(f"before primitive {self.at}: {primitive} {path}")
        self.count += 1

    def _fsync(self, descriptor: int, path: Path) -> None:
        if self._synced:
            super()._fsync(descriptor, path)
        else:
            self.step("fsync", path)

    def _syncfs(self, path: Path) -> None:
        if self._synced:
            super()._syncfs(path)
        else:
            self.step("syncfs", path)


Mutate = Callable[[Store], object]


class Plan(NamedTuple):
    """A cycle. ``moves``: the files are taken, as from the inbox; else they are copied.

    ``goes_on``: with the new one after the rollback: then the slots change places, and the archive fills.
    """

    release: kit.Release
    moves: bool
    goes_on: bool


class Cycles:
    """One device.

    Args:
        folder: the device; on the file system that is tested.
        inbox: where releases are made.
        seed: of all chance.
        mutate: takes a safeguard out of each store.
    """

    def __init__(self, folder: Path, inbox: Path, seed: int, mutate: Mutate = lambda store: None) -> None:
        self._folder, self._inbox, self._mutate = folder, inbox, mutate
        self._chance, self._another_chance = random.Random(seed), random.Random(f"{seed} another")
        self._boots = self._version = 0
        self._acknowledged = State(kit.NAME)
        self._said: int | None = None  # where a process that may be killed says what was acknowledged
        self._primitives = 100  # of a cycle; the next counts
        self._cycle_s = [0.05]
        self.cycles = self.cuts = self.cut_again = self.kills = self.others = 0
        self._folder.joinpath("models").mkdir(parents=True)
        kit.deploy(self._store(FastDisk()), kit.make_release(inbox, "0.1.0"))

    def _disk(self, at: int | None = None) -> CuttingDisk:
        return CuttingDisk(at, self._chance.random() < SYNCED)

    def _store(self, disk: Disk) -> Store:
        outer = self

        class Marking(Copies):
            def save(self, state: State) -> None:
                super().save(state)
                outer._acknowledge(state)

        models = self._folder / "models"
        copies = Marking(Layout(models, kit.NAME), disk)
        boot = f"boot-{self._boots}"
        store = Store(models, kit.NAME, disk=disk, storage=STORAGE, boot=boot, slot_wait_s=0.2, copies=copies)
        self._mutate(store)
        return store

    def _acknowledge(self, state: State) -> None:
        self._acknowledged = state
        if self._said is not None:
            os.write(self._said, b"%d\n" % state.generation)

    def run(self, count: int) -> None:
        """So many cycles.

        Raises:
            AssertionError: the promise does not hold; with the number of the cycle.
        """
        for number in range(count):
            try:
                self._one()
            except AssertionError as error:
                raise AssertionError(f"cycle {number}: {error}") from error

    def _one(self) -> None:
        plan = Plan(self._release(), self._chance.random() < 0.5, self._chance.random() < 0.5)
        kind = self._chance.random()
        if kind < CUT:
            self._cut(plan)
        elif kind < CUT + KILLED:
            self._kill(plan)
        if self._another_chance.random() < ANOTHER:
            plan = self._another(plan)
        began, disk = time.monotonic(), self._disk()
        store = self._store(disk)
        self._go(store, plan)
        if kind >= CUT + KILLED:
            self._primitives = disk.count
            self._cycle_s = [*self._cycle_s[-20:], time.monotonic() - began]
        state = store.read()
        assert state.active is not None and state.serving is not None, "no model serves after a cycle"
        assert fault(store.slot_path(state.active), state.serving) is None, "what serves after a cycle is not whole"
        _discard(plan.release)
        self.cycles += 1

    def _release(self) -> kit.Release:
        self._version += 1
        return kit.make_release(self._inbox, f"{self._version}.0.0")

    def _another(self, plan: Plan) -> Plan:
        """Another update, whatever the last one came to, and back. Gives the plan with a release newer than that."""
        _discard(plan.release)
        release = self._release()
        try:
            next_update_works(self._store(FastDisk()), release)
        except SurefootError as error:
            raise AssertionError(f"another update does not work: {error}") from error
        _discard(release)
        self.others += 1
        return plan._replace(release=self._release())

    def _go(self, store: Store, plan: Plan) -> None:
        """What was confirmed before an interruption is not confirmed again, only returned from."""
        state = store.recover().state
        if state.trial is not None:
            store.record_try()
            store.confirm("30 inferences, 60 s")
        state = store.activate(self._install(store, plan))
        if state.trial is not None:
            store.record_try()
            state = store.confirm("30 inferences, 60 s")
        assert state.serving is not None and state.serving.digest == plan.release.digest
        store.repair()
        with store.postponing():
            back = store.rollback()
        assert back.serving == state.lineage[-2], "a rollback returned to something else"
        if plan.goes_on:
            store.activate(back.inactive)

    def _install(self, store: Store, plan: Plan) -> Slot:
        release = plan.release
        if not plan.moves or store.admit(release.manifest, release.digest) is not None:
            return kit.install(store, release)
        inbox = self._folder / "inbox"
        shutil.rmtree(inbox, ignore_errors=True)
        inbox.mkdir()
        files = {name: Path(shutil.copy(path, inbox)) for name, path in release.files.items()}
        slot = store.take(release.manifest, release.data, kit.VARIANT, files)
        store.mark_ready(slot)
        return slot

    def _cut(self, plan: Plan) -> None:
        try:
            self._go(self._store(self._disk(self._chance.randrange(self._primitives))), plan)
        except Cut:
            self.cuts += 1
            self._boots += 1
        claims_are_true(self._store(FastDisk()), self._folder)
        if self._chance.random() < AGAIN:
            try:
                self._store(self._disk(self._chance.randrange(1, 12))).recover()
            except Cut:
                self.cut_again += 1
                self._boots += 1
        self._judge(self._acknowledged)

    def _kill(self, plan: Plan) -> None:
        disk = self._disk()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                self._said = writing
                self._go(self._store(disk), plan)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        time.sleep(self._chance.random() * statistics.median(self._cycle_s))  # the moment is the point
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        self.kills += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the cycle failed in its process"
        with os.fdopen(reading, "rb") as said:
            last = max((int(line) for line in said.read().splitlines()), default=0)
        self._boots += 1
        state = self._judge(self._acknowledged)
        assert state.generation >= last, "what was acknowledged is lost"

    def _judge(self, before: State) -> State:
        state = holds_together(self._store(FastDisk()), before, self._folder)
        assert state.generation >= before.generation, "what was acknowledged is lost"
        return state


def _discard(release: kit.Release) -> None:
    shutil.rmtree(next(iter(release.files.values())).parent)


@contextmanager
def ext4(folder: Path) -> Iterator[Path]:
    """A real ext4 whose disk lies in ``folder``. In a thread whose mounts are private."""
    disk = disks.Disk(folder, 0)
    try:
        disk.set(disks.blank(folder / "blank.img"))
        with disk.mounted() as at:
            yield at
    finally:
        disk.close()
