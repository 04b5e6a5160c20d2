"""Places where the installer runs: a home of its own, and doubles of what only a Mac has, first on PATH."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from images import bundle
from images.wheels.check import Target, read_folder
from tests.images import wheelwright

ROOT = Path(__file__).parents[2]
LABEL = "io.surefoot.app"
INSIDE = bundle.INSIDE["Darwin"]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# The bundle that this machine can install: the same builder, another platform.
HERE = Target.of([f"manylinux_2_36_{platform.machine()}"], PYTHON)
MAC = Target.of(["macosx_14_0_arm64"], PYTHON)


def small_bundle(folder: Path, target: Target, needed_kb: int = 1) -> Path:
    """A bundle of one tiny wheel, by the real builder; what preflight looks at is as in a real one."""
    tag = target.platforms[0]
    wheelwright.make(folder / "wheels", "surefoot", f"cp{PYTHON.replace('.', '')}-abi3-{tag}")
    wheels = read_folder([folder / "wheels"])
    about = bundle.facts(wheels, target, None, "1.0") | {"needed_kb": str(needed_kb)}
    bundle.assemble(folder / "bundle", wheels, None, about, INSIDE)
    return folder / "bundle"


class Mac:
    """A home, and the commands of a Mac as doubles. Not a Mac."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.bin = folder / "bin"
        self.launchd = folder / "launchd"
        for each in (self.home, self.bin, self.launchd):
            each.mkdir(parents=True)
        script = (ROOT / "tests" / "images" / "doubles" / "launchctl.py").read_text()
        self.double("launchctl", script, sys.executable)

    @property
    def base(self) -> Path:
        return self.home / "Library" / "Application Support" / "Surefoot"

    @property
    def app(self) -> Path:
        return self.base / "app"

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def plist(self) -> Path:
        return self.home / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    def double(self, name: str, script: str, interpreter: str = "/bin/sh") -> None:
        """Put a double of a command first on PATH."""
        (self.bin / name).write_text(f"#!{interpreter}\n{script}")
        (self.bin / name).chmod(0o755)

    def machine(
        self, system: str = "Darwin", processor: str = "arm64", macos: str = "14.0", silicon: str = "1"
    ) -> None:
        """Say what uname, sw_vers and sysctl say on such a machine."""
        self.double("uname", f'case $1 in -m) echo "{processor}" ;; *) echo "{system}" ;; esac\n')
        self.double("sw_vers", f'[ "$*" = -productVersion ] && echo "{macos}"\n')
        self.double("sysctl", f'[ "$*" = "-n hw.optional.arm64" ] && echo "{silicon}"\n')

    def interpreter(self, says: str) -> Path:
        """A double of an interpreter that says what it is."""
        name = f"python-{says.replace(' ', '-')}"
        self.double(name, f'echo "{says}"\n')
        return self.bin / name

    def run(self, script: Path, *arguments: str, shell: str = "sh") -> subprocess.CompletedProcess[str]:
        """Run a script of the bundle to its end."""
        environment = {name: value for name, value in os.environ.items() if name != "SUDO_USER"}
        return subprocess.run(
            [shell, str(script), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            cwd="/",
            env={
                **environment,
                "HOME": str(self.home),
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "LAUNCHD_DOUBLE": str(self.launchd),
            },
        )

    def calls(self) -> list[str]:
        """What launchctl was asked, in order."""
        record = self.launchd / "calls"
        return record.read_text().splitlines() if record.exists() else []
