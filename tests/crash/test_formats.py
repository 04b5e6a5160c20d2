"""A state of an older app: migrated whole or not at all, and never by an app that may have to give way to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from surefoot.slots import formats
from surefoot.slots.copies import Copies
from surefoot.slots.layout import Layout
from surefoot.slots.sealed import NewerFormat
from surefoot.slots.state import FORMAT, OLDEST_FORMAT, State
from surefoot.slots.store import Store
from tests.app.slots import kit
from tests.crash.conftest import Releases
from tests.crash.cuts import FastDisk, cut_everywhere, holds_together, open_plain
from tests.crash.test_cuts import CASES
from tests.told import Told

Device = Callable[..., Path]


def bodies(folder: Path) -> list[dict[str, Any]]:
    paths = (path for path in Layout(folder / "models", kit.NAME).copies if path.exists())
    return [json.loads(path.read_bytes())["body"] for path in paths]


def readable_before(folder: Path) -> None:
    """Each copy is what an app of the older format wrote: its number, and no field that it would lose."""
    for body in bodies(folder):
        assert body["format"] == OLDEST_FORMAT, "the app before this one cannot read the state"
        assert all(set(slot) == {"status", "release"} for slot in body["slots"].values())


# -- an app on trial ---------------------------------------------------------------------------------------------------


def on_trial(folder: Path, disk: FastDisk) -> Store:
    return kit.open_store(folder, disk, newest_format=OLDEST_FORMAT)


def _stays_readable(name: str, device: Device, releases: Releases, scratch: Path, opened: Any = on_trial) -> int:
    case, cuts = CASES[name], 0
    prepared = case._replace(format_=OLDEST_FORMAT).start(device, releases)
    for _, folder in cut_everywhere(
        prepared, scratch / "cut", lambda store, _: case.operation(store, releases), opened
    ):
        readable_before(folder)
        opened(folder, FastDisk()).recover()
        readable_before(folder)
        cuts += 1
    return cuts


@pytest.mark.parametrize("name", sorted(set(CASES) - {"migration", "put off, and tried again"}))
def test_whatever_an_app_on_trial_does_the_app_before_it_can_read(
    name: str, device: Device, releases: Releases, scratch: Path, told: Told
) -> None:
    told("cuts of an app on trial", _stays_readable(name, device, releases, scratch))


@pytest.mark.parametrize("name", ["first install", "confirm", "rollback"])
def test_an_app_that_migrates_while_it_is_on_trial_is_caught(
    name: str, device: Device, releases: Releases, scratch: Path
) -> None:
    with pytest.raises(AssertionError, match="the app before this one cannot read the state"):
        _stays_readable(name, device, releases, scratch, open_plain)


def test_what_the_older_format_cannot_hold_is_not_kept(device: Device) -> None:
    folder = device("1.0.0", trial="2.0.0", format_=OLDEST_FORMAT)
    state = on_trial(folder, FastDisk()).put_off("no try is left")
    assert state == on_trial(folder, FastDisk()).read()
    assert (state.slots["b"].status, state.slots["b"].put_off, state.waiting) == ("ready", 0, None)


def test_a_state_that_an_app_on_trial_makes_again_is_one_that_the_app_before_it_can_read(device: Device) -> None:
    folder = device("1.0.0", "2.0.0", format_=OLDEST_FORMAT)
    for path in Layout(folder / "models", kit.NAME).copies:
        path.unlink()
    assert on_trial(folder, FastDisk()).recover().state.format == OLDEST_FORMAT
    readable_before(folder)
    assert kit.serving(open_plain(folder, FastDisk())) == "2.0.0"


def test_an_older_app_refuses_what_was_migrated(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its own code does: what it is newer than is one number."""
    folder = device("1.0.0")
    before = bodies(folder)
    monkeypatch.setattr("surefoot.slots.copies.FORMAT", OLDEST_FORMAT)
    for operation in (Store.read, Store.recover, Store.verify, Store.rollback):
        with pytest.raises(NewerFormat, match="newer version"):
            operation(open_plain(folder, FastDisk()))
    assert bodies(folder) == before


# -- a migration -------------------------------------------------------------------------------------------------------


def test_a_migration_is_one_transition_and_told_in_the_history(device: Device) -> None:
    folder = device("1.0.0", "2.0.0", trial="3.0.0", format_=OLDEST_FORMAT)
    before = open_plain(folder, FastDisk()).read()
    store = open_plain(folder, FastDisk())
    assert store.migrate() == "migrated: state format 1 to 2"
    after = store.read()
    assert (after.format, after.generation) == (FORMAT, before.generation + 1)
    for what in ("slots", "active", "trial", "lineage", "floor", "held", "known", "quarantine"):
        assert getattr(after, what) == getattr(before, what)
    (event,) = store.history(1)
    assert (event.what, event.reason) == ("migrated", "state format 1 to 2")
    assert store.migrate() == "" and store.read() == after
    assert {body["format"] for body in bodies(folder)} == {FORMAT}


def test_a_fresh_store_starts_in_the_newest_format(tmp_path: Path, releases: Releases) -> None:
    kit.deploy(open_plain(tmp_path, FastDisk()), releases["1.0.0"])
    assert [body["format"] for body in bodies(tmp_path)] == [FORMAT, FORMAT]
    assert "migrated" not in {event.what for event in open_plain(tmp_path, FastDisk()).history(100)}


