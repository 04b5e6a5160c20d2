"""Runtimes that misbehave, as real packages with an entry point: each is reported, and the doctor lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from surefoot.config import PROCESS_ENVIRONMENT
from surefoot.runtimes.onnx import TELEMETRY_VARIABLE
from surefoot.runtimes.protocol import GROUP
from surefoot.watch.doctor import proofs

BEGIN = """
import os, signal, sys, time
from pathlib import Path
from surefoot.runtimes.protocol import Facts, Signature
from surefoot.release.manifest import Tensor
x = Tensor(name="x", datatype="FP32", shape=(1, 4))
class Sound:
    proof = Path(__file__)
    used = "CPU"
    def providers(self): return ("CPU",)
    def load(self, artifact, options):
        self.used = options.provider or "CPU"
        return Signature(inputs=(x,), outputs=(x,))
    def infer(self, inputs): return {"y": 2 * inputs["x"] + 1}
    def facts(self): return Facts(runtime="sound", version="1.0", provider=self.used)
    def close(self): pass
"""
SICK = {
    "sound": "Runtime = Sound",
    "aborting": "class Runtime(Sound):\n def __init__(self): os.abort()",
    "illegal": "os.kill(os.getpid(), signal.SIGILL)",
    "hanging": "class Runtime(Sound):\n def load(self, artifact, options): time.sleep(600)",
    "leaving": "os._exit(0)",
    "wrong": 'class Runtime(Sound):\n def infer(self, inputs): return {"y": inputs["x"]}',
    "noisy": (
        "class Runtime(Sound):\n def __init__(self):\n  os.write(1, b'x' * 3_000_000 + b'\\nthe end\\n')\n  os.abort()"
    ),
    "chatty": "class Runtime(Sound):\n def __init__(self): os.write(1, b'{}' * 100_000)",
    "foreign": "class Runtime(Sound):\n def load(self, artifact, options): raise OSError('no /dev/thing')",
    "absent": "import a_library_that_is_not_here",
    "broken": "raise ImportError('libthing.so.1: cannot open shared object file')",
    "half": (
        "class Runtime(Sound):\n"
        " def providers(self): return ('NPU', 'CPU')\n"
        " def load(self, artifact, options):\n"
        "  if options.provider == 'NPU': os.abort()\n"
        "  return super().load(artifact, options)"
    ),
}


def package(folder: Path, name: str) -> Path:
    """An installed package, as pip leaves it, whose entry point is the runtime."""
    module = f"runtime_{name}"
    (folder / f"{module}.py").write_text(f"{BEGIN}\n{SICK[name]}\n")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}:Runtime\n")
    return folder


@pytest.fixture
def prove(tmp_path, monkeypatch):
    def run(name: str, provider: str = "", timeout_s: float = 60.0):
        monkeypatch.setenv("PYTHONPATH", str(package(tmp_path, name)))
        return proofs.prove(name, provider, timeout_s)

    return run


@pytest.mark.parametrize(
    ("name", "outcome", "reason"),
    [
        ("sound", "works", ""),
        ("chatty", "works", ""),
        ("aborting", "died", "died of SIGABRT"),
        ("illegal", "died", "died of SIGILL"),
        ("leaving", "died", "left with status 0"),
        ("noisy", "died", "last words: the end"),
        ("wrong", "refused", "expected [[1.0, 3.0, -3.0, 8.0]]"),
        ("foreign", "refused", "OSError: no /dev/thing"),
        ("absent", "missing", "a_library_that_is_not_here"),
        ("broken", "refused", "cannot open shared object file"),
    ],
)
def test_how_a_runtime_fares_is_told(prove, name, outcome, reason):
    proof = prove(name)
    assert proof.outcome == outcome
    assert reason in proof.reason
    assert len(proof.reason) < 1000


def test_a_runtime_that_hangs_is_ended_and_reported(prove):
    proof = prove("hanging", timeout_s=3.0)
    assert proof.outcome == "died"
    assert "no answer within 3 s" in proof.reason


def test_a_provider_is_asked_for_by_name_and_its_death_leaves_the_others_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(package(tmp_path, "half")))
    first, second = proofs._prove_runtime("half", 60.0)
    assert (first.outcome, first.used, first.offered) == ("works", "CPU", ("NPU", "CPU"))
    assert (second.provider, second.outcome) == ("NPU", "died")


def doctor(tmp_path: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "surefoot", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": str(package(tmp_path, name))},
        capture_output=True,
        text=True,
    )


def test_the_doctor_survives_a_runtime_that_aborts_and_reports_it(tmp_path):
    done = doctor(tmp_path, "aborting")
    assert done.returncode == 4
    findings = {each["name"]: each for each in json.loads(done.stdout)["findings"]}
    assert findings["runtime/aborting"]["status"] == "problem"
    assert "SIGABRT" in findings["runtime/aborting"]["found"]
    assert findings["runtimes"]["status"] == "ok"


def test_a_doctor_that_loaded_it_itself_would_die(tmp_path):
    """The mutant: the same runtime in the caller's own process."""
    code = "from surefoot.runtimes import load_runtime; load_runtime('aborting')"
    environment = {**os.environ, "PYTHONPATH": str(package(tmp_path, "aborting"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGABRT


def test_an_absent_library_is_not_verified_and_no_problem(tmp_path):
    done = doctor(tmp_path, "absent")
    findings = {each["name"]: each for each in json.loads(done.stdout)["findings"]}
    assert findings["runtime/absent"]["status"] == "not verified"
    assert "a_library_that_is_not_here" in findings["runtime/absent"]["found"]


def test_the_doctor_itself_loads_nothing_that_may_abort():
    code = "import sys; from surefoot.cli import main; main(['doctor', '--json']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "surefoot.watch.doctor.proofs" in loaded
    assert loaded & {"numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime", "surefoot.runtimes", "tuf"} == set()


def test_what_it_repeats_of_the_runtimes_is_what_they_say():
    """Not imported there, since that would load NumPy."""
    assert proofs.GROUP == GROUP
    assert TELEMETRY_VARIABLE in PROCESS_ENVIRONMENT
