"""Runs Ansible as an operator would, with its own files in a folder of the test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = ROOT / "inventory" / "demo"
TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(?:[\w.]+ : )?(.*)\] \*", re.MULTILINE)


@dataclass(frozen=True)
class Played:
    """How a playbook ended. ``changed``: tasks that changed something, each in its words."""

    status: int
    out: str
    changed: list[str]
    counts: dict[str, dict[str, int]]

    @property
    def changes(self) -> set[tuple[str, str]]:
        """Each device with each of its tasks that changed something."""
        return {(device, task) for task, device in _changes(self.out)}

    @property
    def tasks(self) -> int:
        """How many tasks it had, those included that did nothing."""
        return len(TASK.findall(self.out))

    @property
    def said(self) -> str:
        """All that it printed, in one line: how Ansible breaks lines is of no interest."""
        return " ".join(self.out.split())


@dataclass
class Controller:
    """Where Ansible runs. ``folder``: its home and its temporary files. ``installed``: where collections are."""

    folder: Path
    installed: Path | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    bin: Path = Path(sys.executable).parent
    timeout_s: float = 240

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        return {
            **kept,
            "PATH": f"{self.bin}{os.pathsep}{os.environ.get('PATH', '')}",
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_REMOTE_TMP": str(self.folder / "remote"),
            "ANSIBLE_NOCOLOR": "true",
        }

    def command(self, *command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd, env={**self.environment(), **environment}, capture_output=True, text=True, check=True
        )

    def play(
        self, playbook: str, *arguments: str, way: str = "root", inventory: Path = INVENTORY, **more: Any
    ) -> Played:
        """Run a playbook, with ``more`` as extra variables.

        Args:
            playbook: its verb.
            arguments: of ``ansible-playbook``.
            way: ``root`` or ``playbooks`` of the clone, the ``installed`` collection, or the clone from ``elsewhere``.
            inventory: the demo's, or another.
        """
        return self._run(*self._line(playbook, arguments, way, inventory, more))

    def begin(self, playbook: str, *arguments: str, inventory: Path, **more: Any) -> subprocess.Popen[str]:
        """The same, from the root of the clone, left to itself in a process group of its own."""
        command, cwd, environment = self._line(playbook, arguments, "root", inventory, more)
        return subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def _line(
        self, playbook: str, arguments: tuple[str, ...], way: str, inventory: Path, more: dict[str, Any]
    ) -> tuple[list[str], Path, dict[str, str]]:
        environment = self.environment()
        command = ["ansible-playbook", "-e", json.dumps({**self.variables, **more})]
        # In a clone the demo's inventory is the default; it is named only where another one is wanted.
        named = ["-i", str(inventory)]
        if way == "root":
            cwd, command = ROOT, [*command, f"playbooks/{playbook}.yml"]
        elif way == "playbooks":
            cwd, command = ROOT / "playbooks", [*command, f"{playbook}.yml"]
        elif way == "elsewhere":
            cwd, command = self.folder, [*command, *named, str(ROOT / "playbooks" / f"{playbook}.yml")]
        else:
            environment["ANSIBLE_COLLECTIONS_PATH"] = str(self.installed)
            cwd, command = self.folder, [*command, *named, f"surefoot.edge.{playbook}"]
        if inventory != INVENTORY and way in ("root", "playbooks"):
            command += named
        return [*command, *arguments], cwd, environment

    def play_file(self, playbook: Path, *arguments: str, inventory: Path = INVENTORY) -> Played:
        """Run a playbook of the test's own, with the clone's collection."""
        environment = {**self.environment(), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections")}
        return self._run(
            ["ansible-playbook", "-i", str(inventory), str(playbook), *arguments], self.folder, environment
        )

    def _run(self, command: list[str], cwd: Path, environment: dict[str, str]) -> Played:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=self.timeout_s
        )
        return Played(done.returncode, done.stdout + done.stderr, _changed(done.stdout), _counts(done.stdout))


def _changed(out: str) -> list[str]:
    found: list[str] = []
    for task, _ in _changes(out):
        if task not in found[-1:]:
            found.append(task)
    return found


def _changes(out: str) -> Iterator[tuple[str, str]]:
    """Each task that changed something, with the device."""
    task = ""
    for line in out.splitlines():
        if heading := TASK.match(line):
            task = heading[1]
        elif changed := re.match(r"changed: \[([^ \]]+)", line):
            yield task, changed[1]


def _counts(out: str) -> dict[str, dict[str, int]]:
    recap = out.partition("PLAY RECAP")[2]
    return {
        line.split()[0]: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}
        for line in recap.splitlines()
        if " ok=" in line
    }
