"""From the files of a machine to facts. Formats: proc(5), the kernel's Documentation/ABI, the boards' own guides."""

from __future__ import annotations

import re
from pathlib import Path

from surefoot import __version__
from surefoot.release.clock import FLOOR_NAME, read_floor
from surefoot.watch.doctor.facts import Cgroup, Facts, Live, Memory, Mount, Throttling, Zone
from surefoot.watch.doctor.files import Files

MOST_MOUNTS_BYTES = 1024 * 1024
MOST_TRIPS = 16
_UNLIMITED = 1 << 60  # control groups of version 1 say "no limit" by a number near 2^63

# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled; the kernel of Raspberry Pi shows the same
# number as hexadecimal digits in a file of its firmware driver, whose path differs between boards.
_VCGENCMD = re.compile(r"throttled=0x([0-9a-fA-F]{1,8})")


def read(files: Files, live: Live, data_dir: Path) -> Facts:
    """Everything but the proofs of the runtimes."""
    mounts = parse_mounts(files.text("/proc/self/mountinfo", MOST_MOUNTS_BYTES))
    mount = mount_of(live.data.path, mounts)
    command_line = tuple(files.text("/proc/cmdline").split())
    version, memory_cgroup = cgroup(files, mounts)
    return Facts(
        live=live,
        app=__version__,
        board=_board(files) or live.board,
        distribution=_distribution(files) or live.release,
        kernel=files.text("/proc/sys/kernel/osrelease"),
        command_line=command_line,
        container=_container(files, mounts),
        overlayroot=_overlayroot(files, command_line),
        cgroup=version,
        memory_cgroup=memory_cgroup,
        tegra=_tegra(files),
        root=mount_of("/", mounts),
        data=_with_ext4_options(files, mount) if mount else None,
        zones=zones(files),
        throttling=throttling(files, live.vcgencmd),
        memory=memory(files, version),
        jemalloc="libjemalloc" in files.text("/proc/self/maps", MOST_MOUNTS_BYTES),
        floor=read_floor(files.root / data_dir.relative_to("/") / "trust" / FLOOR_NAME).newest,
        recorded="" if files.root == Path("/") else str(files.root),
    )


# -- the machine -----------------------------------------------------------------------------------------------------


def _board(files: Files) -> str:
    """The device tree's model. Docker hides /sys/firmware, but a Raspberry Pi's kernel also says it in cpuinfo."""
    if model := files.text("/proc/device-tree/model", 256):
        return model
    if found := re.search(r"^Model\s*:\s*(.+)$", files.text("/proc/cpuinfo"), re.MULTILINE):
        return found[1].strip()
    makers = (files.text(f"/sys/class/dmi/id/{name}", 256) for name in ("sys_vendor", "product_name"))
    return " ".join(part for part in makers if part)


def _distribution(files: Files) -> str:
    text = files.text("/etc/os-release") or files.text("/usr/lib/os-release")
    found = re.search(r"^PRETTY_NAME=[\"']?([^\"'\n]*)", text, re.MULTILINE)
    return found[1] if found else ""


def _container(files: Files, mounts: tuple[Mount, ...]) -> str:
    if files.exists("/.dockerenv"):
        return "docker"
    if files.exists("/run/.containerenv"):
        return "podman"
    if kind := files.text("/run/systemd/container", 64):  # https://systemd.io/CONTAINER_INTERFACE
        return kind
    root = mount_of("/", mounts)
    if (
        root is not None
        and root.kind == "overlay"
        and re.search(r"/(docker|containerd|containers)/", str(root.details))
    ):
        return "container"  # an engine that leaves no mark but its layers
    return ""


def _overlayroot(files: Files, command_line: tuple[str, ...]) -> bool:
    """Whether a read-only root was asked for: ``overlayroot=`` on the command line, else in its configuration."""
    asked = [word.partition("=")[2] for word in command_line if word.startswith("overlayroot=")]
    conf = re.findall(r"^\s*overlayroot=[\"']?([^\"'\n]*)", files.text("/etc/overlayroot.conf"), re.MULTILINE)
    choice = (asked or conf or [""])[-1]
    return choice not in ("", "disabled")


def cgroup(files: Files, mounts: tuple[Mount, ...]) -> tuple[Cgroup, bool | None]:
    """The version, and whether the memory controller is on (a Raspberry Pi's firmware turns it off)."""
    kinds = {mount.point: mount.kind for mount in mounts}
    if kinds.get("/sys/fs/cgroup") == "cgroup2":
        controllers = files.text("/sys/fs/cgroup/cgroup.controllers")
        return "v2", "memory" in controllers.split() if controllers else None
    if "cgroup" in kinds.values():
        for line in files.text("/proc/cgroups").splitlines():
            if (fields := line.split()) and fields[0] == "memory":
                return "v1", fields[-1] == "1"
        return "v1", False if files.exists("/proc/cgroups") else None
    return "", None


