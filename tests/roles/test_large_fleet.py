"""An inventory of a thousand devices, from a dynamic source, through every playbook up to the first device."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.roles.controller import ROOT, Controller

DEVICES = 1000
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
# A source as any inventory script is: devices by their tags, and nothing that it knows of this collection.
SOURCE = """#!{python}
import json, sys
platforms = ["raspberry_pi", "jetson", "macos", "generic"]
hosts = {{
    f"device-{{number:04}}": {{
        "ansible_host": f"192.0.2.{{number % 250}}",
        "labels": {{"product": "surefoot", "platform": platforms[number % 4], "site": f"site-{{number % 17}}"}},
    }}
    for number in range({devices})
}}
print(json.dumps({{"ungrouped": {{"hosts": list(hosts)}}, "_meta": {{"hostvars": hosts}}}}))
"""
# One of Ansible's own plug-ins makes of the tags the groups that inventory/example has variables for.
GROUPS = """
plugin: ansible.builtin.constructed
strict: true
groups:
  surefoot: labels.product == 'surefoot'
keyed_groups:
  - {key: labels.platform, prefix: "", separator: ""}
  - {key: labels.site, prefix: "", separator: ""}
"""


@pytest.fixture
def inventory(controller: Controller) -> Path:
    """The source, the groups, and the variables of the example."""
    folder = controller.folder / "inventory"
    shutil.copytree(ROOT / "inventory" / "example" / "group_vars", folder / "group_vars")
    script = folder / "1-source.py"
    script.write_text(SOURCE.format(python=sys.executable, devices=DEVICES))
    script.chmod(0o755)
    (folder / "2-groups.yml").write_text(GROUPS)
    (folder / "known_hosts").touch()
    variables = folder / "group_vars" / "surefoot"
    shutil.copy(variables / "vault.yml.example", variables / "vault.yml")
    return folder


def run(controller: Controller, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=controller.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=2300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_thousand_devices_of_a_dynamic_source_go_through_every_playbook(
    controller: Controller, inventory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {}
    started = time.monotonic()
    listed = json.loads(run(controller, "ansible-inventory", "-i", str(inventory), "--list"))
    times["ansible-inventory --list"] = time.monotonic() - started
    assert len(listed["_meta"]["hostvars"]) == DEVICES
    assert len(listed["raspberry_pi"]["hosts"]) == DEVICES / 4
    assert listed["_meta"]["hostvars"]["device-0000"]["inference_app_engine"] == "docker"
    assert listed["_meta"]["hostvars"]["device-0002"]["inference_app_engine"] == "launchd"
    for playbook in PLAYBOOKS:
        started = time.monotonic()
        shown = run(controller, "ansible-playbook", "-i", str(inventory), f"playbooks/{playbook}.yml", "--list-hosts")
        times[f"{playbook} --list-hosts"] = time.monotonic() - started
        assert f"hosts ({DEVICES}):" in shown, playbook
    with capsys.disabled():
        print(f"\n{DEVICES} devices:", *(f"{name} {seconds:.1f} s" for name, seconds in times.items()), sep="\n  ")


# The plan: the playbook's own waves, and on the controller the names and the arguments of each device's roles.
@pytest.mark.full
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("playbook", ["deploy", "provision"])
def test_the_plan_of_a_thousand_devices_is_checked_without_reaching_one(
    controller: Controller, inventory: Path, playbook: str, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    said = run(controller, "ansible-playbook", "-i", str(inventory), f"playbooks/{playbook}.yml", "--tags", "names")
    took = time.monotonic() - started
    recap = said.partition("PLAY RECAP")[2]
    assert recap.count("changed=0    unreachable=0    failed=0") == DEVICES
    with capsys.disabled():
        print(f"\n{playbook} --tags names for {DEVICES} devices: {took:.0f} s")


def test_one_mistyped_name_among_a_thousand_devices_is_told_with_its_device(
    controller: Controller, inventory: Path
) -> None:
    (inventory / "host_vars").mkdir()
    (inventory / "host_vars" / "device-0777.yml").write_text("maintenence_reboot: true\n")
    # A site is what an operator looks at: every seventeenth device.
    refused = controller.play("logs", "--tags", "names", "--limit", "site_12", inventory=inventory)
    assert refused.status == 2
    assert "maintenence_reboot (did you mean maintenance_reboot?)" in " ".join(refused.out.split())
    assert len(refused.counts) == len(range(12, DEVICES, 17))
    assert [name for name, each in refused.counts.items() if each["failed"]] == ["device-0777"]
