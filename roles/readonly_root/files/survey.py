"""What a device boots with, and whether its root can be made read-only: one JSON object on stdout. Changes nothing.

The first argument is a JSON object with the fields of Wanted, the second the script root-state. `decide` and what it
calls are functions of plain values; what reads the device stands below them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

MIB = 1 << 20
LOWER = Path("/media/root-ro")  # where overlayroot mounts the root's own device
MODULE = re.compile(r"(?:^|/)lib/modules/([^/]+)/.*/overlay\.ko(?:\.\w+)?$")
# Command, unit, option, file, setting in it, and where the data lies otherwise.
ENGINES = (
    (
        *("dockerd", "docker.service", "--data-root"),
        *("/etc/docker/daemon.json", r'"data-root":\s*"([^"]+)"', "/var/lib/docker"),
    ),
    (
        *("containerd", "containerd.service", "--root"),
        *("/etc/containerd/config.toml", r'(?m)^root\s*=\s*"([^"]+)"', "/var/lib/containerd"),
    ),
)
VERSION = re.compile(r"(?:^|/)lib/modules/([^/]+)/")


@dataclass(frozen=True)
class Wanted:
    """What the role wants of a device. ``files`` are digests by path, ``keep`` what outlives a boot."""

    enabled: bool
    releases: dict[str, list[str]]
    data_dir: str
    keep_dir: str
    keep: list[str]
    files: dict[str, str]
    first_boot_units: list[str]


@dataclass(frozen=True)
class Initramfs:
    """What is in one that the boot loader may load. ``modules``: kernels that have, or find in it, overlay."""

    path: str
    tools: bool  # built by initramfs-tools
    script: bool
    busybox: bool
    kernels: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)

    @property
    def lacks(self) -> list[str]:
        """What the boot would do without, and go on with a root that can be written."""
        parts = {"the script overlayroot": self.script, "busybox": self.busybox}
        parts |= {f"the module overlay for {kernel}": kernel in self.modules for kernel in self.kernels}
        return [name for name, there in parts.items() if not there]


@dataclass(frozen=True)
class Seen:
    """What a device is."""

    system: str = ""
    release: str = ""
    state: str = "writable"
    root_options: list[str] = field(default_factory=list)
    data_source: str = ""  # empty: nothing is mounted there
    command_line: str = ""
    marked: bool = False
    set_up: bool = False  # the setting is there
    tegra: bool = False
    loads_initramfs: bool = True
    initramfs: list[Initramfs] = field(default_factory=list)
    without_overlay: list[str] = field(default_factory=list)
    on_root: list[str] = field(default_factory=list)  # data of container engines
    machine_id: bool = True
    host_keys: bool = True
    first_boot_units: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    unbound: list[str] = field(default_factory=list)
    log: str = ""

    @property
    def sealed(self) -> bool:
        """Whether what is written now is gone at the next boot."""
        return self.state in ("read-only", "writable at next boot")


def decide(wanted: Wanted, seen: Seen) -> str:
    """Why the role cannot do what is wanted; empty if it can."""
    if not wanted.enabled:
        if "overlayroot=tmpfs" in seen.command_line:
            return f"the kernel's command line has {seen.command_line}, which counts more than any file. Take it out"
        return ""
    if seen.release not in wanted.releases.get(seen.system, []):
        known = "; ".join(f"{name} {', '.join(releases)}" for name, releases in wanted.releases.items())
        return f"found {seen.system} {seen.release}, expected one of {known}"
    return _sealed(seen) if seen.sealed else _writable(seen)


def _sealed(seen: Seen) -> str:
    """Whatever would have to change on a sealed device vanishes at its next boot."""
    advice = "A maintenance boot is needed: readonly_root_enabled=false, reboot, and provision it again"
    if seen.state == "writable at next boot":
        return "the root is still read-only, and writable at the next boot. Reboot it, and provision it again"
    if seen.differs or seen.unbound:
        what = ", ".join([*seen.differs, *(f"{path}, which is not on the data partition" for path in seen.unbound)])
        return f"the root is read-only, and this would have to change: {what}. {advice}"
    if "rw" not in seen.root_options:
        return (
            "the root is read-only and so is the overlay over it: nothing can write to /var or /etc "
            f"(https://github.com/systemd/systemd/issues/39558). {advice}"
        )
    return ""


def _writable(seen: Seen) -> str:
    if seen.command_line and not seen.command_line.startswith("overlayroot=tmpfs"):
        return f"the kernel's command line has {seen.command_line}, which counts more than any file. Take it out"
    foreign = [each.path for each in seen.initramfs if not each.tools]
    if seen.tegra and foreign:
        return (
            f"the boot loader loads {', '.join(foreign)}, which NVIDIA built and which runs no script of overlayroot: "
            "the root of this Jetson stays writable. readonly_root_enabled: false says so"
        )
    if foreign:
        return f"{', '.join(foreign)} was not built by initramfs-tools, which is what overlayroot works with"
    if not seen.loads_initramfs:
        return "the firmware loads no initramfs, where overlayroot runs. /boot/firmware/config.txt: auto_initramfs=1"
    if not seen.initramfs:
        return "found no initramfs in /boot or /boot/firmware, where overlayroot runs"
    if seen.without_overlay:
        return f"the kernel {', '.join(seen.without_overlay)} has no overlay file system"
    if not seen.machine_id:
        return "/etc/machine-id holds none, and each boot would make another. systemd-machine-id-setup --commit"
    if not seen.host_keys:
        return "sshd has no host key, and each boot would make others. ssh-keygen -A"
    if seen.first_boot_units:
        return f"{', '.join(seen.first_boot_units)} would run at each boot. The first boot is not over, or failed"
    if seen.set_up and not seen.marked and not any(each.lacks for each in seen.initramfs):
        return (
            "this boot should have sealed the root and did not, with an initramfs that has all it needs. "
            f"/run/initramfs/overlayroot.log: {seen.log or 'is not there'}"
        )
    return ""


def unmet(wanted: Wanted, seen: Seen) -> str:
    """What other roles do before this one, so that check mode on a new device does not find it."""
    if not wanted.enabled or seen.sealed:
        return ""
    if not seen.data_source:
        return f"nothing is mounted at {wanted.data_dir}: data_partition comes first"
    if seen.on_root:
        return (
            f"{', '.join(seen.on_root)} lies on the root, and would be lost at each boot: container_engine puts it "
            f"onto {wanted.data_dir}"
        )
    return ""


def read_listing(path: str, lines: list[str], builtin: list[str], fallback: str = "") -> Initramfs:
    """From the names in it. ``builtin``: kernels that need no module. ``fallback``: the kernel in its own name."""
    kernels = sorted({found[1] for found in map(VERSION.search, lines) if found} or {fallback} - {""})
    modules = {found[1] for found in map(MODULE.search, lines) if found}
    return Initramfs(
        path,
        tools="scripts/functions" in lines,
        script="scripts/init-bottom/overlayroot" in lines,
        busybox=any(re.search(r"(^|/)bin/busybox$", line) for line in lines),
        kernels=kernels,
        modules=sorted(modules | set(builtin)),
    )


# What follows reads the device.


def run(*command: str) -> str:
    """The output of a command; empty where it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done.stdout.strip() if done.returncode == 0 else ""


