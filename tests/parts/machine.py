"""A device that boots: a virtual machine from its own boot loader, reached by SSH as an operator reaches one.

Its processor is emulated, so that it runs anywhere: a boot takes half a minute, a task of Ansible some seconds. Two
disks: the system's, as :func:`make_disk` makes it, and the data's. Each start works on copies of what it is
given, so that nothing that a test does is seen by the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.parts.docker import ROOT
from tests.parts.hosts import USER, Host, login_key

FOLDER = ROOT / "build" / "parts" / "vm"
TREE = FOLDER / "tree.tar"  # its system, as `image` makes it
NAME = "cam-1"
ADDRESS = "10.0.2.15"  # the one that QEMU's own network forwards to
DATA_BYTES = 2 << 30
# The least processor that numpy's and onnxruntime's wheels run on.
PROCESSOR = "Nehalem"
BOOT_TIMEOUT_S = 300.0
PACKAGES = ("qemu-system-x86", "qemu-utils", "ipxe-qemu", "seabios", "dosfstools", "mtools")


def possible() -> bool:
    """Whether this machine can run one, or can have what it takes: root on Debian."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def prepare() -> None:
    """Have QEMU, and the system of a machine that nobody has booted yet (about two minutes, once)."""
    if not all(shutil.which(each) for each in ("qemu-system-x86_64", "qemu-img", "mkfs.vfat", "mcopy")):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for line in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
            subprocess.run(["apt-get", *line], check=True, capture_output=True, env=environment, timeout=600)
    _script("image", FOLDER)


def make_disk(tree: Path, disk: Path) -> None:
    """Make the disk that a machine boots from, of a tree in a tar."""
    _script("disk", tree, disk)


def _script(name: str, *arguments: Path) -> None:
    line = [ROOT / "tests" / "parts" / "vm" / name, *arguments]
    made = subprocess.run(line, capture_output=True, text=True, check=False, timeout=900)
    assert made.returncode == 0, f"the tests' machine was not built, in {name}:\n{made.stdout}\n{made.stderr}"


class Control:
    """QEMU's own protocol: https://www.qemu.org/docs/master/interop/qmp-spec.html."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(120)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r")
        self._lines.readline()
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Carry out a command.

        Raises:
            AssertionError: QEMU did not.
        """
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        for line in self._lines:
            answer = json.loads(line)
            if "return" in answer or "error" in answer:
                assert "return" in answer, f"{command}: {answer['error']}"
                return answer["return"]
        raise AssertionError(f"{command}: QEMU is gone")

    def close(self) -> None:
        """Leave it."""
        self._lines.close()
        self._socket.close()


