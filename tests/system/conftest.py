"""A device that boots, for the tests that need one: sealed, serving, and the test's own.

CI's share has disks that were provisioned as a container, in minutes. ``make test-vm`` (``SUREFOOT_VM=1``) has what the
commands of an operator made of a machine under emulation, from its first boot on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.parts import docker, machine
from tests.parts.machine import Machine
from tests.roles.controller import Controller
from tests.system.prebuilt import prebuilt
from tests.system.sealing import PLAY_TIMEOUT_S, ROLES, SERVES, Device, Sealed, sealed

Sealing = Callable[..., Device]


@pytest.fixture(scope="session")
def sealed_disks(needs: Callable[[bool, str], None]) -> Sealed:
    """A sealed device's disks, and its memory if that was saved. Made once, and not to be changed."""
    needs(machine.possible() and docker.possible(), "root on Debian, to build a machine's disk")
    if os.environ.get("SUREFOOT_VM"):
        return sealed()
    return prebuilt(docker.start())


@pytest.fixture
def sealed_device(sealed_disks: Sealed, tmp_path: Path) -> Iterator[Sealing]:
    """See :func:`devices`."""
    with devices(sealed_disks, tmp_path) as make:
        yield make


@contextmanager
def devices(disks: Sealed, folder: Path) -> Iterator[Sealing]:
    """Makes sealed devices that serve 1.0.0: as they ran a moment ago, or with ``boots=True`` off, to be started."""
    made: list[Machine] = []

    def make(name: str = "device", *, boots: bool = False, **more: Any) -> Device:
        here = folder / name
        given = {"system": disks.system, "data": disks.data, **more}
        one = Machine(here, ram=None if boots or not disks.ram.exists() else disks.ram, **given)
        one.trust(disks.host_key)
        made.append(one)
        operator = here / "operator"
        operator.mkdir()
        if not boots:
            one.start()
            one.wait(SERVES)
        return Device(one, Controller(operator, timeout_s=PLAY_TIMEOUT_S), ROLES)

    try:
        yield make
    finally:
        for one in made:
            one.pull_the_plug()
