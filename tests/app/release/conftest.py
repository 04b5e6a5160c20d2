"""Publishers and web servers for the tests of releases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from surefoot.durable import Disk
from surefoot.release.trust import TrustStore
from tests.app.release.publishing import FixedClock, Publisher
from tests.app.release.webserver import WebServer


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "publisher")


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def store(tmp_path: Path, publisher: Publisher, clock: FixedClock) -> TrustStore:
    """A device that pinned the publisher's first root."""
    made = TrustStore(tmp_path / "trust", Disk(), clock)
    made.initialise(publisher.root)
    return made


@pytest.fixture
def web(publisher: Publisher) -> Iterator[WebServer]:
    """The publisher's repository behind a real web server that can be told to misbehave."""
    publisher.repository.mkdir(exist_ok=True)
    with WebServer(publisher.repository) as server:
        yield server
