"""The app forward and back by the playbooks, on a real device without a network; the models go their own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from surefoot import __version__
from tests.parts import artifacts
from tests.roles.fleet import Fleet

pytestmark = pytest.mark.timeout(1800)


def current(fleet: Fleet) -> str:
    return fleet.run("box-1", "readlink /data/surefoot/apps/current")


def test_the_app_and_the_models_are_returned_apart_and_together_and_offline(
    make_fleet: Callable[[str], Fleet],
) -> None:
    fleet = make_fleet("test-fleet-app")
    fleet.add("box-1", "systemd")
    fleet.good("provision")
    fleet.good("deploy")
    first = current(fleet)

    alone = fleet.play("rollback", surefoot_what="app")
    assert alone.status == 2
    assert f"there is no app to return to; found: nothing before {first}" in alone.said

    newer: dict[str, Any] = {
        "inference_app_bundle": str(artifacts.bundle(variant="second")),
        "surefoot_version": "2.0.0",
    }
    fleet.good("deploy", **newer)
    second = current(fleet)
    assert second != first and fleet.serves("box-1") == "2.0.0"

    fleet.run("box-1", "ip route flush default; ! ip route get 192.0.2.1")
    foretold = fleet.good("rollback", "--check", "--diff", surefoot_what="app")
    assert current(fleet) == second
    back = fleet.good("rollback", "--diff", surefoot_what="app")
    assert back.changes == foretold.changes != set()
    assert (current(fleet), fleet.serves("box-1")) == (first, "2.0.0")  # the model stays
    again = fleet.good("rollback", surefoot_what="app")
    assert again.changes == set() and f"{first} serves, returned to from {second} earlier" in again.said
    assert f" no {__version__} " in fleet.good("status").said

    fleet.good("rollback")  # as ever: the models alone
    assert (current(fleet), fleet.serves("box-1")) == (first, "1.0.0")

    fleet.good("deploy", **newer)
    assert (current(fleet), fleet.serves("box-1")) == (second, "2.0.0")
    fleet.good("rollback", surefoot_what="all")
    assert (current(fleet), fleet.serves("box-1")) == (first, "1.0.0")
    assert fleet.good("rollback", surefoot_what="all").changes == set()
