"""Processes are killed, stopped and started; clients get answers or refusals, never silence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import urllib3

from surefoot.errors import BadRequest, DeviceUnable
from surefoot.runtimes.onnx import TELEMETRY_VARIABLE
from surefoot.serving import endpoint
from surefoot.serving.admin import AdminClient, NotRunning
from surefoot.serving.client import Client
from surefoot.serving.detach import start_detached
from tests.app.serving.device import Device, classifier_release, open_files, picture, settles, slow_release
from tests.app.serving.load import asking


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def status(server: Device, path: str) -> int:
    return urllib3.request("GET", server.url + path, retries=False, timeout=10.0).status


def children_of(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def classify_in_background(server: Device) -> tuple[threading.Thread, list[urllib3.BaseHTTPResponse]]:
    replies: list[urllib3.BaseHTTPResponse] = []

    def ask() -> None:
        replies.append(
            urllib3.request(
                "POST", f"{server.url}/v2/models/tiny/classify", body=picture(), retries=False, timeout=20.0
            )
        )

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, replies


def test_a_killed_worker_fails_what_it_held_at_once_and_another_takes_its_place(server):
    pid = server.admin.status().models[0].pid
    os.kill(pid, signal.SIGSTOP)
    thread, replies = classify_in_background(server)
    assert settles(lambda: server.admin.status().models[0].in_flight == 1)
    os.kill(pid, signal.SIGKILL)
    thread.join(5.0)
    assert not thread.is_alive() and replies[0].status == 503 and replies[0].headers["Retry-After"]
    assert "died" in replies[0].json()["error"]
    assert settles(lambda: status(server, "/v2/health/ready") == 200)
    model = server.admin.status().models[0]
    assert model.ready and model.pid != pid and model.restarts == 1
    assert Client(server.url).classify(picture(), "tiny").model_version == "1.0.0"


def test_while_no_worker_serves_ready_says_so_and_requests_are_refused(server):
    os.kill(server.admin.status().models[0].pid, signal.SIGKILL)
    seen = dict.fromkeys(("/v2/health/ready", "/v2/models/tiny/ready"), 200)

    def refused() -> bool:
        for path in seen:
            seen[path] = max(seen[path], status(server, path))
        return set(seen.values()) == {503}

    assert settles(refused, 5.0), seen
    reply = urllib3.request("POST", f"{server.url}/v2/models/tiny/classify", body=picture(), retries=False)
    assert reply.status in (200, 503)
    assert status(server, "/v2/health/live") == 200
    assert settles(lambda: status(server, "/v2/health/ready") == 200)


def test_a_trial_whose_worker_dies_is_rejected_and_the_confirmed_release_serves(server):
    server.activate(classifier_release("2.0.0", seed=2))
    assert server.admin.swap("tiny").swapped
    os.kill(server.admin.status().models[0].pid, signal.SIGKILL)
    assert settles(lambda: server.admin.status().models[0].version == "1.0.0")
    state = server.store().read()
    assert state.trial is None
    assert [entry.version for entry in state.quarantine] == ["2.0.0"] and "SIGKILL" in state.quarantine[0].reason
    assert Client(server.url).classify(picture(), "tiny").model_version == "1.0.0"


def test_a_killed_gateway_is_replaced_on_the_same_sockets_and_refuses_no_connection(server):
    before = server.admin.status()
    os.kill(before.gateway_pid, signal.SIGKILL)
    address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    with socket.create_connection(address, 5.0) as waiting:  # nobody accepts it yet, and nobody refuses it
        waiting.settimeout(20.0)
        waiting.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
    assert settles(lambda: status(server, "/v2/health/ready") == 200)
    after = server.admin.status()
    assert after.gateway_restarts == 1 and after.gateway_pid != before.gateway_pid
    assert after.models[0].pid == before.models[0].pid, "the worker did not notice"
    assert Client(server.url).classify(picture(), "tiny").model_version == "1.0.0"


def test_a_worker_that_is_stuck_is_replaced(make_server):
    server = make_server(request_timeout_s=1.0)
    server.confirm(classifier_release())
    server.start()
    pid = server.admin.status().models[0].pid
    os.kill(pid, signal.SIGSTOP)
    thread, replies = classify_in_background(server)
    thread.join(10.0)
    assert replies[0].status == 504
    assert settles(lambda: server.admin.status().models[0].pid not in (pid, None))
    assert settles(lambda: status(server, "/v2/health/ready") == 200)
    assert Client(server.url).classify(picture(), "tiny").model_version == "1.0.0"


def test_a_dead_trial_never_costs_the_confirmed_release_its_place(server):
    """The operator rolls back in the same moment: the late rejection must not hit what is confirmed."""
    server.activate(classifier_release("2.0.0", seed=2))
    assert server.admin.swap("tiny").swapped
    store = server.store()
    with store.operation("rollback"):
        os.kill(server.admin.status().models[0].pid, signal.SIGKILL)
        assert settles(lambda: status(server, "/v2/health/ready") == 503)
        store.rollback(1, "by the operator")
    assert server.admin.swap("tiny").swapped
    assert settles(lambda: server.admin.status().models[0].version == "1.0.0")
    state = server.store().read()
    assert state.quarantine == () and state.serving.version == "1.0.0"


def test_nothing_survives_a_killed_supervisor_and_the_next_start_works(server):
    pid = server.endpoint.pid
    family = children_of(pid)
    assert len(family) == 2
    os.kill(pid, signal.SIGKILL)
    assert settles(lambda: not any(alive(child) for child in family))
    with pytest.raises(NotRunning):
        AdminClient.connect(server.config)
    address = server.url
    server.start()
    assert server.url == address, "a port that was taken once is kept"
    assert Client(server.url).classify(picture(), "tiny").model_version == "1.0.0"


def test_a_worker_that_is_stuck_leaves_with_its_supervisor(server):
    (model,) = server.admin.status().models
    os.kill(model.pid, signal.SIGSTOP)
    os.kill(server.endpoint.pid, signal.SIGKILL)
    os.kill(model.pid, signal.SIGCONT)
    assert settles(lambda: not alive(model.pid))


def test_stop_finishes_the_request_that_it_finds_under_way(make_server):
    server = make_server()
    server.confirm(slow_release(400))
    server.start()
    import numpy as np

    body = np.zeros((256, 256), np.float32).tobytes()
    head = (
        b'{"inputs":[{"name":"x","shape":[256,256],"datatype":"FP32","parameters":{"binary_data_size":%d}}],'
        b'"parameters":{"binary_data_output":true}}' % len(body)
    )
    replies: list[int] = []

    def ask() -> None:
        headers = {"Inference-Header-Content-Length": str(len(head))}
        url = f"{server.url}/v2/models/slow/infer"
        replies.append(urllib3.request("POST", url, body=head + body, headers=headers, retries=False).status)

    thread = threading.Thread(target=ask)
    thread.start()
    assert settles(lambda: server.admin.status().models[0].in_flight == 1)
    server.admin.stop()
    thread.join(10.0)
    assert replies == [200]
    assert not endpoint.running(server.config.run_dir)
    assert endpoint.read(server.config.run_dir) is None


def test_stop_under_load_breaks_no_answer_off(server):
    with asking(server) as seen:
        assert settles(lambda: seen.statuses[200] > 20)
        server.admin.stop()
    whole = {status for status in seen.statuses if isinstance(status, int)}
    assert whole <= {200}
    assert all("IncompleteRead" not in repr(fault) for fault in seen.statuses)


def test_a_second_server_in_the_same_place_is_refused_and_the_first_goes_on(server):
    with pytest.raises(DeviceUnable, match=f"a server runs here already.*process {server.endpoint.pid}"):
        start_detached(server.config)
    assert status(server, "/v2/health/ready") == 200


def test_without_a_server_the_administrator_is_told_how_to_start_one(tmp_path):
    with pytest.raises(NotRunning, match="surefoot serve"):
        AdminClient.connect(Device(tmp_path).config)


def test_a_device_without_models_is_live_but_not_ready_and_says_why(make_server):
    server = make_server()
    server.start()
    assert status(server, "/v2/health/live") == 200
    reply = urllib3.request("GET", f"{server.url}/v2/health/ready", retries=False)
    assert reply.status == 503 and "no model" in reply.json()["error"] and reply.json()["ready"] is False
    server.confirm(classifier_release())
    assert server.admin.swap("tiny").swapped
    assert status(server, "/v2/health/ready") == 200


def test_many_models_come_up_side_by_side(make_server):
    server = make_server()
    names = [f"tiny-{number}" for number in range(5)]
    for name in names:
        server.confirm(classifier_release(name=name))
    server.start()
    assert [(model.name, model.ready) for model in server.admin.status().models] == [(name, True) for name in names]
    assert status(server, "/v2/health/ready") == 200


def test_a_folder_too_deep_for_a_socket_still_works(make_server, tmp_path):
    server = make_server("/".join(["a-folder-with-a-long-name"] * 6))
    server.confirm(classifier_release())
    where = server.start()
    assert len(where.admin_socket) < 100 and not where.admin_socket.startswith(str(tmp_path))
    folder = Path(where.admin_socket).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert server.admin.status().ready
    server.admin.stop()
    assert not folder.exists()


def test_the_admin_socket_is_for_its_own_user_only(server):
    path = Path(server.endpoint.admin_socket)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_uid == os.geteuid()


@pytest.mark.parametrize(
    "line", [b"", b"nonsense\n", b'{"op":"format"}\n', b'{"op":"swap","name":"../x"}\n', b"x" * 9000]
)
def test_an_order_that_is_none_is_refused_and_the_server_goes_on(shared_server, line):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10.0)
        connection.connect(shared_server.endpoint.admin_socket)
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1 << 16)
    assert b'"error":{' in answer
    assert shared_server.admin.status().ready


def test_no_process_of_the_server_may_carry_telemetry(shared_server):
    (model,) = shared_server.admin.status().models
    for pid in (model.pid, shared_server.admin.status().gateway_pid):
        assert f"{TELEMETRY_VARIABLE}=1".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


@pytest.mark.parametrize("library", ["onnxruntime", "numpy"])
def test_only_the_worker_has_a_runtime_in_it(shared_server, library):
    said = shared_server.admin.status()
    maps = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (said.pid, said.gateway_pid, said.models[0].pid)}
    assert [f"/{library}/" in content for content in maps.values()] == [False, False, True]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org", ""])
def test_an_address_that_is_not_loopback_is_refused(tmp_path, host):
    with pytest.raises(BadRequest, match="loopback"):
        start_detached(Device(tmp_path, host=host).config)


def test_a_port_that_is_taken_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        device = Device(tmp_path, port=taken.getsockname()[1])
        from surefoot.serving import sockets

        sockets_wait, sockets.BIND_WAIT_S = sockets.BIND_WAIT_S, 0.0
        try:
            with pytest.raises(DeviceUnable, match="cannot listen"):
                sockets.open_tcp(device.config, sockets.Disk())
        finally:
            sockets.BIND_WAIT_S = sockets_wait


def test_in_the_foreground_sigterm_ends_it_in_order(tmp_path):
    device = Device(tmp_path)
    code = (
        "import sys, msgspec\n"
        "from surefoot.serving.detach import decode_config\n"
        "from surefoot.serving.supervisor import run\n"
        "sys.exit(run(decode_config(sys.stdin.buffer.read()), lambda where: print(where.url, flush=True)))"
    )
    import msgspec

    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(msgspec.json.encode(device.config, enc_hook=str))
        process.stdin.close()
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")
def test_workers_that_die_leave_no_descriptor_behind(make_server) -> None:
    device = make_server()
    device.confirm(classifier_release())
    device.start()
    assert device.endpoint is not None
    server = device.endpoint.pid

    def another(than: int) -> bool:
        pid = device.admin.status().models[0].pid
        return pid is not None and pid != than

    counts = []
    for _ in range(4):
        pid = device.admin.status().models[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert settles(lambda pid=pid: another(pid))
        counts.append(sum(each.startswith("pipe:") for each in open_files(server)))
    assert counts == counts[:1] * 4, "a lifeline stays open"
