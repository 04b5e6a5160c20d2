"""A gate that could not tell: the release waits in its slot, is not blamed, and the next install goes on with it."""

from __future__ import annotations

import pytest

from demo.place import MODEL
from surefoot import update
from surefoot.config import load as load_config
from surefoot.serving.proving import Proof
from surefoot.slots.store import Store
from surefoot.update import installation as installing

HOT = Proof(passed=False, deferred=True, reasons=("it cannot be measured now: cpu-thermal is at 86 °C",))


@pytest.fixture
def deferred(device_with_v1, signed_repository, monkeypatch):
    """v2 with its gate deferred; the device, its configuration and what an install of v2 is called by."""
    config = load_config(device_with_v1.config)
    asked = (config, MODEL, "2.0.0", str(signed_repository.path), signed_repository.root)
    with monkeypatch.context() as patch:
        patch.setattr(installing, "prove", lambda *_, **__: HOT)
        with pytest.raises(update.GateDeferred, match="86 °C") as raised:
            update.install(*asked)
    assert "nothing is held against it" in raised.value.hint
    return device_with_v1, asked


def test_a_deferred_gate_quarantines_nothing_counts_no_try_and_is_told_in_the_history(deferred):
    device, (config, *_) = deferred
    state = Store(config.models_dir, MODEL).read()
    assert state.quarantine == () and state.trial is None and not state.held
    assert state.slots[state.inactive].status == "staged"
    event = Store(config.models_dir, MODEL).history(1)[-1]
    assert (event.what, event.version) == ("gate deferred", "2.0.0") and "86 °C" in event.reason
    assert device.served_version == "1.0.0"


def test_a_deferred_release_cannot_be_activated(deferred):
    device, _ = deferred
    assert device.json("model", "activate", MODEL, status=2)["error"] == "BadRequest"
    assert device.served_version == "1.0.0"


def test_the_next_install_goes_on_with_the_gate_and_fetches_and_fills_nothing(deferred, monkeypatch):
    device, asked = deferred
    monkeypatch.setattr(installing, "_fetch", lambda *_: pytest.fail("it was fetched again"))
    monkeypatch.setattr(Store, "fill", lambda *_: pytest.fail("it was filled again"))
    assert update.plan(*asked).steps == ("gate",)
    report = update.install(*asked)
    assert report.changed and report.gate is not None and report.gate.passed
    device.json("model", "activate", MODEL)
    assert device.served_version == "2.0.0"


def test_one_that_was_damaged_meanwhile_is_fetched_again(deferred):
    _, asked = deferred
    store = Store(asked[0].models_dir, MODEL)
    state = store.read()
    path = next(store.slot_path(state.inactive).glob("*.onnx"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert store.staged(state.slots[state.inactive].release.digest) is None
    assert update.install(*asked).changed


def test_the_command_says_so(device_with_v1, signed_repository, monkeypatch, capsys):
    from surefoot.cli import main

    monkeypatch.setattr(installing, "prove", lambda *_, **__: HOT)
    asked = ["--repository", str(signed_repository.path), "--root", str(signed_repository.root)]
    status = main(["--config", str(device_with_v1.config), "model", "install", MODEL, "--version", "2.0.0", *asked])
    told = capsys.readouterr().err
    assert status == 4
    assert "is deferred" in told and "86 °C" in told and "install it again later" in told
