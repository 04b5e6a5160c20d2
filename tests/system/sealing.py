"""The device that tests of a boot begin with: seeded, provisioned, given a model and sealed by the real commands."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.parts import artifacts, machine
from tests.parts.hosts import USER, Host, login_key
from tests.parts.machine import ADDRESS, NAME, Machine
from tests.roles.controller import Controller, Played
from tests.roles.fleet import MODEL

RELEASES = "/data/releases"  # where the device finds the signed repository
UPDATES = "/data/updates"  # and what Debian's security team has mended, where a test puts that there
SOURCES = ("app/src", "images", "roles", "plugins", "playbooks", "tests/parts/vm", "tests/system/sealing.py")
# Exit status 0 where the app says that it is ready.
SERVES = (
    "python3 -c 'import urllib.request as web; "
    'assert web.urlopen("http://127.0.0.1:8080/v2/health/ready", timeout=20).status == 200'
    "'"
)
# The tasks of a role under emulation take seconds each.
PLAY_TIMEOUT_S = 2400.0


class Reached(Protocol):
    """What is played upon: a machine, or a container that will be one."""

    @property
    def host(self) -> Host:
        """How to log in."""

    def run(self, script: str, *, check: bool = True, timeout_s: float = 120) -> str:
        """A script of its shell, as its root. Returns what it printed."""

    def tail(self) -> str:
        """The end of what it said."""


@dataclass
class Device:
    """A machine and the operator's side of it. ``told``: what took how long, in s."""

    at: Reached
    controller: Controller
    roles: list[str]
    variables: dict[str, Any] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)

    @property
    def machine(self) -> Machine:
        """The machine that it is."""
        assert isinstance(self.at, Machine)
        return self.at

    @property
    def inventory(self) -> Path:
        """Of this one device."""
        path = self.controller.folder / "inventory.json"
        shared = {
            "ansible_become": True,
            "surefoot_roles": self.roles,
            "data_partition_device": "/dev/disk/by-id/virtio-data",
            "inference_app_engine": "systemd",
            "inference_app_bundle": str(artifacts.bundle()),
            "surefoot_version": "1.0.0",
            "model_slots_models": [{"name": MODEL, "version": "{{ surefoot_version }}"}],
            "model_slots_repository": f"{RELEASES}/repository",
            "model_slots_root": str(artifacts.repository("patient") / "metadata" / "1.root.json"),
            "inference_app_trial_min_seconds": 0,
            "inference_app_trial_min_inferences": 1,
            # Emulated: everything takes ten times as long.
            "watchdog_start_s": 600,
            "telemetry_mode": "scrape",
        }
        hosts = {NAME: {**self.at.host.variables, **self.variables}}
        path.write_text(json.dumps({"surefoot": {"hosts": hosts, "vars": shared}}))
        return path

    def play(self, playbook: str, *arguments: str, **more: Any) -> Played:
        """Run a playbook as an operator does."""
        began = time.monotonic()
        played = self.controller.play(playbook, *arguments, inventory=self.inventory, **more)
        self.told[playbook] = self.told.get(playbook, 0.0) + time.monotonic() - began
        return played

    def good(self, playbook: str, *arguments: str, **more: Any) -> Played:
        """The same, and it has to succeed."""
        played = self.play(playbook, *arguments, **more)
        assert played.status == 0, f"{played.out}\n{self.at.tail()}"
        return played

    def bring_releases(self) -> None:
        """Put the signed repository onto the device, as from a USB stick."""
        archive = artifacts.repository("patient").with_suffix(".tar")
        host = self.at.host
        subprocess.run(
            [
                "scp", "-q", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o",
                f"UserKnownHostsFile={host.known_hosts}", "-i", host.identity_file, "-P", str(host.port), archive,
                f"{host.user}@{host.address}:/tmp/releases.tar",
            ],
            check=True, timeout=300,
        )  # fmt: skip
        self.at.run(f"mkdir -p {RELEASES} && tar -xf /tmp/releases.tar -C {RELEASES} && rm /tmp/releases.tar")

    def model(self, *arguments: str, check: bool = True, timeout_s: float = 300) -> str:
        """``surefoot model …`` on the device."""
        return self.at.run(f"surefoot model {' '.join(arguments)}", check=check, timeout_s=timeout_s)

    def install(self, version: str) -> str:
        """Install a version from the releases that were brought."""
        root = f"{RELEASES}/repository/metadata/1.root.json"
        where = f"--repository {RELEASES}/repository --root {root}"
        return self.model("install", MODEL, "--version", version, where, "--json")

    def status(self) -> dict[str, Any]:
        """What the store says."""
        found: dict[str, Any] = json.loads(self.model("status", MODEL, "--json"))
        return found


