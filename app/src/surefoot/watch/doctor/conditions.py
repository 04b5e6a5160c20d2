"""What changes while a device runs: clock, heat, power, memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.release.clock import Mode
from surefoot.release.clock import judge as judge_clock
from surefoot.watch.doctor.facts import Facts, Finding, Status, Zone
from surefoot.watch.doctor.storage import mebibytes

HOT_C = 80.0  # where a zone names no limit of its own: a Raspberry Pi's firmware slows down from here on
NEAR_C = 5.0
LEAST_BYTES = 64 * 1024 * 1024
SMALL_BYTES = 256 * 1024 * 1024
_FLAGS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
SINCE_BOOT = 16  # the same four, from this bit on: sticky until a reboot, so never read as now


def judge(facts: Facts, mode: Mode) -> Iterator[Finding]:
    """Findings in the order in which they are shown.

    Args:
        facts: as read.
        mode: ``trust.clock`` of the configuration.
    """
    yield _clock(facts, mode)
    yield _heat(facts.zones)
    if facts.throttling or "Raspberry Pi" in facts.board:
        yield _throttling(facts)
    yield from _memory(facts)
    yield _jemalloc(facts)


def _clock(facts: Facts, mode: Mode) -> Finding:
    live, name = facts.live, "clock"
    found = f"{live.now:%Y-%m-%d %H:%M:%S} UTC, " + (
        "synchronised" if live.synchronised else "not known to be synchronised"
    )
    if live.now < facts.floor:
        return Finding(
            name=name,
            status="problem",
            found=f"{found}, before a moment that has passed ({facts.floor:%Y-%m-%d})",
            expected="now",
            hint="set the clock (timedatectl) and start time synchronisation; until then freshness is unproven",
        )
    if judge_clock(mode, live.now, bool(live.synchronised), facts.floor).trusted:
        return Finding(name=name, status="ok", found=found + (", trusted by decision" if mode == "trusted" else ""))
    return Finding(
        name=name,
        status="not verified" if live.synchronised is None else "warning",
        found=found + (", not trusted by decision" if mode == "untrusted" else ""),
        expected="synchronised with a time server",
        hint="set trust.clock once a time source is there"
        if mode == "untrusted"
        else "start systemd-timesyncd or chrony; updates work meanwhile, and status says freshness: unproven",
    )


def _heat(zones: tuple[Zone, ...]) -> Finding:
    if not zones:
        return Finding(
            name="heat", status="not verified", found="no thermal zones here", hint="nothing, where there is no sensor"
        )
    found = ", ".join(f"{zone.name} {zone.now_c:.0f} °C" for zone in zones)
    over = [zone for zone in zones if zone.critical_c is not None and zone.now_c >= zone.critical_c - NEAR_C]
    hot = [zone for zone in zones if zone.now_c >= _limit(zone)]
    if not over and not hot:
        return Finding(name="heat", status="ok", found=found)
    worst = (over or hot)[0]
    limit = worst.critical_c if over else _limit(worst)
    return Finding(
        name="heat",
        status="problem" if over else "warning",
        found=found,
        expected=f"{worst.name} below {limit:.0f} °C, where it {'powers off' if over else 'slows down'}",
        hint="cool it: heat sink, fan, shade; or a lower power mode",
    )


def _limit(zone: Zone) -> float:
    if zone.passive_c is not None:
        return zone.passive_c
    return HOT_C if zone.critical_c is None else min(HOT_C, zone.critical_c)


def _throttling(facts: Facts) -> Finding:
    name, told = "throttling", facts.throttling
    if told is None:
        return Finding(
            name=name,
            status="not verified",
            found="neither vcgencmd nor the firmware's file can be read",
            expected="no flag set",
            hint="run surefoot doctor outside the container, as a user of the group video",
        )
    now = [flag for bit, flag in enumerate(_FLAGS) if told.bits >> bit & 1]
    before = [flag for bit, flag in enumerate(_FLAGS, SINCE_BOOT) if told.bits >> bit & 1]
    only = " (the driver knows under-voltage only)" if told.source == "rpi_volt" else ""
    if not now and not before:
        return Finding(name=name, status="ok", found=f"nothing now{'' if only else ', nothing since the boot'}{only}")
    status: Status = "problem" if told.bits & 1 else "warning"
    power = told.bits & (1 | 1 << SINCE_BOOT)
    return Finding(
        name=name,
        status=status,
        found="; ".join(
            f"{when}: {', '.join(flags)}" for when, flags in (("now", now), ("since the boot", before)) if flags
        )
        + only,
        expected="no flag set",
        hint="use the board's own power supply and a short cable" if power else "cool it: heat sink, fan, shade",
    )


def _memory(facts: Facts) -> Iterator[Finding]:
    memory = facts.memory
    if memory is None:
        yield Finding(name="memory", status="not verified", found="not told here", hint="look at it yourself")
        return
    room = memory.available if memory.limit is None else min(memory.available, memory.limit - memory.used)
    limit = f", limited to {mebibytes(memory.limit)}" if memory.limit is not None else ""
    status: Status = "problem" if room < LEAST_BYTES else "warning" if room < SMALL_BYTES else "ok"
    yield Finding(
        name="memory",
        status=status,
        found=f"{mebibytes(max(room, 0))} available of {mebibytes(memory.total)}{limit}",
        expected="" if status == "ok" else f"at least {mebibytes(SMALL_BYTES)}",
        hint="" if status == "ok" else "stop what else runs here, raise the container's limit, or use a smaller model",
    )
    on_disk = [name for name in memory.swaps if "zram" not in name]
    yield Finding(
        name="swap",
        status="warning" if on_disk else "ok",
        found=", ".join(memory.swaps) + f" ({mebibytes(memory.swap_total)})" if memory.swaps else "none",
        expected="none, or zram" if on_disk else "",
        hint="swapoff and take it out of /etc/fstab: it wears the card and stalls answers" if on_disk else "",
    )


def _jemalloc(facts: Facts) -> Finding:
    pages = f" on pages of {facts.live.page_size_bytes} bytes" if facts.live.page_size_bytes else ""
    if facts.jemalloc:
        return Finding(name="jemalloc", status="ok", found=f"preloaded; this process runs on it{pages}")
    if "jemalloc" in facts.live.preload:
        return Finding(
            name="jemalloc",
            status="warning",
            found=f"LD_PRELOAD names {facts.live.preload}, which was not loaded",
            expected="a library of this architecture at that path",
            hint="correct the path, or take it out of LD_PRELOAD",
        )
    return Finding(name="jemalloc", status="ok", found="not preloaded: the system's own allocator")
