"""The slot store of one model: what the rest of the project calls. The rules are in ``table``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec

from surefoot.config import Storage
from surefoot.durable import Disk
from surefoot.errors import BadRequest, DeviceUnable
from surefoot.release.manifest import Manifest
from surefoot.slots import admission, formats, health, table
from surefoot.slots.boot import boot_id
from surefoot.slots.copies import Copies
from surefoot.slots.filling import SLOT_LOCK_WAIT_S, Filler
from surefoot.slots.journal import Journal, now
from surefoot.slots.layout import NAME, Layout
from surefoot.slots.operation import Operation
from surefoot.slots.recovery import Recoverer, Recovery
from surefoot.slots.returning import Returner
from surefoot.slots.scrub import Kept, Pause, kept, rotten
from surefoot.slots.state import SLOTS, Event, ReleaseRef, Slot, State
from surefoot.slots.status import SlotHealth
from surefoot.slots.table import Change


class TriesUsedUp(DeviceUnable):
    """The trial was loaded as often as it may be and never confirmed: revert it."""


class Store:
    """Slots ``a`` and ``b`` of one model, their state, archive, history and quarantine.

    One object is for one thread. Several processes may have one each: locks on files order them.

    Args:
        models_dir: ``<data_dir>/models``.
        name: the model.
        disk: how to write; a test's own counts and cuts.
        storage: bounds on what is kept.
        tries: trial loads allowed, one counted a boot.
        retries: how often a release whose tries were used up is tried again.
        boot: identity of this boot; ``None`` asks the kernel.
        slot_wait_s: how long a slot's worker may take to let go of it.
        copies: how the state is kept; a test's own shows what goes wrong otherwise.
        newest_format: the newest format of the state that may be written; ``None`` asks which app this is.
    """

    def __init__(
        self,
        models_dir: Path,
        name: str,
        *,
        disk: Disk | None = None,
        storage: Storage | None = None,
        tries: int = 3,
        retries: int = 3,
        boot: str | None = None,
        slot_wait_s: float = SLOT_LOCK_WAIT_S,
        copies: Copies | None = None,
        newest_format: int | None = None,
    ) -> None:
        self.name, self.storage, self.retries = name, storage or Storage(), retries
        self._tries, self._boot = tries, boot
        self._layout = Layout(models_dir, name)
        newest = partial(formats.newest, models_dir.parent) if newest_format is None else lambda: newest_format
        self._journal = Journal(self._layout, disk or Disk(), self.storage, copies, newest)
        self._filler = Filler(self._journal, self.storage, slot_wait_s)
        self._operation = Operation(self._layout.operation_lock, self._journal.disk)
        self._returner = Returner(self._journal, self._filler, self._operation)
        self._recoverer = Recoverer(self._journal, self._filler, self._operation)

    @staticmethod
    def names(models_dir: Path) -> list[str]:
        """The models that this device holds anything of."""
        if not models_dir.is_dir():
            return []
        names = (path.name for path in models_dir.iterdir() if path.is_dir() and NAME.match(path.name))
        return sorted(name for name in names if Layout(models_dir, name).used())

    @staticmethod
    def require(models_dir: Path, name: str) -> None:
        """Refuse the name of a model that this device holds nothing of.

        Raises:
            BadRequest: it does not; the error says which models it has.
        """
        names = Store.names(models_dir)
        if name not in names:
            raise BadRequest(
                f"this device has no model {name!r}",
                found=", ".join(names) or "no model at all",
                hint=f"surefoot model install {name} --version X.Y.Z --repository …",
            )

    @staticmethod
    def gone(models_dir: Path, name: str) -> bool:
        """Whether a model was removed: the disk answers, and holds nothing of it but perhaps a lock.

        Raises:
            OSError: the disk does not answer, or is not mounted: nothing was removed by that.
        """
        if name not in {entry.name for entry in models_dir.iterdir()}:
            return True
        return all(entry.suffix == ".lock" for entry in (models_dir / name).iterdir())

    def slot_path(self, slot: Slot) -> Path:
        """The slot's directory: always the same, whatever is in it."""
        return self._layout.slot(slot)

    def slot_lock_path(self, slot: Slot) -> Path:
        """The file that a worker holds a shared flock on while it maps the slot."""
        return self._layout.slot_lock(slot)

    def read(self) -> State:
        """The state as it may be believed. Waits for nobody and writes nothing.

        Raises:
            DeviceUnable: a newer app wrote it.
        """
        return self._journal.read()

    def history(self, limit: int) -> list[Event]:
        """The latest events, oldest first."""
        return self._journal.history.read(limit)

    def where(self, release: ReleaseRef) -> str | None:
        """What holds a confirmed release: ``a``, ``b``, ``archive``, or nothing here."""
        return self._journal.archive.where(self.read(), release)

    def directories(self) -> list[Path]:
        """Where releases lie here, in slots and archive; what is in them is not checked."""
        slots = [self._layout.slot(slot) for slot in SLOTS]
        return [path for path in (*slots, *(entry.path for entry in self._journal.archive.entries())) if path.is_dir()]

    def verify(self) -> list[SlotHealth]:
        """Every byte of the slots and the archive read again and compared with manifest and record."""
        return health.verify(self._journal, self.read())

    def operation(self, what: str) -> AbstractContextManager[None]:
        """Hold off other installs, restores and recoveries of this model.

        Raises:
            DeviceUnable: one is under way; the error says which, by which process.
        """
        return self._operation.holding(what)

    def recover(self) -> Recovery:
        """Bring the disk to a state of the table and verify digests. Doing it again changes nothing.

        While another process fills a slot, only the active one is looked at. While a worker has a rotten active release
        in memory and nothing else can serve, it stays. On a disk that takes no writes the result says what is true, and
        ``written`` is false.
        """
        return self._recoverer.recover()

    def repair(self) -> Recovery:
        """As :meth:`recover`, slots unread: for what is waited for, and reads the slot that it needs by itself."""
        return self._recoverer.recover(unread=SLOTS)

    def migrate(self) -> str:
        """Write the state in the newest format that may be written; :meth:`recover` does it too.

        Returns:
            What was done; empty where nothing was, as while the app itself is on trial.

        Raises:
            DeviceUnable: another operation is under way, or the disk takes no writes.
        """
        if self.read().format >= self._journal.newest_format():
            return ""
        with self.operation("migrate"):
            return self._journal.migrate()

    def kept(self) -> list[Kept]:
        """Every file that is here for good, and its digest, for a scrub."""
        return kept(self._journal, self.read())

    def heal(self, pause: Pause = time.sleep) -> Recovery:
        """As :meth:`recover`, by what the disk itself holds. Rotten releases of the archive are removed and told of.

        Everything is read before a lock is taken, and what is not as it was installed once more after a ``pause``. Then
        only what still lies there is seen to: a slot that was filled meanwhile waits for the next scrub.

        Raises:
            DeviceUnable: something cannot be read now, or not by this user; or another operation is under way.
        """
        found = rotten(self._journal, self.read(), pause)
        recovery = self._recoverer.recover(SLOTS, found)
        archived = [each for each in found if each.where not in SLOTS]
        if archived:
            with self.operation("remove a rotten release"):
                entries = {entry.path: entry for entry in self._journal.archive.entries()}
                for each in archived:
                    if each.path in entries and each.lies_there():
                        self._journal.archive.remove(entries[each.path])
                        recovery.actions.append(f"the archived {each.release} had rotted and is removed")
        return recovery

    # -- installing ------------------------------------------------------------------------------------------------

    def admit(self, manifest: Manifest, digest: str) -> Slot | None:
        """Whether a release may be installed; see :meth:`admit_version`."""
        return self.admit_version(manifest.version, digest)

    def admit_version(self, version: str, digest: str) -> Slot | None:
        """Whether a release may be installed, before anything of it is fetched.

        Returns:
            The slot that holds it already, whole, gate passed or still to pass; or ``None``: it has to be filled.

        Raises:
            DeviceUnable: a trial runs, or it is quarantined.
            UntrustedRelease: older than the floor, or the same version with another content.
        """
        state = self.read()
        slot = admission.admit(state, version, digest)
        return slot if slot is not None and health.problem(self._journal, state, slot) is None else None

    def check_room(self, needed_bytes: int) -> None:
        """Refuse what would not fit beside the reserve, before it is fetched.

        Raises:
            DeviceUnable: there is no room.
        """
        self._filler.check_room(needed_bytes)

    def fill(self, manifest: Manifest, manifest_bytes: bytes, variant_id: str, files: dict[str, Path]) -> Slot:
        """Copy a release into the inactive slot, every byte checked as it is written. What serves is not touched.

        Args:
            manifest: of the release.
            manifest_bytes: as published.
            variant_id: the variant for this device.
            files: where the artifact, the golden file and the card lie, by their names in the manifest.

        Raises:
            DeviceUnable: no room, a trial runs, or the slot is in use.
            UntrustedRelease: a file is not what the manifest says.
        """
        with self.operation("install"):
            slot = self._filler.fill(manifest, manifest_bytes, variant_id, files)
            self._tidy()
            return slot

    def take(self, manifest: Manifest, manifest_bytes: bytes, variant_id: str, files: dict[str, Path]) -> Slot:
        """As :meth:`fill` without a copy: the files become the slot's own, and are gone from where they lay.

        For files on this file system that were checked as they were written; below another mount of it they are copied.
        Where this is cut off, they may be gone from both places.

        Raises:
            DeviceUnable: as :meth:`fill`.
            UntrustedRelease: a file was changed since.
        """
        with self.operation("install"):
            slot = self._filler.take(manifest, manifest_bytes, variant_id, files)
            self._tidy()
            return slot

    def mark_ready(self, slot: Slot) -> State:
        """The gate passed: the slot may be activated."""
        return self._journal.change(Change("pass", slot))

    def staged(self, digest: str) -> Slot | None:
        """The slot that holds a release whole whose gate has not passed, as after :meth:`defer`."""
        state = self.read()
        for slot in SLOTS:
            now = state.slots[slot]
            if now.status == "staged" and now.release is not None and now.release.digest == digest:
                return slot if health.problem(self._journal, state, slot) is None else None
        return None

    def defer(self, slot: Slot, reason: str) -> State:
        """The gate could not tell: the release stays staged for another try, and nothing is held against it."""
        with self._journal.changing() as state:
            return self._journal.note(state, "gate deferred", reason, slot, state.slots[slot].release)

    def refuse(self, slot: Slot, reason: str, evidence: bool = True) -> State:
        """The gate did not pass: the slot is emptied, and with evidence the digest is quarantined."""
        state = self._journal.change(Change("refuse" if evidence else "clear", slot, reason=reason, time=now()))
        self._tidy()
        return state

    # -- switching -------------------------------------------------------------------------------------------------

    def activate(self, slot: Slot) -> State:
        """Let a slot serve: on trial, or at once where this device confirmed that very release before. Releases held.

        Raises:
            BadRequest: its gate has not passed.
            DeviceUnable: a trial runs, or the content is not what was installed.
        """
        state = self.read()
        if state.active == slot:
            return self.release_hold() if state.held else state
        problem = health.problem(self._journal, state, slot)
        if problem is not None and state.slots[slot].status in ("ready", "confirmed"):
            raise DeviceUnable(
                f"slot {slot} cannot be activated", found=problem, hint="install the release again; what serves goes on"
            )
        return self._journal.change(Change("activate", slot, allowed=self._tries, keep=self._journal.keep))

    def record_try(self) -> State:
        """Count a trial load, durably, before it begins; once a boot. Nothing to count where no trial runs.

        Raises:
            TriesUsedUp: none is left; call :meth:`put_off`.
            DeviceUnable: it cannot be recorded: load the confirmed slot, :attr:`State.fallback`, instead.
        """
        boot = self._boot or boot_id()
        with self._journal.changing() as state:
            if state.trial is None or state.active is None or state.trial.boot == boot:
                return state
            if state.trial.tries >= state.trial.allowed:
                raise TriesUsedUp(
                    f"the trial of {state.serving} used up its tries",
                    found=f"{state.trial.tries} loads without a confirmation",
                    expected=f"at most {state.trial.allowed}",
                    hint="it is put off; see surefoot model history",
                )
            change = Change("try", state.active, boot=boot)
            return self._journal.commit(state, table.apply(state, change), change)

    def confirm(self, evidence: str) -> State:
        """The trial passed: this is what a rollback returns to from now on."""
        state = self._on_active("confirm", evidence)
        self._tidy()
        return state

    def revert(self, reason: str) -> State:
        """Put the trial off, without blame: the confirmed release serves, the other stays ready."""
        return self._on_active("revert", reason)

    def put_off(self, reason: str) -> State:
        """The trial used up its tries: as :meth:`revert`, and it is counted, so that it is tried again not for ever."""
        state = self.read()
        if state.active is not None and state.slots[state.active].put_off >= self.retries:
            reason = f"it stays ready until somebody activates it: {reason}"
        return self._on_active("exhaust", reason)

    def try_again(self, slot: Slot) -> State:
        """On trial once more, by the device itself. What ``held`` says, a quarantine and a trial stand against it.

        Raises:
            DeviceUnable: one of them does, it was put off too often, or the content is not what was installed.
        """
        wrong = health.problem(self._journal, self.read(), slot)
        if wrong is not None:
            raise DeviceUnable(f"slot {slot} is not tried again", found=wrong, hint="install the release again")
        reason = f"after a while of confirmed service; at most {self.retries} times"
        change = Change(
            "again", slot, reason=reason, allowed=self._tries, keep=self._journal.keep, retries=self.retries
        )
        return self._journal.change(change)

    def reject(self, reason: str) -> State:
        """Evidence against the active release: the one before it serves, and the digest is quarantined.

        Raises:
            DeviceUnable: it was confirmed and there is nothing before it; it goes on serving.
        """
        state = self.read()
        if state.active is not None and state.trial is None:
            self._returner.bring(state, table.step_back(state, 1))
        state = self._on_active("reject", reason)
        self._tidy()
        return state

    def rollback(self, steps: int = 1, reason: str = "") -> State:
        """Return to what was confirmed before, and hold off pulled updates.

        Args:
            steps: how many confirmed releases back; from a trial, one step is the confirmed one.
            reason: for the history.

        Raises:
            DeviceUnable: there is nothing that far back, or nothing here holds it; what serves goes on serving.
        """
        state = self.read()
        target = table.step_back(state, steps)
        if state.trial is not None:
            self._returner.check(state, target)
            state = self._on_active("rollback", reason)
        if state.serving != target:
            self._returner.bring(state, target)
            state = self._on_active("rollback", reason)
        self._tidy()
        return state

    def release_hold(self) -> State:
        """Let pulled updates go on after a rollback."""
        with self._journal.changing() as state:
            if not state.held:
                return state
            return self._journal.note(msgspec.structs.replace(state, held=False), "released")

    def lift_quarantine(self, digest: str) -> State:
        """Let a digest, or the only one that begins so, be tried again.

        Raises:
            BadRequest: no digest or several begin so.
        """
        with self._journal.changing() as state:
            found = [entry for entry in state.quarantine if digest and entry.digest.startswith(digest)]
            if len(found) != 1:
                raise BadRequest(
                    f"{len(found)} quarantined digests begin with {digest!r}", hint="see surefoot model status"
                )
            left = tuple(entry for entry in state.quarantine if entry != found[0])
            ref = ReleaseRef(found[0].version, found[0].digest, "")
            return self._journal.note(
                msgspec.structs.replace(state, quarantine=left), "quarantine lifted", found[0].reason, release=ref
            )

    def _on_active(self, kind: table.Kind, reason: str) -> State:
        with self._journal.changing() as state:
            if state.active is None:
                raise BadRequest(f"cannot {kind}: {self.name} has no active release", hint=table.HINTS.get(kind, ""))
            change = Change(kind, state.active, reason=reason, time=now(), keep=self._journal.keep)
            return self._journal.commit(state, table.apply(state, change), change)

    @contextmanager
    def postponing(self) -> Iterator[None]:
        """In here a transition returns as soon as both copies hold it, so that the traffic can move.

        History, records and tidying up are made good at the end; where they are cut off, by the next transition or
        recovery, as after any cut.
        """
        self._journal.postponing = True
        try:
            yield
        finally:
            self._journal.postponing = False
            with suppress(DeviceUnable), self._journal.changing():
                pass
            self._tidy()

    def _tidy(self) -> None:
        """Remove what nothing needs, if nobody else is at work. What is left over is no harm: recovery removes it."""
        if self._journal.postponing:
            return
        with suppress(DeviceUnable), self.operation("tidy up"):
            self._recoverer.tidy()


__all__ = ["Recovery", "Store", "TriesUsedUp"]
