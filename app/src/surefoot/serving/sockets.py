"""Sockets that the supervisor opens once and holds, so that a gateway's restart refuses nobody."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

from surefoot.config import Config
from surefoot.durable import Disk, read_bounded
from surefoot.errors import BadRequest, DeviceUnable

MOST_UNIX_PATH_BYTES = 100  # sun_path holds 108 bytes on Linux, 104 on macOS: unix(7), unix(4)
PORT_FILE = "port"
BACKLOG = 1024
BIND_WAIT_S = 5.0  # a server that was killed leaves its gateway draining for a moment


def check_host(host: str) -> str:
    """The address to bind, which must be this machine's own.

    Raises:
        BadRequest: any other address. It needs TLS and a way to know clients, which this version does not have.
    """
    address = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadRequest(
            "gateway.host must be a loopback address",
            found=host,
            expected="127.0.0.1, ::1 or localhost",
            hint="put a proxy with TLS and authentication in front, or use the Unix socket",
        )
    return address


def open_tcp(config: Config, disk: Disk) -> socket.socket:
    """The listening TCP socket. Port 0 takes a free port once and keeps it for later starts.

    Raises:
        BadRequest: not a loopback address.
        DeviceUnable: the port is taken.
    """
    address = check_host(config.gateway.host)
    record = config.data_dir / PORT_FILE
    if config.gateway.port:
        return _listen(address, config.gateway.port)
    kept = _kept_port(record)
    if kept:
        try:
            return _listen(address, kept)
        except DeviceUnable:
            pass  # somebody else took it meanwhile; any free one was asked for
    listener = _listen(address, 0)
    with contextlib.suppress(DeviceUnable, OSError):  # a read-only disk must not keep models from being served
        disk.make_directory(config.data_dir)
        disk.write(record, f"{listener.getsockname()[1]}\n".encode())
    return listener


def _kept_port(record: Path) -> int:
    try:
        port = int(read_bounded(record, 16))
    except (OSError, ValueError, DeviceUnable):
        return 0
    return port if 0 < port < 1 << 16 else 0


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    deadline = time.monotonic() + (BIND_WAIT_S if port else 0.0)
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen(BACKLOG)
            return listener
        except OSError as error:
            listener.close()
            if time.monotonic() >= deadline:
                raise DeviceUnable(
                    f"cannot listen on {address} port {port}",
                    found=str(error.strerror),
                    hint="choose another gateway.port (0 takes a free one), or end what listens there",
                ) from error
        time.sleep(0.05)


class UnixSockets:
    """Unix sockets in ``run_dir``, or in a short private directory where that path is too long for a socket."""

    def __init__(self, run_dir: Path) -> None:
        self._private: Path | None = None
        self._directory = run_dir
        self._paths: list[Path] = []
        if len(os.fsencode(run_dir / "admin.sock")) > MOST_UNIX_PATH_BYTES:
            self._directory = self._private = _private_directory()

    def listen(self, name: str, mode: int) -> tuple[socket.socket, Path]:
        """Open ``<directory>/<name>``. Whoever calls holds the supervisor's lock, so what is there is left over.

        Raises:
            DeviceUnable: it cannot be made.
        """
        path = self._directory / name
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            before = os.umask(0o777 & ~mode)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise DeviceUnable(f"cannot make the socket {path}", found=str(error.strerror)) from error
        self._paths.append(path)
        return listener, path

    def remove(self) -> None:
        """Take the names away."""
        with contextlib.suppress(OSError):
            for path in self._paths:
                path.unlink(missing_ok=True)
            if self._private is not None:
                self._private.rmdir()


def _private_directory() -> Path:
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  # mkdtemp below makes a private directory in it
        if len(os.fsencode(parent)) + 40 <= MOST_UNIX_PATH_BYTES:
            return Path(tempfile.mkdtemp(prefix="surefoot-", dir=parent))  # mode 0700: tempfile's documentation
    raise DeviceUnable("there is no directory with a path short enough for a Unix socket", hint="set a short run_dir")


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end of a Unix socket, as the kernel knows it."""
    if sys.platform == "darwin":
        # struct xucred: version, uid, ...; SOL_LOCAL 0, LOCAL_PEERCRED 1: unix(4) of macOS
        return int.from_bytes(connection.getsockopt(0, 1, 76)[4:8], sys.byteorder)
    # struct ucred: pid, uid, gid: unix(7)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)
