"""A new app asked whether it can serve what the device holds: golden cases, older and newer formats, and no write."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from surefoot import __version__
from surefoot.release import manifest
from surefoot.serving import measuring
from surefoot.slots import copies as kept
from surefoot.slots.sealed import NewerFormat, unseal
from surefoot.slots.state import State
from surefoot.update import verifying
from surefoot.update.verifying import golden
from surefoot.watch.doctor.files import Files
from tests.app.serving.device import Device, Release, classifier_release
from tests.parts.docker import has_a_root

CONFIG = 'data_dir = "data"\nrun_dir = "run"\n'


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """``tiny`` 1.1.0 is active, 1.0.0 was before it. Nothing serves."""
    made = Device(tmp_path / "device")
    made.confirm(classifier_release("1.0.0"))
    made.confirm(classifier_release("1.1.0", seed=2))
    (made.root / "surefoot.toml").write_text(CONFIG)
    return made


def command(device: Device, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    line = [*before, sys.executable, "-m", "surefoot", "--config", str(device.root / "surefoot.toml"), "model"]
    return subprocess.run([*line, *arguments], capture_output=True, text=True, timeout=120, check=False)


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def of_an_app(release: Release, **changes: Any) -> Release:
    whole = msgspec.structs.replace(release.manifest, **changes)
    return Release(whole, manifest.encode(whole), release.files)


def sealed(body: dict[str, Any], format_: int = 1) -> bytes:
    raw = msgspec.json.encode(body)
    checksum = hashlib.sha256(b"%d\n" % format_ + raw).hexdigest()
    return msgspec.json.encode({"format": format_, "sha256": checksum, "body": msgspec.Raw(raw)})


def rewrite(device: Device, number: int, change: Callable[[dict[str, Any]], None], format_: int = 1) -> None:
    """As another version of the app would have written a copy of the state, with a right checksum."""
    path = device.config.models_dir / "tiny" / f"state.{number}"
    body = json.loads(path.read_bytes())["body"]
    change(body)
    path.write_bytes(sealed(body, format_))


def test_an_app_runs_the_golden_cases_of_what_is_active(device: Device) -> None:
    report = golden(device.config, "tiny")
    assert report.ok and report.reasons == ()
    assert (report.version, report.cases, report.agreed) == ("1.1.0", 6, 6)
    assert report.runtime == "onnxruntime" and report.memory_bytes > 0 and report.load_s > 0


def test_nothing_is_written_also_where_nothing_can_be(device: Device, needs: Callable[[bool, str], None]) -> None:
    before = everything(device.root)
    assert command(device, "verify", "--golden", "--json").returncode == 0
    assert everything(device.root) == before
    needs(os.geteuid() == 0 and shutil.which("unshare") is not None and has_a_root(), "root, and not in a chroot")
    sealing = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && ! touch "$0/x" 2>/dev/null && exec "$@"'
    for lock in (device.config.models_dir / "tiny").glob("?.lock"):
        lock.unlink()  # no worker has ever held the slot
    alone = ("unshare", "--mount", "--net", "sh", "-c", sealing, str(device.root))
    done = command(device, "verify", "--golden", "--json", before=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["ok"] and [each["golden"]["agreed"] for each in said["models"]] == [6]


def test_a_device_without_a_model_passes(tmp_path: Path) -> None:
    bare = Device(tmp_path / "bare")
    (bare.root / "surefoot.toml").write_text(CONFIG)
    done = command(bare, "verify", "--golden", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "models": []})
    assert command(bare, "verify").stdout == "no models on this device\n"


def test_golden_cases_that_disagree_are_a_refusal_with_the_reason(device: Device) -> None:
    def other(case: Any) -> Any:
        return msgspec.structs.replace(case, expected={"logits": [0.0, 0.0, 1.0]}, label=2)

    device.confirm(classifier_release("1.2.0", seed=3, spoil=other))
    done = command(device, "verify", "tiny", "--golden", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 4 and not said["ok"] and all(each["ok"] for each in said["slots"])
    assert said["golden"]["ok"] is False and said["golden"]["agreed"] < said["golden"]["cases"]
    assert said["golden"]["reasons"]
    shown = command(device, "verify", "--golden")
    assert shown.returncode == 4 and "golden cases                 BAD: " in shown.stdout


def test_a_model_that_the_runtime_does_not_load_is_a_refusal(device: Device) -> None:
    device.confirm(classifier_release("1.2.0", artifact=b"no model"))
    report = golden(device.config, "tiny")
    assert not report.ok and "model" in report.reasons[0]


def test_a_runtime_that_the_app_does_not_have_is_a_refusal(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "available", lambda: {"tflite": "somewhere"})
    report = golden(device.config, "tiny")
    assert "needs a runtime that this app does not have; found: tflite; expected: onnxruntime" in report.reasons[-1]


def test_memory_that_is_not_there_is_a_refusal_before_anything_is_loaded(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring.WorkerProcess, "start", None)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 500000 kB\nMemAvailable: 20000 kB\n")
    report = golden(device.config, "tiny", Files(tmp_path))
    assert "there is no room to load it beside what serves; found: 20 MB of memory are available" in report.reasons[0]


# -- what another version of the app has written -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("change", "format_", "found"),
    [
        (lambda body: body.clear(), 2, "format 2"),
        (lambda body: body.update(format=3), 1, "state format 3"),
        (lambda body: body["slots"]["a"].update(status="paused"), 1, "paused"),
    ],
    ids=["another envelope", "another state", "a status that this app does not know"],
)
def test_a_state_of_a_newer_app_is_refused_and_nothing_changes(
    device: Device, number: int, change: Callable[[dict[str, Any]], None], format_: int, found: str
) -> None:
    rewrite(device, number, change, format_)
    before = everything(device.root)
    done = command(device, "verify", "--golden", "--json")
    error = json.loads(done.stdout)
    assert done.returncode == 4 and error["error"] == "NewerFormat"
    assert f"state.{number} was written by a newer version" in error["what"] and found in error["found"]
    with pytest.raises(NewerFormat):
        device.store().recover()  # nor does the server, at its start
    after = everything(device.root)
    locks = {name for name in after if name.endswith(".lock")}
    assert {name: seen for name, seen in after.items() if name not in locks and Path(name).is_file()} == {
        name: seen for name, seen in before.items() if name not in locks and Path(name).is_file()
    }


def test_fields_that_a_newer_app_has_added_are_passed_over(device: Device) -> None:
    def add(body: dict[str, Any]) -> None:
        body["region"] = {"of": "a later version"}
        body["slots"]["a"]["temperature"] = 40

    expected = device.store().read()
    for number in (0, 1):
        rewrite(device, number, add)
    assert device.store().read() == expected
    assert golden(device.config, "tiny").ok


def test_a_release_that_needs_a_newer_app_is_refused_where_it_is_active_or_can_be_returned_to(device: Device) -> None:
    device.confirm(of_an_app(classifier_release("1.2.0", seed=3), minimum_app_version="99.0.0"))
    (reason,) = golden(device.config, "tiny").reasons
    assert f"tiny 1.2.0 needs a newer app; found: {__version__}; expected: 99.0.0 or newer" in reason
    device.confirm(classifier_release("1.3.0", seed=4))
    report = golden(device.config, "tiny")
    assert not report.ok and report.agreed == report.cases == 6
    assert report.reasons[0].startswith("1.2.0 (") and "which the device can return to" in report.reasons[0]
    device.store().rollback()  # to 1.2.0
    device.store().rollback()  # to 1.1.0: what was left is nothing that this device returns to
    assert golden(device.config, "tiny").ok


def test_a_damaged_release_to_return_to_is_not_held_against_the_app(device: Device) -> None:
    """The app that serves cannot read it either: it would never be replaced."""
    for path in device.config.models_dir.glob("tiny/a/*"):
        path.write_bytes(b"rot")
    done = command(device, "verify", "--golden", "--json")
    (said,) = json.loads(done.stdout)["models"]
    assert done.returncode == 4 and [each["ok"] for each in said["slots"]] == [False, True]
    assert said["golden"]["ok"]


def test_a_damaged_active_release_is_a_refusal(device: Device) -> None:
    (device.store().slot_path("b") / "model.onnx").write_bytes(b"rot")
    report = golden(device.config, "tiny")
    assert not report.ok and "is not the file that its manifest names" in report.reasons[0]


def test_mutant_without_its_look_at_formats_an_app_believes_a_newer_state(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1):
        rewrite(device, number, lambda body: body.update(format=3))
    monkeypatch.setattr(kept, "FORMAT", 3)
    assert golden(device.config, "tiny").ok


def test_a_record_that_is_whole_and_of_another_kind_is_a_newer_one() -> None:
    with pytest.raises(NewerFormat, match="newer version"):
        unseal(sealed({"name": ["no", "text"]}), State, "x")
