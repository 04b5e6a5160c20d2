"""Power cuts of a machine that boots: its data disk as a cut left it, under a system that starts from it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from surefoot.durable import Disk
from surefoot.slots.content import fault
from surefoot.slots.store import Store
from surefoot.slots.table import check
from tests.crash import kernel
from tests.crash.blocks import Image
from tests.parts import asking
from tests.roles.fleet import MODEL
from tests.system.conftest import Sealing, devices
from tests.system.sealing import SERVES, Device, Sealed
from tests.system.writes import Cuts, mounted, recorded
from tests.told import Told

pytestmark = pytest.mark.timeout(6 * 3600)
SEED = int(os.environ.get("SUREFOOT_SEED", "20250601"))
# CI's share, and that of `make test-vm`.
BOOTED = [6, pytest.param(int(os.environ.get("SUREFOOT_VM_CUTS", "200")), marks=pytest.mark.vm)]
REPLAYED = [300, pytest.param(int(os.environ.get("SUREFOOT_VM_STATES", "3000")), marks=pytest.mark.vm)]
SERVES_WITHIN_S = 120.0  # of the boot, under emulation, where nothing else runs


class Step(NamedTuple):
    """What an operator does, and what may serve if the power is cut in the middle of it, and after it."""

    name: str
    do: Callable[[Device], object]
    during: frozenset[str]
    after: frozenset[str]


OLD, NEW, EITHER = frozenset({"1.0.0"}), frozenset({"2.0.0"}), frozenset({"1.0.0", "2.0.0"})
STEPS = [
    Step("install", lambda device: device.install("2.0.0"), OLD, OLD),
    # Nothing was confirmed yet: a trial may go on after the boot, or be tried again.
    Step("activate", lambda device: device.model("activate", MODEL, "--version", "2.0.0"), EITHER, EITHER),
    Step("confirm", lambda device: device.model("confirm", MODEL, "--wait", "60"), EITHER, NEW),
    Step("rollback", lambda device: device.model("rollback", MODEL), EITHER, OLD),
    Step("back again", lambda device: device.model("activate", MODEL, "--version", "2.0.0"), EITHER, NEW),
]


class Stretch(NamedTuple):
    """What a machine wrote in some steps. ``places``: how long the record was at the end of each, as acknowledged."""

    cuts: Cuts
    places: list[int]

    def step(self, image: Image) -> tuple[str, frozenset[str]]:
        """In which step a cut falls, and what may serve after it."""
        done = image.marks - 1
        if done >= len(STEPS):
            return "after all", STEPS[-1].after
        before = STEPS[done - 1].after if done else OLD
        return STEPS[done].name, STEPS[done].during | before


@pytest.fixture(scope="module")
def stretch(sealed_disks: Sealed, tmp_path_factory: pytest.TempPathFactory) -> Stretch:
    """Recorded once."""
    with devices(sealed_disks, tmp_path_factory.mktemp("recorded")) as make:
        device = make(record=True)
        machine = device.machine
        places = [_length(machine.log)]
        for step in STEPS:
            step.do(device)
            places.append(_length(machine.log))
        machine.pull_the_plug()
    return Stretch(Cuts(sealed_disks.data, recorded(machine.log), places, SEED), places)


def _length(log: Path) -> int:
    entries = recorded(log)
    return entries[-1].end if entries else 0


@pytest.mark.parametrize("booted", BOOTED)
def test_whatever_was_written_it_boots_serves_and_can_be_updated(
    booted: int, stretch: Stretch, sealed_device: Sealing, tmp_path: Path, told: Told
) -> None:
    chance = random.Random(SEED)
    images = _spread(list(stretch.cuts.images(20 * booted)), stretch, chance)[:booted]
    slowest_s = 0.0
    for number, image in enumerate(images):
        step, may_serve = stretch.step(image)
        disk = stretch.cuts.make(image, tmp_path / "cut.img")
        device = sealed_device(f"cut-{number}", boots=True, data=disk)
        machine = device.machine
        began = time.monotonic()
        machine.start()
        try:
            machine.wait(SERVES)
            within_s = time.monotonic() - began
            slowest_s = max(slowest_s, within_s)
            answered = asking.ask(machine.host)
            assert answered["version"] in may_serve, f"{answered['version']} serves"
            assert answered["right"] >= 9, answered
            device.model("verify", MODEL, "--golden")
            assert within_s <= SERVES_WITHIN_S or "SUREFOOT_VM" not in os.environ, f"served after {within_s:.0f} s"
            _can_be_updated(device)
        except AssertionError as error:
            raise AssertionError(f"cut {number}, in {step}, {image.what}: {error}\n{machine.tail()}") from error
        print(f"cut {number + 1} of {len(images)}, in {step}: serves {answered['version']} after {within_s:.0f} s")
        machine.pull_the_plug()
        machine.data_disk.unlink()
        told("booted after a power cut", 1)
    print(f"{len(images)} boots after a cut, none lost, slowest {slowest_s:.0f} s, seed {SEED}")


def _spread(images: list[Image], stretch: Stretch, chance: random.Random) -> list[Image]:
    """As many of each step as there are, in turn."""
    chance.shuffle(images)
    by_step: dict[str, list[Image]] = {}
    for image in images:
        by_step.setdefault(stretch.step(image)[0], []).append(image)
    mixed: list[Image] = []
    while any(by_step.values()):
        mixed += [left.pop() for left in by_step.values() if left]
    return mixed


def _can_be_updated(device: Device) -> None:
    """To the one that it does not serve, and back."""
    status = device.status()
    wanted = "2.0.0" if asking.ask(device.machine.host)["version"] == "1.0.0" else "1.0.0"
    if status.get("trial"):
        device.model("confirm", MODEL, "--wait", "60")
        return
    if wanted == "1.0.0":
        device.model("rollback", MODEL)
        return
    device.install(wanted)
    device.model("activate", MODEL, "--version", wanted)
    device.model("confirm", MODEL, "--wait", "60")
    assert asking.ask(device.machine.host)["version"] == wanted


@pytest.mark.parametrize("replayed", REPLAYED)
def test_the_disks_that_a_cut_may_leave_hold_a_model_that_serves(
    replayed: int, stretch: Stretch, tmp_path: Path, told: Told
) -> None:
    began = time.monotonic()
    judged = kernel.privately(lambda: sum(_judged(replayed, stretch, tmp_path)))
    seconds = time.monotonic() - began
    flushes = stretch.cuts.flushes
    print(f"{judged} disks of a machine, {flushes} flushes, {judged / seconds * 60:.0f} a minute, seed {SEED}")
    told("disks of a machine after a cut", judged)
    assert judged >= replayed


def test_a_disk_whose_model_rotted_is_not_taken_for_whole(stretch: Stretch, tmp_path: Path) -> None:
    image = list(stretch.cuts.images(1))[-1]
    _, may_serve = stretch.step(image)
    disk = stretch.cuts.make(image, tmp_path / "rotten.img")

    def judge() -> str | None:
        with mounted(disk, tmp_path / "at") as at:
            models = at / "surefoot" / "models"
            state = Store(models, MODEL, disk=Disk(), boot="another").read()
            for model in Store(models, MODEL, disk=Disk(), boot="another").slot_path(state.active).glob("*.onnx"):
                data = bytearray(model.read_bytes())
                data[len(data) // 2] ^= 1
                model.write_bytes(data)
            return _what_serves(models)

    assert kernel.privately(judge) not in may_serve


def _judged(most: int, stretch: Stretch, folder: Path) -> Iterator[int]:
    disk = None
    chosen = _spread(list(stretch.cuts.images(most)), stretch, random.Random(SEED))
    for image in chosen[:most]:
        if disk is None:
            disk = stretch.cuts.make(image, folder / "replayed.img")
        stretch.cuts.put(image, disk)
        step, may_serve = stretch.step(image)
        with mounted(disk, folder / "at") as at:
            serving = _what_serves(at / "surefoot" / "models")
        assert serving in may_serve, f"in {step}, {image.what}: {serving} serves"
        yield 1


def _what_serves(models: Path) -> str | None:
    """As the app finds it at its start: the store recovered, every byte hashed."""
    store = Store(models, MODEL, disk=Disk(), boot="another")
    state = store.recover().state
    assert check(state) == []
    for slot, held in state.slots.items():
        if held.release is not None and held.status in ("confirmed", "trial", "ready"):
            assert fault(store.slot_path(slot), held.release) is None, f"slot {slot} is not {held.release}"
    assert state.trial is None or state.fallback is not None, "a trial has no way back"
    return state.serving.version if state.serving else None
