"""Operations that end between their record and the traffic, and a device that is at fault itself."""

from __future__ import annotations

import fcntl
import shutil
import time

import pytest

from demo import releases
from demo.load import Load
from demo.place import MODEL, RECIPES, SAMPLES
from surefoot.config import load as load_config
from surefoot.durable import Disk
from surefoot.errors import DeviceUnable
from surefoot.slots.store import Store


def recorded_only(device) -> None:
    """What a killed `model activate` leaves: the record says v2, the traffic still goes to v1."""
    config = load_config(device.config)
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
    config = load_config(device.config)
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


def three_releases_the_last_on_trial(device, signed_repository, tmp_path):
    """Confirmed: 1.0.0 and 2.0.0, the first in the archive by now. On trial: 3.0.0."""
    third = shutil.copytree(RECIPES, tmp_path / "third") / "release-v2.toml"
    third.write_text(third.read_text().replace('version = "2.0.0"', 'version = "3.0.0"', 1))
    repository = signed_repository.copy_to(tmp_path / "three")
    releases.release(third, tmp_path / "built", repository.keys, repository.path)
    device.deploy("2.0.0", repository)
    device.install("3.0.0", repository)
    device.json("model", "activate", MODEL, "--version", "3.0.0")
    assert device.model_status["active"]["status"] == "trial"
    assert [(each["version"], each["where"]) for each in device.model_status["previous"]] == [
        ("2.0.0", "b"),
        ("1.0.0", "archive"),
    ]


def test_two_steps_back_out_of_a_trial_lead_to_the_confirmed_one_before_the_last(
    device_with_v1, signed_repository, tmp_path
):
    device = device_with_v1
    three_releases_the_last_on_trial(device, signed_repository, tmp_path)
    load = Load(device.url, MODEL, next(SAMPLES.glob("*.png")).read_bytes())
    with load.running():
        done = device.json("model", "rollback", MODEL, "--steps", "2")
    assert (done["version"], done["status"], done["serving"]) == ("1.0.0", "confirmed", True)
    assert load.failed == []
    assert device.model_status["active"]["version"] == device.served_version == "1.0.0"
    assert device.model_status["held"] is True
    assert device.model_status["quarantine"] == []


def test_two_steps_back_without_moving_the_traffic_between_them_meet_the_trials_worker(
    device_with_v1, signed_repository, tmp_path
):
    """The mutant: what `model rollback` would do without its step in between. The archive needs the trial's slot."""
    device = device_with_v1
    three_releases_the_last_on_trial(device, signed_repository, tmp_path)
    config = load_config(device.config)
    with pytest.raises(DeviceUnable, match="slot"):
        Store(config.models_dir, MODEL, storage=config.storage, slot_wait_s=0.5).rollback(2)
    wait_for(device, "2.0.0", 20)  # and what was confirmed last serves


def test_the_server_lets_go_of_a_model_whose_removal_was_cut_off_before_it_was_told(device_with_v1):
    Disk().remove_directory(device_with_v1.folder / "models" / MODEL)
    deadline = time.monotonic() + 20
    while "error" not in device_with_v1.get(f"/v2/models/{MODEL}"):
        assert time.monotonic() < deadline, "what is gone is still served"
        time.sleep(0.1)
    assert device_with_v1.json("status")["models"] == []


def test_a_disk_that_does_not_answer_is_no_removal(tmp_path):
    models = tmp_path / "models"
    (models / "m" / "a").mkdir(parents=True)
    assert not Store.gone(models, "m")
    assert Store.gone(models, "n")
    (models / "m" / "a").rmdir()
    (models / "m" / "operation.lock").touch()
    assert Store.gone(models, "m")  # a lock taken a moment too late makes no model
    with pytest.raises(OSError, match="No such file"):
        Store.gone(tmp_path / "not-mounted", "m")


def test_a_mistyped_name_is_refused_and_leaves_nothing(device_with_v1):
    for verb in (
        ("activate",), ("confirm",), ("rollback",), ("reject", "--reason", "x"),
        ("status",), ("history",), ("verify",), ("lift-quarantine", "00"),
    ):  # fmt: skip
        error = device_with_v1.json("model", verb[0], "fashion-mnits", *verb[1:], status=2)
        assert MODEL in error["found"]
    assert [path.name for path in (device_with_v1.folder / "models").iterdir()] == [MODEL]
