"""A first boot, as far as it goes without a machine: the seed is carried out in a copy of this system.

The copy is an overlay on this machine's own root, with name spaces of its own for mounts, processes, network and host
name, and no disks: what is written there is gone afterwards, and nothing here can be resized.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.parts.docker import has_a_root

WIFI = ("--wifi-ssid", "Bob's net", "--wifi-country", "GB")


class Copy:
    """This system, to be changed at will."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        inside = (
            f"set -e; mount -t proc proc {self.root}/proc; mount -t sysfs -o ro sysfs {self.root}/sys;"
            f"mount -t tmpfs tmpfs {self.root}/run; mount -t tmpfs tmpfs {self.root}/dev;"
            "for n in null:1:3 zero:1:5 urandom:1:9 random:1:8; do IFS=: read name major minor <<<$n;"
            f" mknod -m 666 {self.root}/dev/$name c $major $minor; done; ln -s /proc/self/fd {self.root}/dev/fd;"
            f'exec chroot {self.root} /bin/bash -c "$1"'
        )
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "bash", "-c", inside, "bash", script],
            capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def mode(self, path: str) -> int:
        return (self.root / path.lstrip("/")).stat().st_mode & 0o777


@pytest.fixture
def copy(tmp_path: Path, needs: Callable[[bool, str], None], has_tool) -> Iterator[Copy]:
    needs(os.geteuid() == 0 and has_a_root(), "root, not in a chroot, to make a copy of this system")
    has_tool("unshare", "useradd", "sshd")
    made = Copy(tmp_path / "copy")
    made.folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", made.folder], check=True)
    try:
        for name in ("upper", "work", "root"):
            (made.folder / name).mkdir()
        options = f"lowerdir=/,upperdir={made.folder}/upper,workdir={made.folder}/work"
        done = subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", made.root], check=False)
        needs(done.returncode == 0, "overlay file systems")
        yield made
    finally:
        subprocess.run(["umount", "--recursive", made.folder], check=False)


def test_the_first_run_of_bookworm_sets_the_host_up_and_removes_itself(desk, copy):
    card = desk.card("raspios-bookworm")
    done = desk.seed("raspios-bookworm", card, *WIFI, "--timezone", "Europe/Berlin")
    boot = copy.root / "boot" / "firmware"
    boot.mkdir(parents=True, exist_ok=True)
    for file in card.iterdir():
        (boot / file.name).write_bytes(file.read_bytes())
    # Twice: the power may go before the script has removed itself.
    ran = copy.run("cp /boot/firmware/firstrun.sh /root/again.sh; sh /boot/firmware/firstrun.sh && sh /root/again.sh")
    assert ran.returncode == 0, ran.stderr
    assert not (copy.root / "pwned").exists()
    log = copy.read("/boot/firmware/surefoot-firstrun.log")
    assert "failed: the size of the root" in log  # a copy has no partition; test_root_size has
    assert {line for line in log.splitlines() if line.startswith("failed")} == {"failed: the size of the root"}
    assert copy.read("/etc/hostname") == "cam-1\n"
    assert copy.read("/etc/hosts").count("127.0.1.1\tcam-1\n") == 1
    assert copy.read("/home/fleet/.ssh/authorized_keys") == (desk.folder / "id.pub").read_text()
    assert copy.mode("/home/fleet/.ssh/authorized_keys") == 0o600
    assert copy.read("/etc/ssh/ssh_host_ed25519_key.pub").strip() in done["known_hosts_line"]
    assert copy.mode("/etc/ssh/ssh_host_ed25519_key") == 0o600
    assert [path.name for path in (copy.root / "etc" / "ssh").glob("ssh_host_*_key")] == ["ssh_host_ed25519_key"]
    assert copy.mode("/etc/NetworkManager/system-connections/surefoot-wifi.nmconnection") == 0o600
    assert copy.read("/etc/timezone") == "Europe/Berlin\n"
    assert not (boot / "firstrun.sh").exists()
    assert "systemd.run" not in copy.read("/boot/firmware/cmdline.txt")
    assert "root=PARTUUID=" in copy.read("/boot/firmware/cmdline.txt")
    facts = copy.run(
        "mkdir -p /run/sshd; passwd --status fleet; ssh-keygen -y -f /etc/ssh/ssh_host_ed25519_key; sshd -T"
    )
    assert "fleet L " in facts.stdout  # no password
    assert copy.read("/etc/ssh/ssh_host_ed25519_key.pub").strip() in facts.stdout
    assert "passwordauthentication no" in facts.stdout


def test_cloud_init_carries_the_seed_out(desk, copy, has_tool):
    has_tool("cloud-init")
    card = desk.card("debian")
    done = desk.seed("debian", card)
    seed = copy.root / "var" / "lib" / "cloud" / "seed" / "nocloud"
    seed.mkdir(parents=True)
    for file in card.iterdir():
        (seed / file.name).write_bytes(file.read_bytes())
    # The network is netplan's, in test_formats: here there is no udev to find the cards with. Nor are there locales.
    only = "datasource_list: [NoCloud]\nnetwork: {config: disabled}\nlocale: false\n"
    (copy.root / "etc" / "cloud" / "cloud.cfg.d" / "00-copy.cfg").write_text(only)
    stages = "cloud-init init --local && cloud-init init && cloud-init modules --mode config"
    ran = copy.run(f"{stages} && mkdir -p /run/sshd && sshd -T")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    log = copy.read("/var/log/cloud-init.log")
    assert "DataSourceNoCloud" in log
    assert [line for line in log.splitlines() if ": FAIL: " in line] == []
    assert copy.read("/etc/ssh/ssh_host_ed25519_key.pub").strip() in done["known_hosts_line"]
    assert [path.name for path in (copy.root / "etc" / "ssh").glob("ssh_host_*_key")] == ["ssh_host_ed25519_key"]
    assert (desk.folder / "id.pub").read_text().strip() in copy.read("/home/fleet/.ssh/authorized_keys")
    assert copy.read("/etc/hostname") == "cam-1\n"
    assert "fleet ALL=(ALL) NOPASSWD:ALL" in copy.read("/etc/sudoers.d/90-cloud-init-users")
    assert "passwordauthentication no" in ran.stdout
    assert copy.mode("/usr/local/sbin/surefoot-root-size") == 0o755
    assert "growpart disabled: mode=off" in log
    assert "Skipping module named resizefs, resizing disabled" in log
    assert not (copy.root / "pwned").exists()
    (commands,) = (copy.root / "var" / "lib" / "cloud" / "instances").glob("*/scripts/runcmd")
    assert "'/usr/local/sbin/surefoot-root-size' '8'" in commands.read_text()
