"""The wait before a release that was put off is tried again, and a real server that does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from surefoot.config import Trial
from surefoot.serving.again import Again
from surefoot.slots import formats
from surefoot.slots.state import FORMAT, OLDEST_FORMAT, ReleaseRef, SlotState, State, TrialState
from surefoot.slots.store import Store
from tests.app.serving.device import Device, classifier_release, settles

HOUR_S = 3600.0
OLD, NEW = (ReleaseRef(f"{number}.0.0", f"{number}" * 64, "v") for number in (1, 2))


def put_off(times: int, **changes: object) -> State:
    slots = {"a": SlotState("confirmed", OLD), "b": SlotState("ready", NEW, times)}
    return msgspec.structs.replace(State("m", slots=slots, active="a", lineage=(OLD,)), **changes)


class Clock:
    now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def again(clock: Clock) -> Again:
    return Again(Trial(), clock, chance=lambda: 1.0)


def waited_s(again: Again, clock: Clock, state: State, step_s: float = 60.0, most_s: float = 30 * HOUR_S) -> float:
    begun_s = clock.now_s
    while again.look(state, serves=True) is None and clock.now_s - begun_s < most_s:
        clock.now_s += step_s
    return clock.now_s - begun_s


def test_the_wait_is_an_hour_and_twice_as_long_each_time(again: Again, clock: Clock) -> None:
    assert [waited_s(again, clock, put_off(times)) / HOUR_S for times in (1, 2, 3)] == [1.0, 2.0, 4.0]


def test_it_is_never_longer_than_a_day_and_up_to_a_quarter_shorter_by_chance(clock: Clock) -> None:
    for chance, expected_h in ((0.0, 18.0), (1.0, 24.0)):
        again = Again(Trial(retries=9, retry_after_s=10 * HOUR_S), clock, chance=lambda chance=chance: chance)
        assert waited_s(again, clock, put_off(5)) / HOUR_S == expected_h


def test_only_confirmed_service_counts(again: Again, clock: Clock) -> None:
    for _ in range(100):
        assert again.look(put_off(1), serves=False) is None
        clock.now_s += HOUR_S
    assert again.look(put_off(1), serves=True) is None
    clock.now_s += HOUR_S / 2
    again.look(put_off(1), serves=True)
    clock.now_s += 5.0
    again.look(put_off(1), serves=False)
    clock.now_s += 9 * HOUR_S
    assert again.look(put_off(1), serves=True) is None
    status = again.status()
    assert status is not None and 0 < status.left_s <= HOUR_S / 2


def test_a_server_that_starts_anew_starts_the_wait_anew(again: Again, clock: Clock) -> None:
    again.look(put_off(1), serves=True)
    clock.now_s += 0.9 * HOUR_S
    assert again.look(put_off(1), serves=True) is None
    assert waited_s(Again(Trial(), clock, chance=lambda: 1.0), clock, put_off(1)) == HOUR_S


@pytest.mark.parametrize(
    "state",
    [
        put_off(4),
        put_off(0),
        put_off(1, held=True),
        put_off(
            1, active="b", trial=TrialState(), slots={"a": SlotState("ready", OLD, 1), "b": SlotState("trial", NEW)}
        ),
        put_off(1, active=None),
        put_off(1, slots={"a": SlotState("confirmed", OLD), "b": SlotState("filling", NEW)}),
    ],
    ids=["often enough", "never put off", "held", "a trial", "nothing serves", "another install"],
)
def test_nothing_waits_where_it_must_not_be_tried(again: Again, clock: Clock, state: State) -> None:
    assert waited_s(again, clock, state) >= 30 * HOUR_S and again.status() is None


def test_a_hold_starts_the_wait_anew(again: Again, clock: Clock) -> None:
    again.look(put_off(1), serves=True)
    clock.now_s += 2 * HOUR_S
    again.look(put_off(1, held=True), serves=True)
    assert again.look(put_off(1), serves=True) is None and waited_s(again, clock, put_off(1)) == HOUR_S


# -- a real server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Device]:
    """1.0.0 is confirmed, 2.0.0 was put off once, and is tried again at the first look."""
    device = Device(tmp_path / "device")
    trial = msgspec.structs.replace(device.config.trial, retries=1, retry_after_s=0.1)
    device.config = msgspec.structs.replace(device.config, trial=trial)
    device.confirm(classifier_release("1.0.0"))
    device.activate(classifier_release("2.0.0", seed=2))
    of(device).put_off("no try is left")
    yield device
    device.stop()


def of(device: Device) -> Store:
    return Store(device.config.models_dir, "tiny", storage=device.config.storage, retries=device.config.trial.retries)


def model_status(device: Device, *arguments: str) -> str:
    config = device.root / "surefoot.toml"
    config.write_text(
        f'data_dir = "{device.config.data_dir}"\nrun_dir = "{device.config.run_dir}"\n'
        f"[trial]\nretries = {device.config.trial.retries}\nretry_after_s = {device.config.trial.retry_after_s}\n"
    )
    line = [sys.executable, "-m", "surefoot", "--config", str(config), "model", "status", "tiny", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_server_tries_it_again_by_itself_and_once_only(server: Device) -> None:
    assert "put off: 2.0.0, 1 of 2 times: tried again once a server has served" in model_status(server)
    server.start()
    assert server.admin.status().models[0].version == "1.0.0"
    assert settles(lambda: server.admin.status().models[0].version == "2.0.0"), server.log()
    state = of(server).read()
    assert state.trial is not None and state.trial.tries == 1 and state.slots["b"].put_off == 1
    assert [event.what for event in of(server).history(2)] == ["tried again", "tried"]
    of(server).put_off("no try is left")
    assert settles(lambda: server.admin.status().models[0].version == "1.0.0")
    assert "2 of 2 times: it was tried again often enough; it stays ready until somebody" in model_status(server)
    told = json.loads(model_status(server, "--json"))["put_off"]
    assert (told["times"], told["again"], told["left_s"]) == (2, False, None)


def test_it_says_how_long_it_waits(server: Device) -> None:
    trial = msgspec.structs.replace(server.config.trial, retries=3, retry_after_s=HOUR_S)
    server.config = msgspec.structs.replace(server.config, trial=trial)
    server.start()
    assert settles(lambda: server.admin.status().models[0].again is not None)
    left_s = server.admin.status().models[0].again.left_s
    assert 0.74 * HOUR_S < left_s <= HOUR_S
    said = model_status(server)
    assert f"put off: 2.0.0, 1 of 4 times: tried again in {round(left_s / 60)} min of confirmed service" in said
    assert 0 < json.loads(model_status(server, "--json"))["put_off"]["left_s"] <= left_s


def test_another_operation_is_waited_for(server: Device) -> None:
    with of(server).operation("a test"):
        server.start()
        assert settles(
            lambda: "a test (pid" in (again.waits_for if (again := server.admin.status().models[0].again) else "")
        )
        assert of(server).read().trial is None
    assert settles(lambda: of(server).read().trial is not None)


def test_a_trial_of_another_model_is_waited_for(server: Device) -> None:
    server.activate(classifier_release("1.0.0", name="other"))
    server.start()

    def waits_for() -> str:
        return next((model.again.waits_for for model in server.admin.status().models if model.again), "")

    assert settles(lambda: waits_for() == "a release of other is on trial")
    assert of(server).read().trial is None
    server.store("other").confirm("a test says so")
    assert settles(lambda: of(server).read().trial is not None)


def test_a_server_migrates_within_seconds_of_the_confirmation_of_its_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(tmp_path / "device")
    app = device.config.data_dir / "apps" / "newer"
    app.mkdir(parents=True)
    (app.parent / "current").symlink_to("newer")
    (app / "tries").write_text("1\n")
    monkeypatch.setenv(formats.APP_VARIABLE, str(app))
    device.confirm(classifier_release("1.0.0"))
    device.start()
    try:
        device.activate(classifier_release("2.0.0", seed=2))
        device.admin.swap("tiny")
        assert not settles(lambda: device.store().read().format == FORMAT, 6.0)
        assert device.store().read().format == OLDEST_FORMAT
        (app / "tries").unlink()
        (app / "confirmed").touch()
        assert settles(lambda: device.store().read().format == FORMAT), device.log()
        assert device.store().read().trial is not None and device.admin.status().models[0].version == "2.0.0"
    finally:
        device.stop()
