"""The playbooks on a real device in a folder: forward, back, again, predicted, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3

from surefoot import __version__
from tests.conftest import Repository
from tests.roles.controller import Controller, Played

MODEL = "fashion-mnist"
pytestmark = pytest.mark.timeout(900)  # up to eleven playbooks a test


@dataclass
class Target:
    """The demo device of the inventory, moved into a folder of the test."""

    controller: Controller
    folder: Path

    @property
    def data_dir(self) -> Path:
        return self.folder / "device"

    def surefoot(self, *arguments: str) -> Any:
        done = subprocess.run(
            [self.controller.bin / "surefoot", "--config", self.data_dir / "surefoot.toml", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return json.loads(done.stdout)

    @property
    def endpoint(self) -> dict[str, Any]:
        return dict(json.loads((self.data_dir / "run" / "endpoint.json").read_text()))

    @property
    def versions(self) -> tuple[str, str]:
        """What the slots say and what the server says."""
        reply = urllib3.request("GET", f"{self.endpoint['url']}/v2/models/{MODEL}", retries=False, timeout=10.0)
        return self.surefoot("model", "status", MODEL)["active"]["version"], ",".join(reply.json()["versions"])

    @property
    def slots(self) -> dict[str, bytes]:
        """Every byte of the models, and of their state."""
        models = self.data_dir / "models"
        return {str(path.relative_to(models)): path.read_bytes() for path in models.rglob("*") if path.is_file()}

    def stop(self) -> None:
        if (self.data_dir / "surefoot.toml").exists():
            command = [self.controller.bin / "surefoot", "--config", self.data_dir / "surefoot.toml", "stop"]
            subprocess.run(command, capture_output=True, check=False, timeout=60)


@pytest.fixture
def target(controller: Controller, signed_repository: Repository) -> Iterator[Target]:
    """A device with nothing on it."""
    made = Target(controller, controller.folder)
    controller.variables.update(
        inference_app_data_dir=str(made.data_dir),
        inference_app_run_dir=str(made.data_dir / "run"),
        inference_app_trial_min_seconds=0,
        inference_app_trial_min_inferences=1,
        model_slots_repository=str(signed_repository.path),
        model_slots_root=str(signed_repository.root),
    )
    yield made
    made.stop()


def good(played: Played) -> Played:
    assert played.status == 0, played.out
    return played


def test_a_model_goes_forward_and_back_and_each_second_run_changes_nothing(target: Target) -> None:
    play = target.controller.play
    foretold = good(play("deploy", "--check", "--diff"))
    assert not target.data_dir.exists()
    first = good(play("deploy"))
    assert first.changed == foretold.changed
    assert target.versions == ("1.0.0", "1.0.0")
    running = target.endpoint
    assert good(play("deploy")).changed == []
    assert target.endpoint == running

    before = target.slots
    foretold = good(play("deploy", "--check", "--diff", surefoot_version="2.0.0"))
    assert target.slots == before
    assert target.versions == ("1.0.0", "1.0.0")
    second = good(play("deploy", "--diff", surefoot_version="2.0.0"))
    assert second.changed == foretold.changed == ["Bring each model to its release"]
    assert target.versions == ("2.0.0", "2.0.0")
    assert _diff(second) == _diff(foretold)
    assert '+  "serves": "2.0.0 (confirmed)",' in _diff(second)
    assert good(play("deploy", surefoot_version="2.0.0")).changed == []

    foretold = good(play("rollback", "--check", "--diff"))
    assert target.versions == ("2.0.0", "2.0.0")
    back = good(play("rollback", "--diff"))
    assert back.changed == foretold.changed == ["Return each model to what was confirmed before"]
    assert _diff(back) == _diff(foretold)
    assert target.versions == ("1.0.0", "1.0.0")
    assert good(play("rollback")).changed == []
    assert target.versions == ("1.0.0", "1.0.0")

    again = good(play("deploy", "--diff", surefoot_version="2.0.0"))
    assert again.changed == ["Bring each model to its release"]
    assert '+  "held": false' in _diff(again)
    assert target.versions == ("2.0.0", "2.0.0")


def _diff(played: Played) -> list[str]:
    return [line for line in played.out.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]


@pytest.mark.parametrize("way", ["playbooks", "installed"])  # the root of the clone is the journey's way
def test_the_other_ways_of_calling_the_playbooks_deploy_and_show_too(target: Target, way: str) -> None:
    good(target.controller.play("deploy", way=way))
    assert target.versions == ("1.0.0", "1.0.0")
    shown = good(target.controller.play("status", way=way))
    assert table(shown)["demo-device"][:3] == ["yes", MODEL, "1.0.0"]


def test_a_release_that_was_tampered_with_fails_with_the_reason_and_the_old_one_goes_on(
    target: Target, signed_repository: Repository
) -> None:
    play = target.controller.play
    good(play("deploy"))
    before = target.slots
    tampered = signed_repository.copy_to(target.folder / "tampered")
    for path in (tampered.path / "targets" / MODEL / "2.0.0").iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    wrong = {"surefoot_version": "2.0.0", "model_slots_repository": str(tampered.path)}
    for arguments in (["--check"], []):
        failed = play("deploy", *arguments, **wrong)
        assert failed.status != 0
        assert "UntrustedRelease" in failed.out or "TransportFailed" in failed.out
        assert "serving now: 1.0.0 (confirmed)" in failed.out
        assert "state_after:" in failed.out
        assert target.versions == ("1.0.0", "1.0.0")
    assert {name: data for name, data in target.slots.items() if name.startswith(f"{MODEL}/a/")} == {
        name: data for name, data in before.items() if name.startswith(f"{MODEL}/a/")
    }
    absent = play("deploy", "--check", surefoot_version="9.0.0")
    assert absent.status != 0
    assert "has no release fashion-mnist 9.0.0" in absent.out
    # The same deploy from the repository as it was published: the failure left nothing in the way.
    good(play("deploy", surefoot_version="2.0.0"))
    assert target.versions == ("2.0.0", "2.0.0")


def test_latest_is_the_newest_of_the_repository_and_a_model_can_wait_in_a_slot(target: Target) -> None:
    play = target.controller.play
    latest = {"name": MODEL, "version": "latest"}
    good(play("deploy", model_slots_models=[{**latest, "state": "present"}], surefoot_version="latest"))
    found = target.surefoot("model", "status", MODEL)
    assert found["active"] is None
    assert {slot["version"] for slot in found["slots"].values()} == {"2.0.0", None}
    good(play("deploy", model_slots_models=[latest], surefoot_version="latest"))
    assert target.versions == ("2.0.0", "2.0.0")
    assert good(play("deploy", model_slots_models=[latest], surefoot_version="latest")).changed == []


def test_a_model_can_be_taken_off_the_device(target: Target) -> None:
    play = target.controller.play
    good(play("deploy"))
    gone = [{"name": MODEL, "version": "1.0.0", "state": "absent"}]
    assert good(play("deploy", model_slots_models=gone)).changed == ["Bring each model to its release"]
    assert target.surefoot("model", "status") == {"models": []}
    assert good(play("deploy", model_slots_models=gone)).changed == []


def test_the_app_restarts_for_a_new_configuration_and_keeps_its_port(target: Target) -> None:
    play = target.controller.play
    good(play("deploy"))
    first = target.endpoint
    changed = good(play("deploy", inference_app_http_queue_depth=32)).changed
    assert "Write the configuration" in changed
    assert "Stop the app" in changed
    assert target.endpoint["pid"] != first["pid"]
    assert target.endpoint["url"] == first["url"]
    assert target.versions == ("1.0.0", "1.0.0")


def test_a_restart_that_is_owed_from_before_is_made_up_for(target: Target) -> None:
    good(target.controller.play("deploy"))
    first = target.endpoint["pid"]
    # As after a deploy that wrote the configuration and was cut before the restart.
    (target.data_dir / "run" / "started-with").write_text("another one\n")
    assert "Stop the app" in good(target.controller.play("deploy")).changed
    assert target.endpoint["pid"] != first


def test_an_app_that_died_is_started_again(target: Target) -> None:
    good(target.controller.play("deploy"))
    os.kill(target.endpoint["pid"], signal.SIGKILL)
    assert "Start the app" in good(target.controller.play("deploy")).changed
    assert target.versions == ("1.0.0", "1.0.0")


def test_the_status_names_devices_that_cannot_be_reached_or_have_nothing(
    target: Target, needs: Callable[[bool, str], None]
) -> None:
    needs(shutil.which("ssh") is not None, "an ssh client")
    good(target.controller.play("deploy"))
    hosts = target.folder / "hosts.yml"
    python = str(target.controller.bin / "python")
    local = {"ansible_connection": "local", "ansible_python_interpreter": python, "inference_app_python": python}
    nothing = {name: str(target.folder / "nothing") for name in ("model_slots_data_dir", "model_slots_run_dir")}
    # Port 1 of loopback: nobody listens there.
    away = {"ansible_host": "127.0.0.1", "ansible_port": 1}
    devices = {"good": local, "new": {**local, **nothing}, "away": away}
    hosts.write_text(json.dumps({"surefoot": {"hosts": devices}}))
    report = target.folder / "fleet.json"
    shown = target.controller.play("status", inventory=hosts, surefoot_status_json=str(report))
    assert shown.status == 0, shown.out
    fleet = {each["device"]: each for each in json.loads(report.read_text())["devices"]}
    assert fleet["good"]["ready"] is True
    assert fleet["good"]["problem"] is None
    assert (fleet["good"]["app"], fleet["good"]["root"]) == (__version__, "writable")
    assert (fleet["away"]["app"], fleet["away"]["root"]) == (None, None)
    assert fleet["good"]["models"][0]["active"]["version"] == "1.0.0"
    assert "cannot read the configuration" in fleet["new"]["problem"]
    assert fleet["away"]["reachable"] is False
    assert fleet["away"]["problem"].startswith("unreachable: ")
    lines = table(shown)
    assert lines["good"][:3] == ["yes", MODEL, "1.0.0"]
    assert lines["good"][6:8] == [__version__, "writable"]
    assert lines["new"][0] == "no"
    assert "unreachable:" in lines["away"]


def table(played: Played) -> dict[str, list[str]]:
    """The lines of the fleet's table by their device, whatever form the caller's Ansible prints lists in."""
    shown = played.out.partition("PLAY RECAP")[0].splitlines()
    rows = [line.strip(" -\"',").split() for line in shown]
    return {row[0]: row[1:] for row in rows if len(row) > 6}
