"""A disk 50 times slower at reads and writes than a card, whose every flush takes a tenth of a second.

Updates take long, and nothing else does.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from bench import volumes
from demo.place import MODEL, SAMPLES
from tests.conftest import Device, Repository
from tests.crash import disks, kernel

FSYNC_S = 0.1
CARD_BYTES_S = 50e6  # what an SD card of class A2 moves, give or take
SLOWER = 50
PROBE_BYTES = 1 << 20


@contextmanager
def asking(url: str) -> Iterator[Counter[str]]:
    """Ask without a pause, and count: the version that answered, or what went wrong; and whether the gateway lives."""
    seen, leave, body = Counter[str](), threading.Event(), next(SAMPLES.glob("*.png")).read_bytes()

    def client() -> None:
        pool = urllib3.PoolManager(retries=False, timeout=10.0)
        while not leave.is_set():
            for method, path, data in (
                ("POST", f"/v2/models/{MODEL}/classify", body),
                ("GET", "/v2/health/live", None),
            ):
                try:
                    reply = pool.request(method, url + path, body=data, headers={"content-type": "image/png"})
                    said = reply.json().get("model_version", "") if reply.status == 200 and data else ""
                    seen[said or f"{path} {reply.status}"] += 1
                except urllib3.exceptions.HTTPError as error:
                    seen[repr(error)] += 1

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield seen
    finally:
        leave.set()
        thread.join()


def write_s(folder: Path) -> float:
    """How long it takes to write a MiB, durably."""
    began = time.monotonic()
    with (folder / "probe").open("wb") as stream:
        stream.write(os.urandom(PROBE_BYTES))
        stream.flush()
        os.fsync(stream.fileno())
    (folder / "probe").unlink()
    return time.monotonic() - began


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "bytes_s",
    [
        pytest.param(CARD_BYTES_S / SLOWER, id="everything"),
        pytest.param(0.0, id="flushes alone", marks=pytest.mark.full),
    ],
)
def test_an_update_and_a_rollback_on_a_slow_disk_fail_no_request(
    bytes_s: float, signed_repository: Repository, tmp_path: Path, needs: Callable[[bool, str], None]
) -> None:
    needs(disks.possible(), "root, /dev/fuse and loop devices on Linux, for a disk of our own")

    def run() -> None:
        with volumes.ext4(tmp_path, 256 << 20, FSYNC_S, bytes_s) as disk:
            assert volumes.fsync_ms(disk) >= FSYNC_S * 1e3
            assert not bytes_s or write_s(disk) >= PROBE_BYTES / bytes_s
            slow = Device(disk / "device")
            slow.serve()
            try:
                slow.deploy("1.0.0", signed_repository)
                with asking(slow.url) as seen:
                    slow.deploy("2.0.0", signed_repository)
                    slow.json("model", "rollback", MODEL)
                    slow.json("model", "reject", MODEL, "--reason", "the test says so", status=4)
                    assert slow.served_version == "1.0.0"
            finally:
                slow.stop()
            assert set(seen) == {"1.0.0", "2.0.0", "/v2/health/live 200"}, seen
            print(seen)

    kernel.privately(run)
