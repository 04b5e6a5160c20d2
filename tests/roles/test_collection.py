"""The collection: what it holds, and that Ansible can read it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.roles.controller import ROOT, Controller

PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
# Beside these, the collection holds roles/ and plugins/.
EXPECTED = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "meta/runtime.yml",
    "playbooks/bootstrap.yml",
    "playbooks/deploy.yml",
    "playbooks/logs.yml",
    "playbooks/maintain.yml",
    "playbooks/provision.yml",
    "playbooks/reset.yml",
    "playbooks/rollback.yml",
    "playbooks/rotate.yml",
    "playbooks/status.yml",
}
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "meta" / "argument_specs.yml").is_file())


def test_the_tarball_holds_the_collection_and_nothing_else(built_collection: Path) -> None:
    with tarfile.open(built_collection) as tar:
        files = {member.name for member in tar.getmembers() if not member.isdir()}
        links = [member.name for member in tar.getmembers() if member.issym() or member.islnk()]
    files -= {"MANIFEST.json", "FILES.json"}
    whole = {name for name in files if name.startswith(("roles/", "plugins/"))}
    assert files - whole == EXPECTED
    # Scenarios of molecule need tests/parts and .config, which only a clone has.
    written = {
        path.relative_to(ROOT).as_posix()
        for folder in ("roles", "plugins")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "molecule"} & set(path.parts)
    }
    assert whole == written
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


def test_each_role_and_each_of_its_arguments_is_shown_by_ansible_doc(controller: Controller) -> None:
    names = [f"surefoot.edge.{role}" for role in ROLES]
    shown = json.loads(controller.command("ansible-doc", "--json", "-t", "role", *names, cwd=ROOT).stdout)
    for role in ROLES:
        specs = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
        entry_points = shown[f"surefoot.edge.{role}"]["entry_points"]
        assert "main" in entry_points
        for entry_point, spec in specs.items():
            options = entry_points[entry_point].get("options") or {}
            assert set(options) == set(spec.get("options") or {}), (role, entry_point)
            assert [name for name, option in options.items() if not option.get("description")] == [], role


@pytest.mark.parametrize("kind", ["module", "lookup"])
def test_each_plugin_and_each_of_its_options_is_shown_by_ansible_doc(controller: Controller, kind: str) -> None:
    folder = ROOT / "plugins" / {"module": "modules"}.get(kind, kind)
    names = [f"surefoot.edge.{path.stem}" for path in sorted(folder.glob("[!_]*.py"))]
    shown = json.loads(controller.command("ansible-doc", "--json", "-t", kind, *names, cwd=ROOT).stdout)
    assert sorted(shown) == names
    for name, each in shown.items():
        assert each["doc"]["short_description"], name
        assert [option for option, said in each["doc"]["options"].items() if not said.get("description")] == [], name
        assert yaml.safe_load(each["examples"]), name
        assert each["return"], name
