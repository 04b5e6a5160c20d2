"""Power cuts on a real ext4 that holds the reference model: what serves afterwards answers as that version does."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from demo import place
from surefoot.config import Config, Storage
from surefoot.durable import Disk
from surefoot.errors import SurefootError
from surefoot.release import packed
from surefoot.serving.loaded import open_model
from surefoot.serving.messages import Load
from surefoot.slots import recovery
from surefoot.slots.state import SLOTS, Slot, State
from surefoot.slots.store import Store
from surefoot.update.verifying import golden
from surefoot.watch.gates import Verdict
from tests.conftest import Repository
from tests.crash.cuts import FastDisk
from tests.crash.powercuts import Acknowledge, Bench
from tests.crash.test_power_mutants import ForgetsTheModel
from tests.told import Told

OLD, NEW = "1.0.0", "2.0.0"
EACH = 125 if os.environ.get("SUREFOOT_FULL") == "1" else 10  # images of an operation, taken at random from POOL
POOL = 400
WORKERS = 10 if os.environ.get("SUREFOOT_FULL") == "1" else 1  # of them a process of its own loads, as a new app would


class Real:
    """The two releases of the reference model, built from what is committed, and what each answers."""

    def __init__(self, built: Path) -> None:
        read = [packed.read(built / name) for name in ("release-v1", "release-v2")]
        self.releases = {release.manifest.version: release for release in read}
        self.answers = {
            version: asked(release.directory, release.digest, self.variant(version))
            for version, release in self.releases.items()
        }
        for answers in self.answers.values():
            assert answers.passed and answers.agreed == answers.cases > 0
        assert self.answers[OLD] != self.answers[NEW], "nothing tells one from the other"

    def variant(self, version: str) -> str:
        """The one for ONNX Runtime."""
        variants = self.releases[version].manifest.variants
        return next(variant.id for variant in variants if variant.runtime == "onnxruntime")

    def install(self, store: Store, version: str) -> Slot:
        """Into the inactive slot; what its gate measures is another test."""
        release = self.releases[version]
        files = {name: release.directory / name for name in release.kinds()}
        slot = store.fill(release.manifest, release.manifest_bytes, self.variant(version), files)
        store.mark_ready(slot)
        return slot

    def try_out(self, store: Store, version: str) -> None:
        """On trial, tried once."""
        store.activate(self.install(store, version))
        store.record_try()

    def confirm(self, store: Store, *versions: str) -> None:
        """One after the other."""
        for version in versions:
            self.try_out(store, version)
            store.confirm("30 inferences, 60 s")


def asked(directory: Path, digest: str, variant: str) -> Verdict:
    """Load a release as a worker does, every byte verified, and run its golden cases."""
    model = open_model(Load(directory=str(directory), lock="", digest=digest, variant=variant, threads=1))
    verdict = model.golden().verdict
    del model
    gc.collect()  # the session lets go of the file: the disk can be unmounted
    return verdict


class Case(NamedTuple):
    """An operation on a device, and the versions that may serve when it was cut; the last one when it was not."""

    prepare: Callable[[Real, Store], object]
    operation: Callable[[Real, Store], object]
    serving: list[str]


CASES = {
    "install": Case(lambda real, store: real.confirm(store, OLD), lambda real, store: real.install(store, NEW), [OLD]),
    "activate": Case(
        lambda real, store: (real.confirm(store, OLD), real.install(store, NEW)),
        lambda real, store: store.activate("b"),
        [OLD, NEW],
    ),
    "confirm": Case(
        lambda real, store: (real.confirm(store, OLD), real.try_out(store, NEW)),
        lambda real, store: store.confirm("30 inferences, 60 s"),
        [NEW],
    ),
    "rollback": Case(
        lambda real, store: real.confirm(store, OLD, NEW), lambda real, store: store.rollback(), [NEW, OLD]
    ),
}


@pytest.fixture(scope="session")
def real(signed_repository: Repository) -> Real:
    return Real(signed_repository.keys.parent / "built")


def opened(folder: Path, disk: Disk) -> Store:
    return Store(folder / "models", place.MODEL, disk=disk, storage=Storage(reserve_bytes=0), boot="boot-1")


class Acknowledged(NamedTuple):
    """``state``: as it was read. ``returned``: after the whole operation."""

    state: State
    returned: bool


def judge(real: Real, case: Case, last: Acknowledged, folder: Path) -> str:
    """What serves, and what it can return to, are loaded and answer as their versions do. Gives what serves."""
    store = opened(folder, FastDisk())
    state = store.recover().state
    assert state.generation >= last.state.generation, "what was acknowledged is lost"
    assert state.serving is not None and state.active is not None, "no model serves"
    serving = state.serving.version
    assert serving in (case.serving[-1:] if last.returned else case.serving), f"{serving} serves"
    for slot in SLOTS:
        here = state.slots[slot]
        if here.release is None or here.status not in ("trial", "confirmed"):
            continue
        try:
            answers = asked(store.slot_path(slot), here.release.digest, here.release.variant)
        except SurefootError as error:
            raise AssertionError(f"{here.release}, {here.status}, cannot be loaded: {error}") from error
        assert answers == real.answers[here.release.version], f"{here.release} answers as another"
    return serving


def explore(real: Real, case: Case, bench: Bench, scratch: Path, most: int, disk: Disk | None = None) -> list[str]:
    """Judge some of the images that power cuts leave. Gives what each served."""
    prepared = scratch / "prepared"
    (prepared / "models").mkdir(parents=True)
    case.prepare(real, opened(prepared, FastDisk()))

    def operate(folder: Path, acknowledge: Acknowledge[Acknowledged]) -> None:
        case.operation(real, opened(folder, disk or Disk()))
        acknowledge(Acknowledged(opened(folder, FastDisk()).read(), returned=True))

    before = Acknowledged(opened(prepared, FastDisk()).read(), returned=False)
    record = bench.record(prepared, before, operate)
    images = list(record.cutter.images(POOL))
    served = []
    for image in random.Random(bench.seed).sample(images, most):
        try:
            last = record.marks[image.marks - 1]
            served.append(bench.look(image.blocks, partial(judge, real, case, last)))
        except AssertionError as error:
            raise AssertionError(f"{image.what}, {image.marks - 1} acknowledged: {error}") from error
    for image in images[:: -(-len(images) // WORKERS)]:
        version = bench.look(image.blocks, by_a_worker)
        assert version in case.serving
        served.append(version)
    return served


def by_a_worker(folder: Path) -> str:
    """As ``surefoot model verify --golden``. Gives what serves."""
    opened(folder, FastDisk()).recover()
    report = golden(Config(data_dir=folder, run_dir=folder / "run"), place.MODEL)
    assert report.ok and report.agreed == report.cases > 0, report.reasons
    return str(report.version)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_after_a_power_cut_the_real_model_answers_as_the_version_that_serves(
    name: str, real: Real, bench: Bench, scratch: Path, told: Told
) -> None:
    began = time.perf_counter()
    served = explore(real, CASES[name], bench, scratch, EACH)
    each = ", ".join(f"{served.count(version)} serve {version}" for version in CASES[name].serving)
    print(f"{name}: {len(served)} images, {each}; {time.perf_counter() - began:.1f} s, seed {bench.seed}")
    told("images after which the real model was loaded", len(served))


def test_mutant_that_trusts_a_slot_unread_and_never_synced_is_caught_by_the_model(
    real: Real, bench: Bench, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(CASES["install"].prepare, lambda real, store: real.try_out(store, NEW), [OLD, NEW])
    monkeypatch.setattr(recovery, "fault", lambda *_: None)
    with pytest.raises(AssertionError, match=r"2\.0\.0.*, trial, cannot be loaded"):
        explore(real, case, bench, scratch, 60, ForgetsTheModel())


def test_mutant_that_answers_as_the_other_version_is_caught(
    real: Real, bench: Bench, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "answers", {OLD: real.answers[NEW], NEW: real.answers[OLD]})
    with pytest.raises(AssertionError, match="answers as another"):
        explore(real, CASES["confirm"], bench, scratch, 1)
