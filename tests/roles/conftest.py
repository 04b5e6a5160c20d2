"""A controller of its own for every test, and the collection as it is published."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.roles.controller import ROOT, Controller


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
