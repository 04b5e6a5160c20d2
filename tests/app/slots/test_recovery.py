"""Starting again on a disk that is not as it was left."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from surefoot.durable import Disk
from surefoot.errors import DeviceUnable
from surefoot.slots.history import History
from surefoot.slots.sealed import NewerFormat, UnreadableError, seal, unseal
from surefoot.slots.state import Event, State
from surefoot.slots.status import report
from surefoot.slots.store import Store
from tests.app.slots import kit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = kit.open_store(tmp_path)
    kit.deploy(store, *(kit.make_release(tmp_path, f"{n}.0.0") for n in (1, 2, 3)))
    return store


@pytest.fixture
def root(store: Store) -> Path:
    return store.slot_path("a").parent


def rot(directory: Path) -> None:
    kit.flip_a_bit(directory / "model.onnx")


# -- the copies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("damage", ["gone", "empty", "zeroed", "one bit"])
def test_a_damaged_copy_of_the_state_is_made_good(store: Store, root: Path, number: int, damage: str) -> None:
    before, path = store.read(), root / f"state.{number}"
    if damage == "one bit":
        kit.flip_a_bit(path)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else b"\0" * path.stat().st_size)
    assert store.read() == before
    recovery = store.recover()
    assert recovery.actions == ["state repaired: a copy of the state was lost"]
    assert (recovery.state.slots, recovery.state.lineage) == (before.slots, before.lineage)
    assert (root / "state.0").read_bytes() == (root / "state.1").read_bytes()


@pytest.mark.parametrize("damage", ["gone", "rotten"])
def test_with_both_copies_lost_the_state_is_rebuilt_and_nothing_is_forgotten(
    store: Store, root: Path, tmp_path: Path, damage: str
) -> None:
    four = kit.make_release(tmp_path, "4.0.0")
    kit.put_on_trial(store, four)
    store.reject("bad")
    before = store.read()
    for path in (root / "state.0", root / "state.1"):
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"rot")
    seen = store.read()
    state = store.recover().state
    for found in (seen, state):
        for what in ("slots", "active", "lineage", "floor", "held", "known", "quarantine"):
            assert getattr(found, what) == getattr(before, what), what
    with pytest.raises(DeviceUnable, match="bad"):
        store.admit(four.manifest, four.digest)


def test_with_the_history_lost_too_the_records_beside_the_slots_tell(store: Store, root: Path) -> None:
    before = store.read()
    for name in ("state.0", "state.1", "history.jsonl", "quarantine"):
        (root / name).unlink(missing_ok=True)
    state = store.recover().state
    assert (state.serving, state.floor) == (before.serving, before.floor)
    assert store.rollback().serving is not None
    assert kit.serving(store) == "2.0.0"


def test_a_rotten_line_of_the_history_does_not_stop_a_rebuild(store: Store, root: Path) -> None:
    lines = (root / "history.jsonl").read_bytes().replace(b'"version":"2.0.0"', b'"version":"2.0.:"')
    (root / "history.jsonl").write_bytes(lines)
    for number in (0, 1):
        (root / f"state.{number}").unlink()
    assert store.read().floor == "3.0.0"
    store.recover()
    assert kit.serving(store) == "3.0.0"
    assert [one.version for one in report(store).previous] == ["2.0.0", "1.0.0"]


@pytest.mark.parametrize("how", ["ready", "trial"])
def test_a_rebuild_promotes_no_slot_that_was_never_confirmed(
    store: Store, root: Path, tmp_path: Path, how: str
) -> None:
    if how == "trial":
        kit.put_on_trial(store, kit.make_release(tmp_path, "4.0.0"))
    else:
        kit.install(store, kit.make_release(tmp_path, "4.0.0"))
    for number in (0, 1):
        (root / f"state.{number}").unlink()
    state = store.recover().state
    assert kit.serving(store) == "3.0.0"
    assert state.slots[state.inactive].status == "staged", "it has to pass its gate again"


def test_a_first_model_that_was_never_confirmed_is_not_promoted_either(tmp_path: Path) -> None:
    store = kit.open_store(tmp_path / "new")
    kit.put_on_trial(store, kit.make_release(tmp_path, "1.0.0"))
    for number in (0, 1):
        (store.slot_path("a").parent / f"state.{number}").write_bytes(b"")
    state = store.recover().state
    assert state.active is None
    assert "lost" in (report(store).problem or "")


def test_an_operators_hold_survives_a_rebuild(store: Store, root: Path) -> None:
    store.rollback()
    for number in (0, 1):
        (root / f"state.{number}").unlink()
    assert store.recover().state.held
    assert kit.serving(store) == "2.0.0"


@pytest.mark.parametrize("numbers", [(0,), (1,), (0, 1)])
def test_a_state_of_a_newer_format_is_refused_and_nothing_is_written(
    store: Store, root: Path, numbers: tuple[int, ...]
) -> None:
    body = msgspec.json.encode({"something": "else"})
    checksum = hashlib.sha256(b"2\n" + body).hexdigest()
    newer = msgspec.json.encode({"format": 2, "sha256": checksum, "body": msgspec.Raw(body)})
    for number in numbers:
        (root / f"state.{number}").write_bytes(newer)
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    before = {path: path.read_bytes() for path in files}
    for operation in (store.read, store.recover, store.rollback, lambda: store.confirm("")):
        with pytest.raises(NewerFormat, match="newer version"):
            operation()
    assert {path: path.read_bytes() for path in files} == before


def test_a_state_that_belongs_to_another_model_is_not_believed(store: Store, root: Path) -> None:
    foreign = seal(State("another", generation=999))
    (root / "state.0").write_bytes(foreign)
    assert kit.serving(store) == "3.0.0"


def test_a_record_with_any_bit_flipped_is_not_believed() -> None:
    data = seal(State("m", generation=7))
    assert unseal(data, State, "x") == State("m", generation=7)
    believed = []
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            if unseal(bytes(flipped), State, "x") != State("m", generation=7):
                believed.append(position)
        except (UnreadableError, NewerFormat):
            pass
    assert believed == []


# -- rot ---------------------------------------------------------------------------------------------------------------


def test_a_rotten_active_slot_gives_way_to_the_other_confirmed_one_and_says_so(store: Store, root: Path) -> None:
    rot(root / "a")
    recovery = store.recover()
    assert kit.serving(store) == "2.0.0"
    assert any("not what was installed" in action for action in recovery.actions)
    assert not recovery.state.held, "nobody asked for this: the next update may come"
    lost = [event for event in store.history(100) if event.what == "lost"]
    assert [event.version for event in lost] == ["3.0.0"]


def test_what_rotted_may_be_fetched_again_and_serves_without_a_trial(store: Store, root: Path, tmp_path: Path) -> None:
    rot(root / "a")
    store.recover()
    assert kit.deploy(store, kit.make_release(tmp_path, "3.0.0")).trial is None
    assert kit.serving(store) == "3.0.0"


def test_with_both_slots_rotten_the_archive_serves_by_a_new_inode(store: Store, root: Path) -> None:
    rot(root / "a")
    rot(root / "b")
    with ExitStack() as kept_open:  # so that no inode is given out again
        old = [kept_open.enter_context(path.open("rb")) for path in root.rglob("model.onnx")]
        inodes = {os.fstat(stream.fileno()).st_ino for stream in old}
        store.recover()
        assert kit.serving(store) == "1.0.0"
        active = store.read().active
        assert active is not None
        assert (store.slot_path(active) / "model.onnx").stat().st_ino not in inodes
    assert all(health.ok for health in store.verify())


def test_a_rotten_slot_is_healed_from_the_archive_when_that_holds_the_same(store: Store, root: Path) -> None:
    store.rollback(2)
    archived = root / "archive"
    assert kit.serving(store) == "1.0.0"
    assert any(path.name.startswith("1.0.0") and path.is_dir() for path in archived.iterdir())
    active = store.read().active
    assert active is not None
    rot(root / active)
    store.recover()
    assert kit.serving(store) == "1.0.0"
    assert all(health.ok for health in store.verify())


def test_a_rotten_archive_is_not_healed_from(store: Store, root: Path) -> None:
    for directory in (root / "a", root / "b", *(path for path in (root / "archive").iterdir() if path.is_dir())):
        rot(directory)
    recovery = store.recover()
    assert recovery.state.active is None
    assert any("damaged and removed" in action for action in recovery.actions)
    assert report(store).problem


def test_a_rotten_fallback_is_told_in_the_status(tmp_path: Path) -> None:
    store = kit.open_store(tmp_path, storage=kit.with_storage(archive_bytes=0))
    kit.deploy(store, *(kit.make_release(tmp_path, f"{n}.0.0") for n in (1, 2)))
    rot(store.slot_path("a"))
    assert [health.where for health in store.verify() if not health.ok] == ["a"]
    store.recover()
    assert kit.serving(store) == "2.0.0"
    assert "not on the device: 1.0.0" in (report(store).problem or "")


def test_a_slot_directory_that_vanished_is_noticed(store: Store, root: Path) -> None:
    shutil.rmtree(root / "a")
    store.recover()
    assert kit.serving(store) == "2.0.0"


def test_a_link_in_place_of_a_file_is_noticed(store: Store, root: Path, tmp_path: Path) -> None:
    model = root / "a" / "model.onnx"
    (tmp_path / "same").write_bytes(model.read_bytes())
    model.unlink()
    model.symlink_to(tmp_path / "same")
    assert "no regular file" in next(health.problem for health in store.verify() if health.where == "a")


def test_a_state_in_no_row_of_the_table_lets_the_confirmed_slot_serve(store: Store, root: Path) -> None:
    state = store.read()
    wrong = msgspec.structs.replace(state, active="b", trial=None)
    wrong.slots["b"] = msgspec.structs.replace(wrong.slots["b"], status="filling")
    for number in (0, 1):
        (root / f"state.{number}").write_bytes(seal(wrong))
    assert kit.serving(store) == "3.0.0"
    store.recover()
    assert kit.serving(store) == "3.0.0"


# -- archive and history -----------------------------------------------------------------------------------------------


def test_the_archive_keeps_the_promised_steps_and_no_more(store: Store, root: Path, tmp_path: Path) -> None:
    kit.deploy(store, *(kit.make_release(tmp_path, f"{n}.0.0") for n in (4, 5)))
    assert [path.name[:5] for path in (root / "archive").iterdir() if path.is_dir()] == ["3.0.0"]


def test_a_promise_that_the_bytes_do_not_allow_is_told(tmp_path: Path) -> None:
    store = kit.open_store(tmp_path, storage=kit.with_storage(archive_bytes=10))
    kit.deploy(store, *(kit.make_release(tmp_path, f"{n}.0.0") for n in (1, 2, 3)))
    found = report(store)
    assert [(one.version, one.where) for one in found.previous] == [("2.0.0", "b"), ("1.0.0", "gone")]
    assert "1.0.0" in (found.problem or "") and "archive_bytes" in (found.problem or "")


def test_the_history_is_bounded_and_keeps_the_latest(tmp_path: Path) -> None:
    store = kit.open_store(tmp_path, storage=kit.with_storage(history_bytes=4000))
    for number in range(1, 12):
        kit.deploy(store, kit.make_release(tmp_path, f"{number}.0.0"))
    assert (store.slot_path("a").parent / "history.jsonl").stat().st_size < 5000
    assert store.history(1)[0].generation == store.read().generation
    for number in (0, 1):
        (store.slot_path("a").parent / f"state.{number}").unlink()
    assert store.recover().state.floor == "11.0.0"


def test_torn_lines_of_the_history_are_skipped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl", Disk(), 1 << 16)
    events = [Event(generation=n, what="tried", time="now", monotonic_s=0.5) for n in range(3)]
    history.ensure(events[0])
    with (tmp_path / "history.jsonl").open("ab") as stream:
        stream.write(b'{"generation":1,"wh\xff')
    history.ensure(events[1])
    history.ensure(events[1])
    history.ensure(events[2])
    assert history.read() == events
    assert history.read(limit=1) == events[2:]


def test_the_slot_records_follow_what_was_confirmed(store: Store, root: Path) -> None:
    for slot, confirmed in (("a", True), ("b", True)):
        body = msgspec.json.decode((root / f"{slot}.json").read_bytes())["body"]
        assert body["ever_confirmed"] is confirmed
    (root / "a.json").unlink()
    store.recover()
    assert (root / "a.json").exists()


def test_recovery_of_a_healthy_store_writes_nothing(store: Store, root: Path) -> None:
    def snapshot() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.suffix != ".lock"}

    before = snapshot()
    assert store.recover().actions == []
    assert snapshot() == before
