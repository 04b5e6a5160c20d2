"""What no file says, asked of the running machine. Nothing is changed, and nothing needs a right."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from surefoot.durable import read_bounded
from surefoot.errors import BadRequest, DeviceUnable
from surefoot.release.clock import Clock
from surefoot.watch.doctor.facts import Directory, Live
from surefoot.watch.doctor.programs import drained, end

RECORDED = "live.json"  # beside the recorded files of a board
MOST_RECORDED_BYTES = 64 * 1024
COMMAND_TIMEOUT_S = 5.0


def ask(data_dir: Path, run_dir: Path) -> Live:
    """The machine that this process runs on."""
    clock, mac = Clock(), sys.platform == "darwin"
    return Live(
        system=sys.platform,
        machine=platform.machine(),
        pointer_bits=ctypes.sizeof(ctypes.c_void_p) * 8,
        page_size_bytes=os.sysconf("SC_PAGE_SIZE"),
        python=platform.python_version(),
        uid=os.geteuid(),
        now=clock.now(),
        synchronised=clock.synchronised() if sys.platform.startswith("linux") else None,
        preload=os.environ.get("LD_PRELOAD", ""),
        board=_printed("sysctl", "-n", "hw.model") if mac else "",
        release=f"macOS {platform.mac_ver()[0]}" if mac else "",
        vcgencmd=_printed("vcgencmd", "get_throttled"),
        data=directory(data_dir),
        run=directory(run_dir),
    )


def recorded(folder: Path) -> Live:
    """What was recorded beside a board's files.

    Raises:
        BadRequest: it is not there, or not what this version reads.
    """
    path = folder / RECORDED
    try:
        return msgspec.json.decode(read_bounded(path, MOST_RECORDED_BYTES), type=Live)
    except (OSError, DeviceUnable, msgspec.DecodeError) as error:
        raise BadRequest(
            f"{folder} holds no recorded board",
            found=str(error),
            expected=f"{RECORDED} beside proc/, sys/ and etc/",
            hint="leave --facts away to look at this machine",
        ) from error


def directory(path: Path) -> Directory:
    """A directory, or its nearest parent. Asked with access(2): nothing is written."""
    real = Path(os.path.realpath(path))
    there = next((each for each in (real, *real.parents) if os.path.exists(each)), Path("/"))  # noqa: PTH110  # no raise
    try:
        room, owner = os.statvfs(there), there.stat().st_uid
    except OSError:  # it vanished, or is forbidden
        return Directory(path=str(real))
    return Directory(
        path=str(real),
        exists=there == real,
        writable=os.access(there, os.W_OK | os.X_OK),
        read_only=bool(room.f_flag & os.ST_RDONLY),
        owner_uid=owner,
        free_bytes=room.f_bavail * room.f_frsize,
        free_inodes=room.f_favail if room.f_files else None,
    )


def _printed(command: str, *arguments: str) -> str:
    """What a command prints, if it is here and willing; bounded."""
    program = shutil.which(command)
    if program is None:
        return ""
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return ""
    assert process.stdout is not None  # noqa: S101  # asked for above
    try:
        (heard,), _ = drained({process.stdout.fileno(): 1024}, COMMAND_TIMEOUT_S)
    finally:
        end(process)
        process.stdout.close()
    return heard.decode(errors="replace").strip() if process.returncode == 0 else ""
