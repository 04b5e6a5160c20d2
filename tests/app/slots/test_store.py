"""What the store promises its callers: real files, real locks, small real releases."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from surefoot.durable import Disk
from surefoot.errors import BadRequest, DeviceUnable, UntrustedRelease
from surefoot.slots import health, recovery
from surefoot.slots.boot import boot_id
from surefoot.slots.state import ReleaseRef, State
from surefoot.slots.status import report
from surefoot.slots.store import Store, TriesUsedUp
from tests.app.slots import kit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return kit.open_store(tmp_path)


@pytest.fixture
def releases(tmp_path: Path) -> dict[str, kit.Release]:
    return {f"{n}.0.0": kit.make_release(tmp_path, f"{n}.0.0") for n in range(1, 6)}


def deploy(store: Store, releases: dict[str, kit.Release], *versions: str) -> State:
    return kit.deploy(store, *(releases[version] for version in versions))


# -- installing --------------------------------------------------------------------------------------------------------


def test_a_device_with_nothing_says_so_and_reading_makes_no_file(tmp_path: Path) -> None:
    store = kit.open_store(tmp_path)
    assert store.read() == State(kit.NAME)
    assert report(store).active is None
    assert store.history(10) == []
    assert store.verify() == []
    assert not (tmp_path / "models").exists()
    assert Store.names(tmp_path / "models") == []


def test_an_install_does_not_touch_what_serves(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0")
    files = {path: (path.read_bytes(), path.stat()) for path in store.slot_path("a").iterdir()}
    slot = kit.install(store, releases["2.0.0"])
    assert slot == "b"
    assert kit.serving(store) == "1.0.0"
    assert {path: (path.read_bytes(), path.stat()) for path in store.slot_path("a").iterdir()} == files


def test_a_slot_holds_the_manifest_the_artifact_the_golden_cases_and_the_card(
    store: Store, releases: dict[str, kit.Release]
) -> None:
    slot = kit.install(store, releases["1.0.0"])
    names = {path.name for path in store.slot_path(slot).iterdir()}
    assert names == {"manifest.json", "model.onnx", "golden.msgpack", "card.md"}
    assert (store.slot_path(slot) / "manifest.json").read_bytes() == releases["1.0.0"].data


def test_others_may_read_a_slot_whatever_the_umask(tmp_path: Path, releases: dict[str, kit.Release]) -> None:
    old = os.umask(0o077)
    try:
        store = kit.open_store(tmp_path)
        slot = kit.install(store, releases["1.0.0"])
    finally:
        os.umask(old)
    assert stat.S_IMODE(store.slot_path(slot).stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.slot_path(slot).iterdir()} == {0o644}


def test_a_file_that_is_not_what_the_manifest_says_is_refused_and_leaves_nothing(
    store: Store, releases: dict[str, kit.Release]
) -> None:
    deploy(store, releases, "1.0.0")
    bad = releases["2.0.0"]
    for spoil in (lambda data: data[:-1], lambda data: data + b"x", lambda data: b"y" + data[1:]):
        good = bad.files["model.onnx"].read_bytes()
        bad.files["model.onnx"].write_bytes(spoil(good))
        with pytest.raises(UntrustedRelease, match=r"model.onnx of tiny 2.0.0 does not match") as refusal:
            store.fill(bad.manifest, bad.data, kit.VARIANT, bad.files)
        bad.files["model.onnx"].write_bytes(good)
        assert refusal.value.found != refusal.value.expected
        assert store.read().slots["b"].status == "empty"
        assert not store.slot_path("b").exists()
        assert kit.serving(store) == "1.0.0"
    assert kit.install(store, bad) == "b"


def test_a_file_that_is_missing_is_refused(store: Store, releases: dict[str, kit.Release], tmp_path: Path) -> None:
    release = releases["1.0.0"]
    with pytest.raises(BadRequest, match="missing"):
        store.fill(release.manifest, release.data, kit.VARIANT, {})
    with pytest.raises(BadRequest, match="missing"):
        store.fill(release.manifest, release.data, kit.VARIANT, {**release.files, "card.md": tmp_path / "none"})
    assert store.read().slots["a"].status == "empty"
    assert store.read().problem, "a first install that failed says why nothing is ready"


def test_an_install_that_is_there_already_is_found_and_not_repeated(
    store: Store, releases: dict[str, kit.Release]
) -> None:
    first = releases["1.0.0"]
    slot = kit.install(store, first)
    assert store.admit(first.manifest, first.digest) == slot
    kit.flip_a_bit(store.slot_path(slot) / "model.onnx")
    assert store.admit(first.manifest, first.digest) is None, "a rotten slot holds it not"


def test_a_slot_whose_gate_has_not_passed_is_filled_again(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0")
    second = releases["2.0.0"]
    slot = store.fill(second.manifest, second.data, kit.VARIANT, second.files)
    with pytest.raises(BadRequest, match="cannot activate"):
        store.activate(slot)
    assert store.admit(second.manifest, second.digest) is None
    assert kit.install(store, second) == slot


def test_a_deferred_gate_leaves_the_release_staged_for_another_try(
    store: Store, releases: dict[str, kit.Release]
) -> None:
    deploy(store, releases, "1.0.0")
    second = releases["2.0.0"]
    slot = store.fill(second.manifest, second.data, kit.VARIANT, second.files)
    state = store.defer(slot, "it is hot")
    assert (state.slots[slot].status, state.quarantine, state.trial, state.held) == ("staged", (), None, False)
    assert (store.history(1)[-1].what, store.history(1)[-1].reason) == ("gate deferred", "it is hot")
    assert store.recover().actions == [] and store.staged(second.digest) == slot
    store.mark_ready(slot)
    assert store.staged(second.digest) is None
    kit.flip_a_bit(store.slot_path(slot) / "model.onnx")
    assert store.staged(second.digest) is None


def test_a_failed_gate_quarantines_with_evidence_and_not_without(
    store: Store, releases: dict[str, kit.Release]
) -> None:
    first = releases["1.0.0"]
    slot = kit.install(store, first)
    store.refuse(slot, "no memory just now", evidence=False)
    assert store.admit(first.manifest, first.digest) is None
    slot = kit.install(store, first)
    store.refuse(slot, "golden case 7 differs")
    with pytest.raises(DeviceUnable, match="golden case 7 differs"):
        store.admit(first.manifest, first.digest)
    assert report(store).problem == "golden case 7 differs"
    assert report(store).quarantine[0].reason == "golden case 7 differs"


# -- admission ---------------------------------------------------------------------------------------------------------


def test_an_install_during_a_trial_is_refused_before_anything_is_fetched(
    store: Store, releases: dict[str, kit.Release]
) -> None:
    deploy(store, releases, "1.0.0")
    before = kit.put_on_trial(store, releases["2.0.0"])
    with pytest.raises(DeviceUnable, match="while a trial runs") as refusal:
        store.admit_version("3.0.0", "f" * 64)
    assert "confirm" in refusal.value.hint
    third = releases["3.0.0"]
    with pytest.raises(DeviceUnable, match="while a trial runs"):
        store.fill(third.manifest, third.data, kit.VARIANT, third.files)
    assert store.read() == before


def test_nothing_older_than_the_newest_ever_confirmed_is_taken(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0", "3.0.0")
    store.rollback()
    two = releases["2.0.0"]
    with pytest.raises(UntrustedRelease, match="not newer than") as refusal:
        store.admit(two.manifest, two.digest)
    assert refusal.value.expected == "newer than 3.0.0"


def test_what_this_device_confirmed_is_taken_again_below_the_floor(
    store: Store, releases: dict[str, kit.Release]
) -> None:
    deploy(store, releases, "1.0.0", "2.0.0", "3.0.0")
    assert deploy(store, releases, "1.0.0").trial is None
    assert kit.serving(store) == "1.0.0"
    assert store.read().floor == "3.0.0"


def test_but_not_when_it_is_quarantined(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0", "2.0.0")
    store.reject("wrong on night images")
    with pytest.raises(DeviceUnable, match="wrong on night images"):
        store.admit(releases["2.0.0"].manifest, releases["2.0.0"].digest)
    store.lift_quarantine(releases["2.0.0"].digest[:8])
    assert store.admit(releases["2.0.0"].manifest, releases["2.0.0"].digest) is None
    with pytest.raises(BadRequest, match="0 quarantined"):
        store.lift_quarantine("ffff")
    with pytest.raises(BadRequest):
        store.lift_quarantine("")


def test_the_same_version_with_another_content_is_refused(
    store: Store, releases: dict[str, kit.Release], tmp_path: Path
) -> None:
    deploy(store, releases, "1.0.0", "2.0.0")
    for version in ("1.0.0", "2.0.0"):
        other = kit.make_release(tmp_path, version, salt="other")
        with pytest.raises(UntrustedRelease, match="another content") as refusal:
            store.admit(other.manifest, other.digest)
        assert releases[version].digest in refusal.value.expected


# -- switching ---------------------------------------------------------------------------------------------------------


def test_a_rollback_goes_to_the_one_before_and_another_goes_before_that_and_never_forward(
    store: Store, releases: dict[str, kit.Release]
) -> None:
    deploy(store, releases, "1.0.0", "2.0.0", "3.0.0")
    versions = []
    for _ in range(2):
        state = store.rollback(reason="night images")
        versions.append(kit.serving(store))
        assert state.held
    assert versions == ["2.0.0", "1.0.0"]
    before = store.read()
    with pytest.raises(DeviceUnable, match="no earlier confirmed release"):
        store.rollback()
    assert store.read() == before
    assert [event.reason for event in store.history(100) if event.what == "rolled back"] == ["night images"] * 2


def test_a_rollback_of_two_steps_comes_from_the_archive(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0", "2.0.0", "3.0.0")
    assert [one.where for one in report(store).previous] == ["b", "archive"]
    state = store.rollback(2)
    assert kit.serving(store) == "1.0.0"
    assert state.trial is None
    assert all(health.ok for health in store.verify())


def test_a_rollback_further_than_anything_held_changes_nothing(
    tmp_path: Path, releases: dict[str, kit.Release]
) -> None:
    store = kit.open_store(tmp_path, storage=kit.with_storage(archive_bytes=0))
    deploy(store, releases, "1.0.0", "2.0.0", "3.0.0")
    before = store.read()
    with pytest.raises(DeviceUnable, match=r"nothing on this device holds 1\.0\.0"):
        store.rollback(2)
    with pytest.raises(DeviceUnable, match="no earlier"):
        store.rollback(3)
    assert store.read() == before


def test_a_rollback_from_a_rotten_archive_changes_nothing(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0", "2.0.0", "3.0.0")
    (archived,) = [health.where for health in store.verify() if health.status == "archived"]
    kit.flip_a_bit(store.slot_path("a").parent / archived / "model.onnx")
    before = store.read()
    with pytest.raises(DeviceUnable, match=r"nothing on this device holds 1\.0\.0"):
        store.rollback(2)
    assert store.read() == before
    assert [health.where for health in store.verify() if not health.ok] == [archived]


def test_a_rollback_during_a_trial_returns_to_the_confirmed_one(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0", "2.0.0")
    kit.put_on_trial(store, releases["3.0.0"])
    state = store.rollback()
    assert (kit.serving(store), state.trial, state.held) == ("2.0.0", None, True)
    kit.put_on_trial(store, releases["3.0.0"])
    store.rollback(2)
    assert kit.serving(store) == "1.0.0"


def test_activating_releases_what_a_rollback_held(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0", "2.0.0")
    assert store.rollback().held
    state = store.activate("b")
    assert (kit.serving(store), state.held, state.trial) == ("2.0.0", False, None)
    assert store.rollback().held
    assert not store.activate("a").held, "activating what serves releases too"
    store.activate("b")
    assert store.rollback().held
    assert not store.release_hold().held


def test_a_rejected_trial_returns_and_its_slot_is_emptied(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0")
    kit.put_on_trial(store, releases["2.0.0"])
    state = store.reject("crashed twice")
    assert (kit.serving(store), state.slots["b"].status, state.held) == ("1.0.0", "empty", False)
    assert not store.slot_path("b").exists()
    with pytest.raises(DeviceUnable, match="no earlier"):
        store.reject("and this one")
    assert kit.serving(store) == "1.0.0"


def test_a_reverted_trial_may_be_activated_again(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0")
    kit.put_on_trial(store, releases["2.0.0"])
    assert store.revert("tries used up").slots["b"].status == "ready"
    assert store.activate("b").trial is not None


def test_a_slot_that_rotted_since_its_gate_is_not_activated(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0")
    slot = kit.install(store, releases["2.0.0"])
    kit.flip_a_bit(store.slot_path(slot) / "model.onnx")
    with pytest.raises(DeviceUnable, match="cannot be activated"):
        store.activate(slot)
    assert kit.serving(store) == "1.0.0"


def test_what_makes_no_sense_is_refused(store: Store, releases: dict[str, kit.Release]) -> None:
    for operation in (lambda: store.confirm(""), lambda: store.revert(""), lambda: store.reject("")):
        with pytest.raises(BadRequest, match="no active release"):
            operation()
    deploy(store, releases, "1.0.0")
    for operation in (lambda: store.confirm(""), lambda: store.revert(""), lambda: store.activate("b")):
        with pytest.raises(BadRequest):
            operation()
    with pytest.raises(BadRequest, match="name of a model"):
        Store(store.slot_path("a"), "../x")


# -- trial -------------------------------------------------------------------------------------------------------------


def test_a_try_is_counted_once_a_boot_and_then_no_more(tmp_path: Path, releases: dict[str, kit.Release]) -> None:
    store = kit.open_store(tmp_path)
    deploy(store, releases, "1.0.0")
    kit.put_on_trial(store, releases["2.0.0"])
    for boot in ("one", "two", "three"):
        for _ in range(3):
            trial = kit.open_store(tmp_path, boot=boot).record_try().trial
    assert trial is not None and trial.tries == 3
    last = kit.open_store(tmp_path, boot="four")
    with pytest.raises(TriesUsedUp, match="used up its tries"):
        last.record_try()
    assert last.revert("tries used up").active == "a"
    assert last.record_try().trial is None, "nothing to count where no trial runs"


def test_this_boot_has_a_name() -> None:
    assert len(boot_id()) >= 16
    assert boot_id() == boot_id()


def test_confirming_raises_the_floor_and_leaves_evidence(store: Store, releases: dict[str, kit.Release]) -> None:
    state = deploy(store, releases, "1.0.0", "2.0.0")
    assert state.floor == "2.0.0"
    assert [event.reason for event in store.history(100) if event.what == "confirmed"] == ["30 inferences, 60 s"] * 2


def test_the_report_is_plain_and_whole(store: Store, releases: dict[str, kit.Release]) -> None:
    deploy(store, releases, "1.0.0", "2.0.0")
    kit.put_on_trial(store, releases["3.0.0"])
    found = report(store)
    assert found.active is not None
    assert (found.active.version, found.active.status, found.active.slot) == ("3.0.0", "trial", "a")
    assert [(one.version, one.where) for one in found.previous] == [("2.0.0", "b"), ("1.0.0", "archive")]
    assert (found.floor, found.held, found.problem) == ("2.0.0", False, None)
    assert Store.names(store.slot_path("a").parents[1]) == [kit.NAME]


# -- the traffic first -------------------------------------------------------------------------------------------------


class Synced(Disk):
    """Notes what is fsynced."""

    def __init__(self) -> None:
        self.names = list[str]()

    def step(self, primitive: str, path: Path) -> None:
        if primitive in ("fsync", "syncfs"):
            self.names.append(path.name)


def test_a_rollback_is_durable_after_three_fsyncs_and_told_of_by_a_fourth(
    tmp_path: Path, releases: dict[str, kit.Release]
) -> None:
    """The traffic waits for the first three: both copies of the state, and the directory that names them."""
    deploy(kit.open_store(tmp_path), releases, "1.0.0", "2.0.0")
    disk = Synced()
    store = kit.open_store(tmp_path, disk)
    with store.postponing():
        assert store.rollback(1, "it is slow").serving == ReleaseRef("1.0.0", releases["1.0.0"].digest, kit.VARIANT)
        assert disk.names == [".tmp-state.0", ".tmp-state.1", kit.NAME]
        assert kit.serving(kit.open_store(tmp_path)) == "1.0.0"
        assert store.history(1)[0].what == "confirmed"
    assert disk.names[3:] == ["history.jsonl"]
    assert (store.history(1)[0].what, store.history(1)[0].reason) == ("rolled back", "it is slow")


def test_two_transitions_that_postpone_are_both_told_of(tmp_path: Path, releases: dict[str, kit.Release]) -> None:
    store = kit.open_store(tmp_path)
    deploy(store, releases, "1.0.0", "2.0.0")
    kit.put_on_trial(store, releases["3.0.0"])
    with store.postponing():
        store.rollback()
        store.rollback()
    assert [event.what for event in store.history(100)].count("rolled back") == 2
    generations = [event.generation for event in store.history(100)]
    assert generations == list(range(1, store.read().generation + 1))


def test_a_rollback_hashes_what_it_returns_to_and_nothing_else(
    tmp_path: Path, releases: dict[str, kit.Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kit.open_store(tmp_path)
    deploy(store, releases, "1.0.0", "2.0.0")
    read = list[str]()
    real = health.fault
    monkeypatch.setattr(recovery, "fault", lambda directory, *_: pytest.fail(f"{directory} is read"))
    monkeypatch.setattr(
        health, "fault", lambda directory, release: (read.append(directory.name), real(directory, release))[1]
    )
    store.repair()
    assert store.rollback().serving == ReleaseRef("1.0.0", releases["1.0.0"].digest, kit.VARIANT)
    assert read == ["a"]


def test_a_rollback_from_what_has_rotted_goes_one_step(tmp_path: Path, releases: dict[str, kit.Release]) -> None:
    """Recovery would go that step by itself, and the rollback one more."""
    store = kit.open_store(tmp_path)
    deploy(store, releases, "1.0.0", "2.0.0", "3.0.0")
    kit.flip_a_bit(store.slot_path("a") / "model.onnx")
    store.repair()
    assert store.rollback().serving == ReleaseRef("2.0.0", releases["2.0.0"].digest, kit.VARIANT)
    assert store.recover().actions and kit.serving(store) == "2.0.0"


def test_a_rollback_to_what_has_rotted_is_refused_and_nothing_changes(
    tmp_path: Path, releases: dict[str, kit.Release]
) -> None:
    store = kit.open_store(tmp_path)
    deploy(store, releases, "1.0.0", "2.0.0")
    kit.flip_a_bit(store.slot_path("a") / "model.onnx")
    store.repair()
    with pytest.raises(DeviceUnable, match="whole"):
        store.rollback()
    assert kit.serving(store) == "2.0.0"


# -- taking what was fetched -------------------------------------------------------------------------------------------


def test_what_is_taken_is_moved_and_serves_like_what_is_filled(
    tmp_path: Path, releases: dict[str, kit.Release]
) -> None:
    store, release = kit.open_store(tmp_path), releases["1.0.0"]
    inodes = {name: path.stat().st_ino for name, path in release.files.items()}
    slot = store.take(release.manifest, release.data, kit.VARIANT, release.files)
    assert not any(path.exists() for path in release.files.values())
    assert {name: (store.slot_path(slot) / name).stat().st_ino for name in inodes} == inodes
    store.mark_ready(slot)
    assert store.activate(slot).serving == ReleaseRef("1.0.0", release.digest, kit.VARIANT)
    assert all(health.ok for health in store.verify())


def test_what_was_cut_short_since_it_was_fetched_is_not_taken(tmp_path: Path, releases: dict[str, kit.Release]) -> None:
    store, release = kit.open_store(tmp_path), releases["1.0.0"]
    os.truncate(release.files["model.onnx"], 10)
    with pytest.raises(UntrustedRelease, match="was changed since"):
        store.take(release.manifest, release.data, kit.VARIANT, release.files)
    assert store.read().slots["a"].status == "empty"


def test_what_was_changed_since_it_was_fetched_is_taken_and_never_activated(
    tmp_path: Path, releases: dict[str, kit.Release]
) -> None:
    """Its bytes are not read again in between: the gate's worker reads them, and so does the activation."""
    store, release = kit.open_store(tmp_path), releases["1.0.0"]
    kit.flip_a_bit(release.files["model.onnx"])
    slot = store.take(release.manifest, release.data, kit.VARIANT, release.files)
    store.mark_ready(slot)
    with pytest.raises(DeviceUnable, match="cannot be activated"):
        store.activate(slot)
