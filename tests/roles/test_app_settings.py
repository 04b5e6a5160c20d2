"""An app with its settings: kept, tried and returned to as one; and what is started where nothing can be counted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path

import pytest

from plugins.module_utils import app_store
from plugins.module_utils.app_store import Apps, Outside, app_of
from tests.conftest import ROOT
from tests.crash import disks, kernel
from tests.roles.test_app_store import MOST, Cut, program
from tests.told import Told


def set_up(apps: Apps, name: str, unit: str) -> None:
    """Give an app settings, as the role and the module do."""
    (apps.folder / name).mkdir(exist_ok=True)
    (apps.folder / name / "surefoot.toml").write_text(f"settings of {name}")
    outside = [Outside("/etc/a.service", unit), Outside("/usr/bin/a", unit, 0o755)]
    apps.prepare(name, outside if apps.at("/") != Path("/") else [])  # never the machine's own


def other_settings(apps: Apps) -> None:
    """What a deploy does where the app stays and its settings do not."""
    set_up(apps, "one@b", "new")
    if apps.current != "one@b":
        apps.begin_trial("one@b")
        apps.switch("one@b")
    apps.place("one@b")
    apps.start(MOST)
    if apps.on_trial:
        apps.confirm("one@b")
    for spare in apps.spare():
        apps.remove(spare)


def bad_settings(apps: Apps) -> None:
    """The same, and it does not answer with them."""
    good = str(apps.good)
    set_up(apps, "one@b", "new")
    apps.begin_trial("one@b")
    apps.switch("one@b")
    apps.place("one@b")
    apps.start(MOST)
    apps.switch(good)
    apps.place(good)
    apps.spoil("one@b")


def abandoned_settings(apps: Apps) -> None:
    """The same, and nobody is there any more."""
    set_up(apps, "one@b", "new")
    apps.begin_trial("one@b")
    apps.switch("one@b")
    apps.place("one@b")
    for _ in range(MOST + 1):
        apps.place(apps.choose(str(MOST))[0])


def with_settings(folder: Path, root: Path | None = None) -> Apps:
    """``one@a`` serves, ``zero@a`` was before it."""
    made = Apps(folder / "apps", root=root or folder)
    made.folder.mkdir(parents=True)
    for app in ("zero", "one"):
        folder_of = made.begin(app)
        (folder_of / "venv").mkdir()
        made.mark("complete", app)
        set_up(made, f"{app}@a", "old")
        made.switch(f"{app}@a")
        made.place(f"{app}@a")
        made.confirm(f"{app}@a")
    return made


@pytest.mark.parametrize("change", [other_settings, bad_settings, abandoned_settings])
def test_a_cut_at_any_step_of_other_settings_leaves_those_that_were_confirmed(
    tmp_path_factory: pytest.TempPathFactory,
    change: Callable[[Apps], None],
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sync", lambda: None)  # of the whole machine; nothing here loses power
    done = 0
    while True:
        root = tmp_path_factory.mktemp("device")
        good = with_settings(root)
        steps: list[str] = []

        def step(what: str, steps: list[str] = steps, most: int = done) -> None:
            if len(steps) == most:
                raise Cut(what)
            steps.append(what)

        try:
            change(Apps(good.folder, step, root))
            break
        except Cut as cut:
            where = f"before {cut}"
        current = good.current
        assert good.whole(current) and (good.is_("confirmed", current) or good.before == "one@a"), where
        # The device, left alone: what it starts in the end was confirmed, with all that belongs to it.
        left = tmp_path_factory.mktemp("left")
        shutil.copytree(root, left, symlinks=True, dirs_exist_ok=True)
        alone = Apps(left / "apps", root=left)
        for _ in range(MOST + 2):
            alone.place(alone.choose(str(MOST))[0])
        assert alone.whole(alone.current) and alone.tries(alone.current) is None, where
        assert alone.current in ("one@a", current), where
        unit = "old" if alone.current == "one@a" else "new"
        assert [path.read_text() for path in (left / "etc/a.service", left / "usr/bin/a")] == [unit] * 2, where
        change(Apps(good.folder, root=root))
        ends = ("one@b", "one@a", "new") if change is other_settings else ("one@a", "zero@a", "old")
        assert (good.current, good.before, (root / "etc/a.service").read_text()) == ends, where
        assert good.is_("complete", "one"), where
        done += 1
    assert done > 20
    told("cuts of an app's update", done)


def test_settings_that_nobody_confirms_give_way_to_those_before_with_their_unit(tmp_path: Path) -> None:
    apps = with_settings(tmp_path)
    set_up(apps, "one@b", "new")
    assert (tmp_path / "etc/a.service").read_text() == "old"  # what serves is not touched before the switch
    apps.begin_trial("one@b")
    apps.switch("one@b")
    assert (apps.folder / "current" / "venv").is_dir()
    assert apps.place("one@b") == [tmp_path / "etc/a.service", tmp_path / "usr/bin/a"]
    assert (apps.place("one@b"), (tmp_path / "usr/bin/a").stat().st_mode & 0o777) == ([], 0o755)
    said = [apps.choose(str(MOST))[1] for _ in range(MOST + 1)]
    assert said[-1] == "one@b was started 3 times and never confirmed: returned to one@a"
    assert apps.place(apps.current) == [tmp_path / "etc/a.service", tmp_path / "usr/bin/a"]
    assert (tmp_path / "etc/a.service").read_text() == "old"
    assert (apps.folder / "current" / "surefoot.toml").read_text() == "settings of one@a"
    assert (apps.whole("one@b"), apps.is_("complete", "one")) == (False, True)  # the app is the one that serves


def test_a_new_app_that_failed_is_proved_anew_and_one_that_is_in_use_is_not(tmp_path: Path) -> None:
    apps = with_settings(tmp_path)
    for app in ("two", "zero"):
        apps.begin(app)
        apps.mark("complete", app)
        set_up(apps, f"{app}@b", "new")
        apps.spoil(f"{app}@b")
    assert [apps.is_("complete", app) for app in ("two", "zero")] == [False, True]
    apps.spoil("zero@a")  # it is what was returned to, and failed
    assert not apps.is_("complete", "zero")


def test_an_app_stays_as_long_as_one_of_its_settings_is_kept(tmp_path: Path) -> None:
    apps = with_settings(tmp_path)
    other_settings(apps)
    assert (apps.current, apps.before) == ("one@b", "one@a")
    assert sorted(path.name for path in apps.folder.iterdir()) == ["current", "one", "one@a", "one@b"]
    assert apps.begin("one") and apps.is_("complete", "one")  # nor is it removed to begin anew


def read_only(folder: Path, do: Callable[[], None]) -> None:
    """Do it while the file system of a folder takes no writes, as after an error of its disk."""

    def inside() -> None:
        kernel.mount("none", folder, "tmpfs")
        try:
            apps = with_settings(folder, root=Path("/"))
            set_up(apps, "one@b", "new")
            apps.begin_trial("one@b")
            apps.switch("one@b")
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True, env=disks.SYSTEM)
            do()
        finally:
            kernel.unmount(folder)

    kernel.privately(inside)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted by root")
def test_where_a_start_cannot_be_counted_the_confirmed_one_is_started(tmp_path: Path) -> None:
    folder, instead = tmp_path / "data", tmp_path / "instead"
    folder.mkdir()

    def do() -> None:
        apps = Apps(folder / "apps")
        assert apps.current == "one@b" and apps.tries("one@b") == 0
        for _ in range(MOST + 2):
            app, said = apps.choose(str(MOST))
            assert app == "one@a"
            assert said.startswith("this start of one@b could not be counted: [Errno 30] Read-only file system")
            assert said.endswith("; one@a, which was confirmed, is started instead")
        done = program(apps, str(MOST), instead=instead)
        assert done.returncode == 0 and done.stderr == ""
        assert "one@a, which was confirmed, is started instead" in done.stdout
        assert instead.resolve() == folder / "apps" / "one@a"
        assert (apps.current, apps.tries("one@b")) == ("one@b", 0)

    read_only(folder, do)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted by root")
def test_mutant_that_starts_what_it_cannot_count_starts_a_bad_app_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Apps, "may_return_to", lambda self, app: False)
    folder = tmp_path / "data"
    folder.mkdir()
    read_only(folder, lambda: _equals(Apps(folder / "apps").choose(str(MOST))[0], "one@b"))


def _equals(found: object, wanted: object) -> None:
    assert found == wanted


def test_what_is_confirmed_is_started_where_nothing_can_be_written(tmp_path: Path) -> None:
    apps = with_settings(tmp_path, root=Path("/"))
    instead = tmp_path / "instead"
    instead.symlink_to("anything")  # of an earlier start that could not be counted
    app_store.main(str(apps.folder), str(MOST), str(instead), "a.service")
    assert apps.choose(str(MOST)) == ("one@a", "") and not instead.is_symlink()


def test_a_unit_that_was_returned_from_is_made_known_to_systemd_and_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    apps = Apps(tmp_path / "apps")
    apps.folder.mkdir()
    unit = tmp_path / "a.service"
    apps.begin("one")
    apps.mark("complete", "one")
    (apps.folder / "one@a").mkdir()
    apps.prepare("one@a", [Outside(str(unit), "wanted")])
    apps.switch("one@a")
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda line, **_: asked.append(line[1:]))
    for _ in range(2):
        app_store.main(str(apps.folder), str(MOST), str(tmp_path / "instead"), "a.service")
    assert unit.read_text() == "wanted" and app_of("one@a") == "one"
    assert asked == [["daemon-reload"], ["--no-block", "restart", "a.service"]]  # once
    unit.unlink()
    unit.mkdir()  # a place that cannot be written
    app_store.main(str(apps.folder), str(MOST), str(tmp_path / "instead"), "a.service")
    assert len(asked) == 2 and "one@a is started without all that it needs" in capsys.readouterr().out


@pytest.mark.parametrize("started", ["current", "instead"])
def test_the_attendant_of_a_container_runs_the_app_that_is_to_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: str
) -> None:
    for app in ("current", "instead"):
        (tmp_path / app).mkdir()
        (tmp_path / app / "image").write_text(f"sha256:{app}\n")
    if started == "current":
        shutil.rmtree(tmp_path / "instead")
    engine, log = tmp_path / "docker", tmp_path / "log"  # a double of Docker's command, which starts nothing
    engine.write_text(f'#!/bin/sh\necho "$*" >>{log}\n[ "$1" != run ] || echo started\n')
    engine.chmod(0o755)
    loader = SourceFileLoader("attend", str(ROOT / "roles/inference_app/files/attend.py"))
    attend = module_from_spec(ModuleSpec("attend", loader))
    loader.exec_module(attend)
    monkeypatch.setattr(attend, "DOCKER", str(engine))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert attend.main(str(tmp_path / "instead"), str(tmp_path), "/run/x", "--option") == 1
    told = f"--env=SUREFOOT_CONFIG={tmp_path}/{started}/surefoot.toml --env=SUREFOOT_APP={tmp_path}/{started}"
    assert f"run --detach --name=surefoot {told} --option sha256:{started}" in log.read_text().splitlines()
