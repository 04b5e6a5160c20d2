"""The folder of apps: whatever is cut off, the link names an app that is whole, and a second try goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils import app_store
from plugins.module_utils.app_store import MOST_TRIES, AppError, Apps
from tests.told import Told

MOST = 3
WRITE = Apps._write


class Cut(Exception):
    """The power went."""


def put(apps: Apps, app: str, confirmed: bool = True) -> None:
    folder = apps.begin(app)
    (folder / "venv").mkdir(exist_ok=True)
    apps.note_image(app, f"sha256:{app}")
    apps.mark("complete", app)
    if confirmed:
        apps.mark("confirmed", app)


@pytest.fixture
def apps(tmp_path: Path) -> Apps:
    """``one`` serves, ``zero`` was before it."""
    made = Apps(tmp_path)
    for app in ("zero", "one"):
        put(made, app)
        made.switch(app)
    return made


def update(apps: Apps) -> None:
    """What a deploy does with the folder, as plugins/modules/surefoot_app.py does it."""
    if not apps.is_("complete", "two"):
        put(apps, "two", confirmed=False)
    if apps.current != "two":
        apps.begin_trial("two")
        apps.switch("two")
    apps.link(apps.folder.parent / "surefoot.toml", apps.folder / "current" / "surefoot.toml")
    apps.start(MOST)
    if apps.on_trial:
        apps.confirm("two")
    for spare in apps.spare():
        apps.remove(spare)


def fail(apps: Apps) -> None:
    """The same, and the new app does not answer."""
    good = str(apps.good)
    put(apps, "two", confirmed=False)
    apps.begin_trial("two")
    apps.switch("two")
    apps.start(MOST)
    apps.switch(good)
    apps.unmark("complete", "two")


def abandon(apps: Apps) -> None:
    """The same, and nobody is there any more: the device starts it until it has used up its tries."""
    put(apps, "two", confirmed=False)
    apps.begin_trial("two")
    apps.switch("two")
    for _ in range(MOST + 1):
        apps.start(MOST)


def go_back(apps: Apps) -> None:
    """What a rollback does with it."""
    if not apps.returned:
        apps.begin_trial("zero", left="one")
        apps.switch("zero")
    apps.start(MOST)
    if apps.on_trial:
        apps.confirm("zero")


@pytest.mark.parametrize("change", [update, fail, abandon, go_back])
def test_a_cut_at_any_step_leaves_a_whole_app_and_the_one_to_return_to(
    tmp_path_factory: pytest.TempPathFactory, change: Callable[[Apps], None], told: Told
) -> None:
    done = 0
    while True:
        folder = tmp_path_factory.mktemp("device") / "apps"
        folder.mkdir()
        steps: list[str] = []

        def step(what: str, steps: list[str] = steps, most: int = done) -> None:
            if len(steps) == most:
                raise Cut(what)
            steps.append(what)

        good = Apps(folder)
        for app in ("zero", "one"):
            put(good, app)
            good.switch(app)
        try:
            change(Apps(folder, step))
            break
        except Cut as cut:
            where = f"before {cut}"
        current, before = good.current, good.before
        assert good.is_("complete", current), where
        assert good.is_("confirmed", current) or (current == "two" and before == "one"), where
        assert good.may_return_to(before), where
        # Whatever was on trial: the device, left alone, ends with an app that was confirmed, or has passed its trial.
        left = tmp_path_factory.mktemp("left") / "apps"
        shutil.copytree(folder, left, symlinks=True)
        alone = Apps(left)
        for _ in range(MOST + 2):
            alone.start(MOST)
        assert alone.tries(alone.current) is None and alone.is_("complete", alone.current), where
        assert alone.current in ("one", current), where
        change(Apps(folder))  # the next run ends as it would have
        ends = {update: ("two", "one"), go_back: ("zero", "one")}
        assert (good.current, good.before) == ends.get(change, ("one", "zero")), where
        assert good.tries(good.current) is None and good.is_("confirmed", good.current), where
        done += 1
    assert done > 10
    told("cuts of an app's update", done)


def on_trial(apps: Apps) -> Apps:
    put(apps, "two", confirmed=False)
    apps.begin_trial("two")
    apps.switch("two")
    return apps


def test_an_app_that_nobody_confirms_is_started_a_few_times_then_the_one_before_is(apps: Apps) -> None:
    on_trial(apps)
    said = [apps.start(MOST) for _ in range(MOST)]
    assert said == [f"two is on trial: start {number} of 3" for number in (1, 2, 3)]
    assert (apps.current, apps.tries("two")) == ("two", MOST)
    assert apps.start(MOST) == "two was started 3 times and never confirmed: returned to one"
    assert (apps.current, apps.before, apps.is_("complete", "two")) == ("one", "zero", False)
    assert apps.start(MOST) == ""  # a confirmed app is started for ever


def test_a_start_is_counted_on_the_disk_before_the_app_is_started(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    on_trial(apps)
    seen: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(Path(f"/proc/self/fd/{fd}").readlink().name), real(fd))[1])
    apps.start(MOST)
    assert seen == [".tries.part", "two"]


def test_a_count_that_cannot_be_read_is_one_too_many(apps: Apps) -> None:
    on_trial(apps)
    for torn in (b"", b"\xff\xfe", b"-1", b"many"):
        (apps.folder / "two" / "tries").write_bytes(torn)
        assert apps.tries("two") == MOST_TRIES
    assert apps.start(MOST).endswith("returned to one")


def test_the_first_app_of_a_device_is_started_for_ever(tmp_path: Path) -> None:
    apps = Apps(tmp_path)
    put(apps, "one", confirmed=False)
    apps.begin_trial("one")
    apps.switch("one")
    assert [apps.start(MOST) for _ in range(9)] == [""] * 9
    assert apps.current == "one"


def test_nothing_is_returned_to_that_is_not_whole_or_was_never_confirmed(apps: Apps) -> None:
    on_trial(apps)
    apps.unmark("complete", "one")
    assert [apps.start(MOST) for _ in range(5)] == [""] * 5
    apps.mark("complete", "one")
    apps.unmark("confirmed", "one")
    assert [apps.start(MOST) for _ in range(5)] == [""] * 5
    assert apps.current == "two"


def test_a_rollback_goes_back_once_and_a_deploy_ends_it(apps: Apps) -> None:
    assert not apps.returned
    go_back(apps)
    assert (apps.current, apps.before, apps.returned, apps.spare()) == ("zero", "one", True, [])
    on_trial(apps)
    apps.confirm("two")
    assert (apps.before, apps.returned, apps.spare()) == ("zero", False, ["one"])


def test_an_older_app_that_is_deployed_again_can_be_returned_from(apps: Apps) -> None:
    go_back(apps)
    for app in ("one", "zero"):  # each by a deploy
        apps.begin_trial(app)
        apps.switch(app)
        apps.confirm(app)
    assert (apps.current, apps.before, apps.returned) == ("zero", "one", False)


def test_an_app_on_trial_is_not_what_the_next_one_returns_to(apps: Apps) -> None:
    apps.begin_trial("zero", left="one")
    apps.switch("zero")  # confirmed once, and on trial again
    assert apps.good == "one"


def program(apps: Apps, *arguments: str, instead: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As the unit runs it: /usr/local/sbin/surefoot-trial is that file."""
    link = str(instead or apps.folder.parent / "instead")
    line = ["/usr/bin/python3", "-IS", app_store.__file__, str(apps.folder), *arguments, link, "a.service"]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_the_devices_own_program_needs_nothing_but_python_and_never_keeps_the_app_from_its_start(apps: Apps) -> None:
    on_trial(apps)
    done = program(apps, "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "two is on trial: start 1 of 1\n", "")
    done = program(apps, "none")
    assert done.returncode == 0 and "this start of two could not be counted" in done.stdout
    assert (apps.folder.parent / "instead").resolve() == apps.folder / "one"
    shutil.rmtree(apps.folder / "two")
    (apps.folder / "two").symlink_to("two")  # a disk that answers nonsense
    assert program(apps, "1").returncode == 0


@pytest.mark.parametrize(
    ("broken", "survives"),
    [
        ({"_write": lambda self, path, text: None if path.name == "tries" else WRITE(self, path, text)}, "two"),
        ({"tries": lambda self, app: None}, "two"),
    ],
    ids=["tries that are not kept", "tries that are not read"],
)
def test_mutant_without_its_count_a_device_starts_a_bad_app_for_ever(
    apps: Apps, monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any], survives: str
) -> None:
    for name, mutant in broken.items():
        monkeypatch.setattr(Apps, name, mutant)
    on_trial(apps)
    for _ in range(9):
        apps.start(MOST)
    assert apps.current == survives


