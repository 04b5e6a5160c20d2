"""What a device has for its data, and what is to be done about it: one JSON object on stdout. Changes nothing.

The argument is a JSON object with the fields of Wanted. `decide` is a function of plain values; what reads the device
stands below it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

MIB = 1 << 20
READ_BYTES = MIB  # a device whose first MiB is zero holds nothing that anybody could find again
TOOLS = ("findmnt", "wipefs", "blkid", "sfdisk", "partx", "mkfs.ext4")
MOST_PARTITIONS = {"gpt": 128, "dos": 4}
# What a table calls a partition for a Linux file system. Empty ones of other types are a boot loader's, or a vendor's.
LINUX = {"83", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"}
EXTENDED = {"5", "f", "85"}
# Never a place for data, and some spin up when they are read.
NO_DISKS = ("ram", "zram", "sr", "fd")
ROOTS = ("/", "/media/root-ro")  # the latter is the root's own device, under overlayroot
UNKNOWN = "data of an unknown kind"
# Not promised by these: what was written is there after a power cut, or the file system is.
IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs", "rootfs"}
UNSAFE = ("data=writeback", "nobarrier", "ro")


@dataclass(frozen=True)
class Wanted:
    """The role's variables. Empty and 0: not given."""

    kind: str
    mount_point: str
    label: str
    uuid: str
    disk: str
    device: str
    format_device: str
    create: bool
    size_bytes: int
    least_bytes: int
    options: list[str]  # as the kernel names them once the file system is mounted
    unit: str


@dataclass(frozen=True)
class Device:
    """A disk or a partition. ``holds`` and ``used`` in words; empty is nothing and nobody."""

    path: str
    disk: str
    size_bytes: int
    type: str = ""
    label: str = ""
    uuid: str = ""
    holds: str = ""
    used: str = ""
    linux: bool = False


@dataclass(frozen=True)
class Mount:
    """What a path lies on. ``options`` are those that are in force, not those that were asked for."""

    source: str
    type: str
    target: str
    options: list[str]


@dataclass(frozen=True)
class Disk:
    """Where a partition could be made. ``next`` is the path it would get; empty where the table has no room for one."""

    path: str
    size_bytes: int
    table: str
    free_bytes: int
    next: str
    free_holds: str


@dataclass(frozen=True)
class Seen:
    """What a device has. ``mounted`` is what is mounted at the mount point itself, ``below`` what its path lies on."""

    mounted: Mount | None
    below: Mount
    fstab: str = ""
    content: list[str] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    disk: Disk | None = None


@dataclass(frozen=True)
class Plan:
    """``action`` is take, format, create or refuse. ``wrong``: options that are to be put right on a mounted one."""

    action: str
    device: str = ""
    disk: str = ""  # where a partition is to be made
    uuid: str = ""
    mounted: bool = False
    wrong: list[str] = field(default_factory=list)
    problem: str = ""
    report: str = ""


def decide(wanted: Wanted, seen: Seen) -> Plan:
    """What is to be done. Nothing is formatted that holds data, unless it is named."""
    if wanted.kind == "directory":
        return _directory(wanted, seen)
    if seen.fstab:
        return _refuse(
            f"/etc/fstab mounts {wanted.mount_point} too: {seen.fstab}. Take that line out: one place says how it is "
            "mounted, and overlayroot, which reads that file, puts no overlay over it"
        )
    ours = [each for each in seen.devices if _is_wanted(wanted, each)]
    if seen.mounted:
        return _mounted(wanted, seen.mounted, ours)
    if len(ours) > 1:
        paths = ", ".join(each.path for each in ours)
        return _refuse(f"{paths} all are {_name(wanted)}. Name one by data_partition_uuid, or take the others away")
    if seen.content:
        return _refuse(
            f"{wanted.mount_point} is a directory with {', '.join(seen.content)} in it, which a mount would hide. "
            "Move it away"
        )
    if ours and ours[0].type == "ext4":
        found = ours[0]
        if found.used:
            return _refuse(f"{found.path} is {_name(wanted)} and {found.used}; expected at {wanted.mount_point} alone")
        return Plan("take", found.path, uuid=found.uuid, report=_text(found))
    return _find(wanted, seen)


def _is_wanted(wanted: Wanted, device: Device) -> bool:
    return device.uuid == wanted.uuid if wanted.uuid else device.label == wanted.label


def _name(wanted: Wanted) -> str:
    return f"the file system {wanted.uuid}" if wanted.uuid else f"the file system with the label {wanted.label}"


def _text(device: Device) -> str:
    words = [device.holds or "nothing", *filter(None, [device.used])]
    return f"{device.path} ({device.size_bytes // MIB} MiB): {', '.join(words)}"


