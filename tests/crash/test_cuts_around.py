"""Trust, a download and a publication, cut before each primitive, and again inside the run that comes after."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from surefoot.durable import Disk, hash_file
from surefoot.release import repository, verification
from surefoot.release.download import download
from surefoot.release.metadata import sha256_of, stored_path, target_path
from surefoot.release.source import FileSource
from surefoot.release.trust import Trusted
from tests.app.release.publishing import NAME, START, Publisher
from tests.app.release.refreshing import refresh
from tests.crash.cuts import FastDisk, cut_everywhere
from tests.crash.test_cuts import SHARE
from tests.crash.test_power_cuts import holds, trust
from tests.told import Told

Operate = Callable[[Disk, Path], object]
Judge = Callable[[Path], object]
MODEL_BYTES = 300_000


def _disk(folder: Path, disk: Disk) -> Disk:
    return disk


def cut_twice(prepared: Path, scratch: Path, operate: Operate, judge: Judge, share: int = SHARE) -> tuple[int, int]:
    """Judge what each cut of a run leaves, and what each cut of the next run makes of it.

    Args:
        prepared: the folder that the run works in.
        scratch: for copies.
        operate: the run; also the next one, since what was cut is simply done again.
        judge: what must hold. Raises where it does not.
        share: one in so many of the first cuts is gone on from with further ones.

    Returns:
        How many cuts, and how many more inside the next run.
    """
    offset = random.Random(int(os.environ["SUREFOOT_SEED"])).randrange(share)
    outer = inner = 0
    for _, folder in cut_everywhere(prepared, scratch / "cut", operate, _disk):
        outer += 1
        for _, again in cut_everywhere(folder, scratch / "again", operate, _disk) if outer % share == offset else ():
            inner += 1
            judge(again)
        judge(folder)
    return outer, inner


def report(name: str, outer: int, inner: int, told: Told) -> None:
    print(f"{name}: {outer} cuts, {inner} cuts again inside the next run, seed {os.environ['SUREFOOT_SEED']}")
    told("cuts again, inside the next run of trust, fetching and publishing", inner)
    assert outer >= 5 and inner >= 5


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    made = Publisher(tmp_path / "publisher")
    made.publish("1.0.0", model=bytes(number % 251 for number in range(MODEL_BYTES)))
    return made


def test_a_first_trust_cut_twice_leaves_none_or_the_new(publisher: Publisher, scratch: Path, told: Told) -> None:
    (scratch / "prepared").mkdir()

    def operate(disk: Disk, folder: Path) -> None:
        store = trust(folder, disk)
        store.initialise(publisher.root)
        refresh(store, publisher)

    cuts = cut_twice(scratch / "prepared", scratch, operate, lambda folder: holds(publisher, folder, None, [["1.0.0"]]))
    report("first trust", *cuts, told)


def test_a_trust_update_cut_twice_leaves_the_old_or_the_new(publisher: Publisher, scratch: Path, told: Told) -> None:
    """A new root, a new release and all metadata with them."""
    store = trust(scratch / "prepared", FastDisk())
    store.initialise(publisher.root)
    before, floor = refresh(store, publisher), store.floor()
    publisher.publish("2.0.0")
    publisher.renew()
    publisher.refresh()

    def judge(folder: Path) -> None:
        assert trust(folder, FastDisk()).floor() >= floor, "the time floor went back"
        holds(publisher, folder, before, [["1.0.0"], ["1.0.0", "2.0.0"]])

    cuts = cut_twice(scratch / "prepared", scratch, lambda disk, folder: refresh(trust(folder, disk), publisher), judge)
    report("trust update", *cuts, told)


class Fetching:
    """A download of a model, and what must hold after a cut in it."""

    def __init__(self, publisher: Publisher, folder: Path) -> None:
        store = trust(folder, FastDisk())
        store.initialise(publisher.root)
        self.source = FileSource(publisher.repository)
        self.target = target_path(NAME, "1.0.0", "model.onnx")
        self.trusted: Trusted = refresh(store, publisher)
        self.stored = publisher.repository / stored_path(self.trusted.target(self.target))

    def __call__(self, disk: Disk, folder: Path) -> Path:
        return download(self.source, self.trusted, self.target, folder / "inbox", disk)

    def judge(self, folder: Path) -> None:
        digest = sha256_of(self.trusted.target(self.target))
        final = folder / "inbox" / "model.onnx"
        assert not final.exists() or hash_file(final)[0] == digest, "the name stands for something else"
        assert hash_file(self(FastDisk(), folder))[0] == digest


@pytest.mark.parametrize("part_bytes", [0, 100_000])
def test_a_download_cut_twice_never_shows_the_name_before_the_whole(
    part_bytes: int, publisher: Publisher, scratch: Path, tmp_path: Path, told: Told
) -> None:
    fetching = Fetching(publisher, tmp_path / "device")
    (scratch / "prepared" / "inbox").mkdir(parents=True)
    if part_bytes:
        part = scratch / "prepared" / "inbox" / "model.onnx.part"
        part.write_bytes(fetching.stored.read_bytes()[:part_bytes])
    cuts = cut_twice(scratch / "prepared", scratch, fetching, fetching.judge, share=1)
    report(f"download from byte {part_bytes}", *cuts, told)


def test_mutant_that_gives_the_name_to_a_part_it_goes_on_from_is_caught_by_a_second_cut_alone(
    publisher: Publisher, scratch: Path, tmp_path: Path
) -> None:
    fetching = Fetching(publisher, tmp_path / "device")
    (scratch / "prepared" / "inbox").mkdir(parents=True)

    def hasty(disk: Disk, folder: Path) -> None:
        part = folder / "inbox" / "model.onnx.part"
        if part.exists():
            disk.write(folder / "inbox" / "model.onnx", part.read_bytes())
        fetching(disk, folder)

    for _, folder in cut_everywhere(scratch / "prepared", scratch / "once", hasty, _disk):
        fetching.judge(folder)
    with pytest.raises(AssertionError, match="the name stands for something else"):
        cut_twice(scratch / "prepared", scratch, hasty, fetching.judge, share=1)


def test_a_publication_cut_twice_leaves_readers_a_whole_state(
    publisher: Publisher, scratch: Path, tmp_path: Path, told: Told
) -> None:
    release = publisher.build("2.0.0")
    publisher.sign(release)

    def operate(disk: Disk, folder: Path) -> None:
        repository.publish(release, publisher.ring, folder, now=START, disk=disk)

    def judge(folder: Path) -> None:
        shutil.rmtree(scratch / "reader", ignore_errors=True)
        reader = trust(scratch / "reader", FastDisk())
        reader.initialise(publisher.root)
        trusted = reader.refresh(FileSource(folder))
        assert trusted.versions(NAME) in (["1.0.0"], ["1.0.0", "2.0.0"])
        for version in trusted.versions(NAME):
            target = trusted.target(target_path(NAME, version, "model.onnx"))
            assert hash_file(folder / stored_path(target)) == (sha256_of(target), target.length)
        operate(FastDisk(), folder)
        assert reader.refresh(FileSource(folder)).versions(NAME) == ["1.0.0", "2.0.0"]
        assert verification.verify(folder, None, now=START).problems == ()

    report("publication", *cut_twice(publisher.repository, scratch, operate, judge), told)
