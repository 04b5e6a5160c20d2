"""A bad line for the tests: a TCP proxy on loopback that cuts, stalls, drips and rewrites what a server answers.

It takes one request a connection, so that each fault meets one answer, byte for byte.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec

CHUNK_BYTES = 16 * 1024
DRIP_S = 0.01
MOST_HEAD_BYTES = 16 * 1024


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong with one answer, head included.

    ``cut``: close after so many bytes of it. ``reset``: by RST, so that bytes on their way are lost.
    ``stall``: send nothing more after so many bytes. ``drip``: one byte at a time (100 a second) from there on.
    ``head``: rewrites its head. ``request``: rewrites the request. ``answer``: this in place of the server's.
    """

    cut: int | None = None
    reset: bool = False
    stall: int | None = None
    drip: int | None = None
    head: Callable[[bytes], bytes] | None = None
    request: Callable[[bytes], bytes] | None = None
    answer: bytes | None = None


class Passed(msgspec.Struct):
    """One connection: what was asked, and how many bytes of head and body went to the client."""

    path: str = ""
    range: str = ""
    if_range: str = ""
    head_bytes: int = 0
    body_bytes: int = 0


def without(header: str) -> Callable[[bytes], bytes]:
    """Takes a header out of a head."""
    return lambda head: re.sub(rb"\r\n%s:[^\r]*" % header.encode(), b"", head, flags=re.IGNORECASE)


def with_header(header: str, value: str) -> Callable[[bytes], bytes]:
    """Puts a header into a head, in place of what has its name."""
    return lambda head: without(header)(head)[:-2] + f"{header}: {value}\r\n\r\n".encode()


def status(code: int, **headers: str) -> bytes:
    """A whole answer without a body."""
    lines = [f"HTTP/1.1 {code} Said", "Content-Length: 0"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


class Line:
    """Leads to a server's Unix socket while it is entered.

    Args:
        target: the socket.
        opaque: hand bytes on as they are, as TLS needs it; only ``cut``, ``reset``, ``stall`` and ``drip`` work then.
    """

    def __init__(self, target: Path, *, opaque: bool = False) -> None:
        self._target, self._opaque = target, opaque
        self.faults: list[Fault] = []  # for the next connections, one each
        self.always: Fault | None = None  # for those after them
        self.passed: list[Passed] = []
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def body_bytes(self) -> int:
        """Of all answers together, as they left for the client."""
        return sum(each.body_bytes for each in self.passed)

    def __enter__(self) -> Line:  # noqa: PYI034  Self is not in Python 3.10
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        _end(self._listener, self._clients, self._threads)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.settimeout(10)
            self._clients.append(client)
            fault = self.faults.pop(0) if self.faults else self.always or Fault()
            self.passed.append(Passed())
            thread = threading.Thread(target=self._serve, args=(client, fault, self.passed[-1]), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, fault: Fault, passed: Passed) -> None:
        with client, contextlib.suppress(OSError):
            if self._opaque:
                self._relay(client, fault, passed)
            else:
                self._answer(client, fault, passed)

    def _answer(self, client: socket.socket, fault: Fault, passed: Passed) -> None:
        request = _head_of(client)
        passed.path = request.split(b" ")[1].decode().lstrip("/")
        passed.range, passed.if_range = _value(request, "Range"), _value(request, "If-Range")
        if fault.answer is not None:
            self._send(client, fault, fault.answer, passed, len(fault.answer))
            return
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(10)
            server.connect(str(self._target))
            server.sendall(with_header("Connection", "close")((fault.request or bytes)(request)))
            head = (fault.head or bytes)(_head_of(server))
            head_bytes, data = len(head), head
            while data and self._send(client, fault, data, passed, head_bytes):
                data = server.recv(CHUNK_BYTES)

    def _relay(self, client: socket.socket, fault: Fault, passed: Passed) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._target))
            upward = threading.Thread(target=_pour, args=(client, server), daemon=True)
            upward.start()
            while (data := server.recv(CHUNK_BYTES)) and self._send(client, fault, data, passed, 0):
                pass
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            upward.join(10)

    def _send(self, client: socket.socket, fault: Fault, data: bytes, passed: Passed, head_bytes: int) -> bool:
        """Hand on some of an answer; whether it goes on after that."""
        for at, piece in _pieces(data, passed.head_bytes + passed.body_bytes, fault):
            if fault.cut is not None and at >= fault.cut:
                if fault.reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            if fault.stall is not None and at >= fault.stall:
                self._ended.wait()
                return False
            if fault.drip is not None and at >= fault.drip and self._ended.wait(DRIP_S):
                return False
            of_head = min(len(piece), max(0, head_bytes - at))
            passed.head_bytes += of_head  # before it is sent: whoever has it finds it counted
            passed.body_bytes += len(piece) - of_head
            client.sendall(piece)
        return True


def _end(listener: socket.socket, clients: list[socket.socket], threads: list[threading.Thread]) -> None:
    """Nobody new, and nobody who is still here: a client may keep its connection for as long as it likes."""
    for each in (listener, *clients):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def _pieces(data: bytes, at: int, fault: Fault) -> list[tuple[int, bytes]]:
    """``data``, which begins at ``at`` in the answer, split where a fault begins, and to bytes where it drips."""
    ends = {
        each - at for each in (fault.cut, fault.stall, fault.drip) if each is not None and 0 < each - at < len(data)
    }
    if fault.drip is not None:
        ends |= set(range(max(1, fault.drip - at), len(data)))
    bounds = [0, *sorted(ends), len(data)]
    return [(at + begin, data[begin:end]) for begin, end in itertools.pairwise(bounds)]


def _head_of(stream: socket.socket) -> bytes:
    """A request's or an answer's head. Byte by byte: what follows it is not ours yet."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte or len(head) > MOST_HEAD_BYTES:
            raise OSError("no head")
        head += byte
    return head


def _value(head: bytes, header: str) -> str:
    found = re.search(rb"\r\n%s: *([^\r]*)" % header.encode(), head, flags=re.IGNORECASE)
    return found[1].decode() if found else ""


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class Tunnel:
    """An HTTP proxy that knows CONNECT alone, on loopback, while it is entered.

    Args:
        login: ``user:password`` that it asks for; ``None``: anybody may.
    """

    def __init__(self, login: str | None = None) -> None:
        self._login = login
        self.asked: list[str] = []  # the first line of each request
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Tunnel:  # noqa: PYI034  Self is not in Python 3.10
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._listener, self._clients, self._threads)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.settimeout(10)
            self._clients.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = _head_of(client)
            self.asked.append(head.split(b"\r\n")[0].decode())
            wanted = "" if self._login is None else f"Basic {base64.b64encode(self._login.encode()).decode()}"
            if _value(head, "Proxy-Authorization") != wanted:
                client.sendall(status(407, Proxy_Authenticate="Basic"))
                return
            _, _, port = head.split(b" ")[1].decode().rpartition(":")
            # Whatever name was asked for, it lies here: nothing leaves the machine.
            with socket.create_connection(("127.0.0.1", int(port)), 10) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                upward = threading.Thread(target=_pour, args=(client, server), daemon=True)
                upward.start()
                _pour(server, client)
                upward.join(10)
