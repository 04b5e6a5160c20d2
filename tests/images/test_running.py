"""The running container: what it may do, what it uses while idle, whom it speaks to, how it stops."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.place import MODEL, SAMPLES
from tests.images.conftest import Image
from tests.images.container import USER, ContainerDevice
from tests.parts import docker
from tests.parts.docker import Engine

MakeContainer = Callable[..., ContainerDevice]
PICTURE = next(iter(sorted(SAMPLES.glob("*.png")))).read_bytes()
MOST_IDLE_PSS_BYTES = 120_000_000
MOST_IDLE_CPU = 0.005  # of one core


@pytest.fixture
def device(built: Callable[..., Image], make_container: MakeContainer) -> ContainerDevice:
    """A serving device in the generic image."""
    made = make_container(built("generic-amd64"))
    made.start()
    made.deploy()
    return made


def test_the_image_says_what_it_is_and_runs_as_its_own_user(engine: Engine, built: Callable[..., Image]) -> None:
    facts = json.loads(engine.docker("image", "inspect", built("generic-amd64").name).stdout)[0]["Config"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in facts["Labels"].items()}
    assert facts["User"] == f"{USER}:{USER}"
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert {"version", "title", "created", "base.name"} <= set(labels)
    assert "ORT_DISABLE_TELEMETRY=1" in facts["Env"]
    assert facts["Healthcheck"]["Test"] == ["CMD", "/opt/surefoot/bin/healthcheck"]


def test_only_its_two_folders_can_be_written_and_there_is_no_shell(device: ContainerDevice) -> None:
    write = "import sys; open(sys.argv[1] + '/probe', 'w').close()"
    for folder in ("/data/surefoot", "/run/surefoot"):
        device.command("python3", "-c", write, folder)
    for folder in ("/tmp", "/opt/surefoot", "/var", "/", "/usr/lib/python3.11"):
        done = device.engine.docker("exec", device.id, "python3", "-c", write, folder, check=False)
        assert done.returncode != 0
        assert "Read-only file system" in done.stderr
    assert device.engine.docker("exec", device.id, "sh", "-c", "true", check=False).returncode != 0
    status = Path(f"/proc/{device.processes[0]}/status").read_text()
    assert re.search(r"^CapEff:\s*0+$", status, re.MULTILINE)
    assert re.search(rf"^Uid:\s*{USER}\s*{USER}\s", status, re.MULTILINE)


def test_every_process_allocates_by_jemalloc_and_the_bytecode_of_the_build_is_taken(device: ContainerDevice) -> None:
    for process in device.processes[1:]:
        assert "libjemalloc.so.2" in Path(f"/proc/{process}/maps").read_text()
    for module in ("surefoot.cli", "uvicorn", "json"):
        told = device.engine.docker("exec", device.id, "python3", "-v", "-c", f"import {module}").stderr
        assert re.search(rf"code object from '?[^\n]*{module.replace('.', '/')}/__pycache__", told)
        assert "wrote" not in told


def test_the_healthcheck_follows_the_gateway(device: ContainerDevice) -> None:
    assert device.engine.docker("exec", device.id, "/opt/surefoot/bin/healthcheck").returncode == 0
    socket = device.run_dir / "http.sock"
    socket.rename(socket.with_name("hidden"))
    failed = device.engine.docker("exec", device.id, "/opt/surefoot/bin/healthcheck", check=False)
    assert failed.returncode == 1
    assert "does not answer" in failed.stderr


def stop(device: ContainerDevice) -> threading.Thread:
    """Ask the container to stop, as an engine does: SIGTERM to its first process. Returns the wait for it."""
    waiting = threading.Thread(target=device.engine.docker, args=("stop", "--time=60", device.id))
    waiting.start()
    return waiting


def answered(device: ContainerDevice) -> bool:
    """Whether a new connection is still answered."""
    connection = device.connect(timeout_s=1.0)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_a_stop_answers_the_request_under_way(device: ContainerDevice) -> None:
    connection = device.connect()
    connection.putrequest("POST", f"/v2/models/{MODEL}/classify")
    connection.putheader("Content-Type", "image/png")
    connection.putheader("Content-Length", str(len(PICTURE)))
    connection.endheaders(PICTURE[:100])
    # The gateway has read the head: another connection, opened later, is already answered.
    assert device.get("/v2/health/live")[0] == 200
    stopping = stop(device)
    device.wait_for(lambda: not answered(device))
    connection.send(PICTURE[100:])
    assert connection.getresponse().status == 200
    stopping.join()
    assert device.engine.docker("inspect", "--format", "{{.State.ExitCode}}", device.id).stdout.strip() == "0"


def test_a_killed_container_would_lose_the_request_under_way(device: ContainerDevice) -> None:
    connection = device.connect()
    connection.putrequest("POST", f"/v2/models/{MODEL}/classify")
    connection.putheader("Content-Length", str(len(PICTURE)))
    connection.endheaders(PICTURE[:100])
    device.engine.docker("kill", device.id)
    with pytest.raises(OSError):
        connection.send(PICTURE[100:])
        connection.getresponse()


def pss_bytes(device: ContainerDevice) -> int:
    """Resident memory of all processes, shared pages counted once."""
    total = 0
    for process in device.processes:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s*(\d+) kB", rollup, re.MULTILINE)[1]) * 1024
    return total


def cpu_ns(device: ContainerDevice) -> int:
    """Time on a processor of all threads."""
    files = (file for process in device.processes for file in Path(f"/proc/{process}/task").glob("*/schedstat"))
    return sum(int(file.read_text().split()[0]) for file in files)


def test_an_idle_device_uses_at_most_120_mb(device: ContainerDevice) -> None:
    device.ask("POST", f"/v2/models/{MODEL}/classify", PICTURE, "image/png")
    memory = pss_bytes(device)
    print(f"idle: {memory / 1e6:.1f} MB")
    assert memory <= MOST_IDLE_PSS_BYTES


@pytest.mark.parametrize("window_s", [15, pytest.param(120, marks=pytest.mark.full)])
def test_an_idle_device_leaves_the_processor_alone(window_s: int, device: ContainerDevice) -> None:
    device.ask("POST", f"/v2/models/{MODEL}/classify", PICTURE, "image/png")
    before, start = cpu_ns(device), time.monotonic()
    threading.Event().wait(window_s)  # the window of the measurement, not a synchronisation
    share = (cpu_ns(device) - before) / 1e9 / (time.monotonic() - start)
    print(f"idle: {share:.3%} of a core over {window_s} s")
    assert share < MOST_IDLE_CPU


@contextmanager
def traced(engine: Engine, log: Path) -> Iterator[None]:
    """Watch every process that the engine starts, from its first instruction."""
    dockerd = int((docker.folder() / "dockerd.pid").read_text())
    children = Path(f"/proc/{dockerd}/task/{dockerd}/children")
    every = {pid for task in children.parent.parent.iterdir() for pid in (task / "children").read_text().split()}
    containerd = [pid for pid in every if Path(f"/proc/{pid}/comm").read_text() == "containerd\n"]
    strace = subprocess.Popen(
        [
            "strace", "-f", "-s", "200", "--pidns-translation", "-o", str(log), "-e", f"trace={TRACED}",
            "-p", containerd[0],
        ],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert strace.stderr
    assert "attached" in strace.stderr.readline()
    threading.Thread(target=strace.stderr.read, daemon=True).start()
    try:
        yield
    finally:
        strace.terminate()
        strace.wait(20)


TRACED = "network,execve,openat,clone,clone3,fork,vfork"
BORN = re.compile(r"^(\d+) .*\b(?:clone3?|v?fork)\b.* = (\d+)(?: /\* (\d+) in strace's PID NS \*/)?$", re.MULTILINE)
OUTWARD = re.compile(
    r"(connect|sendto|sendmsg|sendmmsg)\(.*sa_family=AF_INET6?[^}]*"
    r"|openat\(.*\"/etc/(resolv\.conf|hosts|host\.conf)\""
)


def calls_of(first: str, log: str) -> list[str]:
    """The calls of a process and of all that came of it; the engine may have other containers at work."""
    family = {first}
    for parent, inside, outside in BORN.findall(log):
        if parent in family:
            family.add(outside or inside)
    return [line for line in log.splitlines() if line.partition(" ")[0] in family]


@pytest.mark.parametrize("window_s", [5, pytest.param(60, marks=pytest.mark.full)])
def test_from_start_to_idling_nobody_is_looked_up_or_called(
    window_s: int,
    engine: Engine,
    built: Callable[..., Image],
    make_container: MakeContainer,
    tmp_path: Path,
    needs: Callable[[bool, str], None],
) -> None:
    needs(shutil.which("strace") is not None, "strace (apt-get install strace)")
    device = make_container(built("generic-amd64"))
    device.start()
    device.deploy()
    device.engine.docker("stop", device.id)
    device.remove()
    calls = tmp_path / "calls"
    with traced(engine, calls):
        device.start(network="host")  # so that a call would go out, and not merely fail
        device.wait_for(lambda: device.get("/v2/health/ready")[0] == 200)
        assert device.ask("POST", f"/v2/models/{MODEL}/classify", PICTURE, "image/png")[0] == 200
        threading.Event().wait(window_s)  # the window of the observation
        lookup = "import socket; socket.getaddrinfo('lookup.invalid', 80)"
        before = calls.stat().st_size
        device.engine.docker("exec", device.id, "python3", "-c", lookup, check=False)
    seen = calls.read_text(errors="replace")
    started = re.search(r'^(\d+) +execve\("/opt/surefoot/bin/tini".*', seen[:before], re.MULTILINE)
    assert started, "the start was not seen"
    quiet, mutant = calls_of(started[1], seen[started.start() : before]), seen[before:].splitlines()
    assert any("bind(" in call and 'inet_addr("127.0.0.1")' in call for call in quiet), "the server was not seen"
    assert [call for call in quiet if OUTWARD.search(call)] == []
    assert [call for call in mutant if OUTWARD.search(call)], "a lookup that was made on purpose was not seen"