def test_an_update_keeps_the_app_and_the_one_before_and_nothing_else(apps: Apps) -> None:
    update(apps)
    assert (apps.current, apps.before, apps.spare()) == ("two", "one", [])
    assert sorted(path.name for path in apps.folder.iterdir()) == ["current", "one", "two"]
    assert (apps.folder.parent / "surefoot.toml").readlink() == Path(apps.folder.name) / "current" / "surefoot.toml"


def test_an_app_that_never_answered_is_nothing_to_return_to(apps: Apps) -> None:
    put(apps, "two", confirmed=False)
    apps.switch("two")
    put(apps, "three")
    apps.switch("three")
    assert (apps.current, apps.before) == ("three", "one")


def test_an_older_app_that_is_brought_again_can_return_to_the_newer_one(apps: Apps) -> None:
    apps.switch("zero")
    assert (apps.current, apps.before, apps.spare()) == ("zero", "one", [])


def test_an_app_that_is_not_whole_is_never_switched_to(apps: Apps) -> None:
    apps.begin("two")
    with pytest.raises(AppError, match="not complete"):
        apps.switch("two")
    assert apps.current == "one"


def test_what_a_link_names_is_not_removed_to_begin_anew(apps: Apps) -> None:
    apps.unmark("complete", "one")
    assert (apps.begin("one") / "venv").is_dir()


def test_one_deploy_at_a_time(apps: Apps) -> None:
    with apps.alone(), pytest.raises(AppError, match="another deploy is at work"), Apps(apps.folder).alone():
        pass
    with apps.alone():  # the lock went with who held it
        pass


def test_marks_and_links_are_made_durable_before_the_next_step(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fsync of the folder, the order on the disk would be anybody's."""
    seen: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    apps.mark("complete", "one")
    assert seen == [".complete.part", "one"]
    seen.clear()
    apps.switch("zero")
    assert seen == [".before.part", "zero", apps.folder.name]
