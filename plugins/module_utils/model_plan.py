# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
"""From the state a model is in to the one that is wanted: plain values in, plain values out.

No file, clock, process or Ansible here. ``status`` is what ``surefoot model status NAME --json`` prints.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

LATEST = "latest"
# A slot in one of these holds a release whose gate has passed on this device.
PROVEN = ("ready", "trial", "confirmed")
# What a device that has never heard of the model says.
NOTHING = {"active": None, "slots": {}, "trial": None, "previous": [], "held": False}


class PlanError(Exception):
    """What is wanted cannot be reached from here, whatever is done. Carries the four fields of our error messages."""

    def __init__(self, what: str, found: str = "", expected: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.error = {"error": "PlanError", "what": what, "found": found, "expected": expected, "hint": hint}


class Wanted(NamedTuple):
    """What the task asks for. ``version``: never ``latest``, that is looked up first; ``steps``: only to roll back."""

    state: str
    version: Optional[str] = None
    steps: int = 1
    repository: Optional[str] = None


class Step(NamedTuple):
    """One command. ``version`` is None to remove; ``steps`` is 0 but to roll back."""

    verb: str
    version: Optional[str] = None
    steps: int = 0

    def __str__(self) -> str:
        return " ".join([self.verb, self.version] if self.version else [self.verb])


class Plan(NamedTuple):
    """The steps in order, none where nothing is to be done, and the reason in words."""

    steps: list[Step]
    why: str


def plan(status: dict[str, Any], wanted: Wanted) -> Plan:
    """What to do.

    Raises:
        PlanError: a trial of another release runs, there is nothing that far back, or an install has no repository.
    """
    return {
        "present": _to_present,
        "active": _to_active,
        "rolled_back": _to_rolled_back,
        "absent": _to_absent,
    }[wanted.state](status, wanted)


def predict(status: dict[str, Any], steps: list[Step]) -> dict[str, Any]:
    """The :func:`view` that is there once the steps are done."""
    seen = view(status)
    previous = _previous(status)
    for step in steps:
        if step.verb == "install":
            kept = [_active_version(status)] if status["active"] else seen["installed"][-1:]
            seen["installed"] = _ascending({*kept, step.version})
        elif step.verb == "activate":
            if status["active"] and status["active"]["status"] == "confirmed":
                seen["returns_to"] = _active_version(status)
            seen["serves"] = f"{step.version} (trial)"
            seen["held"] = False
        elif step.verb == "confirm":
            seen["serves"] = f"{step.version} (confirmed)"
        elif step.verb == "rollback":
            seen["serves"] = f"{step.version} (confirmed)"
            seen["returns_to"] = previous[step.steps] if len(previous) > step.steps else None
            seen["held"] = True
            if step.version not in seen["installed"]:
                seen["installed"] = _ascending({_active_version(status), step.version})
        else:
            seen = view(NOTHING)
    return seen


def view(status: dict[str, Any]) -> dict[str, Any]:
    """The part of a status that a person compares before and after."""
    active = status["active"]
    previous = _previous(status)
    return {
        "serves": f"{active['version']} ({active['status']})" if active else None,
        "installed": _ascending(_installed(status)),
        "returns_to": previous[0] if previous else None,
        "held": bool(status.get("held")),
    }


def _to_present(status: dict[str, Any], wanted: Wanted) -> Plan:
    if wanted.version in _installed(status):
        return Plan([], f"{wanted.version} is in a slot")
    return Plan([_install(status, wanted)], f"{wanted.version} is in no slot")


def _to_active(status: dict[str, Any], wanted: Wanted) -> Plan:
    active = status["active"]
    serves = f"{active['version']} serves" if active else "nothing serves"
    confirm = Step("confirm", wanted.version)
    if active and active["version"] == wanted.version:
        if active["status"] == "confirmed":
            return Plan([], f"{serves} and is confirmed")
        return Plan([confirm], f"{serves} and is not confirmed yet")
    switch = [Step("activate", wanted.version), confirm]
    if wanted.version in _installed(status):
        _refuse_during_trial(status, wanted)
        return Plan(switch, f"{serves}, {wanted.version} waits in the other slot")
    return Plan([_install(status, wanted), *switch], f"{serves}, {wanted.version} is in no slot")


def _to_rolled_back(status: dict[str, Any], wanted: Wanted) -> Plan:
    active = status["active"]
    if not active:
        raise PlanError(
            "there is nothing to roll back",
            found="no active release",
            expected="a release that serves, and one confirmed before it",
            hint="deploy a release first",
        )
    previous = _previous(status)
    serves = active["version"]
    if wanted.version:
        if serves == wanted.version and not status.get("trial"):
            return Plan([], f"{serves} serves")
        if wanted.version not in previous:
            raise PlanError(
                f"{wanted.version} is not among what this device can return to",
                found=", ".join(previous) or "nothing before the active release",
                expected=wanted.version,
                hint="name one of those, or deploy the version with state active",
            )
        steps = previous.index(wanted.version) + 1
    else:
        # Asking twice must not go back twice: that would be a rollback to something nobody asked for.
        if status.get("held") and not status.get("trial"):
            return Plan([], f"{serves} serves, held there by an earlier rollback; to go further back, name a version")
        steps = wanted.steps
        if len(previous) < steps:
            raise PlanError(
                f"there is no confirmed release {steps} back",
                found=", ".join(previous) or "nothing before the active release",
                expected=f"{steps} confirmed before {serves}",
                hint="deploy a version with state active",
            )
    target = previous[steps - 1]
    if status["previous"][steps - 1].get("where") == "gone":
        raise PlanError(
            f"{target} was confirmed here and is not on the device any more",
            found="neither a slot nor the archive holds it",
            expected=f"{target} whole in one of them",
            hint="deploy it with state active: this device may take it again",
        )
    return Plan([Step("rollback", target, steps)], f"{serves} serves, {target} was confirmed before it")


def _to_absent(status: dict[str, Any], wanted: Wanted) -> Plan:
    del wanted  # whatever version is there goes
    if not status["active"] and not _held_by_slots(status):
        return Plan([], "nothing of the model is on the device")
    return Plan([Step("remove")], "the model is on the device")


def _install(status: dict[str, Any], wanted: Wanted) -> Step:
    _refuse_during_trial(status, wanted)
    if not wanted.repository:
        raise PlanError(
            f"{wanted.version} is not on the device and no repository was named",
            found=", ".join(_ascending(_installed(status))) or "empty slots",
            expected="the release in a slot, or where to fetch it",
            hint="set repository",
        )
    return Step("install", wanted.version)


def _refuse_during_trial(status: dict[str, Any], wanted: Wanted) -> None:
    if status.get("trial"):
        raise PlanError(
            f"{wanted.version} cannot be taken while another release is on trial",
            found=f"{_active_version(status)} on trial",
            expected="no trial: the other slot holds the release to fall back to",
            hint="confirm it (state active with its version) or go back (state rolled_back), then ask again",
        )


def _active_version(status: dict[str, Any]) -> str:
    return str(status["active"]["version"])


def _previous(status: dict[str, Any]) -> list[str]:
    return [each["version"] for each in status.get("previous") or []]


def _held_by_slots(status: dict[str, Any]) -> set[str]:
    return {slot["version"] for slot in (status.get("slots") or {}).values() if slot.get("version")}


def _installed(status: dict[str, Any]) -> set[str]:
    slots = (status.get("slots") or {}).values()
    return {slot["version"] for slot in slots if slot.get("version") and slot.get("status") in PROVEN}


def _ascending(versions: Any) -> list[str]:
    return sorted(versions, key=lambda version: [int(part) if part.isdigit() else -1 for part in version.split(".")])
