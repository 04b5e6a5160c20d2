"""Images, each built once in a run of the tests and loaded into the tests' own engine."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo import releases
from demo.place import RECIPES
from surefoot import __version__
from tests.conftest import ROOT, Repository
from tests.images.container import ContainerDevice
from tests.parts import artifacts, docker
from tests.parts.docker import Engine


@dataclass(frozen=True)
class Builder:
    """`python -m images.build` against the tests' engine."""

    engine: Engine

    def __call__(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "images.build", *arguments],
            cwd=ROOT,
            env={**self.engine.environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )


@dataclass(frozen=True)
class Image:
    name: str
    archive: Path
    digest: str


@pytest.fixture(scope="session")
def builder(engine: Engine) -> Builder:
    return Builder(engine)


@pytest.fixture(scope="session")
def built(builder: Builder) -> Callable[..., Image]:
    """``built(target)``: the image, built and loaded now unless another worker of this run has done so."""

    def build(target: str, label: str = "", **variables: str) -> Image:
        folder = ROOT / "build" / "tests" / "images" / (os.environ[docker.RUN] + label)
        note = folder / f"{target}.digest"
        archive = folder / f"surefoot-{__version__}-{target}.docker.tar"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{target}.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not note.exists():
                for stale in folder.parent.iterdir():
                    if not stale.name.startswith(os.environ[docker.RUN]):
                        subprocess.run(["rm", "-rf", stale], check=True)
                done = builder(target, "--into", str(folder), **variables)
                assert done.returncode == 0, done.stdout + done.stderr
                builder.engine.docker("load", "--input", str(archive))
                note.write_text(done.stdout.split()[-1])
        return Image(f"surefoot:{__version__}-{target}", archive, note.read_text())

    return build


@pytest.fixture(scope="session")
def patient_repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The reference model, genuinely signed, with budgets of time that an emulated processor can keep."""
    work = tmp_path_factory.mktemp("patient")
    keys = work / "keys"
    releases.new_keys(keys)
    recipe = artifacts.patient_recipe(RECIPES / "release-v1.toml", work / "recipe.json")
    releases.release(recipe, work / "built", keys, work / "repository")
    return Repository(work / "repository", work / "repository" / "metadata" / "1.root.json", keys)


@pytest.fixture
def make_container(
    engine: Engine, patient_repository: Repository, tmp_path: Path
) -> Iterator[Callable[[Image, str], ContainerDevice]]:
    """Devices in containers; removed when the test ends."""
    made: list[ContainerDevice] = []

    def make(image: Image, runtime: str = "onnxruntime") -> ContainerDevice:
        made.append(ContainerDevice(engine, image.name, tmp_path / str(len(made)), patient_repository, runtime))
        return made[-1]

    yield make
    for device in made:
        device.remove()
