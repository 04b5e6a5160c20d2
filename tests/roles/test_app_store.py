"""The folder of apps: whatever is cut off, the link names an app that is whole, and a second try goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from plugins.module_utils.app_store import AppError, Apps


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
    put(apps, "two", confirmed=False)
    apps.switch("two")
    apps.link(apps.folder.parent / "surefoot.toml", apps.folder / "current" / "surefoot.toml")
    apps.mark("confirmed", "two")
    for spare in apps.spare():
        apps.remove(spare)


def fail(apps: Apps) -> None:
    """The same, and the new app does not answer."""
    good = str(apps.good)
    put(apps, "two", confirmed=False)
    apps.switch("two")
    apps.switch(good)
    apps.unmark("complete", "two")


@pytest.mark.parametrize("change", [update, fail])
def test_a_cut_at_any_step_leaves_a_whole_app_and_the_one_to_return_to(
    tmp_path_factory: pytest.TempPathFactory, change: Callable[[Apps], None]
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
        assert good.is_("complete", before) and good.is_("confirmed", before), where
        change(Apps(folder))  # the next run ends as it would have
        assert (good.current, good.before) == (("two", "one") if change is update else ("one", "zero")), where
        done += 1
    assert done > 10


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
