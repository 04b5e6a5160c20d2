"""The one transition table: what may happen to a slot, what becomes of it, and what to do about it after a cut.

Pure: no file, clock or lock. ``apply`` follows the table's ``on`` column, ``recover`` its ``whole`` and ``broken``
columns, so that there is no second place that knows what a cut leaves behind. Health (the status) and position (which
slot is active) are two things; a rule names the position it wants and what becomes of it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from surefoot.errors import BadRequest, DeviceUnable
from surefoot.slots.state import (
    MOST_KNOWN,
    MOST_LINEAGE,
    MOST_QUARANTINED,
    MOST_REASON,
    SLOTS,
    Refused,
    ReleaseRef,
    Slot,
    SlotState,
    State,
    Status,
    TrialState,
    advance,
    newest,
    other,
)

Kind = Literal[
    "archive",  # the confirmed content of the inactive slot is about to move to the archive
    "unarchive",  # it had not moved yet
    "fill",  # a release is about to be written
    "stage",  # every file of it is there
    "restore",  # it was confirmed here before: no gate, no trial
    "pass",  # its gate passed
    "refuse",  # its gate failed: quarantined
    "clear",  # given up, without blame
    "activate",
    "again",  # on trial once more, by the device itself, after its tries were used up
    "try",  # a trial load is about to begin
    "confirm",
    "reject",  # evidence against the active release: quarantined
    "revert",  # the trial is put off, without blame
    "exhaust",  # the same, because its tries are used up: counted
    "rollback",  # an operator's will: held
    "lose",  # the content is not what it was
]
Where = Literal["active", "inactive", "either"]
Position = Literal["stay", "take", "give"]  # take: becomes active; give: the other slot does


class Rule(NamedTuple):
    """What becomes of a slot, where it must be for that, and who is active afterwards."""

    to: Status
    where: Where
    position: Position = "stay"


class Row(NamedTuple):
    """``on``: what may happen. ``whole``, ``broken``: what recovery does when the content verifies, and when not."""

    on: dict[Kind, Rule]
    whole: Kind | Literal["drop"] | None
    broken: Kind | Literal["drop"] | None


FILL = Rule("filling", "inactive")
CLEAR = Rule("empty", "inactive")
TABLE: dict[Status, Row] = {
    "empty": Row({"fill": FILL}, whole="drop", broken="drop"),
    "filling": Row({"fill": FILL, "stage": Rule("staged", "inactive"), "clear": CLEAR}, whole="clear", broken="clear"),
    "staged": Row(
        {
            "fill": FILL,
            "pass": Rule("ready", "inactive"),
            "restore": Rule("confirmed", "inactive"),
            "refuse": CLEAR,
            "clear": CLEAR,
        },
        whole=None,
        broken="clear",
    ),
    "ready": Row(
        {
            "fill": FILL,
            "activate": Rule("trial", "inactive", "take"),
            "again": Rule("trial", "inactive", "take"),
            "refuse": CLEAR,
            "clear": CLEAR,
        },
        whole=None,
        broken="clear",
    ),
    "trial": Row(
        {
            "try": Rule("trial", "active"),
            "confirm": Rule("confirmed", "active"),
            "reject": Rule("empty", "active", "give"),
            "revert": Rule("ready", "active", "give"),
            "exhaust": Rule("ready", "active", "give"),
            "rollback": Rule("ready", "active", "give"),
            "lose": Rule("empty", "active", "give"),
        },
        whole=None,
        broken="lose",
    ),
    "confirmed": Row(
        {
            "archive": Rule("archiving", "inactive"),
            "fill": FILL,
            "activate": Rule("confirmed", "inactive", "take"),
            "reject": Rule("empty", "active", "give"),
            "rollback": Rule("confirmed", "active", "give"),
            "lose": Rule("empty", "either", "give"),
        },
        whole=None,
        broken="lose",
    ),
    "archiving": Row(
        {"unarchive": Rule("confirmed", "inactive"), "fill": FILL, "clear": CLEAR}, whole="unarchive", broken="clear"
    ),
}
# Why a kind is refused where the table has no row for it, and what to do.
HINTS: dict[Kind, str] = {
    "activate": "install the release first: surefoot model install",
    "confirm": "activate a release first",
    "reject": "see surefoot model status",
    "revert": "see surefoot model status",
    "exhaust": "see surefoot model status",
    "again": "activate it: surefoot model activate",
    "rollback": "see surefoot model status",
    "fill": "confirm, reject or roll back the trial first",
}


class Change(msgspec.Struct, frozen=True):
    """Something that happens to a slot.

    ``time``: UTC, RFC 3339, for the quarantine. ``keep``: how many confirmed releases the lineage goes back through,
    the confirmed one included; ``retries``: how often a release is tried again; the rest as its kind needs.
    """

    kind: Kind
    slot: Slot
    release: ReleaseRef | None = None
    reason: str = ""
    allowed: int = 3
    boot: str = ""
    time: str = ""
    keep: int = MOST_LINEAGE
    retries: int = 0


def apply(state: State, change: Change) -> State:
    """The state after a change.

    Raises:
        DeviceUnable: the device is not in a position to: a trial runs, nothing to return to, a digest refused.
        BadRequest: it makes no sense for that slot.
    """
    slot, now = change.slot, state.slots[change.slot]
    position: Where = "active" if state.active == slot else "inactive"
    if state.trial is not None and change.kind in ("fill", "archive", "activate", "again", "restore"):
        raise DeviceUnable(
            f"cannot {change.kind} while a trial runs", found=f"{state.serving} on trial", hint=HINTS["fill"]
        )
    rule = TABLE[now.status].on.get(change.kind)
    if rule is None or rule.where not in ("either", position):
        family = DeviceUnable if change.kind in ("fill", "archive", "restore") else BadRequest
        raise family(
            f"cannot {change.kind} slot {slot}",
            found=f"slot {slot} is {now.status} and {position}",
            expected=_expected(change.kind),
            hint=HINTS.get(change.kind, ""),
        )
    release = change.release if change.kind == "fill" else now.release
    _guard(state, change, release)
    after = SlotState(rule.to, None if rule.to == "empty" else release, _put_off(now.put_off, change.kind))
    if change.kind in ("activate", "again") and release is not None and state.was_confirmed(release.digest):
        after = SlotState("confirmed", release)  # it passed its trial on this very device
    values: dict[str, object] = {"slots": {slot: after, other(slot): state.slots[other(slot)]}}
    if rule.position == "take":
        values |= {"active": slot, "held": False, "problem": ""}
        values["trial"] = TrialState(allowed=change.allowed) if after.status == "trial" else None
    elif rule.position == "give" and position == "active":
        back = state.slots[other(slot)].status == "confirmed"
        values |= {"active": other(slot) if back else None, "trial": None}
        if not back:
            values["problem"] = change.reason[:MOST_REASON] or f"the release in slot {slot} is gone"
    if change.kind == "try" and state.trial is not None:
        values["trial"] = TrialState(state.trial.tries + 1, state.trial.allowed, change.boot)
    if change.kind == "confirm":
        values |= {"trial": None, "problem": ""}
    if after.status == "confirmed" and state.active is None:
        values |= {"active": slot, "problem": ""}  # nothing served, and this may
    if change.kind == "rollback":
        values["held"] = True
    if change.kind in ("refuse", "clear") and state.active is None:
        values["problem"] = change.reason[:MOST_REASON]
    if change.kind in ("refuse", "reject") and release is not None:
        entry = Refused(release.digest, release.version, change.reason[:MOST_REASON], change.time)
        values["quarantine"] = (*(e for e in state.quarantine if e.digest != entry.digest), entry)[-MOST_QUARANTINED:]
    after_state: State = msgspec.structs.replace(state, **values)
    return _ordered(state, after_state, change, release)


def _put_off(times: int, kind: Kind) -> int:
    """What the device itself began again and does not come to confirm is put off once more, whatever the reason."""
    if kind == "exhaust" or (kind == "revert" and times):
        return times + 1
    return times if kind in ("again", "try") else 0


def _expected(kind: Kind) -> str:
    allowed = [(status, row.on[kind].where) for status, row in TABLE.items() if kind in row.on]
    return "a slot that is " + " or ".join(
        status if where == "either" else f"{status} and {where}" for status, where in allowed
    )


def _guard(state: State, change: Change, release: ReleaseRef | None) -> None:
    if change.kind == "fill" and release is None:
        raise BadRequest("a slot is filled with a release", found="none")
    if release is not None and change.kind in ("activate", "again", "fill", "restore", "pass"):
        entry = state.refused(release.digest)
        if entry is not None:
            raise quarantined(entry)
    if change.kind == "restore" and release is not None and not state.was_confirmed(release.digest):
        raise BadRequest(f"{release} was never confirmed here", hint="let it pass its gate and a trial")
    times = state.slots[change.slot].put_off
    if change.kind == "again" and (state.waiting != change.slot or times > change.retries):
        raise DeviceUnable(
            f"slot {change.slot} is not tried again by itself",
            found="an operator's rollback holds" if state.held else f"it was put off {times} times",
            expected=f"a release that was put off at most {change.retries} times, beside a confirmed one that serves",
            hint=HINTS["again"],
        )
    fallback = state.slots[other(change.slot)].status == "confirmed"
    confirmed = state.slots[change.slot].status == "confirmed"
    if not fallback and (change.kind == "rollback" or (change.kind == "reject" and confirmed)):
        raise nothing_before(state)


def quarantined(entry: Refused) -> DeviceUnable:
    """The refusal of a digest in quarantine."""
    return DeviceUnable(
        f"release {entry.version} is quarantined on this device",
        found=f"digest {entry.digest}, refused on {entry.time}: {entry.reason}",
        hint=f"publish a corrected release, or lift it: surefoot model lift-quarantine {entry.digest[:12]}",
    )


def nothing_before(state: State) -> DeviceUnable:
    """The refusal to go back where nothing is left."""
    return DeviceUnable(
        "there is no earlier confirmed release to return to",
        found=f"confirmed: {', '.join(map(str, state.lineage)) or 'none'}",
        hint="install the release you want; the active one goes on serving",
    )


def _ordered(before: State, after: State, change: Change, release: ReleaseRef | None) -> State:
    """Lineage, floor and known releases after a change."""
    lineage, known = after.lineage, after.known
    now = after.serving
    confirmed = now is not None and after.trial is None
    if change.kind in ("confirm", "activate", "again") and now is not None and confirmed:
        lineage = advance(lineage, now, change.keep)
        known = advance(known, now, MOST_KNOWN)
    elif release is not None and (
        change.kind in ("reject", "refuse") or (change.kind == "lose" and before.active == change.slot)
    ):
        lineage = tuple(ref for ref in lineage if ref.digest != release.digest)
    gave_way = change.kind in ("rollback", "reject", "lose", "revert", "exhaust") and before.active == change.slot
    if now is not None and (gave_way or (before.active is None and change.kind in ("restore", "unarchive"))):
        places = [place for place, ref in enumerate(lineage) if ref.digest == now.digest]
        lineage = lineage[: places[0] + 1] if places else advance(lineage, now, MOST_LINEAGE)
    floor = newest(after.floor, now.version if now is not None and confirmed else None)
    result: State = msgspec.structs.replace(after, lineage=lineage, known=known, floor=floor)
    return result


def step_back(state: State, steps: int) -> ReleaseRef:
    """The release that a rollback of so many steps returns to; from a trial, one step is the confirmed one.

    Raises:
        BadRequest: not a number of steps.
        DeviceUnable: fewer releases were confirmed before.
    """
    if steps < 1:
        raise BadRequest("a rollback goes at least one step back", found=str(steps))
    before = state.lineage if state.trial is not None else state.lineage[:-1]
    if state.active is None or len(before) < steps:
        raise nothing_before(state)
    return before[-steps]


def check(state: State) -> list[str]:
    """What in a state is in no row of the table; empty when all is well."""
    wrong = []
    for slot in SLOTS:
        now = state.slots.get(slot)
        if now is None:
            return [f"slot {slot} is missing"]
        if (now.release is None) != (now.status == "empty"):
            wrong.append(f"slot {slot} is {now.status} with release {now.release}")
        if state.active == slot and now.status not in ("trial", "confirmed"):
            wrong.append(f"slot {slot} is active and {now.status}")
        if state.active != slot and now.status == "trial":
            wrong.append(f"slot {slot} is on trial and does not serve")
    serving = state.slots[state.active].status if state.active else None
    if (state.trial is not None) != (serving == "trial"):
        wrong.append("the trial's tries and the active slot's status do not agree")
    if state.active is None and any(state.slots[slot].status == "confirmed" for slot in SLOTS):
        wrong.append("a confirmed slot does not serve")
    return wrong
