"""A release that looks on: by a real server, a real second worker and real requests."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from pathlib import Path

import msgspec
import pytest
import urllib3

from surefoot.config import Shadow
from surefoot.serving.client import Client
from surefoot.serving.control import Show
from surefoot.serving.frames import write_frame
from surefoot.serving.messages import Classify, Failed, Loaded, encode
from surefoot.serving.onlooker import Onlooker
from surefoot.serving.status import ModelServing, ShadowServing
from surefoot.watch.likeness import Tally, alike
from tests.app.serving.device import Device, classifier_release, picture, settles

V1, LIKE, UNLIKE = classifier_release(), classifier_release("2.0.0"), classifier_release("2.0.0", seed=9)


def watched(device: Device, release=LIKE, **settings: object) -> Device:
    """A device that serves v1 while another release waits with its gate passed."""
    shadow = Shadow(**{"enabled": True, "share": 1.0, "most_per_s": 1000.0, **settings})
    device.config = msgspec.structs.replace(device.config, shadow=shadow)
    device.confirm(V1)
    device.store().mark_ready(device.fill(release))
    device.start()
    return device


def model(device: Device) -> ModelServing:
    (one,) = device.admin.status().models
    return one


def shadow(device: Device) -> ShadowServing:
    found = model(device).shadow
    assert found is not None
    return found


def asked_until(device: Device, condition) -> ShadowServing:
    """Ask the server pictures until it is so; every answer is of the release that serves."""
    client = Client(device.url)

    def holds() -> bool:
        assert client.classify(picture(random.randrange(1000)), "tiny").model_version == "1.0.0"
        found = model(device).shadow
        return found is not None and condition(found)

    assert settles(holds), (model(device), device.log()[-2000:])
    return shadow(device)


def test_a_like_release_agrees_and_only_counts_are_kept(make_server):
    device = watched(make_server())
    found = asked_until(device, lambda seen: seen.agreed >= 20)
    assert (found.version, found.watching, found.disagreed, found.failed) == ("2.0.0", True, 0, 0)
    assert found.pid is not None and os.getpriority(os.PRIO_PROCESS, found.pid) == 19
    assert Path(f"/proc/{found.pid}/oom_score_adj").read_text().strip() == "1000"
    assert picture(1)[50:200] not in b"".join(path.read_bytes() for path in device.root.rglob("*") if path.is_file())
    tensors = {"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.1] * 64}]}

    def infers() -> bool:
        reply = urllib3.request("POST", f"{device.url}/v2/models/tiny/infer", json=tensors)
        assert reply.json()["model_version"] == "1.0.0"
        return shadow(device).agreed >= found.agreed + 5

    assert settles(infers) and shadow(device).failed == 0
    metrics = urllib3.request("GET", f"{device.url}/metrics").data.decode()
    assert 'surefoot_shadow_inferences_total{model="tiny",result="agreed",version="2.0.0"}' in metrics
    page = urllib3.request("GET", device.url).data.decode()
    assert "Shadow 2.0.0 sees a sample of real inputs and answers nobody: 100.0% of" in page
    activated(device)


def activated(device: Device) -> None:
    """What was watching serves now, on trial; nothing looks on any more, and the way back is there."""
    store = device.store()
    store.activate(store.read().inactive)
    assert device.admin.swap("tiny").swapped
    assert Client(device.url).classify(picture(1), "tiny").model_version == "2.0.0"
    assert settles(lambda: not shadow(device).watching)
    assert device.store().read().trial is not None


def test_an_unlike_release_disagrees_and_is_not_held_to_account(make_server):
    device = watched(make_server(), UNLIKE)
    found = asked_until(device, lambda seen: seen.disagreed >= 5)
    assert found.watching
    state = device.store().read()
    assert state.quarantine == () and state.slots[state.inactive].status == "ready" and state.trial is None


def test_a_shadow_that_dies_stays_away_and_what_serves_does_not_notice(make_server):
    device = watched(make_server())
    found = asked_until(device, lambda seen: seen.agreed >= 1)
    os.kill(found.pid, signal.SIGKILL)
    gone = asked_until(device, lambda seen: not seen.watching)
    assert "it died (signal SIGKILL)" in gone.reason and gone.agreed >= found.agreed
    assert model(device).restarts == 0 and device.store().read().quarantine == ()


def test_one_that_holds_more_memory_than_it_may_is_ended(make_server):
    device = watched(make_server(), most_memory_bytes=1 << 20)
    gone = asked_until(device, lambda seen: bool(seen.reason))
    assert not gone.watching and "shadow.most_memory_bytes is 1048576" in gone.reason


def test_an_install_takes_the_slot_that_a_shadow_watches_from(make_server):
    device = watched(make_server())
    found = asked_until(device, lambda seen: seen.agreed >= 1)
    device.fill(classifier_release("3.0.0"))
    asked_until(device, lambda seen: not seen.watching)
    assert settles(lambda: not Path(f"/proc/{found.pid}").exists())


def test_it_is_off_unless_asked_for(make_server):
    device = watched(make_server(), enabled=False)
    Client(device.url).classify(picture(1), "tiny")
    assert not Shadow().enabled
    assert not settles(lambda: model(device).shadow is not None, 7.0)


# -- the sample, by a double of the worker's socket ------------------------------------------------------------------

LOADED = Loaded("tiny", "2", "d", "v", "r", "1", "p", (), (), (), True, True, 0.1, 1)


def onlooker(**settings: object) -> tuple[Onlooker, socket.socket]:
    ours, theirs = socket.socketpair()
    values = {"share": 1.0, "most_per_s": 1e9, "most_input_bytes": 100, "tolerance": None, **settings}
    return Onlooker(Show(1, LOADED, **values), ours), theirs  # type: ignore[arg-type]  # values of their fields


def test_one_input_at_a_time_is_with_it_and_what_it_has_no_time_for_is_skipped():
    async def story() -> None:
        looking, worker = onlooker()
        failed = Failed(1, "DeviceUnable", "no")
        assert looking.wants(100)
        looking.see(Classify(1, 0.0), [b"x" * 100], failed, memoryview(b""))
        assert not looking.wants(100) and looking.tally == Tally(skipped=1)
        looking.see(Classify(2, 0.0), [b"Y"], failed, memoryview(b""))
        assert looking.tally == Tally(skipped=2)
        assert b"Y" not in worker.recv(10_000)
        write_frame(worker, encode(failed), [])
        while looking.tally.failed == 0:
            await asyncio.sleep(0)
        assert looking.wants(100) and not looking.wants(101)
        assert looking.tally == Tally(failed=1, skipped=3)
        looking.close()

    asyncio.run(story())


def test_the_sample_is_a_share_and_has_a_rate():
    async def story() -> None:
        seldom, _ = onlooker(share=0.1)
        random.seed(4)
        assert 50 <= sum(seldom.wants(1) for _ in range(1000)) <= 150
        rated, _ = onlooker(most_per_s=0.001)
        assert [rated.wants(1) for _ in range(3)] == [True, False, False]
        assert rated.tally == Tally()
        for each in (seldom, rated):
            each.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("candidate", "row", "tolerance", "same"),
    [
        ((0.1, 0.8, 0.9, 0.2), 2, None, True),
        ((0.8, 0.1, 0.9, 0.2), 2, None, False),
        ((0.1, 0.8, 0.2, 0.9), 2, None, False),
        ((0.0, 1.0, 1.0, 0.0), 4, 0.05, False),
        ((0.2, 0.7, 0.6, 0.3), 4, 0.11, True),
        ((0.2, float("nan"), 0.6, 0.3), 4, 9.0, False),
        ((0.2, 0.7), 2, None, False),
    ],
)
def test_what_it_is_to_agree(candidate, row, tolerance, same):
    assert alike((0.2, 0.7, 0.7, 0.3), candidate, row, tolerance) is same
