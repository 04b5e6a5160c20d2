"""The tests' own Docker engine: started by the first test that asks for it, stopped at the end of that run."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "parts" / "engine"
RUN = "SUREFOOT_TEST_RUN"  # the process id of the pytest that runs everything; its workers inherit it


def folder() -> Path:
    return Path(os.environ.get("SUREFOOT_TEST_ENGINE", ROOT / "build" / "parts" / "engine"))


def old_folder() -> Path:
    """Of Debian 12's own engine. Its sockets lie deep below: 107 characters are the most that a path may have."""
    return folder().with_name(f"{folder().name}-old")


def possible() -> bool:
    """Whether this machine can run it: root on Debian, and not in a chroot."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None and has_a_root()


def has_a_root() -> bool:
    """Whether / is a mount point. In a chroot it is none: nothing can be mounted in private, no container started."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return True
    return any(line.split()[4] == "/" for line in lines)


@dataclass(frozen=True)
class Engine:
    """``environment`` makes every ``docker`` and every client library talk to this engine."""

    environment: dict[str, str]

    def docker(self, *arguments: str, check: bool = True, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done


def start(where: Path | None = None, kind: str = "new") -> Engine:
    done = subprocess.run(
        [SCRIPT, "start", where or folder(), kind], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"the Docker engine of the tests did not start:\n{done.stderr}"
    variables = dict(line.removeprefix("export ").split("=", 1) for line in done.stdout.splitlines())
    variables["PATH"] = variables["PATH"].replace("$PATH", os.environ["PATH"])
    return Engine({**os.environ, **variables})


def stop_if_started_here() -> None:
    for where in (folder(), old_folder()):
        note = where / "started-by"
        if note.exists() and note.read_text() == os.environ.get(RUN):
            subprocess.run([SCRIPT, "stop", where], check=True, timeout=120)
