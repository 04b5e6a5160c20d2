"""What systemd is told, by a real server to a real socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from surefoot.serving import endpoint
from surefoot.serving.admin import AdminClient
from surefoot.serving.notify import Notifier
from tests.app.serving.device import Device


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The end of a notification socket that systemd holds. Its path is short, as a socket's must be."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("notify")
        heard.settimeout(20)
        yield heard


def serve(device: Device, **variables: str) -> subprocess.Popen[bytes]:
    """``surefoot serve`` in the foreground, as a unit starts it."""
    config = device.root / "surefoot.toml"
    config.write_text('data_dir = "data"\nrun_dir = "run"\n[gateway]\nport = 0\n')
    return subprocess.Popen(
        [sys.executable, "-m", "surefoot", "--config", config, "serve"],
        env={**os.environ, "NOTIFY_SOCKET": str(Path("notify").absolute()), **variables},
        stderr=subprocess.DEVNULL,
    )


def all_said(heard: socket.socket) -> list[bytes]:
    """What has been said and not yet heard."""
    said = []
    heard.setblocking(False)
    try:
        while True:
            said.append(heard.recv(4096))
    except BlockingIOError:
        return said
    finally:
        heard.settimeout(20)


def test_the_watchdog_is_fed_while_the_gateway_answers_and_no_longer(make_server, systemd):
    device = make_server()
    process = serve(device, WATCHDOG_USEC="300000")
    try:
        assert systemd.recv(4096) == b"READY=1"
        assert endpoint.read(device.config.run_dir) is not None
        assert systemd.recv(4096) == b"WATCHDOG=1"
        assert systemd.recv(4096) == b"WATCHDOG=1"
        gateway = AdminClient.connect(device.config).status().gateway_pid
        assert gateway is not None
        children = Path(f"/proc/{gateway}/environ").read_bytes()
        assert b"NOTIFY_SOCKET=" not in children
        os.kill(gateway, signal.SIGSTOP)
        all_said(systemd)
        systemd.settimeout(1.0)
        with pytest.raises(TimeoutError):
            while True:
                systemd.recv(4096)
        os.kill(gateway, signal.SIGCONT)
        systemd.settimeout(20)
        assert systemd.recv(4096) == b"WATCHDOG=1"
    finally:
        process.terminate()
        process.wait(30)
    assert b"STOPPING=1" in all_said(systemd)


def test_without_a_watchdog_only_the_start_and_the_end_are_told(make_server, systemd):
    process = serve(make_server())
    assert systemd.recv(4096) == b"READY=1"
    process.terminate()
    process.wait(30)
    assert all_said(systemd) == [b"STOPPING=1"]


@pytest.mark.parametrize(
    ("asked", "feed_every_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 20.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_what_systemd_asked_for_is_taken_out_of_the_environment(asked, feed_every_s):
    environment = {"NOTIFY_SOCKET": "/nowhere", "KEPT": "1", **asked}
    notifier = Notifier.take(environment)
    assert notifier.feed_every_s == feed_every_s
    assert environment == {"KEPT": "1"}
    notifier.tell("READY=1")  # nobody listens, and nothing is raised


def test_a_name_in_the_abstract_namespace_is_reached():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0surefoot-test-{os.getpid()}")
        heard.settimeout(5)
        Notifier(f"@surefoot-test-{os.getpid()}").tell("READY=1", "STATUS=up")
        assert heard.recv(64) == b"READY=1\nSTATUS=up"
