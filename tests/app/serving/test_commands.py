"""``surefoot serve``, ``status``, ``classify`` and ``stop``, as typed."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from surefoot.cli.infer import drawn
from tests.app.serving.device import Device, classifier_release, picture, python


@pytest.fixture
def typed(make_server, tmp_path):
    """A device with a configuration file, and a way to type commands for it."""
    device: Device = make_server()
    device.confirm(classifier_release())
    config = device.root / "surefoot.toml"
    config.write_text('data_dir = "data"\nrun_dir = "run"\n[gateway]\nport = 0\n')

    def command(*arguments: str, status: int = 0) -> str:
        done = python("-m", "surefoot", "--config", str(config), *arguments)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done.stdout if status == 0 else done.stdout + done.stderr

    yield command
    command("stop")


def test_the_server_from_start_to_stop(typed, tmp_path):
    image = tmp_path / "picture.png"
    image.write_bytes(picture(1))
    where = json.loads(typed("serve", "--detach", "--json"))
    assert set(where) == {"pid", "url", "http_socket", "admin_socket", "started_at"}
    assert "already" in typed("serve", "--detach", status=4)
    assert json.loads(typed("serve", "--detach", "--json", status=4))["error"] == "DeviceUnable"
    said = json.loads(typed("status", "--json"))
    assert said["ready"] and said["url"] == where["url"] and said["models"][0]["version"] == "1.0.0"
    assert "1.0.0 from slot a" in typed("status")
    answer = json.loads(typed("classify", str(image), "--url", where["url"], "--model", "tiny", "--json"))
    assert answer["answers"][0]["model_version"] == "1.0.0"
    shown = typed("classify", str(image), "--model", "tiny", "--show")
    assert "@" in shown and answer["answers"][0]["label"] in shown and "%" in shown
    assert "no model 'none'" in typed("classify", str(image), "--model", "none", status=2)
    (tmp_path / "no.png").write_bytes(b"nothing")
    assert "cannot be read" in typed("classify", str(tmp_path / "no.png"), "--model", "tiny", status=2)
    assert json.loads(typed("stop", "--json")) == {"stopped": True}
    assert json.loads(typed("stop", "--json")) == {"stopped": False}
    assert "no server runs" in typed("status", status=4)
    assert "no answer" in typed("classify", str(image), "--url", where["url"], "--model", "tiny", status=5)


def test_a_start_that_fails_says_why_and_leaves_nothing_running(make_server):
    device = make_server()
    device.config.data_dir.mkdir(parents=True)
    config = device.root / "surefoot.toml"
    config.write_text('data_dir = "data"\nrun_dir = "run"\n[gateway]\nhost = "0.0.0.0"\n')
    done = python("-m", "surefoot", "--config", str(config), "serve", "--detach")
    assert done.returncode == 2 and "loopback" in done.stderr
    assert not (device.root / "run" / "endpoint.json").exists()


def test_status_does_not_wait_for_the_servers_imports():
    code = "import sys, surefoot.serving.admin; assert not {'numpy', 'uvicorn', 'onnxruntime'} & set(sys.modules)"
    assert python("-c", code).returncode == 0


def test_a_picture_is_drawn_two_pixels_a_character():
    rows = drawn(picture(side=16), colour=True, width=8).split("\n")
    assert len(rows) == 4 and all(row.count("▀") == 8 for row in rows)


def test_a_picture_is_drawn_in_plain_text_where_there_is_no_colour():
    rows = drawn(picture(side=16), colour=False, width=8).split("\n")
    assert len(rows) == 4 and all(len(row) <= 8 and row.isascii() for row in rows)


def test_another_user_may_not_administer(make_server, needs):
    needs(os.geteuid() == 0, "root, to become another user")
    import asyncio
    import socket

    from surefoot.serving.admin_server import AdminServer

    nobody = str(pwd.getpwnam("nobody").pw_uid)
    code = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setuid(int(sys.argv[2]))\n"
        "with socket.socket(socket.AF_UNIX) as admin:\n"
        "    admin.connect(sys.argv[1])\n"
        '    admin.sendall(b\'{"op":"stop"}\\n\')\n'
        "    print(admin.recv(9999).decode())"
    )
    folder = Path("/tmp") / f"surefoot-admin-{os.getpid()}"
    folder.mkdir(mode=0o755)
    path = folder / "admin.sock"

    async def scene(mode: int) -> tuple[str, list[str]]:
        stops: list[str] = []
        server = type("Server", (), {"stop": lambda self: stops.append("stop")})()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen()
        async with AdminServer(listener, server):
            done = await asyncio.to_thread(python, "-c", code, str(path), nobody, cwd="/")
        path.unlink(missing_ok=True)  # Python 3.13's server has removed it
        return done.stdout + done.stderr, stops

    try:
        said, stops = asyncio.run(scene(0o600))
        assert stops == [] and ("PermissionError" in said or "Permission denied" in said), said
        said, stops = asyncio.run(scene(0o666))  # the mutant: with the file mode gone, the kernel's word still refuses
        assert stops == [] and "may not administer" in said, said
    finally:
        path.unlink(missing_ok=True)
        folder.rmdir()
