"""Programs of Debian for the tests: unpacked beside the engine, never installed, for their packages start services."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.parts.docker import ROOT


def possible(name: str) -> bool:
    """Whether a program is here, or can be had: by root on Debian."""
    return shutil.which(name) is not None or (os.geteuid() == 0 and shutil.which("apt-get") is not None)


def program(name: str, inside: str) -> Path:
    """The program of the package ``name``, which lies at ``inside`` in it."""
    installed = shutil.which(name)
    if installed:
        return Path(installed)
    folder = ROOT / "build" / "parts" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = folder / "root" / inside
        if not found.exists():
            for line in (["apt-get", "update", "-qq"], ["apt-get", "download", "-qq", name]):
                subprocess.run(line, cwd=folder, check=True, capture_output=True, timeout=300)
            deb = next(folder.glob(f"{name}_*.deb"))
            shutil.rmtree(folder / "part", ignore_errors=True)
            subprocess.run(["dpkg-deb", "--extract", deb, folder / "part"], check=True)
            (folder / "part").rename(folder / "root")
    return found
