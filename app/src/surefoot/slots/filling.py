"""Putting a release into the inactive slot: marked, set aside, copied, checked, published, recorded. In that order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surefoot.config import Storage
from surefoot.durable import Disk, locked, read_bounded
from surefoot.errors import BadRequest, DeviceUnable, SurefootError
from surefoot.release import manifest as manifests
from surefoot.release.manifest import FILE_NAME, MOST_MANIFEST_BYTES, Manifest
from surefoot.slots import table
from surefoot.slots.archive import Entry
from surefoot.slots.content import Record, copy_release, fault, move_release, read_record, wanted, write_record
from surefoot.slots.journal import Journal
from surefoot.slots.scrub import fault_on_disk
from surefoot.slots.state import ReleaseRef, Slot, State

SLOT_LOCK_WAIT_S = 35.0  # a little longer than a worker may take to drain
Lay = Callable[[Disk, Path, Manifest, bytes, str, dict[str, Path]], None]  # as content.copy_release
STATE_BYTES = 256 * 1024  # what the state, records and history need beside the files


class Filler:
    """Fills slots of one model. The caller holds the operation."""

    def __init__(self, journal: Journal, storage: Storage, slot_wait_s: float = SLOT_LOCK_WAIT_S) -> None:
        self._journal, self._storage, self._slot_wait_s = journal, storage, slot_wait_s
        self._disk, self._layout = journal.disk, journal.layout

    def fill(self, manifest: Manifest, data: bytes, variant_id: str, files: dict[str, Path]) -> Slot:
        """A new release into the inactive slot, staged.

        Raises:
            DeviceUnable: no room, a trial runs, or the slot is in use.
            UntrustedRelease: a file is not what the manifest says; nothing of it stays.
        """
        return self._fill(manifest, data, variant_id, files, self._storage.reserve_bytes, copy_release)

    def take(self, manifest: Manifest, data: bytes, variant_id: str, files: dict[str, Path]) -> Slot:
        """The same, by moving the files."""
        return self._fill(manifest, data, variant_id, files, self._storage.reserve_bytes, move_release)

    def restore(self, entry: Entry) -> Slot:
        """An archived release into the inactive slot, confirmed as it was. It may use the reserve: it is a way back."""
        if entry.record is None:
            raise DeviceUnable(f"the archive's {entry.path.name} has no record")
        release = entry.record.release
        try:
            data = read_bounded(entry.path / FILE_NAME, MOST_MANIFEST_BYTES)
            if manifests.digest(data) != release.digest:
                raise DeviceUnable(f"the archived {release} is damaged", hint="fetch the release again")
            manifest = manifests.decode(data)
            files = {file.name: entry.path / file.name for file in wanted(manifest, release.variant)}
        except OSError as error:
            raise DeviceUnable(f"the archived {release} cannot be read", found=str(error)) from error
        slot = self._fill(manifest, data, release.variant, files, 0, copy_release)
        self._journal.change(table.Change("restore", slot))
        return slot

    def check_room(self, needed_bytes: int, reserve_bytes: int | None = None) -> None:
        """Refuse early what would not fit.

        Args:
            needed_bytes: of the files to come.
            reserve_bytes: to be left free; ``None``: the configured reserve.

        Raises:
            DeviceUnable: there is no room, even without what may be removed.
        """
        reserve = self._storage.reserve_bytes if reserve_bytes is None else reserve_bytes
        self._disk.make_directory(self._layout.root)
        facts = os.statvfs(self._layout.root)
        free = facts.f_bavail * facts.f_frsize + self._removable_bytes(self._journal.read())
        if free < needed_bytes + reserve + STATE_BYTES:
            raise DeviceUnable(
                "there is no room for the release",
                found=f"{free} bytes free on {self._layout.root}",
                expected=f"{needed_bytes} bytes for the release and {reserve} in reserve",
                hint="free space on the data partition, or lower storage.reserve_bytes or storage.archive_bytes",
            )

    def _removable_bytes(self, state: State) -> int:
        """What the inactive slot holds and no step back needs."""
        slot = state.inactive
        now = state.slots[slot]
        if now.status in ("confirmed", "archiving") and now.release and self._journal.archive.wants(state, now.release):
            return 0
        places = (self._layout.slot(slot), self._layout.filling(slot))
        return sum(file.lstat().st_size for place in places if place.is_dir() for file in place.iterdir())

    def _fill(
        self, manifest: Manifest, data: bytes, variant_id: str, files: dict[str, Path], reserve: int, lay: Lay
    ) -> Slot:
        release = ReleaseRef(manifest.version, manifests.digest(data), variant_id)
        needed = wanted(manifest, variant_id)
        missing = [file.name for file in needed if file.name not in files]
        if missing:
            raise BadRequest(f"files of {release} are missing", found=", ".join(sorted(files)), expected=missing[0])
        with self._journal.changing() as state:
            slot = state.inactive
            table.apply(state, table.Change("fill", slot, release))  # refused before anything changes
        with self._slot_alone(slot):
            pass  # a worker that still maps it: refused before anything changes
        copied = sum(file.length_bytes for file in needed) if lay is copy_release else 0
        self.check_room(len(data) + copied, reserve)
        self._set_aside(slot)
        self._journal.change(table.Change("fill", slot, release))
        try:
            self._copy(slot, release, manifest, data, files, lay)
            self._journal.change(table.Change("stage", slot))
            return slot
        except (SurefootError, OSError) as error:
            self._give_up(slot, f"{release} could not be written: {error}")
            raise

    def _set_aside(self, slot: Slot) -> None:
        """The confirmed content of the slot into the archive, where a step back needs it."""
        with self._journal.changing() as state:
            now = state.slots[slot]
            if now.status != "confirmed" or now.release is None or not self._journal.archive.wants(state, now.release):
                return
            change = table.Change("archive", slot)
            state = self._journal.commit(state, table.apply(state, change), change)
        here = self._layout.slot(slot)
        # What is damaged is worth no place in the archive; a disk that fails once has damaged nothing.
        if fault(here, now.release) is None or fault_on_disk(here, now.release) is None:
            with self._slot_alone(slot):
                known = read_record(self._layout.slot_record(slot))
                record = Record(now.release, True, known.order if known else 0, state.floor)
                self._journal.archive.take(here, record)

    def _copy(
        self, slot: Slot, release: ReleaseRef, manifest: Manifest, data: bytes, files: dict[str, Path], lay: Lay
    ) -> None:
        filling = self._layout.filling(slot)
        with self._slot_alone(slot):
            self.discard(slot)
        lay(self._disk, filling, manifest, data, release.variant, files)
        state = self._journal.read()
        record = Record(release, state.was_confirmed(release.digest), 0, state.floor)
        with self._slot_alone(slot):
            self._disk.publish_directory(filling, self._layout.slot(slot))
            write_record(self._disk, self._layout.slot_record(slot), record)

    def discard(self, slot: Slot) -> None:
        """Remove what a slot holds, record first, and what an interrupted fill left. The caller has the slot alone."""
        self._disk.remove(self._layout.slot_record(slot))
        self._disk.remove_directory(self._layout.slot(slot))
        self._disk.remove_directory(self._layout.filling(slot))

    def _give_up(self, slot: Slot, reason: str) -> None:
        """Leave no debris: first the bytes, so that there is room to say so."""
        with suppress(SurefootError, OSError):
            with self._slot_alone(slot):
                self.discard(slot)
            self._journal.change(table.Change("clear", slot, reason=reason))

    @contextmanager
    def _slot_alone(self, slot: Slot) -> Iterator[None]:
        path = self._layout.slot_lock(slot)
        with locked(path, wait_s=self._slot_wait_s, what=f"slot {slot} of {self._layout.root.name}"):
            yield

    def discard_if_free(self, slot: Slot) -> bool:
        """Remove what a slot holds, unless a worker has it open now."""
        try:
            with locked(self._layout.slot_lock(slot), wait_s=0):
                self.discard(slot)
        except DeviceUnable:
            return False
        return True
