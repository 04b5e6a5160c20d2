"""Role variables: defaults, argument_specs, READMEs, the app's configuration and the inventory agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from surefoot.config import Config

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
# Names of an inventory that no role reads.
INVENTORY_OWN = {"demo_clone", "site_builds", "site_app_version"}
# What an inventory asks for by name; without it there is nothing that could be asked for.
WITHOUT_DEFAULT = {"surefoot_version"}
# Tasks of roles that have nothing to configure, or nothing to install.
SHAPES = {
    "model_slots": ["Preflight", "Install", "Verify"],  # what a model needs is in its release
    "python": ["Preflight", "Install", "Verify"],
    "support_bundle": ["Preflight", "Collect", "Verify"],
    "surefoot": ["Preflight"],  # runs on the controller alone
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def options(role: str) -> dict[str, Any]:
    """The options of all entry points of a role."""
    found: dict[str, Any] = {}
    for entry in read(ROOT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"].values():
        found |= entry["options"]
    return found


def defaults(role: str) -> dict[str, Any]:
    return dict(read(ROOT / "roles" / role / "defaults" / "main.yml"))


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_agree(role: str) -> None:
    declared = options(role)
    given = {name: option["default"] for name, option in declared.items() if "default" in option}
    assert given == defaults(role)
    free = {name for name, option in declared.items() if "default" not in option and not option.get("required")}
    assert free <= WITHOUT_DEFAULT


@pytest.mark.parametrize("role", ROLES)
def test_variables_carry_the_name_of_their_role(role: str) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role}_")] == []
    internal = read(ROOT / "roles" / role / "vars" / "main.yml")
    assert [name for name in internal if not name.startswith(f"__{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_documented_with_its_default(role: str) -> None:
    readme = (ROOT / "roles" / role / "README.md").read_text()
    rows = {match[1]: match[2] for match in re.finditer(r"^\| `([a-z0-9_]+)` \| (.*?) \|", readme, re.MULTILINE)}
    assert set(rows) == set(options(role))
    for name, default in defaults(role).items():
        if isinstance(default, str) and "{{" not in default:
            assert (f"`{default}`" if default else "empty") == rows[name], name
        elif isinstance(default, int | float):
            assert f"`{json.dumps(default)}`" == rows[name], name


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_of_a_role_is_used_by_it(role: str) -> None:
    folder = ROOT / "roles" / role
    text = "".join(
        path.read_text() for part in ("tasks", "templates", "vars") for path in sorted((folder / part).rglob("*.*"))
    )
    if role == "surefoot":  # its names are for everybody
        text += "".join(path.read_text() for path in (ROOT / "playbooks").glob("*.yml"))
        text += "".join(path.read_text() for path in (ROOT / "roles").glob("*/*/*.yml") if path.parts[-3] != role)
    unused = [name for name in options(role) if not re.search(rf"\b{name}\b", text)]
    assert unused == []


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_the_same_shape(role: str) -> None:
    names = [task["name"] for task in read(ROOT / "roles" / role / "tasks" / "main.yml")]
    assert names == SHAPES.get(role, ["Preflight", "Install", "Configure", "Verify"])
    for file in ("README.md", "meta/main.yml", *(f"tasks/{name.lower()}.yml" for name in names)):
        assert (ROOT / "roles" / role / file).is_file()


def test_every_configuration_key_has_a_variable_with_the_same_default() -> None:
    given = defaults("inference_app")
    for key, value in msgspec.to_builtins(Config(), enc_hook=str).items():
        section = {"gateway": "http"}.get(key, key)
        values = (
            {f"{section}_{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
        )
        for name, expected in values.items():
            found = given[f"inference_app_{name}"]
            assert found == (list(expected) if isinstance(expected, tuple) else expected), name


def test_the_template_writes_every_configuration_key() -> None:
    text = (ROOT / "roles" / "inference_app" / "templates" / "surefoot.toml.j2").read_text()
    written: dict[str, Any] = {}
    section = written
    for line in text.splitlines():
        if line.startswith("["):
            section = written.setdefault(line.strip("[]"), {})
        elif " = " in line:
            section[line.split(" = ")[0]] = None
    expected = {
        key: dict.fromkeys(value) if isinstance(value, dict) else None
        for key, value in msgspec.to_builtins(Config(), enc_hook=str).items()
    }
    assert written == expected


def test_the_inventory_sets_no_variable_that_no_role_has() -> None:
    known = {name for role in ROLES for name in options(role)} | INVENTORY_OWN
    for path in sorted((ROOT / "inventory").rglob("*.yml")):
        content = read(path)
        names = set(content) if "group_vars" in path.parts else set(_variables(content))
        unknown = {name for name in names - known if not name.startswith("ansible_")}
        assert unknown == set(), path


def _variables(groups: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for group in groups.values():
        found += (group or {}).get("vars") or {}
        for host in ((group or {}).get("hosts") or {}).values():
            found += host or {}
        found += _variables((group or {}).get("children") or {})
    return found


def test_the_reference_names_every_playbook_role_and_short_name() -> None:
    text = (ROOT / "docs" / "reference" / "ansible.md").read_text()
    modules = [path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")]
    named = [*ROLES, *options("surefoot"), *modules]
    named += [path.name for path in (ROOT / "playbooks").glob("*.yml")]
    assert [name for name in named if f"`{name}`" not in text] == []
