"""What a preflight refuses, before anything has changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.roles.controller import Controller


@pytest.fixture
def device(controller: Controller) -> Path:
    """Where a device would be."""
    data_dir = controller.folder / "device"
    controller.variables.update(
        inference_app_data_dir=str(data_dir), inference_app_run_dir=str(data_dir / "run"), model_slots_root=""
    )
    return data_dir


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"inference_app_prot": 1}, "no variable is named inference_app_prot (did you mean inference_app_"),
        ({"inference_app_http_host": "0.0.0.0"}, "must be a loopback address; found 0.0.0.0"),
        ({"inference_app_engine": "podman"}, "value of inference_app_engine must be one of: docker, systemd, launchd"),
        (
            {
                "inference_app_engine": "systemd",
                "inference_app_run_dir": "/run/surefoot-test",
                "inference_app_most_memory_bytes": 1 << 20,
            },
            "must be at least 67108864",
        ),
        ({"inference_app_http_port": "http"}, "inference_app_http_port"),
        ({"inference_app_python": "/nowhere/python"}, "expected an interpreter at /nowhere/python"),
        ({"inference_app_python": "/bin/false"}, "does not run on the device"),
        ({"inference_app_storage_reserve_bytes": 10**18}, "bytes free"),
        ({"inference_app_data_dir": "/dev/null/surefoot"}, "/dev/null/surefoot cannot be written"),
        ({"inference_app_data_dir": "/proc/surefoot"}, "0 bytes free"),
    ],
)
def test_the_app_is_not_touched_where(
    controller: Controller, device: Path, variables: dict[str, Any], reason: str
) -> None:
    failed = controller.play("deploy", **variables)
    assert failed.status != 0
    assert reason in " ".join(failed.out.split())
    assert failed.changed == []
    assert not device.exists()


def test_a_python_without_the_app_is_refused(controller: Controller, device: Path) -> None:
    bare = Path(sys.base_prefix) / "bin" / "python3"
    failed = controller.play("deploy", inference_app_python=str(bare))
    assert failed.status != 0
    assert "not importable" in failed.out
    assert not device.exists()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"surefoot_verison": "2.0.0"}, "no variable is named surefoot_verison"),
        ({"model_slots_respository": "/x"}, "no variable is named model_slots_respository"),
        ({"model_slots_root": "/nowhere/root.json"}, "found no file at /nowhere/root.json"),
        ({"model_slots_models": []}, "must name each model once"),
        ({"model_slots_models": [{"name": "m", "version": "1.0.0"}] * 2}, "must name each model once; found m, m"),
        ({"model_slots_models": [{"nane": "m"}]}, "nane"),
        (
            {"model_slots_models": [{"name": "m", "version": "1.0.0"}], "surefoot_version": "2.0.0"},
            "takes it; found 1.0.0",
        ),
        ({"model_slots_executable": "/nowhere/surefoot"}, "no command /nowhere/surefoot"),
    ],
)
def test_the_models_are_not_touched_where(
    controller: Controller, device: Path, variables: dict[str, Any], reason: str
) -> None:
    # The rollback starts with the preflight of model_slots, and needs no app.
    failed = controller.play("rollback", **variables)
    assert failed.status != 0
    assert reason in " ".join(failed.out.split())
    assert failed.changed == []
    assert not device.exists()