def _refuse(problem: str) -> Plan:
    return Plan("refuse", problem=problem)


def _directory(wanted: Wanted, seen: Seen) -> Plan:
    on = seen.mounted or seen.below
    if on.type in IN_MEMORY or on.source == "overlayroot":
        return _refuse(f"{wanted.mount_point} lies on {on.type} ({on.source}), which a restart empties")
    unsafe = [option for option in UNSAFE if option in on.options]
    if unsafe:
        return _refuse(
            f"{wanted.mount_point} lies on {on.source}, mounted at {on.target} with {', '.join(unsafe)}: what is "
            "written there is not kept through a power cut. Mount it without"
        )
    lacking = [option for option in wanted.options if option not in on.options] if on.type == "ext4" else []
    text = f"{wanted.mount_point} lies on {on.type} ({on.source}, mounted at {on.target})"
    return Plan("take", mounted=True, report=f"{text}, without {', '.join(lacking)}" if lacking else text)


def _mounted(wanted: Wanted, mount: Mount, ours: list[Device]) -> Plan:
    found = [each for each in ours if each.path == mount.source]
    if not found or mount.type != "ext4":
        return _refuse(
            f"{wanted.mount_point} is {mount.source} ({mount.type}), which is not {_name(wanted)} with ext4. "
            "Unmount it, or say by data_partition_label or data_partition_uuid that it is the one"
        )
    if "ro" in mount.options:
        return _refuse(
            f"{mount.source} is mounted read-only: its file system had an error, see the kernel's log. Unmount it and "
            f"run e2fsck -f {mount.source}"
        )
    wrong = [option for option in wanted.options if option not in mount.options]
    if any(option.startswith("data=") for option in wrong):
        mode = next((option for option in mount.options if option.startswith("data=")), "no journal")
        return _refuse(
            f"{mount.source} is mounted with {mode}, expected data=ordered, and the kernel does not change that while "
            f"it is mounted. Stop what uses {wanted.mount_point}, unmount it and run this again"
        )
    return Plan("take", found[0].path, "", found[0].uuid, True, wrong, report=_text(found[0]))


def _find(wanted: Wanted, seen: Seen) -> Plan:
    """Where a new file system goes."""
    if wanted.device:
        usable = [each for each in seen.devices if each.path == wanted.device]
        if not usable:
            return _refuse(f"the device has no {wanted.device}; it has {_listed(seen.devices)}")
    else:
        disk = seen.disk.path if seen.disk else ""
        usable = [each for each in seen.devices if each.disk == disk != each.path and not each.used]
    if wanted.format_device:
        return _named(wanted, seen, usable)
    if wanted.device:
        return _format(wanted, usable[0])
    empty = [each for each in usable if each.linux and not each.holds and each.size_bytes >= wanted.least_bytes]
    if len(empty) > 1:
        return _refuse(f"more than one partition is empty: {_listed(empty)}. Name one by data_partition_device")
    if empty:
        return _format(wanted, empty[0])
    if wanted.create:
        return _create(wanted, seen)
    full = [each for each in usable if each.holds and each.linux]
    if full:
        return _refuse(f"found {_name(wanted)} nowhere, but someone's data: {_listed(full)}. {_consent(full[0].path)}")
    return _refuse(_no_partition(wanted, seen))


def _named(wanted: Wanted, seen: Seen, usable: list[Device]) -> Plan:
    if seen.disk and wanted.create and wanted.format_device == seen.disk.next:
        return _create(wanted, seen)
    named = [each for each in usable if each.path == wanted.format_device]
    if not named:
        return _refuse(
            f"data_partition_format_device is {wanted.format_device}, which is not what would be formatted; that is "
            f"one of {_listed(usable)}"
        )
    return _format(wanted, named[0])


def _format(wanted: Wanted, device: Device) -> Plan:
    if device.used:
        return _refuse(f"{device.path} is {device.used}. What is in use is never formatted")
    if device.holds and wanted.format_device != device.path:
        return _refuse(f"found someone's data on {_text(device)}. {_consent(device.path)}")
    if device.size_bytes < wanted.least_bytes:
        return _refuse(f"{_text(device)} is smaller than data_partition_least_bytes, {wanted.least_bytes // MIB} MiB")
    return Plan("format", device.path, uuid=wanted.uuid, report=_text(device))


