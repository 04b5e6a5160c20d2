"""What the supervisor says of itself: for ``surefoot status``, ``/status.json``, the page, the metrics and a swap."""

from __future__ import annotations

from typing import Any

import msgspec


class ShadowServing(msgspec.Struct, frozen=True, kw_only=True):
    """A release that sees a sample of real inputs and answers nobody: how often it agreed with what clients got.

    ``reason``: why it is not shown anything any more. ``skipped``: meant for it, while it was busy, or too large.
    """

    version: str
    digest: str
    watching: bool
    reason: str = ""
    pid: int | None = None
    memory_bytes: int = 0
    agreed: int = 0
    disagreed: int = 0
    failed: int = 0
    skipped: int = 0


class StandbyServing(msgspec.Struct, frozen=True, kw_only=True):
    """A confirmed release whose worker stays loaded, so that a rollback to it need not load anything.

    ``memory_bytes``: resident now. ``left_s``: how long it still stays.
    """

    version: str
    digest: str
    pid: int
    memory_bytes: int
    left_s: float


class ScrubServing(msgspec.Struct, frozen=True, kw_only=True):
    """The latest time that every byte a model keeps was read from the disk.

    ``at``: UTC, RFC 3339, as the clock said. ``rotten``: files that were not what was installed, ``SLOT/FILE``.
    ``actions``: what was done about it.
    """

    at: str
    read_bytes: int
    seconds: float
    rotten: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()


class AgainServing(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was put off, and that this server tries again. ``left_s``: of confirmed service until then.

    ``waits_for``: what is in the way although the time has come.
    """

    slot: str
    digest: str
    left_s: float
    waits_for: str = ""


class ModelServing(msgspec.Struct, frozen=True, kw_only=True):
    """One model: what serves (``None`` where nothing does), and what its slot store says.

    ``state``: ``serving``, ``loading``, ``failed`` (a retry follows) or ``empty`` (nothing is active).
    ``inferences`` to ``p99_ms`` and ``uptime_s`` are those of the worker that serves now; the golden cases it answered
    before it took traffic count as inferences.
    ``slots`` is the store's own report (``surefoot model status``), ``events`` its last events, newest last.
    """

    name: str
    state: str
    ready: bool = False
    reason: str = ""
    version: str | None = None
    digest: str | None = None
    variant: str | None = None
    slot: str | None = None
    runtime: str | None = None
    runtime_version: str | None = None
    provider: str | None = None
    pid: int | None = None
    uptime_s: float = 0.0
    load_s: float = 0.0
    memory_bytes: int = 0
    inferences: int = 0
    failures: int = 0
    in_flight: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    restarts: int = 0
    shadow: ShadowServing | None = None
    standby: StandbyServing | None = None
    scrub: ScrubServing | None = None
    again: AgainServing | None = None
    slots: dict[str, Any] = {}
    events: list[Any] = []


class ServingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole server. ``problem`` is why it is not ready, empty when it is."""

    version: str
    pid: int
    url: str
    http_socket: str
    admin_socket: str
    started_at: str
    uptime_s: float
    ready: bool
    problem: str
    gateway_pid: int | None
    gateway_restarts: int
    models: tuple[ModelServing, ...]


class SwapReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a swap came to. ``swapped``: what the store wants is what serves (``reason`` says why if not).

    ``evidence``: it is the release that failed, and not the device at the moment.
    """

    name: str
    slot: str | None = None
    version: str | None = None
    digest: str | None = None
    load_s: float = 0.0
    golden: dict[str, int] = {}
    swapped: bool
    reason: str = ""
    evidence: bool = False
