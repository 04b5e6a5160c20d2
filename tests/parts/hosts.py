"""Devices for the tests: containers booted by systemd, reached by SSH as an operator reaches them, host keys checked.

On the command line, for molecule: ``python -m tests.parts.hosts up NAME [IMAGE] [OPTION ...]`` prints how to log in, as
JSON; ``down NAME`` removes the device with its disks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.parts import docker
from tests.parts.docker import ROOT, Engine

FOLDER = ROOT / "build" / "parts" / "hosts"
USER = "fleet"
PREFIX = "surefoot-host-"
BOOT_TIMEOUT_S = 90
# systemd needs its cgroups and to mount; a device's own Docker and nftables need the network; and `docker exec` into a
# container of another user looks at that user's process.
RIGHTS = (
    "--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--cap-add=SYS_PTRACE", "--security-opt=apparmor=unconfined",
    "--security-opt=seccomp=unconfined", "--cgroupns=host",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "--tmpfs=/run", "--tmpfs=/tmp:exec,mode=1777",
)  # fmt: skip


@dataclass(frozen=True)
class Host:
    """How to log in to a device. ``instance``: its name, as molecule calls it."""

    instance: str
    address: str
    user: str
    port: int
    identity_file: str
    known_hosts: str

    @property
    def variables(self) -> dict[str, str | int]:
        """For an inventory."""
        return {
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_user": self.user,
            "ansible_ssh_private_key_file": self.identity_file,
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.known_hosts} -o StrictHostKeyChecking=yes",
            "ansible_python_interpreter": "/usr/bin/python3",
        }


def login_key() -> Path:
    """The key that the tests log in with, made once."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    key = FOLDER / "key"
    if not key.exists():
        made = FOLDER / "key.new"
        made.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", made], check=True)
        made.with_suffix(".new.pub").rename(key.with_suffix(".pub"))
        made.rename(key)
    return key


def prepare(engine: Engine) -> None:
    """Build the images of the devices where they are missing or stale (about two minutes)."""
    script = ROOT / "tests" / "parts" / "host" / "image"
    done = subprocess.run(
        [script, FOLDER / "image"], env=engine.environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"the images of the tests' devices were not built:\n{done.stdout}\n{done.stderr}"


def up(engine: Engine, name: str, image: str = "device", *options: str) -> Host:
    """Start a device and wait until it can be logged in to. One of that name from before is removed.

    Args:
        engine: where.
        name: of the device.
        image: ``bare`` or ``device``, see ``tests/parts/host/image``.
        options: more of ``docker run``, a volume for instance.
    """
    down(engine, name)
    key = login_key()
    # Its own disk for what an overlay cannot hold: a device's Docker, and /data.
    engine.docker(
        "run", "--detach", f"--name={PREFIX}{name}", f"--hostname={name}", *RIGHTS, "--volume=/var/lib/docker",
        *options, f"surefoot-host:{image}",
    )  # fmt: skip
    inside = ("exec", PREFIX + name)
    public = key.with_suffix(".pub").read_text().strip()
    engine.docker(
        *inside, "sh", "-c", f"echo '{public}' >/home/{USER}/.ssh/authorized_keys && chown {USER}: /home/{USER}/.ssh/*"
    )
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while True:
        # Prints the state of the whole and of sshd, each on a line.
        said = engine.docker(*inside, "sh", "-c", "systemctl is-system-running; systemctl is-active ssh", check=False)
        if said.stdout.split() in (["running", "active"], ["degraded", "active"]):
            break
        assert time.monotonic() < deadline, f"{name} did not boot: {said.stdout}{said.stderr}"
        time.sleep(0.3)
    address = engine.docker(
        "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", PREFIX + name
    ).stdout.strip()
    # Read inside the device, so that the first login is checked as well.
    kind, host_key, *_ = engine.docker(*inside, "cat", "/etc/ssh/ssh_host_ed25519_key.pub").stdout.split()
    known = FOLDER / "known_hosts" / address  # ssh finds it as %h
    known.parent.mkdir(exist_ok=True)
    known.write_text(f"{address} {kind} {host_key}\n")
    return Host(name, address, USER, 22, str(key), str(known))


def down(engine: Engine, name: str) -> None:
    """Remove a device and its disks."""
    engine.docker("rm", "--force", "--volumes", PREFIX + name, check=False)


def main(verb: str, name: str, *more: str) -> None:
    """Start the engine if need be, then do what was asked."""
    engine = docker.start()
    if verb == "down":
        down(engine, name)
        return
    prepare(engine)
    print(json.dumps(asdict(up(engine, name, *more))))


if __name__ == "__main__":
    main(*sys.argv[1:])
