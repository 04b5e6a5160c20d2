"""What the machine is, and whether the app can live on it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from surefoot.watch.doctor.facts import Facts, Finding

ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
PYTHONS = ((3, 10), (3, 13))
PAGE_SIZES = (4096, 16384, 65536)
TEGRAS = {"36.4": "JetPack 6", "38": "JetPack 7"}  # what the images are built for
OUTSIDE = "run surefoot doctor outside the container too"
NOTHING = "nothing: the app does not need to know"


def judge(facts: Facts) -> Iterator[Finding]:
    """Findings in the order in which they are shown."""
    yield _known("board", facts.board, OUTSIDE if facts.container else NOTHING)
    yield _architecture(facts)
    yield _known("distribution", facts.distribution, NOTHING)
    yield _known("kernel", facts.kernel if facts.live.system != "darwin" else facts.live.release, NOTHING)
    yield _page_size(facts)
    yield Finding(name="container", status="ok", found=facts.container or "none")
    yield _memory_cgroup(facts)
    if facts.tegra or re.search("jetson|tegra", facts.board, re.IGNORECASE):
        yield _tegra(facts)
    yield _python(facts)
    yield Finding(name="app", status="ok", found=facts.app)


def _known(name: str, found: str, hint: str) -> Finding:
    if found:
        return Finding(name=name, status="ok", found=found)
    return Finding(name=name, status="not verified", found="not told here", hint=hint)


def _architecture(facts: Facts) -> Finding:
    live = facts.live
    found = f"{live.machine or 'unknown'}, Python of {live.pointer_bits} bits"
    if live.machine in ARCHITECTURES and live.pointer_bits == 64:
        return Finding(name="architecture", status="ok", found=found)
    narrow = live.pointer_bits != 64 and live.machine in ARCHITECTURES
    return Finding(
        name="architecture",
        status="problem",
        found=found,
        expected="amd64 or arm64, with a Python of 64 bits",
        hint="install the 64-bit system: this one has a 64-bit kernel under 32-bit programs"
        if narrow
        else "use a 64-bit board and system; the runtimes have no build for this one",
    )


def _page_size(facts: Facts) -> Finding:
    size = facts.live.page_size_bytes
    if size is None:
        return Finding(name="page-size", status="not verified", found="not told here", hint=OUTSIDE)
    return Finding(
        name="page-size",
        status="ok" if size in PAGE_SIZES else "warning",
        found=f"{size} bytes",
        expected="" if size in PAGE_SIZES else ", ".join(map(str, PAGE_SIZES)),
        hint="" if size in PAGE_SIZES else "nothing was ever run on such pages: believe the runtimes' proofs below",
    )


def _memory_cgroup(facts: Facts) -> Finding:
    name, expected = "memory-cgroup", "on, so that a container's memory limit holds"
    if facts.live.system == "darwin":
        return Finding(name=name, status="ok", found="none on macOS")
    if facts.memory_cgroup is None:
        return Finding(
            name=name, status="not verified", found="no control groups to be seen", expected=expected, hint=OUTSIDE
        )
    if facts.memory_cgroup:
        return Finding(name=name, status="ok", found=f"on (control groups {facts.cgroup})")
    pi = "Raspberry Pi" in facts.board or "cgroup_disable=memory" in facts.command_line
    return Finding(
        name=name,
        status="problem",
        found=f"off (control groups {facts.cgroup}): Docker ignores --memory, and says so only in a warning",
        expected=expected,
        hint="add cgroup_enable=memory to the one line of /boot/firmware/cmdline.txt, reboot, and look again"
        if pi
        else "boot with cgroup_enable=memory, or a kernel that has CONFIG_MEMCG",
    )


def _tegra(facts: Facts) -> Finding:
    known = ", ".join(f"{release} ({kit})" for release, kit in TEGRAS.items())
    if not facts.tegra:
        return Finding(
            name="tegra-release",
            status="not verified",
            found="no /etc/nv_tegra_release here",
            expected=known,
            hint=OUTSIDE if facts.container else "install NVIDIA's Jetson Linux on this board",
        )
    kit = next((kit for release, kit in TEGRAS.items() if f"{facts.tegra}.".startswith(f"{release}.")), "")
    return Finding(
        name="tegra-release",
        status="ok" if kit else "warning",
        found=f"{facts.tegra} ({kit})" if kit else facts.tegra,
        expected="" if kit else known,
        hint="" if kit else "flash a release that an image is built for; TensorRT and driver must match",
    )


def _python(facts: Facts) -> Finding:
    version = tuple(int(part) for part in re.findall(r"\d+", facts.live.python)[:2])
    if not version:
        return Finding(name="python", status="not verified", found="not told here", hint=NOTHING)
    good = PYTHONS[0] <= version <= PYTHONS[1]
    return Finding(
        name="python",
        status="ok" if good else "problem",
        found=facts.live.python,
        expected="" if good else "3.10 to 3.13",
        hint="" if good else "install the app with a Python that it is tested on",
    )
