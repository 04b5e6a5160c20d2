"""Real parts for every test: a signed repository of the reference model, and devices in folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3

from demo import place, releases
from tests.parts import docker
from tests.told import DEFAULT_SEED, SEED, Table, told

__all__ = ["told"]

ROOT = Path(__file__).resolve().parent.parent


def pytest_report_header() -> str:
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    return f"surefoot: as {who}, CI={os.environ.get('CI', 'false')}, SUREFOOT_SEED={os.environ[SEED]}"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table())
        os.environ.setdefault(SEED, DEFAULT_SEED)
        os.environ[docker.RUN] = str(os.getpid())


# Files of few tests that take many minutes. First, so that the two workers are done at about the same time.
LONG = ("test_pulled_plug.py", "test_molecule.py", "test_molecule_fleet.py", "test_fleet_app.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        docker.stop_if_started_here()


@pytest.fixture(scope="session")
def needs() -> Callable[[bool, str], None]:
    """``needs(condition, what)``: go on if it holds; otherwise fail in CI, and skip visibly elsewhere."""

    def check(condition: bool, what: str) -> None:
        if not condition:
            message = f"not run here: needs {what}"
            if os.environ.get("CI") == "true" and os.geteuid() == 0:
                pytest.fail(message)
            pytest.skip(message)

    return check


@pytest.fixture(scope="session")
def engine(needs: Callable[[bool, str], None]) -> docker.Engine:
    """A real Docker engine. The first start downloads and unpacks it (about a minute)."""
    needs(docker.possible(), "root on Debian, not in a chroot, to start a Docker engine")
    return docker.start()


@pytest.fixture(scope="session")
def old_engine(engine: docker.Engine) -> docker.Engine:
    """Debian 12's own engine, which devices have. After ``engine``, which can also run what is for arm64."""
    return docker.start(docker.old_folder(), "old")


@dataclass(frozen=True)
class Repository:
    """A published repository. ``keys`` holds the encrypted keys and their passphrase."""

    path: Path
    root: Path
    keys: Path

    @property
    def passphrase(self) -> str:
        return (self.keys / releases.PASSPHRASE_FILE).read_text()

    def copy_to(self, target: Path) -> Repository:
        shutil.copytree(self.path, target)
        return Repository(target, target / "metadata" / "1.root.json", self.keys)


@pytest.fixture(scope="session")
def signed_repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """v1 and v2 of the reference model, built, signed and published by the real commands. Not to be changed."""
    work = tmp_path_factory.mktemp("releases")
    keys = releases.publish_reference_model(work, work / "repository")
    return Repository(work / "repository", work / "repository" / "metadata" / "1.root.json", keys)


class Device:
    """A device in a folder: its configuration, its command, its server."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.config = folder / "surefoot.toml"
        runtimes = sections.pop("runtimes", None)
        sections.setdefault("gateway", {}).setdefault("port", 0)
        sections.setdefault("trial", {"min_seconds": 0.0, "min_inferences": 1})
        lines = ['data_dir = "."', 'run_dir = "run"']
        if runtimes:
            lines.append(f"runtimes = {json.dumps(runtimes)}")
        for title, values in sections.items():
            lines.append(f"[{title}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """``surefoot --config … ARGUMENTS``, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "surefoot", "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, **more},
        )

    def json(self, *arguments: str, status: int = 0) -> Any:
        """The same with ``--json``; fails the test where the exit status is another."""
        done = self.run(*arguments, "--json")
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def install(self, version: str, repository: Repository, status: int = 0) -> Any:
        return self.json(
            "model", "install", place.MODEL, "--version", version,
            "--repository", str(repository.path), "--root", str(repository.root), status=status,
        )  # fmt: skip

    def deploy(self, version: str, repository: Repository) -> None:
        """Install, activate, confirm."""
        self.install(version, repository)
        self.json("model", "activate", place.MODEL, "--version", version)
        self.json("model", "confirm", place.MODEL, "--wait", "20")

    def serve(self) -> str:
        """Start the server, detached. Returns its address."""
        self.json("serve", "--detach")
        return self.url

    @property
    def url(self) -> str:
        return str(self.json("status")["url"])

    def stop(self) -> None:
        self.run("stop")

    def get(self, path: str) -> Any:
        reply = urllib3.request("GET", self.url + path, retries=False, timeout=10.0)
        return reply.json()

    @property
    def model_status(self) -> Any:
        return self.json("model", "status", place.MODEL)

    @property
    def served_version(self) -> str:
        return str(self.get(f"/v2/models/{place.MODEL}")["versions"][0])


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Devices in folders; whatever they started is stopped when the test ends."""
    made: list[Device] = []

    def make(name: str = "device", **sections: Any) -> Device:
        made.append(Device(tmp_path / name, **sections))
        return made[-1]

    yield make
    for device in made:
        device.stop()


@pytest.fixture
def device(make_device: Callable[..., Device]) -> Device:
    """One device with nothing on it."""
    return make_device()


@pytest.fixture
def device_with_v1(device: Device, signed_repository: Repository) -> Device:
    """A serving device whose confirmed model is v1."""
    device.serve()
    device.deploy("1.0.0", signed_repository)
    return device
