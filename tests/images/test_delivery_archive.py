"""The archives of `make image-…` on the engine that Debian 12 devices have: Docker 20.10 loads and runs them."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from surefoot import __version__
from tests.conftest import Repository
from tests.images.conftest import Image
from tests.images.container import ContainerDevice
from tests.images.test_serving import answers
from tests.parts.docker import Engine


def load(image: Image, engine: Engine) -> None:
    assert engine.docker("version", "--format", "{{.Server.Version}}").stdout.startswith("20.10.")
    assert f"Loaded image: {image.name}" in engine.docker("load", "--input", str(image.archive)).stdout


@pytest.mark.timeout(900)
def test_docker_20_10_loads_an_archive_and_serves_golden_cases_from_it(
    built: Callable[..., Image], old_engine: Engine, patient_repository: Repository, tmp_path: Path
) -> None:
    image = built("generic-amd64")
    load(image, old_engine)
    device = ContainerDevice(old_engine, image.name, tmp_path, patient_repository, "onnxruntime")
    try:
        device.start()
        device.deploy()
        answers(device, "onnxruntime")
    finally:
        device.remove()


@pytest.mark.timeout(900)
def test_docker_20_10_loads_and_runs_an_archive_for_arm64(built: Callable[..., Image], old_engine: Engine) -> None:
    image = built("rpi")
    load(image, old_engine)
    run = ("run", "--rm", "--read-only", "--network=none", "--platform=linux/arm64", image.name, "--version")
    assert f"version {__version__}" in old_engine.docker(*run).stdout


@pytest.mark.timeout(900)
def test_docker_20_10_takes_no_archive_without_its_own_manifest(
    built: Callable[..., Image], old_engine: Engine, tmp_path: Path
) -> None:
    """The mutant: the same archive as a plain OCI layout, which the field's build tools make."""
    plain = tmp_path / "oci.tar"
    with tarfile.open(built("generic-amd64").archive) as whole, tarfile.open(plain, "w") as part:
        for member in whole:
            if member.name != "manifest.json":
                part.addfile(member, whole.extractfile(member) if member.isfile() else None)
    assert old_engine.docker("load", "--input", str(plain), check=False).returncode != 0
