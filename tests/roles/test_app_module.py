"""What surefoot_app does with the folder of apps; doubles of unit and engine, which are real in the scenario."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ROOT

OLDER, OLD, NEW = "1.0.0-aaa", "1.1.0-bbb", "1.2.0-ccc"


@pytest.fixture
def module() -> Iterator[Any]:
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / "playbooks" / "collections"))
    yield importlib.import_module("ansible_collections.surefoot.edge.plugins.modules.surefoot_app")
    sys.path.remove(str(ROOT / "playbooks" / "collections"))
    for name in set(sys.modules) - before:
        if name.startswith("ansible_collections"):
            del sys.modules[name]


class Unit:
    """A double of the unit: it runs what the link names, and says so."""

    def __init__(self) -> None:
        self.running, self.wrong, self.log = "", {}, []
        self.gateway = SimpleNamespace(ready_models=lambda: ["tiny"], version=lambda: self.running)
        self.apps: Any = None

    def is_enabled(self) -> bool:
        return True

    def enable(self) -> None:
        pass

    def started_with(self) -> str:
        return "settings"

    def restart(self, version: str) -> str:
        self.running = self.apps.current.rpartition("-")[0]
        self.log.append(f"restart {version}")
        return ""

    answers = restart

    def stays(self, apps: Any, version: str, models: list[str], *_: float) -> str:
        self.log.append(f"watch {version} {','.join(models)}")
        return str(self.wrong.get(version, ""))


class Device:
    """The module's functions on one folder. ``refuses``: why an app cannot serve what the device holds."""

    def __init__(self, module: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module, self.unit, self.folder = module, Unit(), folder / "apps"
        self.folder.mkdir()
        self.apps = self.unit.apps = module.Apps(self.folder)
        self.refuses: dict[str, str] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(module, "Service", lambda *_: self.unit)
        for app in (OLDER, OLD):
            self.put(app)
            self.run("active", app)
        self.unit.log.clear()
        self.asked.clear()

    def put(self, app: str) -> None:
        self.apps.begin(app)
        (self.folder / app / "surefoot.toml").touch()
        self.apps.mark("complete", app)

    def golden(self, app: str, room: Any) -> list[str]:
        self.asked.append(app)
        if app in self.refuses:
            raise self.module.AppError(self.refuses[app])
        return ["tiny", "proved"]

    def remove(self, app: str) -> None:
        self.apps.remove(app)

    def run(self, state: str, app: str | None = None, check_mode: bool = False) -> dict[str, Any]:
        params = {
            "id": app, "service": "s", "run_dir": "/run/x", "timeout": 5, "started_with": "", "data_dir": "/data",
            "most_memory": 1, "docker_options": [], "proof_timeout": 5, "steady": 1.0,
            "config": str(self.folder.parent / "surefoot.toml"),
        }  # fmt: skip
        ansible = SimpleNamespace(params=params, check_mode=check_mode)
        return dict(getattr(self.module, state)(ansible, self.apps, self))

    def seen(self) -> list[tuple[str, str]]:
        return [
            (str(path.relative_to(self.folder)), str(path.readlink()) if path.is_symlink() else path.read_text())
            for path in sorted(self.folder.rglob("*"))
            if path.is_symlink() or path.is_file()
        ]


@pytest.fixture
def device(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(module, tmp_path, monkeypatch)


def test_an_app_proves_itself_is_switched_to_watched_and_confirmed_in_that_order(device: Device) -> None:
    device.put(NEW)
    assert device.run("active", NEW)["changed"]
    assert device.asked == [NEW]
    assert device.unit.log == ["restart 1.2.0", "watch 1.2.0 proved,tiny"]
    assert (device.apps.current, device.apps.before, device.apps.on_trial) == (NEW, OLD, False)
    assert not (device.folder / OLDER).exists()


@pytest.mark.parametrize(("state", "app"), [("active", NEW), ("rolled_back", OLDER)])
def test_an_app_that_cannot_serve_what_the_device_holds_changes_nothing(device: Device, state: str, app: str) -> None:
    device.put(NEW)
    device.refuses[app] = "it cannot"
    before = device.seen()
    for check_mode in (True, False):
        with pytest.raises(device.module.AppError, match="it cannot"):
            device.run(state, NEW, check_mode)
        assert device.seen() == before and device.unit.log == []


def test_mutant_without_its_proof_an_app_is_switched_to_that_cannot_serve(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.put(NEW)
    device.refuses[NEW] = "it cannot"
    monkeypatch.setattr(Device, "golden", lambda *_: [])
    device.run("active", NEW)
    assert device.apps.current == NEW


@pytest.mark.parametrize(("state", "app"), [("active", NEW), ("rolled_back", OLDER)])
def test_an_app_that_fails_its_trial_gives_way_to_the_one_that_served(device: Device, state: str, app: str) -> None:
    device.put(NEW)
    device.unit.wrong[app.rpartition("-")[0]] = "it ended"
    with pytest.raises(device.module.AppError, match=rf"does not serve; found: it ended.*returned to {OLD}"):
        device.run(state, NEW)
    assert (device.apps.current, device.apps.before) == (OLD, OLDER)
    assert not device.apps.on_trial and not device.apps.is_("complete", app)
    assert device.unit.log[-1] == "restart 1.1.0"


def test_a_rollback_goes_back_once_and_never_forward(device: Device) -> None:
    assert device.run("rolled_back")["changed"]
    assert device.asked == [OLDER] and (device.apps.current, device.apps.before) == (OLDER, OLD)
    again = device.run("rolled_back")
    assert not again["changed"] and again["why"] == f"{OLDER} serves, returned to from {OLD} earlier"
    assert device.apps.current == OLDER
    device.run("active", OLD)
    assert device.run("rolled_back")["changed"] and device.apps.current == OLDER


def test_a_rollback_whose_trial_was_cut_off_is_gone_on_with(device: Device) -> None:
    device.apps.begin_trial(OLDER, left=OLD)
    device.apps.switch(OLDER)
    device.unit.restart("1.0.0")
    device.unit.log.clear()
    done = device.run("rolled_back")
    assert done["changed"] and done["why"] == f"the trial of {OLDER} was cut off"
    assert device.unit.log == ["watch 1.0.0 tiny"]  # it runs: nothing is started anew
    assert device.apps.current == OLDER and not device.apps.on_trial


@pytest.mark.parametrize("spoil", ["confirmed", "complete"])
def test_what_is_not_whole_or_was_never_confirmed_is_not_returned_to(device: Device, spoil: str) -> None:
    device.apps.unmark(spoil, OLDER)
    before = device.seen()
    with pytest.raises(device.module.AppError, match="there is no app to return to"):
        device.run("rolled_back")
    assert device.seen() == before and device.asked == []


def test_the_first_app_of_a_device_has_nothing_to_return_to(device: Device) -> None:
    (device.folder / OLD / "before").unlink()
    with pytest.raises(device.module.AppError, match=f"nothing before {OLD}"):
        device.run("rolled_back")


def test_check_mode_foretells_and_changes_nothing(device: Device) -> None:
    device.put(NEW)
    before = device.seen()
    assert device.run("active", NEW, check_mode=True)["changed"]
    assert device.run("rolled_back", check_mode=True)["changed"]
    assert device.seen() == before and device.asked == [NEW, OLDER]


def test_a_device_with_nothing_to_do_is_neither_proved_nor_watched(device: Device) -> None:
    assert not device.run("active", OLD)["changed"]
    assert device.asked == [] and device.unit.log == []
