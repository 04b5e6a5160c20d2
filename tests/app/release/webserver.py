"""A real web server over a folder, with ranges, and with faults that a test puts in."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """How the next answer for a path goes wrong.

    ``cut``: send so many bytes of what was promised, then drop the line. ``status``: answer that instead.
    ``location``: redirect there. ``whole``: ignore the range. ``start``: claim a range from there. ``body``: send that
    in place of the file. ``endless``: never stop sending. ``hang``: wait for the server's end before answering.
    ``headers``: more of them, or instead. ``unconditional``: heed no If-Range.
    """

    cut: int | None = None
    status: int | None = None
    location: str | None = None
    whole: bool = False
    start: int | None = None
    body: bytes | None = None
    endless: bool = False
    hang: bool = False
    headers: dict[str, str] = {}
    unconditional: bool = False


class WebServer:
    """Serves ``folder`` on a free port of the loopback while it is entered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[tuple[str, str | None]] = []  # path, Range
        self.etags = True
        self.tag: Callable[[bytes], str] = lambda data: f'"{hash(data):x}"'
        self.change: Callable[[str], None] = lambda path: None  # called before each answer
        self.ended = threading.Event()
        outer = self

        class Handler(_Handler):
            world = outer

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, path: str, *faults: Fault) -> None:
        """The next answers for a path go wrong, one fault each."""
        self.faults.setdefault(path, []).extend(faults)

    def asked(self, path: str) -> list[str | None]:
        """The Range of each request for a path."""
        return [asked for each, asked in self.requests if each == path]

    def __enter__(self) -> WebServer:  # noqa: PYI034  Self is not in Python 3.10
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        pass  # clients that leave early are what the tests are about


class _Handler(http.server.BaseHTTPRequestHandler):
    world: WebServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.world.requests.append((path, self.headers.get("Range")))
        self.world.change(path)
        queue = self.world.faults.get(path, [])
        fault = queue.pop(0) if queue else Fault()
        if fault.hang:
            self.world.ended.wait()
            self.close_connection = True
            return
        if fault.status or fault.location:
            where = {"Location": fault.location} if fault.location else {}
            self._head(fault.status or 302, 0, {**where, **fault.headers})
            return
        file = self.world.folder / path
        if fault.body is None and not file.is_file():
            self._head(404, 0, {})
            return
        data = fault.body if fault.body is not None else file.read_bytes()
        if fault.endless:
            self._pour()
            return
        tag = self.world.tag(data)
        headers = {"ETag": tag, "Accept-Ranges": "bytes"} if self.world.etags else {}
        headers |= fault.headers
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = None if fault.unconditional else self.headers.get("If-Range")
        status = 200
        if match and not fault.whole and condition in {None, tag}:
            start = int(match[1])
            if start >= len(data):
                self._head(416, 0, {"Content-Range": f"bytes */{len(data)}"})
                return
            claimed = start if fault.start is None else fault.start
            status, headers["Content-Range"] = 206, f"bytes {claimed}-{len(data) - 1}/{len(data)}"
            data = data[claimed:]
        self._head(status, len(data), headers)
        self.wfile.write(data[: fault.cut])
        if fault.cut is not None:
            self.close_connection = True

    def _pour(self) -> None:
        self._head(200, 1 << 40, {})
        try:
            while not self.world.ended.is_set():
                self.wfile.write(b"x" * 65536)
        except OSError:
            pass
        self.close_connection = True

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        if "Date" not in headers:
            self.send_header("Date", self.date_time_string())
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass
