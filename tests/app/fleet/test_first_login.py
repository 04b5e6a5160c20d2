"""First contact, on a real sshd: the seeded host key is the one that known_hosts expects."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from surefoot.fleet.identity import find_host_key
from tests.app.fleet.conftest import Desk


class Server:
    """An sshd on loopback that has only the seeded host key and lets in only the authorised key."""

    def __init__(self, folder: Path, seed: Path, authorised: Path) -> None:
        key = find_host_key(seed.read_text())
        assert key
        folder.mkdir(mode=0o700)
        (folder / "host_key").touch(0o600)
        (folder / "host_key").write_text(key.private)
        shutil.copy(authorised, folder / "authorized_keys")
        (folder / "authorized_keys").chmod(0o600)
        self.config = folder / "sshd_config"
        self.config.write_text(
            f"HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nStrictModes no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPermitRootLogin yes\n"
        )

    def login(self, desk: Desk, host: str = "cam-1") -> subprocess.CompletedProcess[str]:
        """One login through a socket of its own, as inetd would start sshd: no port, nothing left running."""
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        return subprocess.run(
            ["ssh", "-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={desk.known_hosts}",
             "-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
             "-o", f"ProxyCommand={sshd} -i -e -f {self.config}", "-i", str(desk.key),
             f"{getpass.getuser()}@{host}", "echo here"],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip


@pytest.fixture
def privilege_separation(has_tool) -> None:
    has_tool("sshd", "ssh")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # what Debian's unit makes before sshd starts


SEEDS = {"raspios-trixie": "user-data", "raspios-bookworm": "firstrun.sh", "ubuntu": "user-data"}


@pytest.mark.parametrize("system", SEEDS)
def test_the_first_login_is_checked_and_succeeds(desk, tmp_path, privilege_separation, system):
    card = desk.card(system)
    desk.seed(system, card)
    done = Server(tmp_path / "sshd", card / SEEDS[system], desk.folder / "id.pub").login(desk)
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr


def test_another_device_in_its_place_is_refused(desk, tmp_path, privilege_separation):
    desk.seed("ubuntu", desk.card("ubuntu"))
    impostor = desk.card("ubuntu", "impostor")
    desk.seed("ubuntu", impostor, host="cam-2")
    done = Server(tmp_path / "sshd", impostor / "user-data", desk.folder / "id.pub").login(desk)
    assert done.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr


def test_a_key_that_was_not_authorised_is_refused(desk, tmp_path, privilege_separation):
    card = desk.card("ubuntu")
    desk.seed("ubuntu", card)
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    done = Server(tmp_path / "sshd", card / "user-data", Path(f"{other}.pub")).login(desk)
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_ansible_finds_the_host_with_its_address_user_and_checked_key(desk, needs):
    """Read by the real ansible-inventory, beside hosts that were there."""
    desk.inventory.write_text("[surefoot]\nold ansible_host=192.0.2.1\n[surefoot:vars]\nx=1\n")
    desk.seed("ubuntu", desk.card("ubuntu"), "--address", "192.0.2.7/24")
    tool = Path(sys.executable).with_name("ansible-inventory")
    needs(tool.exists(), "ansible-inventory, in the environment of make test")
    done = subprocess.run([tool, "-i", desk.inventory, "--list"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["surefoot"]["hosts"] == ["old", "cam-1"]
    assert found["_meta"]["hostvars"]["cam-1"] == {
        "ansible_host": "192.0.2.7",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_common_args": f"-o StrictHostKeyChecking=yes -o UserKnownHostsFile={desk.known_hosts}",
        "ansible_user": "fleet",
        "x": 1,
    }
