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


@pytest.fixture
def controller(built_collection: Path) -> Iterator[Controller]:
    """Ansible with nothing of the user's."""
    folder = Path(tempfile.mkdtemp(prefix="sf-"))
    yield Controller(folder, built_collection)
    shutil.rmtree(folder)