def _create(wanted: Wanted, seen: Seen) -> Plan:
    disk, size = seen.disk, wanted.size_bytes or wanted.least_bytes
    if not disk or not disk.table or disk.free_bytes < max(size, wanted.least_bytes):
        return _refuse(_no_partition(wanted, seen))
    if not disk.next:
        return _refuse(f"the partition table of {disk.path} ({disk.table}) takes no further partition")
    if disk.free_holds and wanted.format_device != disk.next:
        return _refuse(
            f"found someone's data where no partition is on {disk.path}: {disk.free_holds}. {_consent(disk.next)}"
        )
    report = f"{disk.free_bytes // MIB} MiB of {disk.path} belong to no partition"
    return Plan("create", disk.next, disk.path, wanted.uuid, report=report)


def _consent(path: str) -> str:
    return f"If that may be lost: data_partition_format_device={path}"


def _listed(devices: list[Device]) -> str:
    return "; ".join(_text(each) for each in devices) or "none"


def _no_partition(wanted: Wanted, seen: Seen) -> str:
    text = f"found {_name(wanted)} nowhere, and no empty partition of {wanted.least_bytes // MIB} MiB or more for it. "
    if seen.disk is None:
        text += "Name a device by data_partition_device, or a disk by data_partition_disk; there are "
        return text + _listed(seen.devices)
    disk, free = seen.disk, f"{seen.disk.free_bytes // MIB} MiB belong to no partition. "
    text += f"{disk.path} has {disk.size_bytes // MIB} MiB, of which {free}"
    if disk.free_bytes >= max(wanted.size_bytes, wanted.least_bytes):
        return text + "data_partition_create: true makes a partition there"
    return text + (
        "The first boot has probably grown the root over the whole disk, and nothing shrinks it again. Write the image "
        "anew and keep room by surefoot device seed --root-size (docs/guides/first-contact.md), or name another disk "
        "by data_partition_disk"
    )


# What follows reads the device.


def run(*command: str, check: bool = True) -> str:
    """The output of a command."""
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=60).stdout


def read(path: str | Path) -> str:
    """The content of a small file of the kernel; empty where there is none."""
    try:
        return Path(path).read_text(errors="replace")[:MIB].strip()
    except OSError:
        return ""


def block(numbers: str) -> Path:
    """The kernel's folder of a device, by its two numbers. There is none for an overlay, or a file system in memory."""
    return Path(f"/sys/dev/block/{numbers}").resolve()


def find_mount(*question: str) -> tuple[Mount, Path] | None:
    """A mount and the kernel's folder of its device. For ext4 with the options that only the kernel's own list has."""
    said = run("findmnt", "--json", "-o", "TARGET,SOURCE,FSTYPE,OPTIONS,MAJ:MIN", *question, check=False)
    if not said.strip():
        return None
    last = json.loads(said)["filesystems"][-1]
    folder, options = block(last["maj:min"]), last["options"].split(",")
    if last["fstype"] == "ext4":
        options = sorted({*options, *read(f"/proc/fs/ext4/{folder.name}/options").splitlines()})
    source = f"/dev/{folder.name}" if folder.is_dir() else last["source"]
    return Mount(source, last["fstype"], last["target"], options), folder


def start_of(path: str, offset: int = 0) -> bytes:
    """The first bytes of a device, or of what lies behind an offset of it."""
    with Path(path).open("rb") as opened:
        opened.seek(offset)
        return opened.read(READ_BYTES)


def used_by(path: str, numbers: str) -> str:
    """Who uses a device, another device included that is built on it."""
    for line in read("/proc/self/mountinfo").splitlines():
        words = line.split()
        if words[2] == numbers:
            return f"mounted at {words[4]}"
    if path in [line.split()[0] for line in read("/proc/swaps").splitlines()]:
        return "used as swap"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL))
    except OSError:
        return "in use"
    return ""


def disk_of(folder: Path) -> str:
    """The path of the disk that a device is, or is a partition of."""
    return f"/dev/{(folder.parent if (folder / 'partition').exists() else folder).name}"


def look_at(folder: Path, linux: set[str]) -> Device | None:
    """One device; None where there is nothing to look at."""
    path = f"/dev/{folder.name}"
    size = int(read(folder / "size") or 0) * 512  # the kernel counts in these, whatever the disk does
    if not size or folder.name.startswith(NO_DISKS) or not Path(path).exists():
        return None
    try:
        signatures = json.loads(run("wipefs", "--no-act", "--json", path) or '{"signatures": []}')["signatures"]
        start = start_of(path)
    except (OSError, subprocess.CalledProcessError):
        return Device(path, disk_of(folder), size, holds="something that cannot be read")
    first = signatures[0] if signatures else {}
    holds = ", ".join(sorted({each["type"] for each in signatures}))
    if first.get("label"):
        holds += f" with the label {first['label']}"
    if not signatures and start.count(0) != len(start):
        holds = UNKNOWN
    return Device(
        path, disk_of(folder), size, first.get("type") or "", first.get("label") or "", first.get("uuid") or "", holds,
        used_by(path, read(folder / "dev")), path in linux,
    )  # fmt: skip


