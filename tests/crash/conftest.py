"""Devices in the situations that operations start from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app.slots import kit
from tests.crash import disks
from tests.crash.cuts import FastDisk
from tests.crash.powercuts import Bench

MEMORY = Path("/dev/shm")
Releases = dict[str, kit.Release]


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    folder = tmp_path_factory.mktemp("releases")
    return {f"{major}.0.0": kit.make_release(folder, f"{major}.0.0") for major in (1, 2, 3, 4, 8, 9)}


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: these tests copy small devices thousands of times."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def device(scratch: Path, releases: Releases) -> Callable[..., Path]:
    """``device("1.0.0", "2.0.0", trial="3.0.0")``: those confirmed one after the other, and then one on trial.

    ``format_``: of the state, as an older app wrote it.
    """

    def make(*confirmed: str, ready: str | None = None, trial: str | None = None, format_: int | None = None) -> Path:
        folder = scratch / "prepared"
        store = kit.open_store(folder, FastDisk(), newest_format=format_)
        (folder / "models").mkdir(parents=True)
        kit.deploy(store, *(releases[version] for version in confirmed))
        if ready:
            kit.install(store, releases[ready])
        if trial:
            kit.put_on_trial(store, releases[trial])
        return folder

    return make


@pytest.fixture
def bench(needs: Callable[[bool, str], None], scratch: Path, tmp_path: Path) -> Iterator[Bench]:
    """Where power cuts on a real ext4 are made."""
    needs(disks.possible(), "root, /dev/fuse and loop devices on Linux, for a disk that records")
    (scratch / "bench").mkdir()
    made = Bench(scratch / "bench", tmp_path, int(os.environ["SUREFOOT_SEED"]))
    yield made
    made.close()
