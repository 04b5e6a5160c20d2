"""How deploy.yml goes through a fleet: the playbook itself, doubles of both roles, and this machine as each device.

What the roles do on real devices is in test_fleet.py.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.roles.controller import ROOT, Controller, Played

# refused, failing, silent: lists of devices to which that happens.
DOUBLES = {
    "app/tasks/preflight.yml": """
- name: Look at the device
  ansible.builtin.assert:
    that: inventory_hostname not in refused | default([])
    fail_msg: its disk is full
""",
    "app/tasks/apply.yml": """
- name: Change the device
  ansible.builtin.command: "touch {{ places }}/{{ inventory_hostname }}"
  changed_when: true
- name: Fail some
  ansible.builtin.assert:
    that: inventory_hostname not in failing | default([])
    fail_msg: it does not start
- name: Ask again
  ansible.builtin.command: "true"
  changed_when: false
  vars:
    ansible_connection: "{{ 'ssh' if inventory_hostname in silent | default([]) else 'local' }}"
    ansible_port: 1
""",
    "models/tasks/preflight.yml": "[]",
    "models/tasks/apply.yml": "[]",
}


@dataclass
class Line:
    """Eight devices, cam-1 to cam-8."""

    controller: Controller
    folder: Path

    @property
    def changed(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "changed").iterdir())

    def deploy(self, away: tuple[str, ...] = (), **lists: object) -> Played:
        local = {"ansible_connection": "local", "ansible_python_interpreter": str(self.controller.bin / "python")}
        gone = {"ansible_host": "127.0.0.1", "ansible_port": 1}
        names = [f"cam-{number}" for number in range(1, 9)]
        hosts = self.folder / "hosts.yml"
        hosts.write_text(json.dumps({"surefoot": {"hosts": {name: gone if name in away else local for name in names}}}))
        variables = json.dumps({"places": str(self.folder / "changed"), **lists})
        return self.controller.play_file(self.folder / "deploy.yml", "-e", variables, inventory=hosts)


@pytest.fixture
def line(controller: Controller, needs: Callable[[bool, str], None]) -> Line:
    needs(shutil.which("ssh") is not None, "an ssh client")
    text = (ROOT / "playbooks" / "deploy.yml").read_text()
    for real, double in (("inference_app", "app"), ("model_slots", "models")):
        text = text.replace(f"surefoot.edge.{real}", double)
    (controller.folder / "deploy.yml").write_text(text)
    (controller.folder / "changed").mkdir()
    for name, tasks in DOUBLES.items():
        path = controller.folder / "roles" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tasks)
    return Line(controller, controller.folder)


ALL = [f"cam-{number}" for number in range(1, 9)]


def waves(played: Played) -> list[set[str]]:
    """The devices of each wave that was begun."""
    found = played.out.split("PLAY [Bring devices to the wanted app")[1:]
    return [set(re.findall(r"^(?:ok|changed|fatal|skipping): \[(cam-\d)", text, re.MULTILINE)) for text in found]


def test_one_device_is_first_then_a_quarter_then_all(line: Line) -> None:
    played = line.deploy()
    assert played.status == 0, played.out
    assert line.changed == ALL
    assert waves(played)[:2] == [{"cam-1"}, {"cam-2", "cam-3"}]


def test_devices_that_are_away_or_refused_are_left_out_and_reported_and_another_is_first(line: Line) -> None:
    played = line.deploy(away=("cam-1",), refused=["cam-5"])
    assert played.status == 2
    assert line.changed == [name for name in ALL if name not in ("cam-1", "cam-5")]
    assert waves(played)[0] == {"cam-2"}
    report = played.out.partition("PLAY [Report the devices")[2]
    assert re.search(r"fatal: \[cam-1\].*left out, and nothing was changed on it: out of reach: .*refused", report)
    assert re.search(r"fatal: \[cam-5\].*left out, and nothing was changed on it: its disk is full", report, re.DOTALL)
    assert [name for name in ALL if played.counts[name]["failed"]] == ["cam-1", "cam-5"]


def test_nothing_is_begun_where_too_many_would_be_left_out(line: Line) -> None:
    played = line.deploy(away=("cam-1",), refused=["cam-2"], surefoot_most_left_out_percent=24)
    assert played.status == 2
    assert line.changed == []
    assert "2 of 8 devices cannot take part (cam-1, cam-2), which is more than 24 in a hundred" in played.said
    assert line.deploy(away=("cam-1",), refused=["cam-2"], surefoot_most_left_out_percent=25).status == 2
    assert len(line.changed) == 6


def test_a_device_that_fails_stops_the_waves_after_it(line: Line) -> None:
    played = line.deploy(failing=["cam-1"])
    assert played.status == 2
    assert line.changed == ["cam-1"]
    assert "it does not start" in played.said


def test_a_device_that_falls_silent_after_it_was_changed_stops_the_waves_after_it(line: Line) -> None:
    played = line.deploy(silent=["cam-3"])
    assert played.status != 0
    assert line.changed == ["cam-1", "cam-2", "cam-3"]
    assert "cam-3 of an earlier wave fell silent in the middle" in played.said


def test_a_device_that_falls_silent_in_the_last_wave_fails_the_run(line: Line) -> None:
    played = line.deploy(silent=["cam-8"])
    assert played.status != 0
    assert line.changed == ALL
    assert played.counts["cam-8"]["unreachable"] == 1
