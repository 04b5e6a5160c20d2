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
        self.instead = ""

    def is_enabled(self) -> bool:
        return True

    def enable(self) -> None:
        pass

    def starts_instead(self) -> str:
        return self.instead

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
        self.unit_file = folder / "a.service"
        self.apps = self.unit.apps = module.Apps(self.folder)
        self.refuses: dict[str, str] = {}
        self.asked: list[str] = []
        self.too_old: set[str] = set()
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

    def set_up(self, app: str, settings: str) -> dict[str, Any]:
        """As the role does before it calls the module: with these settings, and this unit. Returns what it asks for."""
        (self.folder / app).mkdir(exist_ok=True)
        (self.folder / app / "surefoot.toml").write_text(settings)
        return {"outside": [{"path": str(self.unit_file), "content": settings, "mode": "0644"}]}

    def golden(self, app: str, room: Any, confirmed: bool) -> Any:
        self.asked.append(app)
        if app in self.refuses or (app in self.too_old and not confirmed):
            raise self.module.AppError(self.refuses.get(app, "No such option"))
        return SimpleNamespace(models=["tiny", "proved"], short_of="by digests" if app in self.too_old else "")

    def remove(self, app: str) -> None:
        self.apps.remove(app)

    def run(self, state: str, app: str | None = None, check_mode: bool = False, **more: Any) -> dict[str, Any]:
        params = {
            "id": app, "service": "s", "run_dir": "/run/x", "timeout": 5, "started_with": "", "data_dir": "/data",
            "most_memory": 1, "docker_options": [], "proof_timeout": 5, "steady": 1.0,
            "config": str(self.folder.parent / "surefoot.toml"), "instead": "/run/y", "outside": [], **more,
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
    monkeypatch.setattr(Device, "golden", lambda *_: SimpleNamespace(models=[], short_of=""))
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


# -- other settings of the app that serves -----------------------------------------------------------------------------


@pytest.fixture
def settled(device: Device) -> Device:
    """``OLD`` serves with its first settings."""
    first = f"{OLD}@111"
    device.run("active", first, **device.set_up(first, "first"))
    device.unit.log.clear()
    device.asked.clear()
    return device


def test_other_settings_are_proved_watched_and_confirmed_as_another_app_is(settled: Device) -> None:
    second = f"{OLD}@222"
    files = settled.set_up(second, "second")
    assert settled.run("active", second, check_mode=True, **files)["changed"]
    assert settled.unit_file.read_text() == "first"
    done = settled.run("active", second, **files)
    assert done["changed"] and f"{OLD}@111 serves, {second} is wanted" in done["why"]
    assert settled.asked == [second] and settled.unit.log == ["restart 1.1.0", "watch 1.1.0 proved,tiny"]
    assert (settled.apps.current, settled.apps.before, settled.apps.on_trial) == (second, f"{OLD}@111", False)
    assert settled.unit_file.read_text() == "second"
    assert (settled.folder.parent / "surefoot.toml").read_text() == "second"
    assert not settled.run("active", second, **files)["changed"]  # asked for again, nothing is done


def test_settings_that_do_not_serve_give_way_to_those_that_did(settled: Device) -> None:
    second = f"{OLD}@222"
    settled.unit.wrong["1.1.0"] = "the port is in use"
    with pytest.raises(settled.module.AppError, match=rf"the port is in use.*returned to {OLD}@111"):
        settled.run("active", second, **settled.set_up(second, "second"))
    assert (settled.apps.current, settled.unit_file.read_text()) == (f"{OLD}@111", "first")
    assert (settled.folder.parent / "surefoot.toml").read_text() == "first"
    assert settled.apps.is_("complete", OLD) and not settled.apps.whole(second)
    settled.unit.wrong.clear()
    assert settled.run("active", second, **settled.set_up(second, "second"))["changed"]  # mended, they are taken


def test_mutant_that_leaves_the_unit_as_it_is_keeps_the_bad_one(
    settled: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = f"{OLD}@222"
    files = settled.set_up(second, "second")
    place = settled.module.Apps.place
    monkeypatch.setattr(settled.module.Apps, "place", lambda self, app: place(self, app) if app == second else [])
    settled.unit.wrong["1.1.0"] = "it ended"
    with pytest.raises(settled.module.AppError):
        settled.run("active", second, **files)
    assert settled.unit_file.read_text() == "second"


def test_settings_that_cannot_serve_what_the_device_holds_touch_nothing_outside(settled: Device) -> None:
    second = f"{OLD}@222"
    settled.refuses[second] = "a wrong path"
    with pytest.raises(settled.module.AppError, match="a wrong path"):
        settled.run("active", second, **settled.set_up(second, "second"))
    assert (settled.apps.current, settled.unit_file.read_text(), settled.unit.log) == (f"{OLD}@111", "first", [])


def test_a_rollback_returns_to_the_settings_before(settled: Device) -> None:
    second = f"{OLD}@222"
    settled.run("active", second, **settled.set_up(second, "second"))
    assert settled.run("rolled_back")["changed"]
    assert (settled.apps.current, settled.unit_file.read_text()) == (f"{OLD}@111", "first")
    assert (settled.folder.parent / "surefoot.toml").read_text() == "first"
    assert not settled.run("rolled_back")["changed"]


def test_a_unit_that_somebody_changed_is_mended(settled: Device) -> None:
    first = f"{OLD}@111"
    settled.unit_file.write_text("by hand")
    done = settled.run("active", first, **settled.set_up(first, "first"))
    assert done["changed"] and done["why"] == f"{settled.unit_file} is another one than is wanted"
    assert settled.unit_file.read_text() == "first" and settled.unit.log[0] == "restart 1.1.0"


def test_a_device_that_starts_another_app_instead_is_started_anew(settled: Device) -> None:
    first = f"{OLD}@111"
    settled.unit.instead = OLDER
    done = settled.run("active", first, **settled.set_up(first, "first"))
    assert done["changed"] and done["why"] == f"the device started {OLDER} instead"


# -- an app that is too old to prove itself by golden cases ------------------------------------------------------------


def test_a_rollback_to_an_app_that_is_too_old_for_golden_cases_says_so(device: Device) -> None:
    device.too_old = {OLDER}
    done = device.run("rolled_back")
    assert done["changed"] and done["why"].endswith("; by digests") and device.apps.current == OLDER


@pytest.mark.parametrize("app", [NEW, OLDER])
def test_a_deploy_never_takes_an_app_that_is_too_old_for_golden_cases(device: Device, app: str) -> None:
    device.put(NEW)
    device.too_old = {app}
    with pytest.raises(device.module.AppError, match="No such option"):
        device.run("active", app)
    assert device.apps.current == OLD
