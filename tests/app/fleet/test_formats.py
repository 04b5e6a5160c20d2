"""The files, read by the real tools that will read them: cloud-init, netplan, the shell."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from surefoot.fleet import plan as planning
from tests.app.fleet.conftest import PASSPHRASE, user_data

WIFI = ("--wifi-ssid", "Bob's net", "--wifi-country", "GB")
CLOUD = ("raspios-trixie", "ubuntu", "debian")
BIN = Path(sys.executable).parent


def schema(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["cloud-init", "schema", "--config-file", file], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("system", CLOUD)
def test_cloud_init_takes_the_user_data(desk, has_tool, system):
    has_tool("cloud-init")
    card = desk.card(system)
    desk.seed(system, card, *(() if system == "debian" else WIFI))
    done = schema(card / "user-data")
    assert done.returncode == 0, done.stderr
    assert "Valid" in done.stdout


@pytest.mark.parametrize(("key", "wrong"), [("user", {"name": 3}), ("runcmd", "reboot"), ("growpart", {"mode": "on"})])
def test_cloud_init_would_refuse_user_data_that_is_wrong(desk, has_tool, key, wrong):
    has_tool("cloud-init")
    card = desk.card("ubuntu")
    desk.seed("ubuntu", card)
    (card / "user-data").write_text("#cloud-config\n" + json.dumps({**user_data(card), key: wrong}))
    done = schema(card / "user-data")
    assert done.returncode != 0
    assert key in done.stderr


def netplan(root: Path, network_config: Path, backend: str) -> subprocess.CompletedProcess[str]:
    (root / "etc" / "netplan").mkdir(parents=True)
    file = root / "etc" / "netplan" / "50-cloud-init.yaml"
    file.write_text(json.dumps({**json.loads(network_config.read_text())}))
    (root / "etc" / "netplan" / "01.yaml").write_text(f"network: {{version: 2, renderer: {backend}}}\n")
    return subprocess.run(
        ["netplan", "generate", "--root-dir", root], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    ("system", "backend", "file"),
    [
        ("raspios-trixie", "NetworkManager", "run/NetworkManager/system-connections/netplan-wlan0-Bob's net*"),
        ("ubuntu", "networkd", "run/netplan/wpa-wlan0.conf"),
    ],
)
def test_netplan_takes_the_network_and_reads_the_key_as_a_key(desk, tmp_path, has_tool, system, backend, file, static):
    has_tool("netplan")
    card = desk.card(system)
    desk.seed(system, card, *WIFI, *(("--address", "192.0.2.7/24", "--gateway", "192.0.2.1") if static else ()))
    done = netplan(tmp_path / "root", card / "network-config", backend)
    assert done.returncode == 0, done.stderr
    psk = planning.check_wifi("Bob's net", PASSPHRASE, "GB", "ubuntu").psk
    files = [path for path in (tmp_path / "root" / "run").rglob("*") if path.is_file()]
    settings = [path.read_text() for path in files if psk in path.read_text()]
    assert len(settings) == 1, files
    assert f"\npsk={psk}\n" in settings[0].replace(" ", "")  # a passphrase would stand in quotes
    assert any("192.0.2.7" in path.read_text() for path in files) == static


def test_netplan_would_refuse_a_network_that_is_wrong(desk, tmp_path, has_tool):
    has_tool("netplan")
    card = desk.card("ubuntu")
    desk.seed("ubuntu", card, *WIFI)
    text = (card / "network-config").read_text()
    (card / "network-config").write_text(text.replace('"dhcp4": true', '"dhcp4": "sometimes"'))
    assert netplan(tmp_path / "root", card / "network-config", "networkd").returncode != 0


@pytest.mark.parametrize("system", CLOUD)
@pytest.mark.parametrize("name", ["meta-data", "network-config", "user-data"])
def test_the_files_are_yaml_that_says_the_same_as_their_json(desk, needs, system, name):
    """cloud-init reads them with PyYAML, which came here with Ansible."""
    needs(find_spec("yaml") is not None, "PyYAML, in the environment of make test")
    card = desk.card(system)
    desk.seed(system, card, *(() if system == "debian" else ("--wifi-ssid", "Zoë & café: 'x'", "--wifi-country", "GB")))
    text = (card / name).read_text()
    assert text.isascii()
    read = subprocess.run(
        [sys.executable, "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(read.stdout) == json.loads(text.removeprefix("#cloud-config\n"))


@pytest.fixture
def shellcheck(needs) -> Path:
    needs((BIN / "shellcheck").exists(), "shellcheck, in the environment of make test")
    return BIN / "shellcheck"


def test_the_first_run_is_a_script_without_a_fault(desk, shellcheck):
    card = desk.card("raspios-bookworm")
    desk.seed("raspios-bookworm", card, *WIFI)
    script = card / "firstrun.sh"
    subprocess.run(["bash", "-n", script], check=True)
    # SC2016: another script is a value of this one, and is not to be expanded.
    done = subprocess.run([shellcheck, "--exclude=SC2016", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_script_that_sizes_the_root_has_no_fault(desk, tmp_path, shellcheck):
    card = desk.card("ubuntu")
    desk.seed("ubuntu", card)
    written = {file["path"]: file for file in user_data(card)["write_files"]}
    script = tmp_path / "root-size"
    script.write_text(written["/usr/local/sbin/surefoot-root-size"]["content"])
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
