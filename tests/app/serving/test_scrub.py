"""A server reads what it keeps again and again, and goes on serving whatever it finds."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from surefoot.config import Scrub
from surefoot.durable import hash_file
from surefoot.serving.client import Client
from surefoot.serving.scrub import Found, Scrubber, Stopped, be_last
from surefoot.serving.status import ScrubServing
from surefoot.slots.scrub import Kept
from tests.app.serving.device import Device, classifier_release, open_files, picture, settles
from tests.app.serving.load import asking
from tests.app.slots import kit

FAST = Scrub(every_s=0.2, most_bytes_s=1 << 30)


@pytest.fixture
def started(make_server: Callable[..., Device]) -> Callable[..., Device]:
    """A server that scrubs all the time, of these releases, confirmed one after the other."""

    def start(*versions: str) -> Device:
        device = make_server()
        device.config = msgspec.structs.replace(device.config, scrub=FAST)
        for number, version in enumerate(versions):
            device.confirm(classifier_release(version, seed=number))
        device.start()
        return device

    return start


def page(device: Device, path: str) -> str:
    with urllib.request.urlopen(device.url + path, timeout=10) as answer:
        return answer.read().decode()


def scrubbed(device: Device) -> ScrubServing | None:
    return device.admin.status().models[0].scrub


def rot_found(device: Device) -> ScrubServing:
    """The first scrub that found rot may be told of for a moment only."""
    found: list[ScrubServing] = []

    def look() -> bool:
        scrub = scrubbed(device)
        if scrub is not None and scrub.rotten:
            found.append(scrub)
        return bool(found)

    assert settles(look), "no scrub found the rot"
    return found[0]


def test_what_is_whole_is_read_again_and_again_and_nothing_is_written(started: Callable[..., Device]) -> None:
    device = started("1.0.0", "2.0.0")
    before = device.store().read()
    assert settles(lambda: scrubbed(device) is not None)
    first = scrubbed(device)
    assert first is not None and first.rotten == () and first.actions == ()
    assert first.read_bytes == sum(each.path.stat().st_size for each in device.store().kept())
    assert settles(lambda: scrubbed(device) != first)
    assert device.store().read() == before


def test_a_rotten_active_release_gives_way_without_a_failed_request(started: Callable[..., Device]) -> None:
    device = started("1.0.0", "2.0.0")
    with asking(device) as seen:
        assert settles(lambda: seen.versions == ["2.0.0"])
        kit.flip_a_bit(device.store().slot_path("b") / "model.onnx")
        assert rot_found(device).rotten == ("b/model.onnx",)
        assert settles(lambda: seen.versions == ["2.0.0", "1.0.0"])
    assert set(seen.statuses) == {200}, seen.statuses
    assert "surefoot_rotten_files" in page(device, "/metrics")
    assert any(event.what == "lost" for event in device.store().history(10))


def test_the_last_release_goes_on_from_memory_until_it_is_fetched_again(started: Callable[..., Device]) -> None:
    device = started("1.0.0")
    expected = Client(device.url).classify(picture(1), "tiny").probabilities
    with asking(device) as seen:
        assert settles(lambda: seen.versions == ["1.0.0"])
        kit.flip_a_bit(device.store().slot_path("a") / "model.onnx")
        found = rot_found(device)
        assert "nothing else here can serve" in found.actions[0]
        assert settles(lambda: device.log().count("a/model.onnx is not what was installed") >= 2)
        assert Client(device.url).classify(picture(1), "tiny").probabilities == expected
        assert "Rotten on the disk" in page(device, "/")
        release = classifier_release("1.0.0", seed=0)
        store = device.store()
        assert store.admit(release.manifest, release.digest) is None, "it is to be fetched again"
        slot = device.fill(release)
        assert slot == "b"
        store.mark_ready(slot)
        store.activate(slot)
        assert device.admin.swap("tiny").swapped
        assert Client(device.url).classify(picture(1), "tiny").probabilities == expected
    assert set(seen.statuses) == {200}, seen.statuses
    assert device.store().read().trial is None, "it was confirmed here before"
    assert settles(lambda: (scrub := scrubbed(device)) is not None and scrub.rotten == ())


def test_a_rotten_way_back_is_told_and_what_serves_is_not_touched(started: Callable[..., Device]) -> None:
    device = started("1.0.0", "2.0.0")
    pid = device.admin.status().models[0].pid
    kit.flip_a_bit(device.store().slot_path("a") / "model.onnx")
    assert rot_found(device).rotten == ("a/model.onnx",)
    model = device.admin.status().models[0]
    assert (model.pid, model.version) == (pid, "2.0.0")
    assert "these are not on the device: 1.0.0" in str(model.slots["problem"])


def test_it_reads_no_faster_than_it_may_and_can_be_stopped(tmp_path):
    (tmp_path / "model").write_bytes(bytes(1 << 20))
    file = Kept("a", tmp_path / "model", hash_file(tmp_path / "model")[0])
    scrubber = Scrubber(Scrub(most_bytes_s=4 << 20), {})
    begun = time.monotonic()
    found = scrubber._read([file])
    assert found.read_bytes == 1 << 20 and time.monotonic() - begun >= 0.2
    slow = Scrubber(Scrub(most_bytes_s=4096), {})
    threading.Timer(0.2, slow._stop.set).start()
    with pytest.raises(Stopped):
        slow._read([file])


def test_a_file_that_was_replaced_while_it_was_read_is_no_rot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of files is older than what is read: a slot was refilled between them. The keeper is a double."""
    store = kit.open_store(tmp_path / "device")
    kit.deploy(store, *(kit.make_release(tmp_path, version) for version in ("1.0.0", "2.0.0")))
    read: list[Found] = []

    class Late(Scrubber):
        def _read(self, files: list[Kept]) -> Found:
            kit.deploy(store, kit.make_release(tmp_path, "3.0.0"))
            read.append(super()._read(files))
            return read[0]

    async def mend() -> tuple[str, ...]:
        pytest.fail("there is nothing to mend")

    scrubber = Late(FAST, {})
    monkeypatch.setattr(scrubber, "_wait", lambda seconds: None)
    asyncio.run(scrubber.scrub(SimpleNamespace(name="tiny", swap=SimpleNamespace(store=store), mend=mend)))
    seen = scrubber.status("tiny")
    assert read[0].rotten and seen is not None and seen.rotten == ()


