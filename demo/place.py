"""Where the demo lives, and how to run this repository's commands from its own environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent
DEMO = REPOSITORY_ROOT / ".demo"
FACTS = DEMO / "demo.json"
DEVICE = DEMO / "device"
RELEASES = DEMO / "repository"
INVENTORY = REPOSITORY_ROOT / "inventory" / "demo"
MODEL = "fashion-mnist"
RECIPES = REPOSITORY_ROOT / "models" / "fashion_mnist"
SAMPLES = RECIPES / "samples"


def environment(**more: str) -> dict[str, str]:
    """The environment for child processes: this interpreter's tools first, UTF-8, Ansible's own files in ``.demo``."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_HOME": str(DEMO / "ansible"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_CONFIG": str(REPOSITORY_ROOT / "ansible.cfg"),
        "PYTHONUNBUFFERED": "1",
        **more,
    }


class CommandError(Exception):
    """A command of the demo ended with another status than 0; the message holds what it printed."""


def run(command: list[str], **more: str) -> str:
    """Run a command to its end.

    Returns:
        What it printed on standard output.

    Raises:
        CommandError: with the end of all it printed.
    """
    done = subprocess.run(
        command, cwd=REPOSITORY_ROOT, env=environment(**more), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise CommandError(f"$ {' '.join(command)}\n{said}\n(exit status {done.returncode})")
    return done.stdout


def show(command: list[str]) -> None:
    """Run a command whose output goes straight to the terminal.

    Raises:
        CommandError: it failed.
    """
    if subprocess.run(command, cwd=REPOSITORY_ROOT, env=environment(), check=False).returncode != 0:
        raise CommandError(f"$ {' '.join(command)} failed")


def surefoot(*arguments: str, **more: str) -> str:
    """Run this environment's ``surefoot``."""
    return run([sys.executable, "-m", "surefoot", *arguments], **more)
