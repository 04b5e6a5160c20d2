"""What of the app's figures a node exporter may show beside its own."""

from __future__ import annotations

import importlib.util
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).parents[2] / "roles" / "telemetry" / "files" / "app_metrics.py"


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("surefoot_app_metrics", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


app_metrics = program()
OURS = (
    "# HELP surefoot_requests_total requests by model\n"
    "# TYPE surefoot_requests_total counter\n"
    'surefoot_requests_total{model="m",code="200"} 3\n'
)
OTHERS = "# HELP process_open_fds of surefoot_gateway\n# TYPE process_open_fds gauge\nprocess_open_fds 9\n\n"


def test_only_families_of_ours_are_copied() -> None:
    assert app_metrics.ours(OTHERS + OURS + OTHERS) == OURS


def test_the_gateways_own_exposition_keeps_what_is_ours() -> None:
    from surefoot.serving.metrics import Metrics

    copied = app_metrics.ours(Metrics().exposition(None).decode())
    assert "surefoot_requests_total" in copied
    assert [line for line in copied.splitlines() if "surefoot_" not in line] == []


def serve(status: int, body: bytes) -> HTTPServer:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, OURS.encode(), OURS + "surefoot_app_up 1\n"),
        (503, OURS.encode(), "surefoot_app_up 0\n"),
        (200, b"\xff\xfe", "surefoot_app_up 0\n"),
    ],
)
def test_the_file_says_whether_the_app_answered(tmp_path: Path, status: int, body: bytes, expected: str) -> None:
    server = serve(status, body)
    file = tmp_path / "surefoot.prom"
    app_metrics.copy("127.0.0.1", server.server_port, file)
    server.shutdown()
    server.server_close()
    lines = [line for line in file.read_text().splitlines(keepends=True) if "surefoot_app_up W" not in line]
    assert "".join(line for line in lines if line != "# TYPE surefoot_app_up gauge\n") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["surefoot.prom"]


def test_an_app_that_is_not_there_is_a_figure_too(tmp_path: Path) -> None:
    server = serve(200, b"")
    port = server.server_port
    server.shutdown()
    server.server_close()
    app_metrics.copy("127.0.0.1", port, tmp_path / "surefoot.prom")
    assert (tmp_path / "surefoot.prom").read_text().endswith("surefoot_app_up 0\n")
