"""The command itself: exit codes by family, errors as JSON, and start-up that imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from surefoot import errors
from surefoot.cli.main import EXIT_CODES


def test_each_family_of_errors_has_its_own_exit_code():
    assert set(EXIT_CODES) == set(errors.SurefootError.__subclasses__())
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert not {0, 1} & set(EXIT_CODES.values())


def test_an_error_is_one_json_object_with_what_to_do(device):
    error = device.json("model", "activate", "no-such-model", status=2)
    assert set(error) == {"error", "what", "found", "expected", "hint"}
    assert error["hint"]


def test_an_error_for_people_goes_to_standard_error(device):
    done = device.run("model", "activate", "no-such-model")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("surefoot: ")
    assert "what to do:" in done.stderr


def test_a_missing_configuration_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "surefoot", "--config", str(tmp_path / "none.toml"), "model", "status", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == "BadRequest"


@pytest.mark.parametrize("heavy", ["numpy", "onnxruntime", "PIL", "starlette", "uvicorn", "tuf", "rich"])
def test_asking_for_the_status_of_a_model_imports_nothing_heavy(device, heavy):
    code = (
        "import sys; from surefoot.cli import main; "
        f"status = main(['--config', {str(device.config)!r}, 'model', 'status', '--json']); "
        f"sys.exit(status or {heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
