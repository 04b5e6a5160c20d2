"""Runs scenarios of molecule as its users run them: `cd roles/NAME && molecule test`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT
from tests.parts import hosts
from tests.parts.docker import Engine

TIMEOUT_S = 900


def scenarios(pattern: str) -> dict[str, Path]:
    """Folders of scenarios, each by the role's name, or by its own where a folder has several."""
    found = [path.parent for path in sorted(ROOT.glob(pattern))]
    return {path.parents[1].name if path.name == "default" else path.name: path for path in found}


ROLES = scenarios("roles/*/molecule/*/molecule.yml")
PLAYBOOKS = scenarios("playbooks/molecule/*/molecule.yml")


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
