"""The release before stays loaded: a rollback takes its worker, and an install takes its slot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import msgspec
import pytest

from surefoot.config import Standby
from surefoot.durable import locked
from surefoot.serving.client import Client
from surefoot.update import rollback
from tests.app.serving.device import Device, classifier_release, picture, settles
from tests.app.serving.load import asking

V2, V3 = classifier_release("2.0.0", seed=2), classifier_release("3.0.0", seed=3)
PLENTY = Standby(least_available_bytes=0)


@pytest.fixture
def started(make_server: Callable[..., Device]) -> Callable[..., Device]:
    """A server with 1.0.0 that serves, and this setting."""

    def start(standby: Standby = PLENTY) -> Device:
        device = make_server()
        device.config = msgspec.structs.replace(device.config, standby=standby)
        device.confirm(classifier_release())
        device.start()
        return device

    return start


def swapped(device: Device) -> Device:
    """To 2.0.0, confirmed."""
    device.activate(V2)
    assert device.admin.swap("tiny").swapped
    device.store().confirm("a test says so")
    return device


def standing_by(device: Device) -> int | None:
    standby = device.admin.status().models[0].standby
    return standby.pid if standby else None


def version(device: Device) -> str:
    return str(Client(device.url).model("tiny")["versions"][0])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_rollback_takes_the_worker_that_stands_by_and_back_again(started: Callable[..., Device]) -> None:
    device = started()
    first = device.admin.status().models[0].pid
    answer = Client(device.url).classify(picture(1), "tiny").probabilities
    swapped(device)
    second = device.admin.status().models[0].pid
    assert settles(lambda: standing_by(device) == first)
    with asking(device) as seen:
        assert settles(lambda: seen.versions == ["2.0.0"])
        done = rollback(device.config, "tiny")
        assert done.serving and done.swap is not None and done.swap.reason == "its worker stood by"
        assert settles(lambda: seen.versions == ["2.0.0", "1.0.0"])
    assert set(seen.statuses) == {200}, seen.statuses
    assert device.admin.status().models[0].pid == first and version(device) == "1.0.0"
    assert Client(device.url).classify(picture(1), "tiny").probabilities == answer
    assert settles(lambda: standing_by(device) == second), "2.0.0 was confirmed, and may be returned to"
    device.store().activate("b")
    assert device.admin.swap("tiny").reason == "its worker stood by"
    assert settles(lambda: standing_by(device) == first)


def test_what_serves_holds_its_slot_and_what_stands_by_holds_none(started: Callable[..., Device]) -> None:
    device = swapped(started())
    assert settles(lambda: standing_by(device) is not None)
    with locked(device.store().slot_lock_path("a"), wait_s=0):
        pass
    rollback(device.config, "tiny")
    with pytest.raises(Exception, match="in use"), locked(device.store().slot_lock_path("a"), wait_s=0):
        pass
    with locked(device.store().slot_lock_path("b"), wait_s=10):
        pass


def test_a_slot_that_somebody_holds_alone_is_not_taken_and_the_rollback_loads_anew(
    started: Callable[..., Device],
) -> None:
    """Nobody may serve from a slot that is being filled; here the holder lets go before a new worker gives up."""
    device = swapped(started())
    assert settles(lambda: standing_by(device) is not None)
    first = standing_by(device)
    device.store().rollback()
    with locked(device.store().slot_lock_path("a"), wait_s=0):
        from threading import Thread

        swap = Thread(target=lambda: device.admin.swap("tiny"))
        swap.start()
        assert settles(lambda: first is not None and not alive(first)), "the one that stood by may not have the slot"
    swap.join()
    assert version(device) == "1.0.0" and device.admin.status().models[0].pid != first


def test_an_install_over_it_lets_it_go(started: Callable[..., Device]) -> None:
    device = swapped(started())
    assert settles(lambda: standing_by(device) is not None)
    first = standing_by(device)
    device.fill(V3)
    assert settles(lambda: standing_by(device) is None)
    assert first is not None and settles(lambda: not alive(first))
    assert version(device) == "2.0.0"


def test_one_that_was_killed_is_loaded_anew(started: Callable[..., Device]) -> None:
    device = swapped(started())
    assert settles(lambda: standing_by(device) is not None)
    first = standing_by(device)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert rollback(device.config, "tiny").serving and version(device) == "1.0.0"
    assert device.admin.status().models[0].pid != first and device.admin.status().models[0].restarts == 0


def test_the_worker_that_came_back_is_watched_like_any_other(started: Callable[..., Device]) -> None:
    device = swapped(started())
    assert settles(lambda: standing_by(device) is not None)
    rollback(device.config, "tiny")
    pid = device.admin.status().models[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert settles(lambda: device.admin.status().models[0].pid not in (pid, None))
    assert version(device) == "1.0.0" and device.admin.status().models[0].restarts == 1


@pytest.mark.parametrize(
    "settings",
    [
        Standby(seconds=0),
        Standby(least_available_bytes=1 << 50),
        Standby(least_available_bytes=0, most_memory_bytes=1 << 20),
        Standby(least_available_bytes=0, seconds=0.001),
    ],
    ids=["never", "scarce", "large", "over"],
)
def test_none_stands_by_where_it_may_not(settings: Standby, started: Callable[..., Device]) -> None:
    device = started(settings)
    first = device.admin.status().models[0].pid
    swapped(device)
    assert first is not None and settles(lambda: not alive(first))
    assert standing_by(device) is None
    assert rollback(device.config, "tiny").serving and version(device) == "1.0.0"


def test_a_trial_that_was_put_off_does_not_stand_by(started: Callable[..., Device]) -> None:
    device = started()
    device.activate(V2)
    assert device.admin.swap("tiny").swapped
    second = device.admin.status().models[0].pid
    assert settles(lambda: standing_by(device) is not None)
    rollback(device.config, "tiny")
    assert second is not None and settles(lambda: not alive(second))
    assert standing_by(device) is None
