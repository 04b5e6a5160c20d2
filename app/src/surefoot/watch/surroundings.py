"""May a model be judged on this device now? Heat, or too little memory, is a reason to wait, never to blame it.

Read by the doctor's own code from /proc and /sys; the rules themselves are pure.
"""

from __future__ import annotations

import msgspec

from surefoot.watch.doctor.facts import Memory, Throttling, Zone
from surefoot.watch.doctor.files import Files
from surefoot.watch.doctor.reading import MOST_MOUNTS_BYTES, cgroup, memory, parse_mounts, throttling, zones

# Now, by the firmware of a Raspberry Pi: frequency capped, throttled, soft temperature limit. Bits 16 to 19 only say
# that it was so since the boot. https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
SLOWED_NOW = 0b1110


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement depends on; ``None`` and empty where the machine does not say."""

    zones: tuple[Zone, ...] = ()
    throttling: Throttling | None = None
    memory: Memory | None = None


def look(files: Files) -> Surroundings:
    """Read them now.

    Args:
        files: the machine's, or a folder that stands for it.
    """
    version, _ = cgroup(files, parse_mounts(files.text("/proc/self/mountinfo", MOST_MOUNTS_BYTES)))
    return Surroundings(zones=zones(files), throttling=throttling(files, ""), memory=memory(files, version))


def too_hot(now: Surroundings, limit_c: float | None) -> str:
    """Why latencies taken now would say nothing, empty where they would.

    Args:
        now: the surroundings.
        limit_c: the budget's ``temperature_c``: a limit that no sensor can be held against is not kept.
    """
    if limit_c is not None:
        if not now.zones:
            return f"the budget has a temperature of {limit_c:g} °C, and no sensor of this device can be read"
        hottest = max(now.zones, key=lambda zone: zone.now_c)
        if not hottest.now_c < limit_c:
            return f"{hottest.name} is at {hottest.now_c:.0f} °C, the budget allows less than {limit_c:g} °C"
    for zone in now.zones:
        if zone.passive_c is not None and zone.now_c >= zone.passive_c:
            return f"{zone.name} is at {zone.now_c:.0f} °C, and from {zone.passive_c:.0f} °C on the kernel slows down"
    if now.throttling is not None and now.throttling.bits & SLOWED_NOW:
        return f"the firmware slows the CPU now ({now.throttling.source}: {now.throttling.bits:#x})"
    return ""


def available_bytes(now: Surroundings) -> int | None:
    """What a new process can have without another being killed for it; ``None`` where the machine does not say."""
    if now.memory is None:
        return None
    free = now.memory.available
    return free if now.memory.limit is None else max(0, min(free, now.memory.limit - now.memory.used))


def too_little(now: Surroundings, needed_bytes: int) -> str:
    """Why a process of that size should not be started, empty where it may."""
    free = available_bytes(now)
    if free is None or free >= needed_bytes:
        return ""
    return f"{free / 1e6:.0f} MB of memory are available, {needed_bytes / 1e6:.0f} MB are needed"
