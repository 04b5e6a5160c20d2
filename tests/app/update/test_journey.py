"""The model's journey on a real, serving device: every step, and what both sides say after it."""

from __future__ import annotations

from demo.load import Load
from demo.place import MODEL, SAMPLES


def agree(device) -> str:
    """The version, when the store and the protocol say the same."""
    told = device.model_status["active"]["version"]
    assert device.served_version == told
    return told


def test_status_and_protocol_agree_on_the_version_after_every_step(device, signed_repository):
    device.serve()
    device.install("1.0.0", signed_repository)
    assert device.model_status["active"] is None
    for version in ("1.0.0", "2.0.0"):
        device.install(version, signed_repository)
        device.json("model", "activate", MODEL, "--version", version)
        assert agree(device) == version
        assert device.model_status["active"]["status"] == "trial"
        device.json("model", "confirm", MODEL, "--wait", "20")
        assert agree(device) == version
        assert device.model_status["active"]["status"] == "confirmed"
    device.json("model", "rollback", MODEL)
    assert agree(device) == "1.0.0"
    assert device.model_status["held"] is True
    device.json("model", "activate", MODEL, "--version", "2.0.0")
    assert agree(device) == "2.0.0"
    assert device.model_status["held"] is False
    device.json("model", "reject", MODEL, "--reason", "an outside accuracy verdict")
    assert agree(device) == "1.0.0"
    assert [entry["version"] for entry in device.model_status["quarantine"]] == ["2.0.0"]


def test_installing_what_is_there_changes_nothing(device_with_v1, signed_repository):
    before = device_with_v1.model_status
    assert device_with_v1.install("1.0.0", signed_repository)["changed"] is False
    assert device_with_v1.model_status == before


def test_latest_is_the_highest_version(device, signed_repository):
    assert device.install("latest", signed_repository)["version"] == "2.0.0"


def test_no_request_fails_while_the_version_changes_and_goes_back(device_with_v1, signed_repository):
    image = next(SAMPLES.glob("*.png")).read_bytes()
    load = Load(device_with_v1.url, MODEL, image)
    with load.running():
        device_with_v1.deploy("2.0.0", signed_repository)
        device_with_v1.json("model", "rollback", MODEL)
    assert load.failed == []
    assert load.answered["1.0.0"] > 0
    assert load.answered["2.0.0"] > 0


def test_a_rollback_with_nothing_before_is_refused_and_changes_nothing(device_with_v1):
    before = device_with_v1.model_status
    error = device_with_v1.json("model", "rollback", MODEL, status=4)
    assert error["error"] == "DeviceUnable"
    assert device_with_v1.model_status == before


def test_an_install_during_a_trial_is_refused_before_anything_is_fetched(device_with_v1, signed_repository):
    device_with_v1.install("2.0.0", signed_repository)
    device_with_v1.json("model", "activate", MODEL)
    error = device_with_v1.json(
        "model", "install", MODEL, "--version", "2.0.0", "--repository", "/nowhere/at/all", status=4
    )
    assert "trial" in error["what"]


def test_confirming_without_a_server_is_refused(device, signed_repository):
    device.install("1.0.0", signed_repository)
    device.json("model", "activate", MODEL)
    error = device.json("model", "confirm", MODEL, status=4)
    assert "no server runs" in error["found"]


def test_a_removed_model_is_no_longer_served(device_with_v1):
    assert device_with_v1.json("model", "remove", MODEL, status=2)["error"] == "BadRequest"
    assert device_with_v1.json("model", "remove", MODEL, "--yes")["changed"] is True
    assert device_with_v1.json("model", "status") == {"models": []}
    assert "error" in device_with_v1.get(f"/v2/models/{MODEL}")
    assert device_with_v1.json("model", "remove", MODEL, "--yes")["changed"] is False
