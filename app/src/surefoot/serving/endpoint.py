"""``<run_dir>/endpoint.json``: where the running server can be reached. The lock beside it says whether it runs."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from surefoot.durable import Disk, read_bounded
from surefoot.errors import DeviceUnable

FILE_NAME = "endpoint.json"
LOCK_NAME = "supervisor.lock"
MOST_BYTES = 16 * 1024


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses of one running server. ``started_at``: UTC, RFC 3339."""

    pid: int
    url: str
    http_socket: str
    admin_socket: str
    started_at: str


def publish(run_dir: Path, endpoint: Endpoint) -> None:
    """Write the file."""
    Disk().write(run_dir / FILE_NAME, msgspec.json.format(msgspec.json.encode(endpoint), indent=1) + b"\n")


def read(run_dir: Path) -> Endpoint | None:
    """What the last server wrote, if that can be read. It may be gone since."""
    try:
        return msgspec.json.decode(read_bounded(run_dir / FILE_NAME, MOST_BYTES), type=Endpoint)
    except (OSError, msgspec.DecodeError, DeviceUnable):
        return None


def withdraw(run_dir: Path) -> None:
    """Remove the file."""
    Disk().remove(run_dir / FILE_NAME)


def running(run_dir: Path) -> bool:
    """Whether some server holds the lock."""
    try:
        descriptor = os.open(run_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def already_running(run_dir: Path) -> DeviceUnable:
    """The refusal of a second start."""
    where = read(run_dir)
    return DeviceUnable(
        "a server runs here already",
        found=f"process {where.pid} at {where.url}" if where else f"lock {run_dir / LOCK_NAME} is held",
        hint="end it by `surefoot stop`, or give this one another run_dir",
    )
