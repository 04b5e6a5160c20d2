"""What surefoot_model plans and predicts, as functions of plain values."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "plugins" / "module_utils" / "model_plan.py"
_spec = importlib.util.spec_from_file_location("surefoot_model_plan", SOURCE)
assert _spec and _spec.loader
model_plan: Any = importlib.util.module_from_spec(_spec)
sys.modules["surefoot_model_plan"] = model_plan
_spec.loader.exec_module(model_plan)


def status(
    active: str | None = None,
    *,
    waiting: str | None = None,
    waiting_status: str = "ready",
    trial: bool = False,
    previous: tuple[str, ...] = (),
    held: bool = False,
) -> dict[str, Any]:
    """A status as ``surefoot model status --json`` prints it: slot a serves, slot b waits."""
    empty = {"slot": "b", "status": "empty", "version": None}
    a = (
        {"slot": "a", "status": "trial" if trial else "confirmed", "version": active}
        if active
        else {**empty, "slot": "a"}
    )
    b = {"slot": "b", "status": waiting_status, "version": waiting} if waiting else empty
    return {
        "active": a if active else None,
        "slots": {"a": a, "b": b},
        "trial": {"tries": 1, "allowed": 3} if trial else None,
        "previous": [{"version": version, "where": "slot"} for version in previous],
        "held": held,
    }


def steps(found: dict[str, Any], state: str, version: str | None = None, **more: Any) -> list[str]:
    more.setdefault("repository", "/repository")
    return [str(step) for step in model_plan.plan(found, model_plan.Wanted(state, version, **more)).steps]


NOTHING = status()
V1 = status("1.0.0")
V2_OVER_V1 = status("2.0.0", waiting="1.0.0", waiting_status="confirmed", previous=("1.0.0",))
V2_ON_TRIAL = status("2.0.0", waiting="1.0.0", waiting_status="confirmed", trial=True, previous=("1.0.0",))
BACK_ON_V1 = status("1.0.0", waiting="2.0.0", waiting_status="confirmed", held=True)


@pytest.mark.parametrize(
    ("found", "version", "expected"),
    [
        (NOTHING, "1.0.0", ["install 1.0.0", "activate 1.0.0", "confirm 1.0.0"]),
        (V1, "1.0.0", []),
        (V1, "2.0.0", ["install 2.0.0", "activate 2.0.0", "confirm 2.0.0"]),
        (status("1.0.0", waiting="2.0.0"), "2.0.0", ["activate 2.0.0", "confirm 2.0.0"]),
        (V2_ON_TRIAL, "2.0.0", ["confirm 2.0.0"]),
        (BACK_ON_V1, "2.0.0", ["activate 2.0.0", "confirm 2.0.0"]),
        (BACK_ON_V1, "1.0.0", []),
    ],
)
def test_active_takes_the_steps_that_are_missing(found: dict[str, Any], version: str, expected: list[str]) -> None:
    assert steps(found, "active", version) == expected


@pytest.mark.parametrize("half_way", ["filling", "staged", "archiving"])
def test_a_slot_whose_gate_has_not_passed_is_installed_again(half_way: str) -> None:
    found = status("1.0.0", waiting="2.0.0", waiting_status=half_way)
    assert steps(found, "active", "2.0.0")[0] == "install 2.0.0"
    assert steps(found, "present", "2.0.0") == ["install 2.0.0"]


@pytest.mark.parametrize("waiting_status", ["ready", "confirmed"])
def test_present_is_content_with_a_proven_slot(waiting_status: str) -> None:
    assert steps(status("1.0.0", waiting="2.0.0", waiting_status=waiting_status), "present", "2.0.0") == []
    assert steps(V1, "present", "1.0.0") == []
    assert steps(V1, "present", "2.0.0") == ["install 2.0.0"]


@pytest.mark.parametrize("state", ["present", "active"])
def test_another_release_is_refused_during_a_trial(state: str) -> None:
    with pytest.raises(model_plan.PlanError) as refused:
        steps(V2_ON_TRIAL, state, "3.0.0")
    assert "2.0.0 on trial" in refused.value.error["found"]
    assert refused.value.error["hint"]


def test_going_forward_to_the_fallback_during_a_trial_is_a_rollback_and_must_be_asked_for_as_one() -> None:
    with pytest.raises(model_plan.PlanError, match="on trial"):
        steps(V2_ON_TRIAL, "active", "1.0.0")


def test_an_install_without_a_repository_is_refused_and_a_switch_is_not() -> None:
    with pytest.raises(model_plan.PlanError) as refused:
        steps(V1, "active", "2.0.0", repository=None)
    assert refused.value.error["hint"] == "set repository"
    assert steps(status("1.0.0", waiting="2.0.0"), "active", "2.0.0", repository=None)


def test_rolled_back_returns_to_what_was_confirmed_before() -> None:
    made = model_plan.plan(V2_OVER_V1, model_plan.Wanted("rolled_back"))
    assert made.steps == [model_plan.Step("rollback", "1.0.0", 1)]
    assert made.why == "2.0.0 serves, 1.0.0 was confirmed before it"


def test_asking_for_a_rollback_twice_does_not_go_back_twice() -> None:
    held = status("2.0.0", previous=("1.0.0",), held=True)
    assert steps(held, "rolled_back") == []
    # A mutant that forgets `held` would go on to 1.0.0:
    assert steps({**held, "held": False}, "rolled_back") == ["rollback 1.0.0"]


def test_a_rollback_may_name_its_release() -> None:
    found = status("3.0.0", previous=("2.0.0", "1.0.0"))
    made = model_plan.plan(found, model_plan.Wanted("rolled_back", "1.0.0"))
    assert made.steps == [model_plan.Step("rollback", "1.0.0", 2)]
    assert steps(found, "rolled_back", "3.0.0") == []
    held = status("2.0.0", previous=("1.0.0",), held=True)
    assert steps(held, "rolled_back", "1.0.0") == ["rollback 1.0.0"]


def test_a_trial_is_rolled_back_to_the_confirmed_one() -> None:
    assert steps(V2_ON_TRIAL, "rolled_back") == ["rollback 1.0.0"]
    assert steps({**V2_ON_TRIAL, "held": True}, "rolled_back") == ["rollback 1.0.0"]


@pytest.mark.parametrize(
    ("found", "version", "count"),
    [(NOTHING, None, 1), (V1, None, 1), (V2_OVER_V1, None, 2), (V2_OVER_V1, "0.9.0", 1)],
)
def test_a_rollback_to_nothing_is_refused(found: dict[str, Any], version: str | None, count: int) -> None:
    with pytest.raises(model_plan.PlanError) as refused:
        steps(found, "rolled_back", version, steps=count)
    assert all(refused.value.error[field] for field in ("what", "found", "expected", "hint"))


def test_a_rollback_to_a_release_that_the_archive_has_dropped_is_refused() -> None:
    found = {**V2_OVER_V1, "previous": [{"version": "1.0.0", "where": "gone"}]}
    with pytest.raises(model_plan.PlanError, match="not on the device any more"):
        steps(found, "rolled_back")


def test_absent_removes_whatever_is_there() -> None:
    assert steps(NOTHING, "absent") == []
    assert steps(V1, "absent") == ["remove"]
    assert steps(status(waiting="1.0.0", waiting_status="staged"), "absent") == ["remove"]


@pytest.mark.parametrize(
    ("found", "state", "version", "expected"),
    [
        (
            NOTHING,
            "active",
            "1.0.0",
            {"serves": "1.0.0 (confirmed)", "installed": ["1.0.0"], "returns_to": None, "held": False},
        ),
        (
            V1,
            "active",
            "2.0.0",
            {"serves": "2.0.0 (confirmed)", "installed": ["1.0.0", "2.0.0"], "returns_to": "1.0.0", "held": False},
        ),
        (
            V2_OVER_V1,
            "active",
            "10.0.0",
            {"serves": "10.0.0 (confirmed)", "installed": ["2.0.0", "10.0.0"], "returns_to": "2.0.0", "held": False},
        ),
        (
            V2_OVER_V1,
            "rolled_back",
            None,
            {"serves": "1.0.0 (confirmed)", "installed": ["1.0.0", "2.0.0"], "returns_to": None, "held": True},
        ),
        (
            BACK_ON_V1,
            "active",
            "2.0.0",
            {"serves": "2.0.0 (confirmed)", "installed": ["1.0.0", "2.0.0"], "returns_to": "1.0.0", "held": False},
        ),
        (
            V1,
            "present",
            "2.0.0",
            {"serves": "1.0.0 (confirmed)", "installed": ["1.0.0", "2.0.0"], "returns_to": None, "held": False},
        ),
        (V2_OVER_V1, "absent", None, {"serves": None, "installed": [], "returns_to": None, "held": False}),
    ],
)
def test_the_prediction_says_what_will_be(
    found: dict[str, Any], state: str, version: str | None, expected: dict[str, Any]
) -> None:
    made = model_plan.plan(found, model_plan.Wanted(state, version, repository="/repository"))
    assert model_plan.predict(found, made.steps) == expected


def test_no_steps_predict_no_change() -> None:
    for found in (NOTHING, V1, V2_OVER_V1, V2_ON_TRIAL, BACK_ON_V1):
        assert model_plan.predict(found, []) == model_plan.view(found)