def read(path: str | Path) -> str:
    """The content of a file, bounded; empty where there is none."""
    try:
        with Path(path).open(errors="replace") as opened:
            return opened.read(16 * MIB)
    except OSError:
        return ""


def inode(path: str | Path) -> tuple[int, int] | None:
    """What tells one file from another, wherever it is seen."""
    try:
        found = os.stat(path)  # noqa: PTH116  # a path or a Path
    except OSError:
        return None
    return found.st_dev, found.st_ino


def on_root(path: str) -> bool:
    """Whether a folder lies on the root's file system, or will once it is made."""
    nearest = Path(path)
    while not nearest.exists():
        nearest = nearest.parent
    return nearest.stat().st_dev == Path("/").stat().st_dev


def engine_data() -> list[str]:
    """Data of container engines that lies on the root."""
    found = []
    for command, unit, flag, config, setting, usual in ENGINES:
        if shutil.which(command):
            started = re.findall(rf"{flag}[ =](\S+)", run("systemctl", "show", "--property", "ExecStart", unit))
            path = [usual, *re.findall(setting, read(config))[-1:], *started[-1:]][-1]
            found += [path] if on_root(path) else []
    return found


def has_overlay(version: str, name: str) -> bool:
    """Whether a kernel has overlay, as a module (``modules.dep``) or in itself (``modules.builtin``)."""
    return re.search(r"/overlay\.ko\b", read(f"/lib/modules/{version}/{name}")) is not None


