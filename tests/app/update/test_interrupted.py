"""Operations that end between their record and the traffic, and a device that is at fault itself."""

from __future__ import annotations

import fcntl
import time

from demo.place import MODEL
from surefoot.config import load
from surefoot.slots.store import Store


def recorded_only(device) -> None:
    """What a killed `model activate` leaves: the record says v2, the traffic still goes to v1."""
    config = load(device.config)
    store = Store(config.models_dir, MODEL, storage=config.storage)
    store.activate(store.read().inactive)


def wait_for(device, version: str, most_s: float) -> None:
    deadline = time.monotonic() + most_s
    while device.served_version != version:
        assert time.monotonic() < deadline, f"{device.served_version} still serves"
        time.sleep(0.1)


def test_the_server_catches_up_with_an_activation_that_was_cut_off(device_with_v1, signed_repository):
    device_with_v1.install("2.0.0", signed_repository)
    recorded_only(device_with_v1)
    wait_for(device_with_v1, "2.0.0", 20)
    assert device_with_v1.model_status["trial"]["tries"] == 1


def test_confirming_an_activation_that_was_cut_off_moves_the_traffic_first(device_with_v1, signed_repository):
    device_with_v1.install("2.0.0", signed_repository)
    recorded_only(device_with_v1)
    assert device_with_v1.json("model", "confirm", MODEL, "--wait", "20")["serving"] is True
    assert device_with_v1.served_version == "2.0.0"


def test_a_device_at_fault_puts_an_activation_off_and_blames_nobody(device_with_v1, signed_repository):
    """Somebody else holds the slot's lock, so the worker cannot take it: no evidence against the release."""
    device = device_with_v1
    device.install("2.0.0", signed_repository)
    config = load(device.config)
    store = Store(config.models_dir, MODEL)
    with store.slot_lock_path(store.read().inactive).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = device.json("model", "activate", MODEL, status=4)
    assert error["found"]
    assert device.model_status["quarantine"] == []
    assert device.model_status["active"]["version"] == device.served_version == "1.0.0"
    assert device.model_status["active"]["status"] == "confirmed"
    device.deploy("2.0.0", signed_repository)
    assert device.served_version == "2.0.0"


def test_more_steps_back_than_there_are_is_refused_and_nothing_moves(device_with_v1, signed_repository):
    """A release confirmed here before serves at once when it is activated again, and one step leads back from it."""
    device = device_with_v1
    device.deploy("2.0.0", signed_repository)
    device.json("model", "rollback", MODEL)
    device.json("model", "activate", MODEL, "--version", "2.0.0")
    assert device.json("model", "rollback", MODEL, "--steps", "2", status=4)["hint"]
    assert device.model_status["active"]["version"] == device.served_version == "2.0.0"
    device.json("model", "rollback", MODEL)
    assert device.model_status["active"]["version"] == device.served_version == "1.0.0"


def test_a_mistyped_name_is_refused_and_leaves_nothing(device_with_v1):
    for verb in (("activate",), ("confirm",), ("rollback",), ("reject", "--reason", "x")):
        error = device_with_v1.json("model", verb[0], "fashion-mnits", *verb[1:], status=2)
        assert MODEL in error["found"]
    assert [path.name for path in (device_with_v1.folder / "models").iterdir()] == [MODEL]
