"""The collection: what it holds, and that Ansible can read it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.roles.controller import ROOT, Controller

PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
# Beside these, the collection holds roles/.
EXPECTED = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "meta/runtime.yml",
    "playbooks/deploy.yml",
    "playbooks/rollback.yml",
    "playbooks/status.yml",
    "plugins/module_utils/model_plan.py",
    "plugins/modules/surefoot_model.py",
}


def test_the_tarball_holds_the_collection_and_nothing_else(built_collection: Path) -> None:
    with tarfile.open(built_collection) as tar:
        files = {member.name for member in tar.getmembers() if not member.isdir()}
        links = [member.name for member in tar.getmembers() if member.issym() or member.islnk()]
    files -= {"MANIFEST.json", "FILES.json"}
    roles = {name for name in files if name.startswith("roles/")}
    assert files - roles == EXPECTED
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "roles").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert roles == tracked
    assert links == []


def test_its_name_version_and_licence_are_those_of_the_project(built_collection: Path) -> None:
    with tarfile.open(built_collection) as tar:
        manifest = tar.extractfile("MANIFEST.json")
        assert manifest is not None
        info = json.load(manifest)["collection_info"]
    assert (info["namespace"], info["name"], info["version"]) == ("surefoot", "edge", "0.1.0")
    assert info["license"] == ["Apache-2.0"]


def test_the_links_beside_the_playbooks_lead_back_to_the_clone_and_not_in_a_circle() -> None:
    links = sorted((ROOT / "playbooks" / "collections" / "ansible_collections" / "surefoot" / "edge").iterdir())
    assert [link.name for link in links] == ["galaxy.yml", "meta", "plugins", "roles"]
    for link in links:
        assert link.is_symlink()
        assert not link.readlink().is_absolute()
        assert link.resolve() == ROOT / link.name
        # A tool that follows links comes to an end.
        assert [path for path in link.rglob("*") if path.is_symlink()] == []


@pytest.mark.parametrize("playbook", PLAYBOOKS)
@pytest.mark.parametrize("way", ["root", "playbooks", "installed", "elsewhere"])
def test_each_playbook_is_read_in_each_way(controller: Controller, way: str, playbook: str) -> None:
    done = controller.play(playbook, "--syntax-check", way=way)
    assert done.status == 0, done.out
    assert "WARNING" not in done.out


def test_the_module_is_documented_by_ansible_doc(controller: Controller) -> None:
    shown = controller.command("ansible-doc", "--json", "surefoot.edge.surefoot_model", cwd=ROOT)
    doc = json.loads(shown.stdout)["surefoot.edge.surefoot_model"]
    source = (ROOT / "plugins" / "modules" / "surefoot_model.py").read_text()
    assert {f'"{name}": {{"type": "{option["type"]}"' for name, option in doc["doc"]["options"].items()} <= {
        line.strip().split(", ")[0].rstrip("},") for line in source.splitlines()
    }
    assert doc["doc"]["attributes"]["check_mode"]["support"] == "full"
    assert doc["doc"]["attributes"]["diff_mode"]["support"] == "full"
    assert yaml.safe_load(doc["examples"])
    assert {"why", "steps", "before", "after", "state_after", "answers", "error", "version"} == set(doc["return"])


@pytest.mark.parametrize("role", ["inference_app", "model_slots"])
def test_each_role_is_documented_by_ansible_doc(controller: Controller, role: str) -> None:
    shown = controller.command("ansible-doc", "--json", "-t", "role", f"surefoot.edge.{role}", cwd=ROOT)
    assert "main" in json.loads(shown.stdout)[f"surefoot.edge.{role}"]["entry_points"]