def _tegra(files: Files) -> str:
    """``36.4.0`` from ``# R36 (release), REVISION: 4.0, GCID: …``."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", files.text("/etc/nv_tegra_release", 1024))
    return f"{found[1]}.{found[2]}" if found else ""


# -- storage ---------------------------------------------------------------------------------------------------------


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """``/proc/self/mountinfo``, proc_pid_mountinfo(5). For an overlay ``details`` holds its layers."""
    mounts = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if not dash or len(left) < 6 or len(right) < 2:
            continue
        own, of_super = left[5].split(","), right[2].split(",") if len(right) > 2 else []
        layers = tuple(option for option in of_super if "dir=" in option)
        mounts.append(
            Mount(
                point=_unescaped(left[4]),
                kind=right[0],
                source=_unescaped(right[1]),
                device=left[2],
                options=tuple(dict.fromkeys([*own, *(option for option in of_super if option not in layers)])),
                details=layers,
            )
        )
    return tuple(mounts)


def mount_of(path: str, mounts: tuple[Mount, ...]) -> Mount | None:
    """The mount that a path lies on: the longest mount point above it, the last one where several lie there."""
    best: Mount | None = None
    for mount in mounts:
        prefix = mount.point.rstrip("/") + "/"
        if (path.rstrip("/") + "/").startswith(prefix) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _with_ext4_options(files: Files, mount: Mount) -> Mount:
    """mountinfo hides what the superblock has by default (``tune2fs -o journal_data_writeback``); this file does not.

    A file system without a journal has no ``data=`` there.
    """
    name = files.link(f"/sys/dev/block/{mount.device}") or Path(mount.source).name
    text = files.text(f"/proc/fs/ext4/{name}/options") if mount.kind in ("ext4", "ext3") else ""
    return Mount(
        point=mount.point,
        kind=mount.kind,
        source=mount.source,
        device=mount.device,
        options=mount.options,
        details=tuple(text.split()),
        damage=files.number(f"/sys/fs/ext4/{name}/errors_count") if mount.kind in ("ext4", "ext3") else None,
    )


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


# -- heat and memory -------------------------------------------------------------------------------------------------


def zones(files: Files) -> tuple[Zone, ...]:
    """Documentation/ABI/testing/sysfs-class-thermal: millidegrees. A zone that is switched off cannot be read."""
    found = []
    for name in files.names("/sys/class/thermal"):
        below = f"/sys/class/thermal/{name}"
        now = files.number(f"{below}/temp") if name.startswith("thermal_zone") else None
        if now is None:
            continue
        trips: dict[str, list[float]] = {}
        for index in range(MOST_TRIPS):
            kind = files.text(f"{below}/trip_point_{index}_type", 64)
            at = files.number(f"{below}/trip_point_{index}_temp")
            if kind and at is not None and at > 0:  # zero and below: switched off
                trips.setdefault(kind, []).append(at / 1000)
        slowing, off = trips.get("passive", []) + trips.get("hot", []), trips.get("critical", [])
        found.append(
            Zone(
                name=files.text(f"{below}/type", 64) or name,
                now_c=now / 1000,
                passive_c=min(slowing, default=None),
                critical_c=min(off, default=None),
            )
        )
    return tuple(found)


def throttling(files: Files, vcgencmd: str) -> Throttling | None:
    """vcgencmd knows all; then the firmware driver's file; then the voltage alarm of the driver rpi_volt (bit 0)."""
    if found := _VCGENCMD.search(vcgencmd):
        return Throttling(bits=int(found[1], 16), source="vcgencmd")
    platform = "/sys/devices/platform"
    for soc in (name for name in files.names(platform) if name.startswith("soc")):
        for name in files.names(f"{platform}/{soc}"):
            text = files.text(f"{platform}/{soc}/{name}/get_throttled", 64) if name.endswith(":firmware") else ""
            if re.fullmatch(r"[0-9a-fA-F]{1,8}", text):
                return Throttling(bits=int(text, 16), source="get_throttled")
    for name in files.names("/sys/class/hwmon"):
        if files.text(f"/sys/class/hwmon/{name}/name", 64) == "rpi_volt":
            alarm = files.number(f"/sys/class/hwmon/{name}/in0_lcrit_alarm")
            if alarm is not None:
                return Throttling(bits=int(alarm != 0), source="rpi_volt")
    return None


def memory(files: Files, version: str) -> Memory | None:
    """/proc/meminfo, and the limit of the control group of this version."""
    sizes = {
        name: int(kib) * 1024
        for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", files.text("/proc/meminfo"), re.MULTILINE)
    }
    if "MemTotal" not in sizes or "MemAvailable" not in sizes:
        return None
    folder, limit_name, used_name = (
        ("/sys/fs/cgroup", "memory.max", "memory.current")
        if version == "v2"
        else ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    limit = files.number(f"{folder}/{limit_name}")
    cache = re.search(r"^(?:total_)?inactive_file (\d+)$", files.text(f"{folder}/memory.stat"), re.MULTILINE)
    used = (files.number(f"{folder}/{used_name}") or 0) - (int(cache[1]) if cache else 0)
    return Memory(
        total=sizes["MemTotal"],
        available=sizes["MemAvailable"],
        limit=limit if limit is not None and limit < _UNLIMITED else None,
        used=max(used, 0),
        swap_total=sizes.get("SwapTotal", 0),
        swaps=tuple(line.split()[0] for line in files.text("/proc/swaps").splitlines()[1:] if line.split()),
    )
