"""A device that has a stick with the offline kit, and no network but the one to its operator."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from images.kit import gather
from surefoot import __version__
from surefoot.release.keys import Keyring
from tests.conftest import Device, Repository
from tests.parts import artifacts
from tests.parts.docker import Engine
from tests.roles.fleet import Fleet

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

STICK = "/media/a stick"


@pytest.fixture
def kit(signed_repository: Repository, tmp_path: Path) -> Path:
    """As `make offline-kit PLATFORM=generic` gathers it."""
    dist = tmp_path / "dist"
    dist.mkdir()
    for target in ("generic-amd64", "generic-arm64"):
        for built in artifacts.image(target).parent.iterdir():
            os.link(built, dist / built.name)
    bundle = artifacts.bundle()
    os.link(bundle, dist / bundle.name)
    ring = Keyring(signed_repository.keys, signed_repository.passphrase)
    return gather.gather("generic", signed_repository.path, ring, dist=dist)


@pytest.fixture
def unplugged(engine: Engine) -> Iterator[str]:
    """A network that leads to this machine and no further."""
    name = "surefoot-test-unplugged"
    engine.docker("network", "rm", name, check=False)
    engine.docker("network", "create", "--internal", name)
    yield name
    engine.docker("network", "rm", name)


APP: dict[str, dict[str, Any]] = {
    "docker": {
        "surefoot_roles": ["base", "data_partition", "container_engine", "telemetry"],
        "inference_app_image": f"{STICK}/surefoot-{__version__}-generic-amd64.docker.tar",
    },
    "systemd": {
        "surefoot_roles": ["base", "data_partition"],
        "inference_app_bundle": f"{STICK}/surefoot-{__version__}-linux-amd64.tar.gz",
    },
}


@pytest.mark.parametrize("kind", APP)
def test_a_new_device_is_provisioned_and_serves_from_the_kit_with_the_network_unplugged(
    kind: str,
    make_fleet: Callable[[str], Fleet],
    kit: Path,
    unplugged: str,
    device: Device,
    signed_repository: Repository,
) -> None:
    device.json("kit", "verify", str(kit), "--root", str(signed_repository.root))
    fleet = make_fleet("test-fleet-offline")
    fleet.add(
        "box-1",
        kind,
        f"--network={unplugged}",
        f"--volume={kit}:{STICK}:ro",
        image="bare",
        repository=False,
        container_engine_kit=f"{STICK}/debs/amd64",
        inference_app_artifact_remote=True,
        model_slots_repository=f"{STICK}/repository",
        model_slots_root=str(signed_repository.root),
        **APP[kind],
    )
    try:
        assert fleet.run("box-1", "ip route show default") == ""
        assert fleet.run("box-1", "command -v docker || python3 -m ensurepip --version || echo none") == "none"
        assert fleet.run("box-1", "apt-get update --error-on=any 2>&1 || echo failed").endswith("failed")
        for playbook in ("provision", "deploy"):
            foretold = fleet.good(playbook, "--check", "--diff")
            assert fleet.good(playbook).changes == foretold.changes != set()
            assert fleet.good(playbook).changes == set()
        assert fleet.serves("box-1") == "1.0.0"
    finally:
        fleet.down()
