"""Reading /proc, /sys and /etc, or a folder that stands for them: bounded, and never an error for what is not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MOST_BYTES = 64 * 1024
MOST_NAMES = 256


class Files:
    """The file system below ``root``.

    Args:
        root: ``/``, or a folder with the recorded files of a board.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def text(self, path: str, most_bytes: int = MOST_BYTES) -> str:
        """The beginning of a file, without NULs and outer white space; empty where it cannot be read."""
        try:
            # Opened without waiting: a pipe or a device in the place of a file must not hang the doctor.
            descriptor = os.open(self._below(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return ""
        data = b""
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                while len(data) < most_bytes and (more := os.read(descriptor, most_bytes - len(data))):
                    data += more
        except OSError:  # a sensor that is switched off answers EAGAIN or EINVAL
            return ""
        finally:
            os.close(descriptor)
        return data.decode(errors="replace").replace("\0", "").strip()

    def number(self, path: str) -> int | None:
        """A decimal number, alone in its file."""
        try:
            return int(self.text(path, 64))
        except ValueError:
            return None

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted, the first of them only."""
        found: list[str] = []
        try:
            with os.scandir(self._below(path)) as entries:
                for entry in entries:
                    found.append(entry.name)
                    if len(found) == MOST_NAMES:
                        break
        except OSError:
            return []
        return sorted(found)

    def exists(self, path: str) -> bool:
        """Whether something is there that this user can see."""
        return os.path.exists(self._below(path))  # noqa: PTH110  # Path.exists raises where a parent is forbidden

    def link(self, path: str) -> str:
        """The last name of what a symbolic link names; empty where there is none."""
        try:
            return Path(os.readlink(self._below(path))).name  # noqa: PTH115  # text is wanted
        except OSError:
            return ""

    def _below(self, path: str) -> str:
        return f"{self.root}/{path.lstrip('/')}"
