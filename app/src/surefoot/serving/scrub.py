"""In the supervisor: every model's releases are read from the disk now and then, slowly, and rot is seen to.

One file at a time, in a thread of the lowest priority, at most ``scrub.most_bytes_s``. What serves is never taken away.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import platform
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial

import msgspec

from surefoot.config import Scrub
from surefoot.errors import SurefootError
from surefoot.release.pacing import Cap, Timing
from surefoot.serving.keeper import ModelKeeper
from surefoot.serving.status import ScrubServing
from surefoot.slots.content import ABOUT_CONTENT
from surefoot.slots.scrub import Kept, hash_from_disk, twice

LOWEST_NICE = 19
FIRST_AFTER_S = 3600.0
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # system calls of Linux, syscalls(2)
IDLE_CLASS = 3 << 13  # ioprio_set(2): served when nobody else asks for the disk

log = logging.getLogger("surefoot.supervisor")


class Stopped(Exception):
    """The server leaves."""


class Found(msgspec.Struct, frozen=True):
    """What a look at every byte came to. ``rotten``: files that twice were not what was installed, or were gone."""

    read_bytes: int
    seconds: float
    rotten: tuple[Kept, ...]


class Scrubber:
    """Scrubs one model after the other.

    Args:
        settings: how often, and how fast.
        keepers: of the models, by name.
        chance: in [0, 1), so that a fleet does not scrub at one moment.
    """

    def __init__(
        self, settings: Scrub, keepers: Mapping[str, ModelKeeper], chance: Callable[[], float] = random.random
    ) -> None:
        self._settings, self._keepers, self._chance = settings, keepers, chance
        self._seen: dict[str, ScrubServing] = {}
        self._stop = threading.Event()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scrub", initializer=be_last)

    async def run(self) -> None:
        """Until it is cancelled."""
        wait_s = min(self._settings.every_s, FIRST_AFTER_S)  # soon: some devices are switched off every night
        while wait_s:
            await asyncio.sleep(wait_s * (0.5 + 0.5 * self._chance()))
            wait_s = self._settings.every_s
            for keeper in tuple(self._keepers.values()):
                try:
                    await self.scrub(keeper)
                except (OSError, SurefootError) as error:
                    log.warning("%s: cannot be scrubbed now: %s", keeper.name, error)

    async def scrub(self, keeper: ModelKeeper) -> None:
        """Look at all that a model keeps; what has rotted is healed, given up, or told."""
        files = await asyncio.to_thread(keeper.swap.store.kept)
        found = await asyncio.get_running_loop().run_in_executor(self._reader, self._read, files)
        still = set(await asyncio.to_thread(keeper.swap.store.kept)) if found.rotten else set()
        rotten = tuple(f"{each.where}/{each.path.name}" for each in found.rotten if each in still)
        for where in rotten:
            log.error("%s: %s is not what was installed", keeper.name, where)
        actions = await keeper.mend() if rotten else ()
        self._seen[keeper.name] = ScrubServing(
            at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            read_bytes=found.read_bytes,
            seconds=found.seconds,
            rotten=rotten,
            actions=actions,
        )

    def _read(self, files: list[Kept]) -> Found:
        begun_s = time.monotonic()
        cap = Cap(self._settings.most_bytes_s, Timing(sleep=self._wait))
        total = 0

        def differs(file: Kept) -> bool:
            nonlocal total
            try:
                digest, length = hash_from_disk(file.path, cap.passed)
            except OSError as error:
                if error.errno not in ABOUT_CONTENT:
                    raise
                return True
            total += length
            return digest != file.sha256

        rotten = tuple(file for file in files if twice(partial(differs, file), self._wait))
        return Found(total, time.monotonic() - begun_s, rotten)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise Stopped

    def status(self, name: str) -> ScrubServing | None:
        """The latest of a model; ``None`` before the first."""
        return self._seen.get(name)

    async def close(self) -> None:
        """End what is under way."""
        self._stop.set()
        await asyncio.get_running_loop().run_in_executor(None, self._reader.shutdown)


def be_last() -> None:
    """Give this thread the processor and the disk only when nobody else wants them, as far as the system lets it."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_NICE)
    number = IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, 1, 0, IDLE_CLASS)  # 1: IOPRIO_WHO_PROCESS; 0: this thread
