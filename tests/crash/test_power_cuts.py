"""Power cuts on a real ext4: every prefix of what was written, and parts of what came after each flush."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from surefoot.durable import Disk
from surefoot.release.trust import Trusted, TrustStore
from surefoot.slots.store import Store
from tests.app.release.publishing import NAME, FixedClock, Publisher, files_of
from tests.app.release.refreshing import refresh
from tests.app.slots import kit
from tests.crash.blocks import wanted
from tests.crash.conftest import Releases
from tests.crash.cuts import Cut, CutDisk, FastDisk, open_plain, primitives
from tests.crash.powercuts import Acknowledge, Bench, Count
from tests.crash.test_cuts import CASES, Case
from tests.crash.transitions import explore, explore_on
from tests.told import Told

OTHERS = 11  # transitions beside the cases: recoveries, trust, and those of test_power_cuts_around.py
EACH = 120  # images of a transition in CI, or more where its prefixes are many
FULL = -(-int(os.environ.get("SUREFOOT_POWER_CUTS", "100000")) // (len(CASES) + OTHERS))

every_share = pytest.mark.parametrize(
    "most", [EACH, pytest.param(FULL, marks=[pytest.mark.full, pytest.mark.timeout(3600)])]
)


def report(name: str, bench: Bench, count: Count, most: int, told: Told) -> None:
    print(f"{name}: {count}, seed {bench.seed}")
    told("images of a power cut, on ext4", count.images)
    told("of these, every prefix of what was written", count.prefixes)
    assert count.images == wanted(most, count.prefixes)


@every_share
@pytest.mark.parametrize("name", CASES)
def test_a_power_cut_leaves_the_old_or_the_new(
    name: str, most: int, bench: Bench, device: Callable[..., Path], releases: Releases, told: Told
) -> None:
    report(name, bench, explore(name, bench, device, releases, most), most, told)


@every_share
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_power_cut_in_the_recovery_from_a_cut_leaves_the_old(
    quarters: int,
    most: int,
    bench: Bench,
    device: Callable[..., Path],
    releases: Releases,
    scratch: Path,
    told: Told,
) -> None:
    prepared = device("1.0.0", "2.0.0")
    before = open_plain(prepared, FastDisk()).read()

    def install(store: Store, folder: Path) -> object:
        return kit.install(store, releases["3.0.0"])

    at = len(primitives(prepared, scratch / "count", install)) * quarters // 4
    with pytest.raises(Cut):
        install(open_plain(prepared, CutDisk(at)), prepared)
    case = Case(("1.0.0", "2.0.0"), lambda store, releases: store.recover(), {"2.0.0"})
    count = explore_on(prepared, before, case, bench, releases, most)
    report(f"recovery from an install cut at {at}", bench, count, most, told)


# -- trust -------------------------------------------------------------------------------------------------------------


def trust(folder: Path, disk: Disk) -> TrustStore:
    return TrustStore(folder / "trust", disk, FixedClock())


def holds(publisher: Publisher, folder: Path, before: Trusted | None, possible: list[list[str]]) -> None:
    """After a cut: no older than ``before``, one of the possible states, and the next refresh works."""
    store = trust(folder, FastDisk())
    current = store.current()
    if before is not None:
        assert current is not None, "what was accepted is lost"
        assert current.timestamp_version >= before.timestamp_version
        assert current.root_version >= before.root_version
    if current is not None:
        assert current.versions(NAME) in possible
    store.initialise(publisher.root)
    assert refresh(store, publisher).versions(NAME) == possible[-1]
    assert refresh(store, publisher).versions(NAME) == possible[-1]
    roots = {path.name for path in (publisher.repository / "metadata").glob("*.root.json")}
    assert roots <= set(files_of(folder / "trust")), "a root is missing"


@every_share
def test_a_power_cut_in_the_first_trust_leaves_none_or_the_new(
    most: int, bench: Bench, scratch: Path, tmp_path: Path, told: Told
) -> None:
    publisher = Publisher(tmp_path / "publisher")
    publisher.publish("1.0.0")
    (scratch / "prepared").mkdir()

    def operate(folder: Path, acknowledge: Acknowledge[Trusted | None]) -> None:
        store = trust(folder, Disk())
        store.initialise(publisher.root)
        acknowledge(refresh(store, publisher))

    record = bench.record(scratch / "prepared", None, operate)
    count = bench.explore(record, most, lambda folder, last: holds(publisher, folder, last, [["1.0.0"]]))
    report("first trust", bench, count, most, told)


@every_share
def test_a_power_cut_in_a_trust_update_leaves_the_old_or_the_new(
    most: int, bench: Bench, scratch: Path, tmp_path: Path, told: Told
) -> None:
    """A new root, a new release and all metadata with them."""
    publisher = Publisher(tmp_path / "publisher")
    publisher.publish("1.0.0")
    store = trust(scratch / "prepared", FastDisk())
    store.initialise(publisher.root)
    before = refresh(store, publisher)
    floor = store.floor()
    publisher.publish("2.0.0")
    publisher.renew()
    publisher.refresh()

    def operate(folder: Path, acknowledge: Acknowledge[Trusted]) -> None:
        acknowledge(refresh(trust(folder, Disk()), publisher))

    def judge(folder: Path, last: Trusted) -> None:
        assert trust(folder, FastDisk()).floor() >= floor, "the time floor went back"
        holds(publisher, folder, last, [["1.0.0"], ["1.0.0", "2.0.0"]])

    record = bench.record(scratch / "prepared", before, operate)
    report("trust update", bench, bench.explore(record, most, judge), most, told)
