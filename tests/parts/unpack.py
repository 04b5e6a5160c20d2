"""Unpacking archives of ours. By tar: tarfile's filters are younger than Debian 12's Python."""

from __future__ import annotations

import subprocess
from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """All of a tar archive, compressed or not, into a folder that is there."""
    line = ["tar", "--extract", "--no-same-owner", f"--file={archive}", f"--directory={folder}"]
    subprocess.run(line, check=True, capture_output=True)