def candidates() -> list[Path]:
    """Each initramfs that a boot loader may load, kernels that are gone left out."""
    boot = Path("/boot")
    found = [
        path
        for path in sorted(boot.glob("initrd.img-*"))
        if Path("/lib/modules", path.name.removeprefix("initrd.img-")).is_dir()
    ]
    # Raspberry Pi OS copies them for its firmware: another for a Pi 5 than for a Pi 4. Ubuntu copies one.
    found += sorted([*boot.glob("firmware/initramfs*"), *boot.glob("firmware/initrd.img")])
    named = re.findall(r"(?mi)^\s*INITRD\s+(\S+)", read(boot / "extlinux" / "extlinux.conf"))
    found += [Path(each) for each in dict.fromkeys(named) if Path(each).exists()]
    return list({path.resolve(): path for path in found}.values())


def survey(wanted: Wanted, root_state: str) -> Seen:
    """Look at the whole device."""
    about = dict(re.findall(r'(?m)^(\w+)="?([^"\n]*)', read("/etc/os-release")))
    seen = Seen(
        system=about.get("ID", ""),
        release=about.get("VERSION_ID", ""),
        state=run("sh", "-c", root_state),
        command_line=" ".join(word for word in read("/proc/cmdline").split() if word.startswith("overlayroot=")),
        marked=Path("/run/surefoot-root").exists(),
        set_up='overlayroot="tmpfs' in read("/etc/overlayroot.local.conf"),
        log=read("/run/initramfs/overlayroot.log")[-500:],
    )
    # Under an overlay, what counts is what the next boot reads.
    base = LOWER if seen.sealed else Path("/")
    digests = {path: sha256(read(base / path[1:]).encode()).hexdigest() for path in wanted.files}
    seen = replace(seen, differs=[path for path, digest in digests.items() if digest != wanted.files[path]])
    if not wanted.enabled:
        return seen
    options = run("findmnt", "--noheadings", "--output", "OPTIONS", "--mountpoint", "/").split("\n")[-1]
    unbound = [each for each in wanted.keep if Path(each).exists() and inode(each) != inode(wanted.keep_dir + each)]
    seen = replace(seen, root_options=options.split(","), unbound=unbound)
    return seen if seen.sealed else replace(seen, **_before_sealing(wanted))


def _before_sealing(wanted: Wanted) -> dict[str, Any]:
    mounted = run("findmnt", "--noheadings", "--raw", "--output", "SOURCE,FSTYPE", "--mountpoint", wanted.data_dir)
    source, _, kind = mounted.partition(" ")
    versions = [path.name.removeprefix("initrd.img-") for path in candidates() if path.parent == Path("/boot")]
    builtin = [version for version in versions if has_overlay(version, "modules.builtin")]
    firmware = read("/boot/firmware/config.txt")
    identifier = run("findmnt", "--mountpoint", "/etc/machine-id") or read("/etc/machine-id")
    return {
        "data_source": "" if kind in ("overlay", "tmpfs") else source,
        "tegra": Path("/etc/nv_tegra_release").exists() or "nvidia,tegra" in read("/proc/device-tree/compatible"),
        "loads_initramfs": not firmware or bool(re.search(r"(?m)^\s*(auto_initramfs=1|initramfs\s+\S)", firmware)),
        "initramfs": [
            read_listing(str(path), run("lsinitramfs", str(path)).split("\n"), builtin, path.name.partition("-")[2])
            for path in candidates()
        ],
        "without_overlay": [each for each in versions if each not in builtin and not has_overlay(each, "modules.dep")],
        "on_root": engine_data(),
        "machine_id": re.fullmatch(r"[0-9a-f]{32}\n?", identifier) is not None,
        "host_keys": not shutil.which("sshd") or bool(list(Path("/etc/ssh").glob("ssh_host_*_key"))),
        "first_boot_units": [
            each for each in wanted.first_boot_units if run("systemctl", "is-enabled", each) == "enabled"
        ],
    }


def main(argument: str, root_state: str) -> None:
    """Print what was found."""
    os.environ |= {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"}
    given = json.loads(argument)
    # Ansible before 2.19 hands on what it has put in as text.
    wanted = Wanted(**{**given, "enabled": str(given["enabled"]).lower() == "true"})
    seen = survey(wanted, root_state)
    print(json.dumps({
        **asdict(seen),
        "sealed": seen.sealed,
        "lacks": [f"{each.path}: {', '.join(each.lacks)}" for each in seen.initramfs if each.lacks],
        "problem": decide(wanted, seen),
        "unmet": unmet(wanted, seen),
        "keeps": run("systemctl", "is-active", "surefoot-keep.service") == "active",
        "enabled": run("systemctl", "is-enabled", "surefoot-keep.service") == "enabled",
        "uid": os.getuid(),
        "systemd": Path("/run/systemd/system").is_dir(),
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
