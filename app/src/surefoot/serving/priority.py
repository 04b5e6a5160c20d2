"""Low CPU priority for the thread that loads a model, so that what serves is not slowed (tensorflow/serving#1866).

An unprivileged process on Linux may lower a priority but not raise it again, so the load runs in a thread of its own
that ends with it. Threads that a runtime starts inherit the low priority; they are put back where that is allowed,
and where it is not, a load with more than one thread is not lowered at all.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

LOW_NICE = 10
_DARWIN_THREAD, _DARWIN_BACKGROUND = 3, 0x1000  # PRIO_DARWIN_THREAD, PRIO_DARWIN_BG: setpriority(2) of macOS

Result = TypeVar("Result")


def run_low(task: Callable[[], Result], threads: int) -> Result:
    """Run ``task`` in a thread of low priority and return what it returns, or raise what it raises.

    Args:
        task: the load.
        threads: how many threads the runtime may start; they would keep the priority.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def body() -> None:
        with contextlib.suppress(OSError):
            if sys.platform == "darwin":
                os.setpriority(_DARWIN_THREAD, 0, _DARWIN_BACKGROUND)
            elif threads <= 1 or _may_raise():
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_NICE)
        try:
            results.append(task())
        except BaseException as error:
            errors.append(error)

    normal = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=body, name="load")
    thread.start()
    thread.join()
    if sys.platform.startswith("linux"):
        for task_directory in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, int(task_directory.name), normal)
    if errors:
        raise errors[0]
    return results[0]


def _may_raise() -> bool:
    # getrlimit(2): the ceiling of the nice value is 20 minus the soft limit.
    return os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20
