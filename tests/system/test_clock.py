"""A wall clock that is wrong, and that jumps while a release is on trial: the real commands and server, under faketime.

Trials, deadlines and waits go by the monotonic clock. What the wall clock decides is whether metadata has expired, and
that only where it is believed.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from demo.place import MODEL, SAMPLES
from tests.conftest import Device, Repository

# Debian's own is older, and lets every time.sleep fail. Of the wheel only this file is used.
LIBRARY = Path(str(distribution("libfaketime").locate_file("libfaketime/vendor/libfaketime/src/libfaketime.so.1")))
IN_1970, IN_2106 = "1970-01-01 00:00:30", "2106-02-08 00:00:00"  # past 32 bits of seconds, signed or not
MIN_SECONDS = 3.0


class Clock:
    """The wall clock of every process started from here on, and of those that run: it stands still until it is set."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def set(self, moment: str) -> None:
        part = self._file.with_suffix(".part")
        part.write_text(moment)
        part.replace(self._file)


@pytest.fixture
def clock(needs: Callable[[bool, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    needs(platform.machine() == "x86_64" and sys.platform == "linux", "libfaketime for this machine")
    made = Clock(tmp_path / "moment")
    made.set(IN_1970)
    for name, value in {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "moment"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def started(make_device: Callable[..., Device]) -> Callable[[str], Device]:
    def start(believed: str) -> Device:
        device = make_device(
            trial={"min_seconds": MIN_SECONDS, "min_inferences": 1},
            trust={"clock": believed},
            gate={"most_seconds": 60.0},
        )
        device.serve()
        return device

    return start


def classify(device: Device) -> None:
    done = device.run("classify", str(next(SAMPLES.glob("*.png"))), "--url", device.url, "--model", MODEL)
    assert done.returncode == 0, done.stdout + done.stderr


def events(device: Device) -> list[dict[str, Any]]:
    return list(device.json("model", "history", MODEL)["events"])


def confirmed(device: Device, version: str, repository: Repository, jump: Callable[[], object]) -> None:
    """Install and activate; the clock jumps; not confirmed before its time, and then."""
    device.install(version, repository)
    device.json("model", "activate", MODEL, "--version", version)
    begun = time.monotonic()
    jump()
    classify(device)
    refused = device.json("model", "confirm", MODEL, status=4)
    assert time.monotonic() - begun < MIN_SECONDS, "too slow a machine to tell"
    assert "has not shown enough" in refused["what"], refused
    device.json("model", "confirm", MODEL, "--wait", "30")
    assert MIN_SECONDS <= time.monotonic() - begun < MIN_SECONDS + 20


def test_a_device_in_1970_is_updated_serves_and_jumps_by_136_years_and_back(
    started: Callable[[str], Device], signed_repository: Repository, clock: Clock
) -> None:
    device = started("untrusted")
    confirmed(device, "1.0.0", signed_repository, lambda: clock.set(IN_2106))
    confirmed(device, "2.0.0", signed_repository, lambda: clock.set(IN_1970))
    clock.set(IN_2106)
    assert device.json("model", "rollback", MODEL)["serving"]
    assert device.served_version == "1.0.0"
    seen = events(device)
    assert {each["time"][:4] for each in seen} == {"1970", "2106"}, "the history says what the clock said"
    assert [each["generation"] for each in seen] == sorted({each["generation"] for each in seen})
    since_boot = [each["monotonic_s"] for each in seen]
    assert since_boot == sorted(since_boot), "and what has passed since the boot"
    classify(device)


def test_a_believed_clock_in_2106_stops_updates_and_nothing_else(
    started: Callable[[str], Device], signed_repository: Repository, clock: Clock
) -> None:
    clock.set(time.strftime("%Y-%m-%d %H:%M:%S"))
    device = started("trusted")
    confirmed(device, "1.0.0", signed_repository, lambda: clock.set(IN_2106))
    refused = device.install("2.0.0", signed_repository, status=3)
    assert "expired" in refused["what"]
    assert device.served_version == "1.0.0"
    classify(device)


def test_a_believed_clock_in_1970_is_before_the_time_floor_and_so_is_not_believed(
    started: Callable[[str], Device], signed_repository: Repository, clock: Clock
) -> None:
    device = started("trusted")
    device.install("1.0.0", signed_repository)
    assert device.model_status["slots"]["a"]["version"] == "1.0.0"