@dataclass
class Machine:
    """One machine, off until started.

    ``folder``: its own, for what it writes. ``system``, ``data``: disks to begin with, which stay as they are; without
    data it has an empty disk. ``seed``: a folder of ``surefoot device seed``. ``record``: whether what is written to
    the data disk is recorded in ``log``. ``clock``: what its clock says at the start, ``utc`` or a time, ISO 8601.
    ``ram``: what :meth:`save` left beside ``system`` and ``data``: the first start goes on from there.
    """

    folder: Path
    system: Path
    data: Path | None = None
    seed: Path | None = None
    record: bool = False
    watchdog: bool = True
    clock: str = "utc"
    memory_mib: int = 1024
    ram: Path | None = None
    more: Sequence[str] = ()
    host_key: str = ""
    port: int = 0
    boots: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _control: Control | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])

    @property
    def system_disk(self) -> Path:
        """The system's, as it is now; what it was made of is below it."""
        return self.folder / "system.qcow2"

    @property
    def data_disk(self) -> Path:
        """The data's, as it is now."""
        return self.folder / "data.img"

    @property
    def log(self) -> Path:
        """What was written to the data disk since the start, in order: ``driver=blklogwrites``."""
        return self.folder / "data.log"

    @property
    def serial(self) -> Path:
        """What it said on its console."""
        return self.folder / "serial.log"

    @property
    def host(self) -> Host:
        """How to log in."""
        known = self.folder / "known_hosts"
        return Host(NAME, "127.0.0.1", USER, self.port, str(login_key()), str(known))

    def start(self) -> Machine:
        """Switch it on. It goes on with the disks as they were left; the first time with copies of what was given."""
        assert self._process is None, f"{self.folder.name} is on already"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.system_disk.exists():
            line = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", _format(self.system), "-b", self.system.resolve()]
            subprocess.run([*line, self.system_disk], check=True)
        if not self.data_disk.exists():
            if self.data:
                subprocess.run(["cp", "--sparse=always", self.data, self.data_disk], check=True)
            else:
                with self.data_disk.open("wb") as stream:
                    stream.truncate(DATA_BYTES)
        control = self.folder / "qmp"
        control.unlink(missing_ok=True)
        output = (self.folder / "qemu.log").open("ab")
        with output:
            self._process = subprocess.Popen(self._line(control), stdout=output, stderr=output)
        deadline = time.monotonic() + 30
        while self._control is None:
            try:
                self._control = Control(control)
            except OSError:
                said = (self.folder / "qemu.log").read_text()
                assert self._process.poll() is None and time.monotonic() < deadline, f"QEMU did not start: {said}"
                time.sleep(0.05)
        if self.ram is not None and self.boots == 0:
            self._until("inmigrate", is_over=True)
            self.control("cont")
        self.boots += 1
        return self

    def save(self, folder: Path) -> None:
        """Leave memory and disks as they are (``ram``, ``system.qcow2``, ``data.img``), and switch it off."""
        self.control("stop")
        self.control("migrate", uri=f"exec:cat >{folder / 'ram'}")
        self._until("postmigrate")
        self.pull_the_plug()
        for disk in (self.system_disk, self.data_disk):
            if disk.parent != folder:
                disk.rename(folder / disk.name)

    def _until(self, state: str, *, is_over: bool = False) -> None:
        deadline = time.monotonic() + 60
        while (self.control("query-status")["status"] == state) is is_over:
            assert time.monotonic() < deadline, f"QEMU is {self.control('query-status')}: {self.folder / 'qemu.log'}"
            time.sleep(0.05)

    def _line(self, control: Path) -> list[str]:
        line = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=256", "-machine", "pc", "-cpu", PROCESSOR,
            "-smp", "2", "-m", str(self.memory_mib), "-display", "none", "-no-user-config", "-nodefaults",
            "-rtc", f"base={self.clock},clock=vm",
            "-serial", f"file:{self.serial}", "-qmp", f"unix:{control},server=on,wait=off",
            "-blockdev", f"driver=qcow2,node-name=system,file.driver=file,file.filename={self.system_disk},"
            "cache.no-flush=on",
            "-device", "virtio-blk-pci,drive=system,serial=system,bootindex=1",
            # restrict: it reaches nothing, and is reached by one port.
            "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-{ADDRESS}:22",
            "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci",
        ]  # fmt: skip
        data = f"driver=file,filename={self.data_disk},node-name=file"
        line += ["-blockdev", data]
        if self.record:
            self.log.unlink(missing_ok=True)
            self.log.touch()
            line += [
                "-blockdev", "driver=blklogwrites,node-name=data,log-sector-size=512,file=file,"
                f"log.driver=file,log.filename={self.log}",
            ]  # fmt: skip
        else:
            line += ["-blockdev", "driver=raw,node-name=data,file=file"]
        # As a card has it: what is written is written, and nothing is cut from it by other means.
        line += ["-device", "virtio-blk-pci,drive=data,serial=data,discard=off,write-zeroes=off"]
        if self.watchdog:
            line += ["-device", "i6300esb", "-action", "watchdog=reset"]
        if self.seed:
            line += ["-drive", f"file={self._medium()},format=raw,if=virtio,readonly=on"]
        if self.ram is not None and self.boots == 0:
            line += ["-incoming", f"exec:cat {self.ram}"]
        return [*line, *self.more]

    def _medium(self) -> Path:
        """The seed as a medium called CIDATA."""
        assert self.seed is not None
        medium = self.folder / "seed.img"
        if not medium.exists():
            with medium.open("wb") as stream:
                stream.truncate(4 << 20)
            subprocess.run(["mkfs.vfat", "-n", "CIDATA", medium], check=True, capture_output=True)
            subprocess.run(["mcopy", "-i", medium, *sorted(self.seed.iterdir()), "::/"], check=True)
        return medium

    def trust(self, host_key: str) -> None:
        """Know it by its key, a line ``ssh-ed25519 …``, from the first login on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kind, key, *_ = host_key.split()
        self.host_key = f"{kind} {key}"
        # ssh looks for the port too, unless it is 22.
        lines = f"127.0.0.1 {kind} {key}\n[127.0.0.1]:{self.port} {kind} {key}\n"
        (self.folder / "known_hosts").write_text(lines)

    def run(self, script: str, *, check: bool = True, timeout_s: float = 120) -> str:
        """A script of its shell, as its root. Returns what it printed."""
        done = self._ssh(f"sudo -n sh -c {_quoted(script)}", timeout_s)
        assert not check or done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def _ssh(self, command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        host = self.host
        line = [
            "ssh", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
            "-o", f"UserKnownHostsFile={host.known_hosts}", "-o", "ConnectTimeout=20", "-i", host.identity_file,
            "-p", str(host.port), f"{host.user}@{host.address}", command,
        ]  # fmt: skip
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=timeout_s)

    def wait(self, script: str = "true", *, within_s: float = BOOT_TIMEOUT_S) -> float:
        """Wait until it can be logged in to and a script of its shell succeeds. Returns the seconds that took."""
        began = time.monotonic()
        while True:
            said = ""
            with contextlib.suppress(subprocess.TimeoutExpired):
                done = self._ssh(f"sudo -n sh -c {_quoted(script)}", 60)
                if done.returncode == 0:
                    return time.monotonic() - began
                said = done.stdout + done.stderr
            assert self._process is not None and self._process.poll() is None, (self.folder / "qemu.log").read_text()
            assert time.monotonic() - began < within_s, f"not within {within_s:.0f} s: {script}\n{said}\n{self.tail()}"
            time.sleep(0.5)

    def tail(self, characters: int = 3000) -> str:
        """The end of what its console said."""
        return self.serial.read_text(errors="replace")[-characters:] if self.serial.exists() else ""

    @property
    def control(self) -> Control:
        """QEMU, while it is on."""
        assert self._control is not None
        return self._control

    @property
    def is_on(self) -> bool:
        """Whether it is."""
        return self._process is not None and self._process.poll() is None

    def reboot(self) -> float:
        """As ``systemctl reboot`` does. Returns the seconds until it can be logged in to again."""
        before = self.run("cat /proc/sys/kernel/random/boot_id")
        self.run("systemctl reboot", check=False)
        self.boots += 1
        return self.wait(f'test "$(cat /proc/sys/kernel/random/boot_id)" != {before}')

    def shut_down(self) -> None:
        """Switch it off in order."""
        self.run("systemctl poweroff", check=False)
        assert self._process is not None
        self._process.wait(120)
        self._gone()

    def pull_the_plug(self) -> None:
        """Stop it at once. What reached the disks is there: a cut is a disk with part of what was written."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._gone()

    def _gone(self) -> None:
        if self._control is not None:
            self._control.close()
        self._process = self._control = None


def _format(disk: Path) -> str:
    return "qcow2" if disk.suffix == ".qcow2" else "raw"


def _quoted(script: str) -> str:
    return "'" + script.replace("'", "'\\''") + "'"
