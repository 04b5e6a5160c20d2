"""Each scenario of molecule, as its users run it: `cd roles/NAME && molecule test`.

In CI one full scenario a group; `make test-full` runs all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.parts import hosts
from tests.parts.docker import Engine

TIMEOUT_S = 900
EMULATED_TIMEOUT_S = 3600
SCENARIOS = {
    path.parents[2].name if path.parent.name == "default" else path.parent.name: path.parent
    for pattern in ("roles/*/molecule/*/molecule.yml", "playbooks/molecule/*/molecule.yml")
    for path in sorted(ROOT.glob(pattern))
}
# The one that CI runs of each group. `fleet` goes through inference_app with both engines, and model_slots.
CI = {
    "system": "base",
    "storage": "data_partition",
    "engine": "container_engine",
    "network": "egress_lockdown",
    "hardware": "raspberry_pi",
    "care": "watchdog",
    "fleet": "fleet",
}


def run(scenario: Path, engine: Engine, timeout_s: float = TIMEOUT_S, **more: str) -> None:
    """`molecule test`, with files of its own. What it printed is shown where it fails."""
    hosts.prepare(engine)
    # A short path: sockets' addresses are short.
    with tempfile.TemporaryDirectory(prefix="sf-") as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
        environment = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_HOME": f"{folder}/home",
            "ANSIBLE_NOCOLOR": "true",
            "MOLECULE_EPHEMERAL_DIRECTORY": f"{folder}/molecule",
            **more,
        }
        done = subprocess.run(
            ["molecule", "test", "--scenario-name", scenario.name],
            cwd=scenario.parents[1],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    assert done.returncode == 0, done.stdout


def marked() -> list[object]:
    return [
        pytest.param(path, id=name, marks=[] if name in CI.values() else [pytest.mark.full])
        for name, path in SCENARIOS.items()
    ]


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("scenario", marked())
def test_the_scenario_passes(scenario: Path, engine: Engine, needs: Callable[[bool, str], None]) -> None:
    needs(shutil.which("ssh") is not None, "an ssh client")
    run(scenario, engine)


@pytest.mark.full
@pytest.mark.timeout(EMULATED_TIMEOUT_S + 60)
def test_a_device_runs_the_image_for_raspberry_pi_under_its_own_engine_and_answers(engine: Engine) -> None:
    """On an emulated processor; a double of the device's Python says that it is one for arm64."""
    run(SCENARIOS["fleet"], engine, EMULATED_TIMEOUT_S, SUREFOOT_FLEET_IMAGE="rpi")


def test_ci_runs_a_scenario_of_each_group() -> None:
    assert [name for name in CI.values() if name not in SCENARIOS] == []


def test_every_role_has_a_scenario_or_is_part_of_another_ones() -> None:
    roles = {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()}
    # What fleet and device_care run: the check of names is in every playbook.
    in_others = {"model_slots", "surefoot", "credentials", "maintenance", "python", "support_bundle"}
    assert roles - set(SCENARIOS) <= in_others


def test_no_two_devices_of_scenarios_share_a_name() -> None:
    names = [
        line.split()[-1]
        for path in SCENARIOS.values()
        for line in (path / "molecule.yml").read_text().splitlines()
        if line.startswith("  - name: ")
    ]
    assert len(set(names)) == len(names) > 0
