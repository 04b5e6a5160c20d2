"""Each role's scenario of molecule. In CI one full scenario a group; `make test-full` runs all of them.

Tests are handed to workers file by file, so those of the playbooks, which take as long, are in test_molecule_fleet.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.conftest import ROOT
from tests.parts.docker import Engine
from tests.roles.scenarios import PLAYBOOKS, ROLES, TIMEOUT_S, run

# The one that CI runs of each group; the group `fleet` is in test_molecule_fleet.py.
CI = {
    "system": "base",
    "storage": "data_partition",
    "engine": "container_engine",
    "network": "egress_lockdown",
    "hardware": "raspberry_pi",
    "care": "watchdog",
}


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in CI.values() else [pytest.mark.full]) for name in ROLES]
)
def test_the_scenario_passes(name: str, engine: Engine, needs: Callable[[bool, str], None]) -> None:
    needs(shutil.which("ssh") is not None, "an ssh client")
    run(ROLES[name], engine)


def test_ci_runs_a_scenario_of_each_group() -> None:
    assert [name for name in CI.values() if name not in ROLES] == []


def test_every_role_has_a_scenario_or_is_part_of_a_playbooks() -> None:
    roles = {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()}
    # What fleet and device_care run: the check of names is in every playbook.
    in_others = {"model_slots", "surefoot", "credentials", "maintenance", "python", "support_bundle"}
    assert roles - set(ROLES) <= in_others


def test_no_two_devices_of_scenarios_share_a_name() -> None:
    names = [
        line.split()[-1]
        for path in (*ROLES.values(), *PLAYBOOKS.values())
        for line in (path / "molecule.yml").read_text().splitlines()
        if line.startswith("  - name: ")
    ]
    assert len(set(names)) == len(names) > 0
