"""What time it is, and whether to believe it. A device's clock may start anywhere, and anybody may have set it."""

from __future__ import annotations

import ctypes
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import msgspec

from surefoot.durable import read_bounded
from surefoot.errors import DeviceUnable

Mode = Literal["auto", "trusted", "untrusted"]

FLOOR_NAME = "time-floor"  # in the trust directory

# The app cannot run before it was built. Raised with each release of the app; never a file's time.
BUILD_TIME = datetime(2026, 1, 1, tzinfo=timezone.utc)

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

_STA_UNSYNC = 0x0040  # <sys/timex.h>
_TIME_ERROR = 5
_TIMESYNCD = Path("/run/systemd/timesync/synchronized")


class Reading(msgspec.Struct, frozen=True):
    """A judged clock: ``reference`` is the time to compare expiries with; ``trusted`` whether that is really now."""

    reference: datetime
    trusted: bool


class Clock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Now, UTC, by the machine."""
        return datetime.fromtimestamp(time.time(), timezone.utc)

    def synchronised(self) -> bool:
        """Whether the kernel or systemd-timesyncd says that time comes from a time server. Unknown is no."""
        return _TIMESYNCD.exists() or kernel_synchronised()


def judge(mode: Mode, now: datetime, synchronised: bool, floor: datetime) -> Reading:
    """Whether ``now`` can be believed.

    Args:
        mode: ``auto`` believes a synchronised clock; the others were decided by the operator.
        now: what the clock says.
        synchronised: what the kernel says.
        floor: a moment that has certainly passed. A clock before it is wrong, whatever anybody says.
    """
    trusted = now >= floor and (mode == "trusted" or (mode == "auto" and synchronised))
    return Reading(now if trusted else floor, trusted)


class Floor(msgspec.Struct, frozen=True):
    """A moment that has surely passed, by who signed it.

    Attributes:
        lasting: by root and targets, whose keys lie in a safe.
        online: by timestamp and snapshot. It is worth what their keys are: a new root that replaces them ends it.
        keys: which those are, as :func:`surefoot.release.metadata.online_keys` says.
    """

    lasting: datetime = BUILD_TIME
    online: datetime = BUILD_TIME
    keys: str = ""

    @property
    def newest(self) -> datetime:
        """Where the keys are not asked for."""
        return max(self.lasting, self.online)

    def by(self, keys: str) -> datetime:
        """The newest moment that counts where these are the online keys."""
        return self.newest if self.keys in ("", keys) else self.lasting

    def raised(self, lasting: datetime, online: datetime, keys: str) -> Floor:
        """The same after more was accepted."""
        return Floor(max(self.lasting, lasting), max(self.online, online) if self.keys in ("", keys) else online, keys)

    def encode(self) -> bytes:
        """As it is kept: two lines."""
        return f"{self.lasting:{_FORMAT}}\n{self.online:{_FORMAT}} {self.keys}\n".encode()


def read_floor(path: Path) -> Floor:
    """What ``path`` keeps; the build time, which is certain, where it is absent or unreadable."""
    try:
        first, *others = read_bounded(path, 256).decode().splitlines()
        if not others:  # one line, as it was once: anybody's
            return Floor(online=max(BUILD_TIME, _time(first)))
        online, _, keys = others[0].partition(" ")
        return Floor(max(BUILD_TIME, _time(first)), max(BUILD_TIME, _time(online)), keys)
    except (OSError, ValueError, DeviceUnable):
        return Floor()


def _time(text: str) -> datetime:
    return datetime.strptime(text, _FORMAT).replace(tzinfo=timezone.utc)


class _Timex(ctypes.Structure):
    """The head of ``struct timex``, adjtimex(2), with room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def kernel_synchronised() -> bool:
    """Linux: adjtimex(2) without STA_UNSYNC. Elsewhere the kernel is not asked: no."""
    if not sys.platform.startswith("linux"):
        return False
    state = _Timex()  # modes = 0: read, change nothing
    try:
        result = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        return False
    return 0 <= result < _TIME_ERROR and not state.status & _STA_UNSYNC
