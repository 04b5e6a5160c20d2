"""A controller of its own for every test, and the collection as it is published."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.parts import hosts
from tests.parts.docker import Engine
from tests.roles.controller import ROOT, Controller
from tests.roles.fleet import Fleet


@pytest.fixture(scope="session")
def built_collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection's tarball, built from the clone."""
    folder = tmp_path_factory.mktemp("collection")
    Controller(folder).command(
        "ansible-galaxy", "collection", "build", "--output-path", str(folder), str(ROOT), cwd=folder
    )
    (tarball,) = folder.glob("*.tar.gz")
    return tarball


@pytest.fixture(scope="session")
def installed_collections(built_collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of collections, away from the clone, that holds the published one."""
    place = tmp_path_factory.mktemp("collections")
    Controller(place).command(
        "ansible-galaxy", "collection", "install", str(built_collection), "-p", str(place), "--offline",
        cwd=place, ANSIBLE_COLLECTIONS_PATH=str(place),
    )  # fmt: skip
    return place


@pytest.fixture
def controller(installed_collections: Path) -> Iterator[Controller]:
    """Ansible with nothing of the user's. Its folder has a short path: sockets' addresses are short."""
    folder = Path(tempfile.mkdtemp(prefix="sf-"))
    yield Controller(folder, installed_collections)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def make_fleet(engine: Engine, needs: Callable[[bool, str], None]) -> Iterator[Callable[[str], Fleet]]:
    """Fleets; their devices are removed in the end."""
    for tool in ("ssh", "mkfs.ext4"):
        needs(shutil.which(tool) is not None, f"{tool}: apt-get install openssh-client e2fsprogs")
    hosts.prepare(engine)
    made: list[Fleet] = []

    def make(prefix: str) -> Fleet:
        # A short path: sockets' addresses are short.
        folder = Path(tempfile.mkdtemp(prefix="sf-"))
        made.append(Fleet(engine, Controller(folder, timeout_s=900), prefix))
        return made[-1]

    yield make
    for fleet in made:
        fleet.down()
        shutil.rmtree(fleet.controller.folder)
