"""A sealed device without the time that emulation takes: provisioned as a container, then made into disks that boot.

The playbooks are the same. What a container does not have is put right before its root becomes a disk: the units of
udev, the network, the name of the data's disk. First boot and watchdog are not in it, and the Docker that was set up is
left off: what serves here is no container, and the start of an engine would be half of each boot.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jinja2

from tests.parts import hosts, machine
from tests.parts.docker import ROOT, Engine
from tests.parts.hosts import PREFIX, Host
from tests.parts.machine import ADDRESS, DATA_BYTES, NAME
from tests.roles.controller import Controller
from tests.system.sealing import ROLES, SOURCES, Device, Sealed, made_once

MOUNT = "/etc/systemd/system/data.mount"
# A container's root is made a machine's. Its netplan is bound from the data disk already: what is below is the old one.
UNBOX = f"""
set -eu
systemctl unmask systemd-udev-trigger.service systemd-udevd.service getty.target
systemctl disable host-keys.service
rm -r /etc/systemd/system/host-keys.service /etc/systemd/system/systemd-timesyncd.service.d/container.conf
touch /etc/cloud/cloud-init.disabled
head -c 512 /dev/urandom >/var/lib/systemd/random-seed
cat >/etc/netplan/50-cloud-init.yaml <<'END'
network: {{version: 2, ethernets: {{wired: {{match: {{name: "e*"}}, addresses: [{ADDRESS}/24]}}}}}}
END
systemctl enable systemd-networkd.service
systemctl disable docker.service docker.socket containerd.service
"""


class Container:
    """A device that is none yet: what playing upon one takes."""

    def __init__(self, engine: Engine, host: Host) -> None:
        self._engine, self.host = engine, host

    def run(self, script: str, *, check: bool = True, timeout_s: float = 120) -> str:
        """A script of its shell, as its root. Returns what it printed."""
        inside = ("exec", PREFIX + self.host.instance, "sh", "-c", script)
        return self._engine.docker(*inside, check=check, timeout_s=timeout_s).stdout.strip()

    def tail(self) -> str:
        """The end of its journal."""
        return self.run("journalctl --lines 40 --no-pager", check=False)


def prebuilt(engine: Engine, tell: Callable[[str], None] = print) -> Sealed:
    """Disks of a sealed device that serves 1.0.0, made once for a state of the sources (some minutes). No memory."""
    sources = (*SOURCES, "tests/parts/host", "tests/system/prebuilt.py")
    return made_once("prebuilt", sources, lambda part: _build(part, engine, tell))


def _build(folder: Path, engine: Engine, tell: Callable[[str], None]) -> None:
    began = time.monotonic()

    def say(what: str) -> None:
        tell(f"{time.monotonic() - began:5.0f} s  {what}")

    _image(folder / "context", engine)
    say("the system, as a container's image")
    tree = folder / "tree.tar"
    with _disk(folder / "data.img") as disk:
        try:
            container = Container(engine, hosts.up(engine, NAME, "vm", f"--device={disk}"))
            container.run(f"mkdir -p /dev/disk/by-id && ln -s {disk} /dev/disk/by-id/virtio-data")
            _provision(container, tell=say)
            key = container.run("cat /etc/ssh/ssh_host_ed25519_key.pub")
            uuid = subprocess.run(
                ["blkid", "--probe", "--match-tag=UUID", "--output=value", disk],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            unit = _mount_unit(uuid, container.run(f"sed -n s/^Options=//p {MOUNT}"))
            container.run(f"{UNBOX}\ncat >{MOUNT} <<'END'\n{unit}\nEND")
            engine.docker("stop", "--time=60", PREFIX + NAME)
            with tree.open("wb") as stream:
                line = ["docker", "export", PREFIX + NAME]
                subprocess.run(line, env=engine.environment, stdout=stream, check=True, timeout=300)
        finally:
            hosts.down(engine, NAME)
    _name(tree)
    say("stopped, and its root taken out")
    machine.make_disk(tree, folder / "system.img")
    tree.unlink()
    line = ["qemu-img", "convert", "-q", "-O", "qcow2", folder / "system.img", folder / "system.qcow2"]
    subprocess.run(line, check=True, timeout=300)
    (folder / "system.img").unlink()
    (folder / "host_key").write_text(key)
    say("made into disks")


def _image(context: Path, engine: Engine) -> None:
    context.mkdir()
    try:
        (context / "bare.tar").hardlink_to(machine.TREE)
        for name in ("Dockerfile", "setup"):
            shutil.copy(ROOT / "tests" / "parts" / "host" / name, context)
        engine.docker("build", "--quiet", "--network=none", "--target=bare", "--tag=surefoot-host:vm", str(context))
    finally:
        shutil.rmtree(context)


@contextmanager
def _disk(image: Path) -> Iterator[str]:
    """The node of an empty disk that lies in a file."""
    with image.open("wb") as stream:
        stream.truncate(DATA_BYTES)
    node = subprocess.run(
        ["losetup", "--find", "--show", image], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        yield node
    finally:
        subprocess.run(["losetup", "--detach", node], check=True)


def _provision(container: Container, tell: Callable[[str], None]) -> None:
    operator = Path(tempfile.mkdtemp())  # Ansible uses its path on the device as well
    try:
        device = Device(container, Controller(operator, timeout_s=900), ROLES, {"watchdog_required": False})
        device.good("provision")
        tell("provision.yml")
        device.bring_releases()
        device.good("deploy")
        tell("deploy.yml")
    finally:
        shutil.rmtree(operator, ignore_errors=True)


def _mount_unit(uuid: str, options: str) -> str:
    """What data_partition writes on a device whose udev names disks by their file systems."""
    template = (ROOT / "roles" / "data_partition" / "templates" / "data.mount.j2").read_text()
    return jinja2.Template(template, trim_blocks=True, keep_trailing_newline=False).render(
        __data_partition_file_system={"by_uuid": True, "uuid": uuid, "what": f"/dev/disk/by-uuid/{uuid}"},
        data_partition_mount_point="/data",
        __data_partition_mount_options=[options],
    )


def _name(tree: Path) -> None:
    """The files that a container's engine lays over its root."""
    with tempfile.TemporaryDirectory() as there:
        etc = Path(there) / "etc"
        etc.mkdir()
        (etc / "hostname").write_text(f"{NAME}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {NAME}\n::1 localhost\n")
        subprocess.run(["tar", "--append", "-f", tree, "-C", there, "etc/hostname", "etc/hosts"], check=True)
