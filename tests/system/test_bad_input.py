"""Releases that a serving device must refuse: each with its reason, and v1 goes on, byte for byte the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomllib

from demo import releases
from demo.place import MODEL, RECIPES, SAMPLES
from tests.conftest import Device, Repository

Recipe = dict[str, Any]


@pytest.fixture
def publish(signed_repository: Repository, tmp_path: Path) -> Callable[..., Repository]:
    """Publish v2 with a change of its recipe, genuinely signed, into a copy of the repository."""

    def make(change: Callable[[Recipe], None]) -> Repository:
        recipe = tomllib.loads((RECIPES / "release-v2.toml").read_text())
        for section, key in ((recipe["card"], "file"), (recipe["golden"], "folder"), (recipe["reference"], "artifact")):
            section[key] = str(RECIPES / section[key])
        for variant in recipe["variants"]:
            variant["artifact"] = str(RECIPES / variant["artifact"])
        recipe["version"] = "2.1.0"
        change(recipe)
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(recipe))
        copy = signed_repository.copy_to(tmp_path / "changed-repository")
        releases.release(path, tmp_path / "changed-release", copy.keys, copy.path)
        return copy

    return make


def unchanged(device: Device, act: Callable[[], Any]) -> Any:
    """Do something that must fail, and check that v1 serves and lies there as before."""
    slot = device.folder / "models" / MODEL / device.model_status["active"]["slot"]

    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in slot.iterdir()}

    before = content()
    done = act()
    assert content() == before
    assert device.model_status["active"]["version"] == device.served_version == "1.0.0"
    image = next(SAMPLES.glob("*.png"))
    assert device.run("classify", str(image), "--url", device.url, "--model", MODEL).returncode == 0
    return done


def complete(error: dict[str, str]) -> None:
    """A clear error says what failed, what was found, and what was expected or what to do."""
    assert error["what"]
    assert error["found"]
    assert error["expected"] or error["hint"]


@pytest.mark.attack
def test_a_model_that_does_not_load_fails_its_gate_and_is_quarantined(device_with_v1, publish, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model" * 1000)
    repository = publish(lambda recipe: recipe["variants"][0].update(artifact=str(broken)))
    error = unchanged(device_with_v1, lambda: device_with_v1.install("2.1.0", repository, status=4))
    complete(error)
    assert error["error"] == "GateFailed"
    assert device_with_v1.model_status["quarantine"][0]["version"] == "2.1.0"
    again = unchanged(device_with_v1, lambda: device_with_v1.install("2.1.0", repository, status=4))
    assert "quarantine" in again["what"]
    device_with_v1.deploy("2.0.0", repository)


@pytest.mark.attack
def test_golden_cases_that_disagree_fail_the_gate(device_with_v1, publish):
    def demand_the_impossible(recipe: Recipe) -> None:
        for variant in recipe["variants"]:
            variant["tolerance"] = {"probability": 1e-12}  # INT8 is never that close to FP32

    repository = publish(demand_the_impossible)
    error = unchanged(device_with_v1, lambda: device_with_v1.install("2.1.0", repository, status=4))
    complete(error)
    assert "golden cases disagree" in error["found"]


@pytest.mark.attack
def test_a_budget_that_is_broken_fails_the_gate(device_with_v1, publish):
    repository = publish(lambda recipe: [variant.update(budget={"memory_bytes": 1}) for variant in recipe["variants"]])
    error = unchanged(device_with_v1, lambda: device_with_v1.install("2.1.0", repository, status=4))
    complete(error)
    assert "memory" in error["found"]


@pytest.mark.attack
def test_a_release_for_another_device_class_is_refused(device_with_v1, publish):
    def for_another(recipe: Recipe) -> None:
        for variant in recipe["variants"]:
            variant["device_classes"] = ["jetson-jp6"]

    repository = publish(for_another)
    error = unchanged(device_with_v1, lambda: device_with_v1.install("2.1.0", repository, status=3))
    complete(error)
    assert "jetson-jp6" in error["found"]


@pytest.mark.attack
def test_a_release_that_needs_a_newer_app_is_refused(device_with_v1, publish):
    repository = publish(lambda recipe: recipe.update(minimum_app_version="99.0.0"))
    error = unchanged(device_with_v1, lambda: device_with_v1.install("2.1.0", repository, status=4))
    complete(error)


@pytest.mark.attack
def test_an_older_release_than_was_ever_confirmed_is_refused(device, signed_repository):
    device.serve()
    device.deploy("2.0.0", signed_repository)
    error = device.install("1.0.0", signed_repository, status=3)
    complete(error)
    assert "2.0.0" in error["expected"] + error["found"]
    assert device.served_version == "2.0.0"


@pytest.mark.attack
def test_the_same_version_with_another_content_is_refused(device, signed_repository, tmp_path):
    """Two repositories of one owner, the same keys, and another 1.0.0 in the second."""
    first = Repository(tmp_path / "first", tmp_path / "first" / "metadata" / "1.root.json", signed_repository.keys)
    second = Repository(tmp_path / "second", tmp_path / "second" / "metadata" / "1.root.json", signed_repository.keys)
    releases.release(RECIPES / "release-v1.toml", tmp_path / "built-1", first.keys, first.path)
    shutil.copytree(first.path / "metadata", tmp_path / "unused")
    device.serve()
    device.deploy("1.0.0", first)
    os.environ["SOURCE_DATE_EPOCH"] = "1000000000"
    try:
        releases.release(RECIPES / "release-v2.toml", tmp_path / "built-3", second.keys, second.path)
        releases.release(RECIPES / "release-v1.toml", tmp_path / "built-2", second.keys, second.path)
    finally:
        del os.environ["SOURCE_DATE_EPOCH"]
    error = unchanged(device, lambda: device.install("1.0.0", second, status=3))
    complete(error)


@pytest.mark.attack
def test_a_release_signed_by_other_keys_is_refused(device_with_v1, tmp_path):
    keys = releases.publish_reference_model(tmp_path, tmp_path / "foreign", ("release-v2.toml",))
    foreign = Repository(tmp_path / "foreign", tmp_path / "foreign" / "metadata" / "1.root.json", keys)
    refused = unchanged(device_with_v1, lambda: device_with_v1.install("2.0.0", foreign, status=3))
    complete(refused)
    error = unchanged(
        device_with_v1,
        lambda: device_with_v1.json(
            "model", "install", MODEL, "--version", "2.0.0", "--repository", str(foreign.path), status=3
        ),
    )
    complete(error)


@pytest.mark.attack
def test_a_truncated_file_in_the_repository_is_refused_and_the_next_try_goes_on(
    device_with_v1, signed_repository, tmp_path
):
    damaged = signed_repository.copy_to(tmp_path / "damaged")
    artifact = next((damaged.path / "targets" / MODEL / "2.0.0").glob("*.onnx"))
    whole = artifact.read_bytes()
    artifact.write_bytes(whole[: len(whole) // 2])
    error = unchanged(device_with_v1, lambda: device_with_v1.install("2.0.0", damaged, status=5))
    complete(error)
    artifact.write_bytes(whole)
    device_with_v1.deploy("2.0.0", damaged)


def test_two_installers_at_once_end_with_one_install(device_with_v1, signed_repository):
    command = [sys.executable, "-m", "surefoot", "--config", str(device_with_v1.config), "model", "install", MODEL,
               "--version", "2.0.0", "--repository", str(signed_repository.path), "--json"]  # fmt: skip
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [(process.communicate()[0], process.returncode) for process in both]
    codes = sorted(code for _, code in answers)
    assert codes[0] == 0, answers
    for out, code in answers:
        if code:
            assert code == 4, out
            assert "under way" in json.loads(out)["what"]
    assert device_with_v1.install("2.0.0", signed_repository)["changed"] is False
    assert device_with_v1.served_version == "1.0.0"


@pytest.mark.parametrize("copies", [("state.0",), ("state.1",), ("state.0", "state.1")])
def test_a_corrupt_state_copy_is_survived_and_the_next_update_works(device_with_v1, signed_repository, copies):
    device = device_with_v1
    device.stop()
    for name in copies:
        path = device.folder / "models" / MODEL / name
        path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    device.serve()
    assert device.model_status["active"]["version"] == device.served_version == "1.0.0"
    assert device.model_status["floor"] == "1.0.0"
    device.deploy("2.0.0", signed_repository)
    device.json("model", "rollback", MODEL)
    assert device.served_version == "1.0.0"


def test_a_slot_that_vanished_is_reported_and_the_other_serves(device_with_v1, signed_repository):
    device = device_with_v1
    device.deploy("2.0.0", signed_repository)
    device.stop()
    active = device.model_status["active"]["slot"]
    shutil.rmtree(device.folder / "models" / MODEL / active)
    device.serve()
    assert device.model_status["active"]["version"] == device.served_version == "1.0.0"
    assert any("missing" in event.get("reason", "") for event in device.json("model", "history", MODEL)["events"])
    device.deploy("2.0.0", signed_repository)


def test_a_bit_that_rots_in_the_active_slot_is_found_at_the_start(device_with_v1, signed_repository):
    device = device_with_v1
    device.deploy("2.0.0", signed_repository)
    device.stop()
    artifact = next((device.folder / "models" / MODEL / device.model_status["active"]["slot"]).glob("*.onnx"))
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    assert device.json("model", "verify", MODEL, status=4)["ok"] is False
    device.serve()
    assert device.served_version == device.model_status["active"]["version"] == "1.0.0"


def test_a_full_disk_refuses_the_install_and_leaves_nothing_behind(signed_repository, tmp_path, needs):
    """On a real file system of 12 MB, most of it taken."""
    needs(os.geteuid() == 0, "root, to mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)], check=False)
    needs(mounted.returncode == 0, "the right to mount a tmpfs")
    device = Device(small / "device", storage={"reserve_bytes": 0})
    try:
        device.serve()
        device.deploy("1.0.0", signed_repository)
        filler = small / "filler"
        free = os.statvfs(small).f_bavail * 4096
        filler.write_bytes(bytes(free - 200_000))
        error = unchanged(device, lambda: device.install("2.0.0", signed_repository, status=4))
        complete(error)
        filler.unlink()
        device.deploy("2.0.0", signed_repository)
        assert device.served_version == "2.0.0"
    finally:
        device.stop()
        subprocess.run(["umount", "--lazy", str(small)], check=True)
