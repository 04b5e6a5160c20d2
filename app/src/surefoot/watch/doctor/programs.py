"""Listening to a program that may print without end, hang, or leave others behind."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping

LEAVE_WAIT_S = 1.0


def drained(bounds: Mapping[int, int], timeout_s: float) -> tuple[list[bytes], bool]:
    """Read descriptors to their ends, keeping the last bytes of each.

    Args:
        bounds: for each descriptor, how many bytes to keep.
        timeout_s: for all of them together.

    Returns:
        What each said, in the order of ``bounds``, and whether all ended in time.
    """
    deadline = time.monotonic() + timeout_s
    heard = dict.fromkeys(bounds, b"")
    with selectors.DefaultSelector() as selector:
        for descriptor in bounds:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and (left_s := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                more = os.read(key.fd, 65_536)
                if more:
                    heard[key.fd] = (heard[key.fd] + more)[-bounds[key.fd] :]
                else:
                    selector.unregister(key.fd)
        return list(heard.values()), not selector.get_map()


def end(process: subprocess.Popen[bytes]) -> None:
    """Let a program that was started in a session of its own leave; else kill it, and whatever it started."""
    try:
        process.wait(LEAVE_WAIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