def look_at_disk(path: str) -> tuple[Disk, set[str]] | None:
    """What of a disk lies behind its last partition, and those of its partitions that are for Linux."""
    size = int(read(f"/sys/class/block/{Path(path).name}/size") or 0) * 512
    if not size:
        return None
    said = run("sfdisk", "--json", path, check=False)
    if not said.strip():
        return Disk(path, size, "", 0, "", ""), set()
    table = json.loads(said)["partitiontable"]
    sector, parts = int(table.get("sectorsize", 512)), table.get("partitions", [])
    end = max([MIB, *((each["start"] + each["size"]) * sector for each in parts)])
    begin = -(-end // MIB) * MIB  # as sfdisk aligns
    # A GPT has its second table at the end. The disk's own size counts: a table may still have that of its image.
    free = max(0, size - begin - (MIB if table["label"] == "gpt" else 0))
    numbers = [int(found[0]) for found in (re.findall(r"\d+$", each["node"]) for each in parts) if found]
    following = max([0, *numbers]) + 1
    room = following <= MOST_PARTITIONS.get(table["label"], 0) and not EXTENDED & {each["type"] for each in parts}
    holds = ""
    if free:
        start = start_of(path, begin)
        found = run("blkid", "-p", "-O", str(begin), "-S", str(free), "-o", "export", path, check=False)
        kind = re.search(r"^TYPE=(.*)$", found, re.MULTILINE)
        if kind or start.count(0) != len(start):
            holds = kind[1] if kind else UNKNOWN
    named = f"{path}{'p' if path[-1].isdigit() else ''}{following}"
    linux = {each["node"] for each in parts if each["type"] in LINUX}
    return Disk(path, size, table["label"], free, named if room else "", holds), linux


def survey(wanted: Wanted) -> Seen:
    """Look at the whole device."""
    path = existing = Path(wanted.mount_point)
    while not existing.exists():
        existing = existing.parent
    at, below = find_mount("--mountpoint", str(path)), find_mount("--target", str(existing))
    if below is None:
        raise LookupError(f"findmnt does not know what {existing} lies on")
    if wanted.kind == "directory":
        return Seen(at[0] if at else None, below[0])
    if Path("/run/udev/control").exists():  # the links of a new file system are made a moment after it
        run("udevadm", "settle", "--timeout=30", check=False)
    roots = [found for found in (find_mount("--mountpoint", each) for each in ROOTS) if found and found[1].is_dir()]
    disk = wanted.disk or (disk_of(roots[0][1]) if roots else "")
    looked, linux = (look_at_disk(disk) if disk else None) or (None, set())
    folders = (each.resolve() for each in sorted(Path("/sys/class/block").iterdir()))
    devices = [each for each in (look_at(folder, linux) for folder in folders) if each]
    fstab = [line for line in read("/etc/fstab").splitlines() if line.split()[1:2] == [wanted.mount_point]]
    content = sorted(each.name for each in path.iterdir())[:5] if not at and path.is_dir() else []
    return Seen(at[0] if at else None, below[0], "".join(fstab[:1]), content, devices, looked)


def main(argument: str) -> None:
    """Print what was found."""
    os.environ |= {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"}
    given = json.loads(argument)
    for each in ("disk", "device", "format_device"):
        given[each] = given[each] and str(Path(given[each]).resolve())
    # Ansible before 2.19 hands on what it has put in as text.
    given["create"] = str(given["create"]).lower() == "true"
    wanted = Wanted(**{**given, "size_bytes": int(given["size_bytes"]), "least_bytes": int(given["least_bytes"])})
    lacking = [tool for tool in TOOLS if not shutil.which(tool)]
    if lacking:
        plan = _refuse(f"found no {', '.join(lacking)}. apt-get install fdisk e2fsprogs")
    else:
        plan = decide(wanted, survey(wanted))
    link = Path(f"/dev/disk/by-uuid/{plan.uuid}")
    by_uuid = bool(plan.uuid) and link.exists()
    folder = Path(wanted.mount_point, "surefoot")
    owner = folder.stat() if folder.is_dir() else None
    print(json.dumps({
        **asdict(plan),
        "uid": os.getuid(),
        "systemd": Path("/run/systemd/system").is_dir(),
        # Where no udev makes links, as in a container, only the device's own name leads to it.
        "what": str(link) if by_uuid else plan.device,
        "by_uuid": by_uuid,
        "enabled": run("systemctl", "is-enabled", wanted.unit, check=False).strip(),
        "owner": [owner.st_uid, owner.st_gid] if owner else [],
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
