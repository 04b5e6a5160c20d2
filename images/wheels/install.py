"""Brings and installs the wheels of a lock for a platform that is not this one, by pip, in a build stage.

The lock is universal: which of its lines hold is decided by the target's markers, not by this interpreter's.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement  # in a build stage there is pip alone

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
OLDEST_GLIBC = 17  # manylinux2014; every base here has a newer one
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


class Refused(Exception):
    """The lock cannot be installed; the message says why and what to do."""


class Target:
    """A platform: the tags its wheels may carry, and the markers that hold there."""

    def __init__(self, architecture: str, python: str, glibc: str) -> None:
        self.python = python
        self.machine = MACHINES[architecture]
        self.name = f"Linux {architecture}, Python {python}, glibc {glibc}"
        newest = int(glibc.partition(".")[2])
        self.platforms = [f"manylinux_2_{minor}_{self.machine}" for minor in range(newest, OLDEST_GLIBC - 1, -1)]
        self.platforms += [f"manylinux2014_{self.machine}"]
        if architecture == "amd64":
            self.platforms += [f"manylinux{old}_{self.machine}" for old in ("_2_12", "2010", "_2_5", "1")]
        self.platforms.append(f"linux_{self.machine}")

    @property
    def markers(self) -> dict[str, str]:
        """The environment markers of this platform."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    def pip(self, command: str, lock: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Run pip for this platform: binary only, every file hashed, nothing but the lock's own lines."""
        line = [sys.executable, "-m", "pip", "--disable-pip-version-check", command, "--no-deps", "--require-hashes"]
        line += ["--only-binary=:all:", "--implementation=cp", f"--python-version={self.python}"]
        line += [f"--platform={tag}" for tag in self.platforms]
        return subprocess.run([*line, f"--requirement={lock}", *options], capture_output=True, text=True, check=False)


def requirements(text: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Each line of a lock: the requirement, and its hashes.

    Raises:
        Refused: a requirement is not pinned to one version, or has no hash.
    """
    joined = re.sub(r"\\\n", " ", text)
    for raw in joined.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        if not line:
            continue
        requirement = Requirement(line.partition(" --hash=")[0].strip())
        hashes = HASH.findall(line)
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            raise Refused(f"unpinned dependency: {requirement} has no exact version; run make lock")
        if not hashes:
            raise Refused(f"unpinned dependency: {requirement} has no hash; run make lock")
        yield requirement, hashes


def flatten(text: str, target: Target) -> str:
    """The lines of a universal lock that hold on ``target``, without their markers."""
    lines = []
    for requirement, hashes in requirements(text):
        if requirement.marker is None or requirement.marker.evaluate(target.markers):
            lines.append(" ".join([f"{requirement.name}{requirement.specifier}", *hashes]))
    return "\n".join(lines) + "\n"


def explain(target: Target, output: str) -> str:
    """What pip said, with what to do about it."""
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing:
        offered = re.search(r"\(from versions: (.*)\)", output)
        offers = f"\n  offered for it: {offered[1]}" if offered else ""
        return (
            f"no wheel of {missing[1]} fits {target.name}{offers}\n"
            "  what to do: pin a version that has one, or build the wheel and add its index to pip's configuration"
        )
    if "do not match the hashes" in output:
        return f"a wheel is not the file that was locked\n{output}"
    return output


def main() -> int:
    """Download into a folder, or install from one without a network."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("download", "install"))
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--architecture", choices=sorted(MACHINES), required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--glibc", required=True)
    parser.add_argument("--wheels", type=Path, required=True, help="the folder of the wheels")
    parser.add_argument("--into", type=Path, help="where to install")
    given = parser.parse_args()
    target = Target(given.architecture, given.python, given.glibc)
    flat = Path(tempfile.mkdtemp()) / "flat.txt"
    try:
        flat.write_text(flatten(given.lock.read_text(), target))
        if given.command == "download":
            done = target.pip("download", flat, f"--dest={given.wheels}", "--quiet")
        else:
            offline = ("--no-index", f"--find-links={given.wheels}", "--no-compile", f"--target={given.into}")
            done = target.pip("install", flat, *offline, "--quiet")
        if done.returncode != 0:
            raise Refused(explain(target, done.stderr + done.stdout))
    except Refused as refusal:
        print(f"surefoot: {refusal}", file=sys.stderr)
        return 1
    print(f"{given.command}ed the wheels of {given.lock.name} for {target.name} on {platform.machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
