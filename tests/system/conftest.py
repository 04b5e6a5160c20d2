"""A device that boots, for the tests that need one: sealed, serving, and the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parts import machine
from tests.parts.machine import Machine
from tests.roles.controller import Controller
from tests.system.sealing import PLAY_TIMEOUT_S, ROLES, Device, Sealed, sealed

Sealing = Callable[..., Device]


@pytest.fixture(scope="session")
def sealed_disks(needs: Callable[[bool, str], None]) -> Sealed:
    """A sealed device's disks and memory, made once. Not to be changed."""
    needs(machine.possible(), "root on Debian, to build a machine's disk")
    return sealed()


@pytest.fixture
def sealed_device(sealed_disks: Sealed, tmp_path: Path) -> Iterator[Sealing]:
    """Makes sealed devices that serve 1.0.0: as they ran a moment ago, or with ``boots=True`` off, to be started."""
    made: list[Machine] = []

    def make(name: str = "device", *, boots: bool = False, **more: Any) -> Device:
        folder = tmp_path / name
        given = {"system": sealed_disks.system, "data": sealed_disks.data, **more}
        one = Machine(folder, ram=None if boots else sealed_disks.ram, **given)
        one.trust(sealed_disks.host_key)
        made.append(one)
        operator = folder / "operator"
        operator.mkdir()
        if not boots:
            one.start()
            one.wait(within_s=60)
        return Device(one, Controller(operator, timeout_s=PLAY_TIMEOUT_S), ROLES)

    yield make
    for one in made:
        one.pull_the_plug()