def seed(folder: Path) -> tuple[Path, str]:
    """What ``surefoot device seed`` writes for the machine. Returns its folder and the machine's host key."""
    out, known = folder / "seed", folder / "known"
    out.mkdir(parents=True)
    subprocess.run(
        [
            sys.executable, "-m", "surefoot", "device", "seed", "--host", NAME, "--os", "debian", "--out", out,
            "--user", USER, "--authorized-key", login_key().with_suffix(".pub"), "--address", f"{ADDRESS}/24",
            "--root-size", "4", "--known-hosts", known, "--inventory", folder / "hosts.ini",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return out, known.read_text().partition(" ")[2].strip()


def first_boot(folder: Path, **more: Any) -> Machine:
    """A machine after cloud-init's first boot from such a seed."""
    medium, key = seed(folder)
    system = machine.FOLDER / "system.img"
    if not system.exists() or system.stat().st_mtime < machine.TREE.stat().st_mtime:
        machine.make_disk(machine.TREE, system)
    made = Machine(folder, system, seed=medium, **more)
    made.trust(key)
    made.start()
    made.wait("cloud-init status --wait >/dev/null", within_s=600)
    return made


ROLES = ["base", "data_partition", "container_engine", "watchdog", "telemetry", "egress_lockdown", "readonly_root"]


@dataclass(frozen=True)
class Sealed:
    """A sealed device that serves 1.0.0, stopped in the middle of that: two disks, its memory, and its host key."""

    folder: Path

    @property
    def system(self) -> Path:
        """The system's disk."""
        return self.folder / "system.qcow2"

    @property
    def data(self) -> Path:
        """The data's disk."""
        return self.folder / "data.img"

    @property
    def ram(self) -> Path:
        """What QEMU wrote of it."""
        return self.folder / "ram"

    @property
    def host_key(self) -> str:
        """``ssh-ed25519 ...``."""
        return (self.folder / "host_key").read_text()


def sealed(tell: Callable[[str], None] = print) -> Sealed:
    """Such a device, made once for a state of the sources: that takes a quarter of an hour and more."""
    return made_once("sealed", SOURCES, lambda part: _seal(part, tell))


def made_once(kind: str, sources: Sequence[str], make: Callable[[Path], None]) -> Sealed:
    """What ``make`` puts into a folder that is there, once for a state of the sources."""
    machine.prepare()
    folder = machine.FOLDER / f"{kind}-{artifacts.digest(sources)}"
    with (machine.FOLDER / f"{kind}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not folder.exists():
            for stale in machine.FOLDER.glob(f"{kind}-*"):
                shutil.rmtree(stale)
            part = machine.FOLDER / f"{kind}-part"
            part.mkdir()
            make(part)
            part.rename(folder)
    return Sealed(folder)


def _seal(folder: Path, tell: Callable[[str], None]) -> None:
    began = time.monotonic()

    def say(what: str) -> None:
        tell(f"{time.monotonic() - began:5.0f} s  {what}")

    made = first_boot(folder / "made")
    say("first boot, by cloud-init")
    made.run("update-grub")
    made.run(f"echo 'deb [trusted=yes] file:{UPDATES} ./' >/etc/apt/sources.list; rm -f /etc/apt/sources.list.d/*")
    operator = Path(tempfile.mkdtemp())  # Ansible uses its path on the device as well
    try:
        device = Device(made, Controller(operator, timeout_s=PLAY_TIMEOUT_S), ROLES)
        device.good("provision")
        say("provision.yml")
        device.bring_releases()
        device.good("deploy")
        say("deploy.yml")
        made.reboot()
        state = made.run("/usr/local/lib/surefoot/root-state")
        assert state == "read-only", f"the root is {state}\n{made.tail()}"
        say("rebooted: the root is read-only")
        made.wait(SERVES)
        say("serves")
        (folder / "host_key").write_text(made.host_key)
        (folder / "status").write_text(made.run("cat /var/lib/dpkg/status"))
        made.shut_down()
        # What is saved has booted without the medium of the seed.
        made.seed = None
        made.start()
        made.wait(SERVES)
        made.save(folder)
        say("saved")
    finally:
        made.pull_the_plug()
        shutil.rmtree(operator, ignore_errors=True)
    shutil.rmtree(folder / "made")
