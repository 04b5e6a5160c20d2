"""A mistyped variable is refused by every playbook before any device is asked, and nobody else's variable is."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.roles.controller import ROOT, Controller

PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "unknown_variables", ROOT / "plugins" / "lookup" / "unknown_variables.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOOKUP = load()
KNOWN = {
    path.parents[1].name: LOOKUP.known_names(path.parents[1].name)
    for path in ROOT.glob("roles/*/meta/argument_specs.yml")
}


def found(*names: str, roles: tuple[str, ...] = ()) -> list[str]:
    return list(LOOKUP.unknown(names, KNOWN, roles or KNOWN))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("inferense_app_engine", "inference_app_engine"),
        ("infernce_app_http_port", "inference_app_http_port"),
        ("inference_app_engin", "inference_app_engine"),
        ("inference_app_data_directory", "inference_app_data_dir"),
        ("model_slot_models", "model_slots_models"),
        ("modelslots_repository", "model_slots_repository"),
        ("surefoot_verison", "surefoot_version"),
        ("surfoot_version", "surefoot_version"),
        ("surefoot_wat", "surefoot_what"),
        ("surefoot_role", "surefoot_roles"),
        ("base_usr", "base_user"),
        ("base_time_server", "base_time_servers"),
        ("base_journal_size", "base_journal_bytes"),
        ("bse_quiet_units", "base_quiet_units"),
        ("container_engine_dataroot", "container_engine_data_root"),
        ("maintenence_reboot", "maintenance_reboot"),
        ("credential_files", "credentials_files"),
    ],
)
def test_a_mistyped_name_is_found_with_what_was_meant(name: str, meant: str) -> None:
    assert found(name) == [f"{name} (did you mean {meant}?)"]


def test_a_name_that_begins_as_ours_is_found_though_nothing_is_near() -> None:
    (said,) = found("surefoot_zzz")
    assert said.startswith("surefoot_zzz")
    (said,) = found("model_slots_x9")
    assert said.startswith("model_slots_x9")


def test_no_known_name_is_found_by_any_role_alone_or_by_all() -> None:
    everything = {name for names in KNOWN.values() for name in names}
    assert found(*everything) == []
    for role in KNOWN:
        assert found(*everything, roles=(role,)) == []


@pytest.mark.parametrize(
    "name",
    [
        # An operator's own, some with the plain word of a role in front.
        "base_url", "base_domain", "base_dir", "basement_floor", "watchdogs", "telemetry", "jetson_rack", "macos_rack",
        "python_version", "maintenance_window", "credentials", "site", "region", "app_version", "reset", "status",
        "model_name", "models", "docker_users", "docker_data_root", "ntp_servers", "time_servers", "http_port",
        "surefooted", "surefoot", "vault_gateway_token", "prometheus_port", "node_exporter_version",
        # What Ansible and its inventory plug-ins bring.
        "inventory_hostname", "groups", "group_names", "hostvars", "omit", "playbook_dir", "role_name", "role_path",
        "vars", "environment", "play_hosts", "inventory_dir", "inventory_file", "tags", "instance_id", "public_address",
    ],
)  # fmt: skip
def test_a_variable_that_is_none_of_ours_is_left_alone(name: str) -> None:
    assert found(name) == []


def test_a_role_alone_looks_at_its_own_names_only() -> None:
    names = ("base_usr", "model_slots_modles")
    assert found(*names, roles=("base",)) == ["base_usr (did you mean base_user?)"]
    assert found(*names, roles=("model_slots",)) == ["model_slots_modles (did you mean model_slots_models?)"]


def hosts_with(folder: Path, **variables: Any) -> Path:
    """An inventory of one device that nobody reaches."""
    written = folder / "hosts.yml"
    device = {"ansible_host": "192.0.2.1", "ansible_python_interpreter": "/usr/bin/python3", **variables}
    written.write_text(json.dumps({"surefoot": {"hosts": {"cam-1": device}}}))
    return written


MODELS = {"model_slots_models": [{"name": "m", "version": "1.0.0"}]}


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_every_playbook_refuses_a_mistyped_name_before_it_asks_a_device(controller: Controller, playbook: str) -> None:
    inventory = hosts_with(controller.folder, inferense_app_engine="docker", **MODELS)
    refused = controller.play(playbook, inventory=inventory)
    assert refused.status == 2, refused.out
    assert "no variable is named inferense_app_engine (did you mean inference_app_engine?)" in " ".join(
        refused.out.split()
    )
    assert refused.counts["cam-1"]["failed"] == 1, playbook
    assert refused.counts["cam-1"]["unreachable"] == 0
    assert refused.changed == []


def test_variables_of_the_operators_own_pass_and_no_device_is_reached(controller: Controller) -> None:
    inventory = hosts_with(controller.folder, base_url="https://example.com", site="north", **MODELS)
    checked = controller.play("deploy", "--tags", "names", inventory=inventory)
    assert checked.status == 0, checked.out
    # The names, and the arguments of the roles.
    assert checked.counts["cam-1"]["ok"] >= 4
    assert (checked.counts["cam-1"]["unreachable"], checked.counts["cam-1"]["changed"]) == (0, 0)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"surefoot_what": "apps"}, "value of surefoot_what must be one of: , all, app, model, got: apps"),
        ({"surefoot_roles": ["base", "watchdogs"]}, "value of surefoot_roles must be one or more of"),
        ({"surefoot_steps": "two"}, "surefoot_steps"),
    ],
)
def test_a_value_that_no_playbook_knows_is_refused(
    controller: Controller, variables: dict[str, Any], reason: str
) -> None:
    refused = controller.play(
        "deploy", "--tags", "names", inventory=hosts_with(controller.folder, **MODELS, **variables)
    )
    assert refused.status == 2
    assert reason in " ".join(refused.out.split())


def test_the_roles_that_can_be_chosen_are_those_of_the_playbook() -> None:
    specs = yaml.safe_load((ROOT / "roles" / "surefoot" / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    (play,) = yaml.safe_load((ROOT / "playbooks" / "provision.yml").read_text())
    roles = [each["role"].removeprefix("surefoot.edge.") for each in play["roles"]]
    assert specs["main"]["options"]["surefoot_roles"]["choices"] == roles[1:]
    assert [each["when"] for each in play["roles"][1:]] == [f"'{role}' in surefoot_roles" for role in roles[1:]]


def test_every_playbook_begins_with_the_check_of_names_and_says_why_it_has_its_limits() -> None:
    for playbook in PLAYBOOKS:
        text = (ROOT / "playbooks" / f"{playbook}.yml").read_text()
        plays = yaml.safe_load(text)
        assert plays[0]["roles"][0]["role"] == "surefoot.edge.surefoot", playbook
        limits = {"serial", "max_fail_percentage"}
        for play in plays:
            assert play["gather_facts"] is False, playbook
            # Hosts, roles and limits. Other entry points of roles are imported, and nothing else is done.
            assert set(play) <= {"name", "hosts", "gather_facts", *limits, "pre_tasks", "roles", "tasks"}, playbook
            tasks = [*play.get("pre_tasks", []), *play.get("tasks", [])]
            assert modules(tasks) <= {"ansible.builtin.import_role"}, playbook
        lines = [line.strip() for line in text.splitlines()]
        for before, line in itertools.pairwise(lines):
            if line.split(":")[0] in limits:
                assert before.startswith(("#", "serial:")), f"{playbook}: {line} without its reason"


def modules(tasks: list[dict[str, Any]]) -> set[str]:
    """What the tasks, and the blocks among them, are done by."""
    found: set[str] = set()
    for task in tasks:
        for part in ("block", "rescue", "always"):
            found |= modules(task.get(part, []))
        found |= set(task) - {"name", "when", "block", "rescue", "always"}
    return found
