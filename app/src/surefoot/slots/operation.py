"""The long lock: one install, restore or recovery of a model at a time. It never waits; the refusal names the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surefoot.durable import Disk, locked
from surefoot.errors import DeviceUnable

MOST_NOTE_BYTES = 200


class Operation:
    """The operation lock of one model, as one object holds it. Entering again while holding it is allowed."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path, self._disk = path, disk
        self._depth = 0

    @contextmanager
    def holding(self, what: str) -> Iterator[None]:
        """Hold the lock for ``what`` ("install", "rollback").

        Raises:
            DeviceUnable: another operation is under way.
        """
        if self._depth:
            with self._counted():
                yield
            return
        taken = False
        self._disk.make_directory(self._path.parent)
        try:
            with locked(self._path, wait_s=0):
                taken = True
                self._note(f"{what} (pid {os.getpid()})")
                with self._counted():
                    yield
        except DeviceUnable as error:
            if taken or not error.found.startswith("lock "):
                raise
            raise DeviceUnable(
                f"cannot {what} now: another operation on {self._path.parent.name} is under way",
                found=self._other() or "another process",
                hint="wait for it to end, then run the same command again",
            ) from error

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def _note(self, text: str) -> None:
        """Who holds it, for the other's error. Information only: the lock is what counts, so it is not made durable."""
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)

    def _other(self) -> str:
        with suppress(OSError):
            return self._path.read_bytes()[:MOST_NOTE_BYTES].decode("utf-8", "replace")
        return ""
