"""The log of a server in the foreground, in a file that stays short."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from surefoot.serving.detach import MOST_LOG_BYTES


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    config = tmp_path / "surefoot.toml"
    config.write_text('data_dir = "data"\nrun_dir = "run"\n[gateway]\nport = 0\n')
    return [sys.executable, "-m", "surefoot", "--config", str(config), "serve", "--log", str(tmp_path / "serve.log")]


def test_the_log_goes_to_the_file_and_what_is_too_long_is_set_aside(command, tmp_path):
    log, aside = tmp_path / "serve.log", tmp_path / "serve.log.1"
    log.write_bytes(bytes(3 * MOST_LOG_BYTES))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().startswith("serving at http://127.0.0.1:")
            deadline = time.monotonic() + 30
            while log.stat().st_size > MOST_LOG_BYTES and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            server.terminate()
        assert server.wait(60) == 0
        assert server.stderr is not None
        assert server.stderr.read() == ""
    assert aside.stat().st_size == MOST_LOG_BYTES
    assert b"surefoot.supervisor" in log.read_bytes() + aside.read_bytes()
    assert log.stat().st_size < MOST_LOG_BYTES


def test_a_log_that_cannot_be_written_is_refused(command, tmp_path):
    command[-1] = str(tmp_path / "nowhere" / "serve.log")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 4
    assert "cannot write" in done.stderr


def test_a_detached_server_has_a_log_of_its_own(command):
    done = subprocess.run([*command, "--detach"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--log is for the foreground" in done.stderr