def test_a_disk_that_fails_once_has_not_rotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_bytes(b"weights")
    answers = iter([OSError(errno.EIO, "Input/output error"), hash_file(tmp_path / "model")])

    def hashed(path: Path, passed: Callable[[int], object]) -> tuple[str, int]:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr("surefoot.serving.scrub.hash_from_disk", hashed)
    scrubber = Scrubber(FAST, {})
    monkeypatch.setattr(scrubber, "_wait", lambda seconds: None)
    assert scrubber._read([Kept("a", tmp_path / "model", hash_file(tmp_path / "model")[0])]).rotten == ()
    assert next(answers, None) is None, "it was looked at again"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="that it is in the middle is seen in /proc")
def test_a_server_leaves_in_the_middle_of_a_slow_scrub(make_server: Callable[..., Device]) -> None:
    device = make_server()
    device.config = msgspec.structs.replace(device.config, scrub=Scrub(every_s=0.1, most_bytes_s=4096))
    device.confirm(classifier_release("1.0.0"))
    device.start()
    pid = device.endpoint.pid
    assert settles(lambda: any("/models/tiny/a/" in each for each in open_files(pid)))
    begun = time.monotonic()
    device.stop()
    assert time.monotonic() - begun < 10 and "left in order" in device.log()


def test_nothing_is_scrubbed_where_it_is_switched_off():
    asyncio.run(asyncio.wait_for(Scrubber(Scrub(every_s=0), {}).run(), 1))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="priorities of a thread are Linux's")
def test_it_gets_processor_and_disk_when_nobody_else_wants_them() -> None:
    seen: list[int] = []

    def look() -> None:
        be_last()
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        seen.append(psutil.Process(threading.get_native_id()).ionice().ioclass)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [19, psutil.IOPRIO_CLASS_IDLE]
    assert os.getpriority(os.PRIO_PROCESS, 0) != 19, "and nobody else is"
