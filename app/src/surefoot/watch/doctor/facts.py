"""What a diagnosis is made of, as plain values. ``None`` and empty text mean that it could not be told."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

Status = Literal["ok", "warning", "problem", "not verified"]
Outcome = Literal["works", "missing", "refused", "died"]
Cgroup = Literal["", "v1", "v2"]

NOT_STARTED = "cannot be started"  # how the reason of a proof begins that never ran


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. ``hint`` is what to do, for whatever is not ok."""

    name: str
    status: Status
    found: str
    expected: str = ""
    hint: str = ""


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """A directory as this user finds it; where it is not there, what its nearest parent would allow."""

    path: str
    exists: bool = False
    writable: bool = False  # by this user
    read_only: bool = False  # the file system itself
    owner_uid: int | None = None
    free_bytes: int | None = None
    free_inodes: int | None = None


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """What no file says: answers of system calls and commands. A recorded board has them in ``live.json``."""

    system: str = "linux"  # sys.platform
    machine: str = ""
    pointer_bits: int = 64
    page_size_bytes: int | None = None
    python: str = ""
    uid: int = -1
    now: Annotated[datetime, msgspec.Meta(tz=True)]
    synchronised: bool | None = None
    preload: str = ""  # LD_PRELOAD
    board: str = ""  # macOS has no file for it
    release: str = ""
    vcgencmd: str = ""  # what `vcgencmd get_throttled` printed
    data: Directory
    run: Directory


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A mounted file system. ``details``: an overlay's layers; or all that ext4 says of itself, defaults included."""

    point: str
    kind: str
    source: str
    device: str = ""  # major:minor
    options: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    damage: int | None = None  # errors that ext4 found in itself since its last check


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """One thermal zone. ``passive_c``: the kernel slows the machine from here on; ``critical_c``: it powers off."""

    name: str
    now_c: float
    passive_c: float | None = None
    critical_c: float | None = None


class Throttling(msgspec.Struct, frozen=True, kw_only=True):
    """A Raspberry Pi's flags: bits 0 to 3 are now, 16 to 19 since the boot. ``source`` may know only bit 0."""

    bits: int
    source: str


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """In bytes. ``limit`` and ``used`` are the control group's, where it has a limit."""

    total: int
    available: int
    limit: int | None = None
    used: int = 0
    swap_total: int = 0
    swaps: tuple[str, ...] = ()


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one runtime in a process of its own; ``died``: the process did not live to tell."""

    runtime: str
    outcome: Outcome
    provider: str = ""  # asked for; empty: none in particular
    used: str = ""
    version: str = ""
    reason: str = ""
    offered: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the rules judge."""

    live: Live
    app: str
    board: str = ""
    distribution: str = ""
    kernel: str = ""
    command_line: tuple[str, ...] = ()
    container: str = ""  # its kind
    overlayroot: bool = False  # asked for, on the kernel's command line or in its configuration
    cgroup: Cgroup = ""
    memory_cgroup: bool | None = None
    tegra: str = ""
    root: Mount | None = None
    data: Mount | None = None
    zones: tuple[Zone, ...] = ()
    throttling: Throttling | None = None
    memory: Memory | None = None
    jemalloc: bool = False  # mapped into this process
    floor: datetime
    recorded: str = ""  # the folder that stood for /
    proofs: tuple[Proof, ...] = ()
