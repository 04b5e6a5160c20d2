"""Stores with one safeguard taken out: each does the harm that the safeguard prevents, and a check here sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from surefoot.durable import Disk
from surefoot.release.manifest import FILE_NAME, Manifest
from surefoot.slots import archive, content, filling, health, journal, recovery, returning
from surefoot.slots.content import wanted
from surefoot.slots.copies import Copies
from surefoot.slots.filling import Filler
from surefoot.slots.layout import Layout
from surefoot.slots.sealed import seal
from surefoot.slots.state import ReleaseRef, State
from surefoot.slots.store import Store
from surefoot.slots.table import Change
from tests.app.slots import kit
from tests.crash.conftest import Releases
from tests.crash.cuts import Copied, FastDisk, claims_are_true, cut_everywhere, holds_together, open_plain

Device = Callable[..., Path]
real_fault = content.fault


# -- no check of digests -----------------------------------------------------------------------------------------------


def _rotten_active_is_replaced(device: Device) -> None:
    folder = device("1.0.0", "2.0.0")
    store = open_plain(folder, FastDisk())
    kit.flip_a_bit(store.slot_path("b") / "model.onnx")
    state = store.recover().state
    assert state.active is not None and state.serving is not None
    assert real_fault(store.slot_path(state.active), state.serving) is None, "a rotten model serves"


def test_a_rotten_active_slot_is_replaced_at_start(device: Device) -> None:
    _rotten_active_is_replaced(device)


def test_a_store_that_checks_no_digests_is_caught(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(directory: Path, release: ReleaseRef, *_: object) -> str | None:
        return None if directory.is_dir() else "it is missing"

    for module in (archive, filling, health, journal, recovery, returning):
        monkeypatch.setattr(module, "fault", blind)
    with pytest.raises(AssertionError, match="a rotten model serves"):
        _rotten_active_is_replaced(device)


# -- the copies of the state -------------------------------------------------------------------------------------------


def _with(copies: type[Copies], folder: Path) -> Store:
    disk = FastDisk()
    layout = Layout(folder / "models", kit.NAME)
    return Store(folder / "models", kit.NAME, disk=disk, storage=kit.STORAGE, boot="b", copies=copies(layout, disk))


def _either_copy_is_enough(copies: type[Copies], device: Device, releases: Releases, scratch: Path) -> None:
    folder = device("1.0.0")
    kit.install(_with(copies, folder), releases["2.0.0"])  # acknowledged: slot b is ready
    for number in (0, 1):
        for damage in (b"", b"\0" * 400, None):
            with Copied(folder, scratch / "copy") as here:
                path = here / "models" / kit.NAME / f"state.{number}"
                path.unlink(missing_ok=True)
                if damage is not None:
                    path.write_bytes(damage)
                store = open_plain(here, FastDisk())
                for state in (store.read(), store.recover().state):
                    assert state.slots["b"].status == "ready", f"an acknowledged gate is lost with copy {number}"
                    assert kit.serving(store) == "1.0.0"


def test_either_copy_of_the_state_is_enough(device: Device, releases: Releases, scratch: Path) -> None:
    _either_copy_is_enough(Copies, device, releases, scratch)


class OneCopy(Copies):
    """Mutant: ``state.1`` is never written."""

    def save(self, state: State) -> None:
        self._layout.copies[1].unlink(missing_ok=True)
        self._disk.write(self._layout.copies[0], seal(state))


class AcknowledgedAfterOne(Copies):
    """Mutant: the second copy is left for later."""

    def save(self, state: State) -> None:
        self._disk.write(self._layout.copies[0], seal(state))


@pytest.mark.parametrize("mutant", [OneCopy, AcknowledgedAfterOne])
def test_a_store_that_writes_one_copy_is_caught(
    mutant: type[Copies], device: Device, releases: Releases, scratch: Path
) -> None:
    with pytest.raises(AssertionError, match="an acknowledged gate is lost"):
        _either_copy_is_enough(mutant, device, releases, scratch)


# -- the order of slot and state ---------------------------------------------------------------------------------------


class StateBeforeSlot(Filler):
    """Mutant: says that the release is there, then puts it there."""

    def _copy(self, slot, release, manifest, data, files, lay):
        self._journal.change(Change("stage", slot))
        super()._copy(slot, release, manifest, data, files, lay)
        self._journal.change(Change("fill", slot, release))


def _claims_hold_at_every_cut(device: Device, releases: Releases, scratch: Path, mutate: bool) -> None:
    def opened(folder: Path, disk: Disk) -> Store:
        store = open_plain(folder, disk)
        if mutate:
            store._filler = StateBeforeSlot(store._journal, kit.STORAGE)
        return store

    prepared = device("1.0.0")
    install = lambda store, folder: kit.install(store, releases["2.0.0"])  # noqa: E731  # one line, used once
    for _, folder in cut_everywhere(prepared, scratch / "cut", install, opened):
        claims_are_true(open_plain(folder, FastDisk()), folder)


def test_the_state_never_claims_what_a_slot_does_not_hold(device: Device, releases: Releases, scratch: Path) -> None:
    _claims_hold_at_every_cut(device, releases, scratch, mutate=False)


def test_a_store_that_writes_the_state_before_the_slot_is_caught(
    device: Device, releases: Releases, scratch: Path
) -> None:
    with pytest.raises(AssertionError, match="is not what"):
        _claims_hold_at_every_cut(device, releases, scratch, mutate=True)


# -- copies, not links -------------------------------------------------------------------------------------------------


def _slots_share_no_block(folder: Path, scratch: Path) -> None:
    """Rot in what a release was installed from reaches no slot."""
    store = open_plain(folder, FastDisk())
    inbox = kit.make_release(scratch / "inbox", "2.0.0", size_bytes=700)
    slot = store.fill(inbox.manifest, inbox.data, kit.VARIANT, inbox.files)
    kit.flip_a_bit(inbox.files["model.onnx"])
    for health_of in store.verify():
        assert health_of.ok, f"{health_of.where}: {health_of.problem}"
    assert (store.slot_path(slot) / "model.onnx").stat().st_nlink == 1


def test_a_slot_shares_no_block_with_what_it_was_filled_from(device: Device, releases: Releases, scratch: Path) -> None:
    _slots_share_no_block(device("1.0.0"), scratch)


def test_a_store_that_links_instead_of_copying_is_caught(
    device: Device, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = device("1.0.0")

    def link(disk: Disk, into: Path, manifest: Manifest, data: bytes, variant: str, files: dict[str, Path]) -> None:
        disk.make_directory(into)
        disk.write(into / FILE_NAME, data)
        for file in wanted(manifest, variant):
            os.link(files[file.name], into / file.name)

    monkeypatch.setattr(filling, "copy_release", link)
    with pytest.raises(AssertionError, match=r"does not match its digest|shares its inode"):
        _slots_share_no_block(folder, scratch)


# -- tries -------------------------------------------------------------------------------------------------------------


def _a_lost_copy_revives_no_tries(store: Store, folder: Path) -> None:
    store.record_try()
    (folder / "models" / kit.NAME / "state.0").write_bytes(b"rot")
    state = holds_together(open_plain(folder, FastDisk()), store.read(), folder)
    assert state.trial is None, "a trial goes on with tries that may be old"


def test_where_the_newest_copy_rots_the_older_one_revives_no_tries(device: Device, scratch: Path) -> None:
    """The second try was recorded in the first copy alone when the power went, and then that one rots."""
    folder = device("1.0.0", trial="2.0.0")
    store = kit.open_store(folder, FastDisk(), boot="boot-2")
    store.record_try()
    after = [folder / "models" / kit.NAME / name for name in ("state.1", "history.jsonl")]  # written after state.0
    older = [path.read_bytes() for path in after]
    kit.open_store(folder, FastDisk(), boot="boot-3").record_try()
    for path, data in zip(after, older, strict=True):
        path.write_bytes(data)
    newest = open_plain(folder, FastDisk()).read()
    assert newest.trial is not None and newest.trial.tries == 2, "this is where it starts from"
    kit.flip_a_bit(folder / "models" / kit.NAME / "state.0")
    state = holds_together(open_plain(folder, FastDisk()), newest, folder)
    assert state.trial is None and kit.serving(open_plain(folder, FastDisk())) == "1.0.0"


def test_a_lost_copy_puts_the_trial_off(device: Device) -> None:
    folder = device("1.0.0", trial="2.0.0")
    _a_lost_copy_revives_no_tries(open_plain(folder, FastDisk()), folder)


def test_a_store_that_goes_on_with_an_older_copy_is_caught(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = device("1.0.0", trial="2.0.0")
    real = Copies.load
    monkeypatch.setattr(Copies, "load", lambda self: (found := real(self)) and found._replace(fell_back=False))
    with pytest.raises(AssertionError, match="may be old"):
        _a_lost_copy_revives_no_tries(open_plain(folder, FastDisk()), folder)


def test_the_journal_is_the_only_one_that_saves_the_state() -> None:
    """A second way to write the state would be a second place to get the order wrong."""
    package = Path(journal.__file__).parent
    savers = [path.name for path in package.glob("*.py") if "copies.save(" in path.read_text()]
    assert savers == ["journal.py"]