class OneCopy(Copies):
    """Mutant: a migration that writes one copy and calls it done."""

    def save(self, state: State) -> None:
        path = self._layout.copies[0]
        self._disk.write(path, formats.sealed(state))


def _was_migrated(folder: Path) -> None:
    assert [body["format"] for body in bodies(folder)] == [FORMAT, FORMAT], "a migration that is not in both copies"


def test_a_migration_that_writes_one_copy_is_caught(device: Device) -> None:
    folder = device("1.0.0", "2.0.0", format_=OLDEST_FORMAT)
    disk = FastDisk()
    copies = OneCopy(Layout(folder / "models", kit.NAME), disk)
    Store(folder / "models", kit.NAME, disk=disk, storage=kit.STORAGE, boot="boot-1", copies=copies).migrate()
    with pytest.raises(AssertionError, match="not in both copies"):
        _was_migrated(folder)


@pytest.fixture
def mixed(device: Device, scratch: Path) -> Path:
    """The power went between the two renames of a migration: one copy has the old format, one the new."""
    prepared = device("1.0.0", "2.0.0", format_=OLDEST_FORMAT)
    for _, folder in cut_everywhere(prepared, scratch / "cut", lambda store, _: store.migrate()):
        if {body["format"] for body in bodies(folder)} == {OLDEST_FORMAT, FORMAT}:
            return Path(shutil.copytree(folder, scratch / "mixed"))
    raise AssertionError("no cut leaves a pair of both formats")


@pytest.mark.parametrize("opened", [open_plain, on_trial])
def test_a_pair_of_both_formats_is_read_as_the_newer_one_and_made_whole(mixed: Path, opened: Any) -> None:
    """Also by an app on trial: what a confirmed app has begun to migrate, no older one could read any more."""
    before = opened(mixed, FastDisk()).read()
    assert (before.format, kit.serving(opened(mixed, FastDisk()))) == (FORMAT, "2.0.0")
    opened(mixed, FastDisk()).recover()
    _was_migrated(mixed)
    holds_together(open_plain(mixed, FastDisk()), before, mixed)


@pytest.mark.parametrize("lost", [0, 1])
def test_of_a_pair_of_both_formats_either_copy_is_enough(mixed: Path, lost: int) -> None:
    before = open_plain(mixed, FastDisk()).read()
    (mixed / "models" / kit.NAME / f"state.{lost}").write_bytes(b"rot")
    state = holds_together(open_plain(mixed, FastDisk()), before, mixed)
    assert (state.lineage, state.serving) == (before.lineage, before.serving)
    _was_migrated(mixed)


# -- which app this is -------------------------------------------------------------------------------------------------


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    folder = tmp_path / "apps"
    for app in ("older", "newer"):
        (folder / app).mkdir(parents=True)
        (folder / app / "confirmed").touch()
    (folder / "current").symlink_to("newer")
    return folder


def of(app: str) -> dict[str, str]:
    return {formats.APP_VARIABLE: f"/data/surefoot/apps/{app}"}


def test_a_device_without_trials_of_apps_takes_the_newest(tmp_path: Path) -> None:
    assert formats.newest(tmp_path, {}) == FORMAT
    (tmp_path / "apps").mkdir()
    assert formats.newest(tmp_path, {}) == FORMAT


def test_a_confirmed_app_takes_the_newest(apps: Path) -> None:
    assert formats.newest(apps.parent, of("newer")) == FORMAT


@pytest.mark.parametrize("environment", [{}, of("older"), of(""), of("gone")])
def test_a_process_of_another_app_or_of_none_that_it_knows_does_not(apps: Path, environment: dict[str, str]) -> None:
    """The one that is being returned to is confirmed, and it is not this one."""
    assert formats.newest(apps.parent, environment) == OLDEST_FORMAT


@pytest.mark.parametrize(
    "spoil", [lambda app: (app / "confirmed").unlink(), lambda app: (app / "tries").write_text("1\n")]
)
def test_an_app_on_trial_does_not(apps: Path, spoil: Callable[[Path], object]) -> None:
    spoil(apps / "newer")
    assert formats.newest(apps.parent, of("newer")) == OLDEST_FORMAT


def test_the_marks_are_those_of_the_devices_own_program(tmp_path: Path) -> None:
    """``surefoot-trial`` and the deploy keep them."""
    from plugins.module_utils.app_store import Apps

    apps = Apps(tmp_path / "apps")
    (tmp_path / "apps").mkdir()
    for app in ("older", "newer"):
        apps.begin(app)
        apps.mark("complete", app)
        apps.begin_trial(app)
        apps.switch(app)
        assert apps.on_trial and formats.newest(tmp_path, of(app)) == OLDEST_FORMAT
        apps.start(3)
        assert formats.newest(tmp_path, of(app)) == OLDEST_FORMAT
        apps.confirm(app)
        assert not apps.on_trial and formats.newest(tmp_path, of(app)) == FORMAT
    apps.begin_trial("older", left="newer")  # a rollback: confirmed before, and on trial all the same
    apps.switch("older")
    assert formats.newest(tmp_path, of("older")) == formats.newest(tmp_path, of("newer")) == OLDEST_FORMAT


def test_the_first_format_is_written_as_the_first_apps_wrote_it() -> None:
    state = State("tiny", format=1, generation=7)
    plain = json.loads(msgspec.json.encode(state))
    plain["slots"] = {slot: {"status": "empty", "release": None} for slot in ("a", "b")}
    assert json.loads(formats.sealed(state))["body"] == plain
