"""No runtime of ours speaks to anybody: watched at the system calls, of a process that loads and infers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from surefoot.runtimes import available
from surefoot.runtimes.onnx import TELEMETRY_VARIABLE
from tests.app.runtimes.contract.test_contract import MODELS

RUN = """
import sys, time
from pathlib import Path
import numpy as np
from surefoot.runtimes import Options, load_runtime
runtime = load_runtime(sys.argv[1])
runtime.load(Path(sys.argv[2]), Options(threads=2))
for _ in range(20):
    runtime.infer({"x": np.zeros((1, 12), np.float32)})
time.sleep(1.0)  # time for a client in the background to show itself
runtime.close()
"""
ASKS_THE_NETWORK = re.compile(r"AF_INET|AF_NETLINK|connect\(|sendto\(|resolv\.conf|nsswitch\.conf|/etc/hosts")
WRITES = re.compile(r"O_CREAT|O_WRONLY|O_RDWR|mkdir|rename|link\(|linkat")


def environment(home: Path) -> dict[str, str]:
    """This process's own, in a home where traces would show, and without the variable that we must set ourselves."""
    hidden = {TELEMETRY_VARIABLE, "CI"}  # the client keeps still where CI is set, and a device is no CI
    kept = {key: value for key, value in os.environ.items() if key not in hidden and not key.startswith("XDG_")}
    return {**kept, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def traced(home: Path, log: Path, *arguments: str) -> list[str]:
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=network,%file", sys.executable, *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return log.read_text(errors="replace").splitlines()


@pytest.fixture
def home(tmp_path: Path, needs) -> Path:
    needs(sys.platform.startswith("linux") and shutil.which("strace") is not None, "strace (apt-get install strace)")
    needs(subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode == 0, "leave to use strace")
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", sorted(available()))
def test_loading_and_inferring_asks_no_network_and_leaves_no_trace(name, home, tmp_path):
    model = tmp_path / "model"
    model.write_bytes(MODELS[name](True))
    calls = traced(home, tmp_path / "calls", "-c", RUN, name, str(model))
    assert any(str(model) in call for call in calls), "the trace did not see the model being read"
    assert not [call for call in calls if ASKS_THE_NETWORK.search(call)]
    written = [call for call in calls if WRITES.search(call) and " = -1 " not in call]
    assert not [call for call in written if str(home) in call or "deviceid" in call]
    assert list(home.rglob("*")) == []


def test_without_the_variable_this_watch_sees_the_client(home, tmp_path):
    """The mutant: a plain import of a wheel that carries the client leaves its identifier behind."""
    wheel = Path(__import__("importlib.util").util.find_spec("onnxruntime").origin).parent
    carries = any(TELEMETRY_VARIABLE.encode() in library.read_bytes() for library in (wheel / "capi").glob("*pybind*"))
    if not carries:
        pytest.skip("this onnxruntime carries no telemetry client")
    import_late = "import onnxruntime; onnxruntime.disable_telemetry_events()"
    calls = traced(home, tmp_path / "calls", "-c", import_late)
    assert [call for call in calls if "deviceid" in call]
    assert list(home.rglob("deviceid")), "turning it off after the import is too late"


def test_a_process_that_imported_the_library_before_is_refused(tmp_path):
    code = "import onnxruntime; from surefoot.runtimes import load_runtime; load_runtime('onnxruntime')"
    done = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True)
    assert "imported with its telemetry on" in done.stderr
