"""Servers for tests: each a real supervisor, gateway and worker in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.serving.device import Device, classifier_release


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Devices in folders, not started. Whatever was started is stopped when the test ends."""
    made: list[Device] = []

    def make(name: str = "device", **gateway: Any) -> Device:
        made.append(Device(tmp_path / name, **gateway))
        return made[-1]

    yield make
    for device in made:
        device.stop()


@pytest.fixture
def server(make_server: Callable[..., Device]) -> Device:
    """A running server with a confirmed model ``tiny`` 1.0.0. For tests that change it."""
    device = make_server()
    device.confirm(classifier_release())
    device.start()
    return device


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """The same, started once a module. For tests that only ask."""
    device = Device(tmp_path_factory.mktemp("shared") / "device", most_body_bytes=1 << 20)
    device.confirm(classifier_release())
    device.start()
    yield device
    device.stop()
