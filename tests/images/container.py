"""A device in a container: started as its role starts it, asked over its Unix socket."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo.place import MODEL
from tests.conftest import Device, Repository
from tests.parts.docker import Engine

USER = 10001
RESTRICTED = (
    "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=512m",
    "--no-healthcheck",
)  # fmt: skip


class _Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("surefoot", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        # A path longer than a socket's may be is reached through a descriptor of its folder.
        folder = os.open(self._path.parent, os.O_PATH)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


class ContainerDevice:
    """Data and run folders on the host, everything else in the image."""

    def __init__(self, engine: Engine, image: str, folder: Path, repository: Repository, runtime: str) -> None:
        self.engine = engine
        self.image = image
        self.data, self.run_dir = folder / "data", folder / "run"
        for place in (self.data, self.run_dir):
            place.mkdir(parents=True)
        (self.data / "surefoot.toml").write_text(
            f'run_dir = "/run/surefoot"\nruntimes = ["{runtime}"]\n'
            "[gateway]\nport = 0\n[trial]\nmin_seconds = 0.0\nmin_inferences = 1\n"
        )
        shutil.copytree(repository.path, folder / "repository")
        for place in (self.data, self.run_dir, self.data / "surefoot.toml"):
            os.chown(place, USER, USER)
        self.mounts = [
            f"--volume={self.data}:/data/surefoot", f"--volume={self.run_dir}:/run/surefoot",
            f"--volume={folder / 'repository'}:/repository:ro",
        ]  # fmt: skip
        self.id = ""

    def take(self, other: Device) -> None:
        """Go on with the data of a device that lived on this machine."""
        other.stop()
        for place in ("models", "trust"):
            shutil.copytree(other.folder / place, self.data / place)
        for path in self.data.rglob("*"):
            os.chown(path, USER, USER, follow_symlinks=False)

    def start(self, *options: str, network: str = "none") -> None:
        line = ["run", "--detach", f"--network={network}", *RESTRICTED, *options, *self.mounts, self.image]
        done = self.engine.docker(*line)
        self.id = done.stdout.strip()
        self.wait_for(lambda: self.get("/v2/health/live")[0] == 200)

    def surefoot(self, *arguments: str, check: bool = True) -> str:
        return self.engine.docker("exec", self.id, "surefoot", *arguments, check=check).stdout

    def deploy(self, version: str = "1.0.0") -> None:
        root = "/repository/metadata/1.root.json"
        self.surefoot("model", "install", MODEL, "--version", version, "--repository", "/repository", "--root", root)
        self.surefoot("model", "activate", MODEL, "--version", version)
        self.surefoot("model", "confirm", MODEL, "--wait", "60")

    def command(self, *arguments: str, check: bool = True) -> str:
        return self.engine.docker("exec", self.id, *arguments, check=check).stdout

    def connect(self, timeout_s: float = 60) -> http.client.HTTPConnection:
        return _Unix(self.run_dir / "http.sock", timeout_s)

    def get(self, path: str) -> tuple[int, Any]:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, Any]:
        connection = self.connect()
        try:
            connection.request(method, path, body, {"Content-Type": kind, "Connection": "close"})
            reply = connection.getresponse()
            content = reply.read()
            return reply.status, json.loads(content) if content else None
        finally:
            connection.close()

    @property
    def processes(self) -> list[int]:
        """Process ids on the host."""
        top = self.engine.docker("top", self.id, "-eo", "pid").stdout.split()[1:]
        return [int(pid) for pid in top]

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass
            running = self.engine.docker("inspect", "--format", "{{.State.Running}}", self.id).stdout.strip()
            assert running == "true" and time.monotonic() < deadline, self.logs
            time.sleep(0.1)

    @property
    def logs(self) -> str:
        done = self.engine.docker("logs", self.id)
        return done.stdout + done.stderr

    def remove(self) -> None:
        if self.id:
            self.engine.docker("rm", "--force", self.id, check=False)
