"""Which slot serves: activate, confirm, roll back, reject. The durable record first, then the traffic."""

from __future__ import annotations

import time

import msgspec

from surefoot.config import Config
from surefoot.durable import Disk
from surefoot.errors import BadRequest, DeviceUnable
from surefoot.serving.admin import AdminClient, NotRunning, SwapReport
from surefoot.slots.state import Slot, State
from surefoot.slots.store import Store
from surefoot.slots.table import step_back
from surefoot.update.stores import open_store, waiting_path

POLL_S = 0.1


class SwitchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a switch did. ``serving``: the server answers with it now; ``False`` where no server runs."""

    changed: bool
    name: str
    slot: str | None
    version: str | None
    digest: str | None
    status: str
    serving: bool
    swap: SwapReport | None = None


def activate(config: Config, name: str, version: str | None = None) -> SwitchReport:
    """Let a release that passed its gate serve, on trial; one that this device confirmed before serves at once.

    Args:
        config: the device.
        name: the model.
        version: which release; ``None`` takes the one in the inactive slot.

    Raises:
        BadRequest: no slot holds that version.
        DeviceUnable: it did not pass its gate, or the server could not load it: then it is rejected and quarantined,
            and what served goes on serving.
    """
    store = _known(config, name)
    with store.operation("activate"):
        state = store.recover().state
        slot = _slot_of(state, version)
        if slot == state.active:  # also after an activation that was cut off before the traffic moved
            return _served(config, store.activate(slot), changed=state.held)
        state = store.activate(slot)
        swap = _swap(config, name)
        if swap is not None and not swap.swapped:
            _take_back(store, state, swap)
            raise DeviceUnable(
                f"{name} {version or ''} could not be taken into service".replace("  ", " "),
                found=swap.reason,
                expected="a worker that loads it and agrees with its golden cases",
                hint="it is quarantined here: release a corrected version"
                if swap.evidence
                else "what served goes on serving; try again when the device can",
            )
        return _report(store.read(), changed=True, serving=swap is not None, swap=swap)


def _take_back(store: Store, state: State, swap: SwapReport) -> None:
    """Undo an activation in the store. Only evidence against the release is held against it."""
    reason = f"the server could not take it into service: {swap.reason}"
    if swap.evidence:
        store.reject(reason)
    elif state.trial is not None:
        store.revert(reason)
    else:
        store.rollback(1, reason)
        store.release_hold()


def confirm(config: Config, name: str, wait_s: float = 0.0) -> SwitchReport:
    """Make the release on trial the one that a rollback returns to, once it has served long and often enough.

    Args:
        config: the device; ``trial.min_seconds`` and ``trial.min_inferences`` are what it must have shown.
        name: the model.
        wait_s: how long to wait for that.

    Raises:
        DeviceUnable: no server runs, the trial ended, or it has not shown enough in time.
    """
    store = _known(config, name)
    deadline = time.monotonic() + wait_s
    first = store.read()
    if first.trial is None:
        _require_active(first)
        return _served(config, first, changed=False)
    _served(config, first)  # an activation that was cut off has left the traffic where it was
    while True:
        state = store.read()
        if state.trial is None or _digest(state) != _digest(first):
            raise DeviceUnable(
                f"the trial of {name} ended while it was being confirmed",
                found=_last_reason(store),
                hint=f"surefoot model history {name}",
            )
        lacking, evidence = _evidence(config, name, state)
        if not lacking:
            with store.operation("confirm"):
                return _report(store.confirm(evidence), changed=True, serving=True)
        if time.monotonic() >= deadline:
            raise DeviceUnable(
                f"{name} has not shown enough to be confirmed",
                found=lacking,
                expected=f"{config.trial.min_seconds:g} s and {config.trial.min_inferences} inferences on trial",
                hint="wait longer (--wait SECONDS), or send it requests",
            )
        time.sleep(POLL_S)


def rollback(config: Config, name: str, steps: int = 1, reason: str = "") -> SwitchReport:
    """Return to what was confirmed before: from a trial to the confirmed one, otherwise ``steps`` back.

    Raises:
        BadRequest: there is nothing that far back.
        DeviceUnable: recorded, but the server could not load it.
    """
    store = _known(config, name)
    with store.operation("rollback"), store.postponing():
        reason = reason or "asked for by the operator"
        state = store.repair().state
        if state.trial is not None and steps > 1 and store.where(step_back(state, steps)) is not None:
            # What comes from the archive needs the trial's slot, which its worker holds until the traffic has moved.
            _served(config, store.rollback(1, reason))
            steps -= 1
        return _served(config, store.rollback(steps, reason))


def reject(config: Config, name: str, reason: str) -> SwitchReport:
    """Quarantine the active release, and return to what was confirmed before it."""
    store = _known(config, name)
    with store.operation("reject"), store.postponing():
        store.recover()
        return _served(config, store.reject(reason))


def remove(config: Config, name: str) -> bool:
    """Take a model off the device: slots, archive and history. Returns whether there was one."""
    if name not in Store.names(config.models_dir):
        return False
    store = open_store(config, name)
    with store.operation("remove"):
        Disk().remove_directory(config.models_dir / name)
        Disk().remove(waiting_path(config, name))
    _swap(config, name)
    return True


def _known(config: Config, name: str) -> Store:
    Store.require(config.models_dir, name)
    return open_store(config, name)


def _served(config: Config, state: State, *, changed: bool = True) -> SwitchReport:
    """Let the traffic follow what is recorded already."""
    swap = _swap(config, state.name)
    if swap is not None and not swap.swapped:
        raise DeviceUnable(
            f"which release of {state.name} is active is recorded, but the server could not take it into service",
            found=swap.reason,
            expected="a worker that loads it and agrees with its golden cases",
            hint=f"surefoot model verify {state.name}; what served before goes on serving until the server restarts",
        )
    return _report(state, changed=changed, serving=swap is not None, swap=swap)


def _swap(config: Config, name: str) -> SwapReport | None:
    try:
        return AdminClient.connect(config).swap(name)
    except NotRunning:
        return None


def _slot_of(state: State, version: str | None) -> Slot:
    for slot, content in state.slots.items():
        release = content.release
        if release is None:
            continue
        if release.version == version or (version is None and slot != state.active):
            return slot
    held = ", ".join(
        f"{slot}: {content.release.version}" for slot, content in state.slots.items() if content.release is not None
    )
    raise BadRequest(
        f"no slot of {state.name} holds {version or 'another release'}",
        found=held or "both slots are empty",
        hint=f"surefoot model install {state.name} --version {version or 'X.Y.Z'} --repository …",
    )


def _evidence(config: Config, name: str, state: State) -> tuple[str, str]:
    """What the trial still lacks (empty when nothing), and what it has shown, both in words."""
    try:
        serving = AdminClient.connect(config).status()
    except NotRunning:
        return "no server runs, so nothing has been shown", ""
    for model in serving.models:
        if model.name == name and model.digest == _digest(state) and model.ready:
            shown = f"{model.inferences} inferences, {model.uptime_s:.1f} s"
            enough = model.uptime_s >= config.trial.min_seconds and model.inferences >= config.trial.min_inferences
            return ("" if enough else shown), shown
    return "the server does not serve it yet", ""


def _require_active(state: State) -> None:
    if state.active is None:
        raise BadRequest(
            f"{state.name} has no active release to confirm",
            found="no active slot",
            expected="a release on trial",
            hint="install and activate one first",
        )


def _digest(state: State) -> str | None:
    release = state.slots[state.active].release if state.active is not None else None
    return release.digest if release is not None else None


def _last_reason(store: Store) -> str:
    events = store.history(1)
    return f"{events[-1].what}: {events[-1].reason}" if events else "no history"


def _report(state: State, *, changed: bool, serving: bool, swap: SwapReport | None = None) -> SwitchReport:
    active = state.slots[state.active] if state.active is not None else None
    release = active.release if active is not None else None
    return SwitchReport(
        changed=changed,
        name=state.name,
        slot=state.active,
        version=release.version if release else None,
        digest=release.digest if release else None,
        status=active.status if active else "empty",
        serving=serving,
        swap=swap,
    )
