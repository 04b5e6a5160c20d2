"""The module beside a device that misbehaves: doubles of the `surefoot` command, since no real one lies or hangs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from tests.roles.controller import Controller, Played

V1 = {"slot": "a", "status": "confirmed", "version": "1.0.0"}
STATUS = {"name": "m", "active": V1, "slots": {"a": V1}, "trial": None, "previous": [], "held": False}


def bring(controller: Controller, script: str, *arguments: str, timeout_s: int = 60, **options: str) -> Played:
    """Ask the module for version 2.0.0 of a device whose ``surefoot`` is a double that runs ``script``."""
    double = controller.folder / "surefoot"
    double.write_text(
        f"#!/bin/sh\nverb=$4\nstatus() {{ cat <<'END'\n{json.dumps({'models': [STATUS]})}\nEND\n}}\n{script}\n"
    )
    double.chmod(0o755)
    config = controller.folder / "surefoot.toml"
    config.write_text("")
    task = {
        "surefoot.edge.surefoot_model": {
            "name": "m",
            "version": "2.0.0",
            "repository": "/repository",
            "config": str(config),
            "executable": str(double),
            "timeout": timeout_s,
            **options,
        }
    }
    playbook = controller.folder / "task.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": "surefoot", "gather_facts": False, "tasks": [task]}]))
    return controller.play_file(playbook, *arguments)


def test_a_device_that_reports_success_and_does_nothing_is_a_failure(controller: Controller) -> None:
    played = bring(controller, 'case "$verb" in status) status;; *) echo \'{"changed": true}\';; esac')
    assert played.status != 0
    assert "every step succeeded and yet the device is not where it should be" in played.out
    assert "1.0.0 (confirmed) serves" in played.out


def test_a_command_that_hangs_is_cut_off_and_said_so(controller: Controller) -> None:
    played = bring(controller, 'case "$verb" in status) status;; *) exec sleep 600;; esac', timeout_s=3)
    assert played.status != 0
    assert "surefoot model install did not finish in time" in played.out


@pytest.mark.parametrize("script", ["echo no JSON", "exit 7", "echo '[1]'", 'echo "Traceback" >&2; exit 1'])
def test_an_answer_that_is_none_is_a_failure_with_the_command_to_run(controller: Controller, script: str) -> None:
    played = bring(controller, script)
    assert played.status != 0
    assert "did not answer as it should" in played.out
    assert "run it on the device: " in played.out


def test_the_error_of_the_command_is_passed_on_whole(controller: Controller) -> None:
    error = {"error": "UntrustedRelease", "what": "W", "found": "F", "expected": "E", "hint": "H"}
    script = f"case \"$verb\" in status) status;; *) echo '{json.dumps(error)}'; exit 3;; esac"
    for arguments in ([], ["--check"]):
        played = bring(controller, script, *arguments)
        assert played.status != 0
        assert "W; found: F; expected: E; what to do: H; serving now: 1.0.0 (confirmed)" in " ".join(played.out.split())


def test_a_command_that_is_not_there_is_said_so(controller: Controller, tmp_path: Path) -> None:
    played = bring(controller, "exec /nowhere/else")
    assert played.status != 0
    assert "exit status 127" in played.out


def test_an_app_that_does_not_answer_its_clients_is_a_failure(controller: Controller) -> None:
    script = 'case "$verb" in status) status;; *) echo \'{"changed": true}\';; esac'
    for endpoint in (None, '{"url": "http://127.0.0.1:1"}', "[]"):  # port 1 of loopback: nobody listens there
        if endpoint is not None:
            (controller.folder / "endpoint.json").write_text(endpoint)
        played = bring(controller, script, version="1.0.0", run_dir=str(controller.folder))
        assert played.status != 0
        assert "the app does not answer its clients" in played.out
        assert "serving now: 1.0.0 (confirmed)" in " ".join(played.out.split())


def test_the_first_root_is_written_once_and_only_shown_to_the_lookup_in_check_mode(controller: Controller) -> None:
    root, seen = controller.folder / "first-root.json", controller.folder / "seen"
    script = f"""case "$verb" in
    status) status;;
    plan|install) while [ "$1" != --root ]; do shift; done; cat "$2" > {seen}; echo '{{"version": "2.0.0"}}';;
    *) echo '{{"changed": true}}';; esac"""
    for content, arguments, there in (("first", ["--check"], None), ("first", [], "first"), ("second", [], "first")):
        bring(controller, script, *arguments, root=str(root), root_content=content)
        assert seen.read_text() == "first"
        assert (root.read_text() if root.exists() else None) == there


@contextmanager
def server_of(version: str) -> Iterator[str]:
    """A double of the app that says it serves ``version``, whatever is in the slots. Yields its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"name": "m", "versions": [version]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("version", "status"), [("1.0.0", 0), ("2.0.0", 2)])
def test_a_server_that_serves_something_else_than_the_slots_say_is_a_failure(
    controller: Controller, version: str, status: int
) -> None:
    double = controller.folder / "surefoot"
    double.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps({'models': [{**STATUS, 'held': True}]})}\nEND\n")
    double.chmod(0o755)
    with server_of(version) as url:
        (controller.folder / "endpoint.json").write_text(json.dumps({"url": url}))
        played = controller.play(
            "rollback",
            model_slots_models=[{"name": "m", "version": "1.0.0"}],
            model_slots_root="",
            model_slots_run_dir=str(controller.folder),
            model_slots_executable=str(double),
        )
    assert played.status == status, played.out
    assert ("found 2.0.0 answering" in " ".join(played.out.split())) == (version == "2.0.0")
