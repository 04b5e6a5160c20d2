"""The example fleet is one that the playbooks take, with its secrets in a vault."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.roles.controller import ROOT, Controller

EXAMPLE = ROOT / "inventory" / "example"
PASSWORD = "a throw-away password of this test"


@pytest.fixture
def example(controller: Controller) -> Path:
    """A copy with its secrets filled in and encrypted as vault.yml.example says."""
    folder = controller.folder / "site"
    shutil.copytree(EXAMPLE, folder)
    (controller.folder / "password").write_text(PASSWORD)
    variables = folder / "group_vars" / "surefoot"
    shutil.copy(variables / "vault.yml.example", variables / "vault.yml")
    password = f"--vault-password-file={controller.folder / 'password'}"
    controller.command("ansible-vault", "encrypt", password, str(variables / "vault.yml"), cwd=folder)
    assert (variables / "vault.yml").read_text().startswith("$ANSIBLE_VAULT;")
    return folder


@pytest.mark.parametrize("playbook", ["provision", "deploy", "rotate"])
def test_every_device_of_it_passes_the_checks_of_names_and_arguments(
    controller: Controller, example: Path, playbook: str
) -> None:
    password = f"--vault-password-file={controller.folder / 'password'}"
    checked = controller.play(playbook, "--tags", "names", password, inventory=example)
    assert checked.status == 0, checked.out
    hosts = yaml.safe_load((EXAMPLE / "hosts.yml").read_text())["surefoot"]["children"]
    assert set(checked.counts) == {host for group in hosts.values() for host in group["hosts"]}
    assert {each["changed"] for each in checked.counts.values()} == {0}
    assert "a long random word" not in checked.out


def test_a_mistyped_name_in_the_variables_of_one_platform_is_told_for_its_devices_alone(
    controller: Controller, example: Path
) -> None:
    with (example / "group_vars" / "jetson.yml").open("a") as stream:
        stream.write("jetson_power_mod: 15W\n")
    password = f"--vault-password-file={controller.folder / 'password'}"
    refused = controller.play("provision", "--tags", "names", password, inventory=example)
    assert refused.status != 0
    assert "jetson_power_mod (did you mean jetson_power_mode?)" in " ".join(refused.out.split())
    assert sorted(host for host, each in refused.counts.items() if each["failed"]) == ["jetson-line-1", "jetson-line-2"]


def test_it_holds_no_secret_and_takes_no_key_on_trust() -> None:
    for path in EXAMPLE.rglob("*.yml"):
        content = yaml.safe_load(path.read_text())
        assert [name for name in content if name.startswith("vault_")] == [], path
    common = yaml.safe_load((EXAMPLE / "group_vars" / "surefoot" / "main.yml").read_text())["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in common
    assert "UserKnownHostsFile={{ inventory_dir }}/known_hosts" in common
    for config in ("ansible.cfg", "playbooks/ansible.cfg"):
        assert "host_key_checking = true" in (ROOT / config).read_text()


def test_its_addresses_are_those_of_documentation() -> None:
    for group in yaml.safe_load((EXAMPLE / "hosts.yml").read_text())["surefoot"]["children"].values():
        assert [host for host in group["hosts"].values() if not host["ansible_host"].startswith("192.0.2.")] == []
