"""Every operation, cut before each of its primitives, and cut again inside each recovery."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from surefoot.slots.store import Store
from tests.app.slots import kit
from tests.crash.conftest import Releases
from tests.crash.cuts import (
    Copied,
    CutDisk,
    FastDisk,
    Operation,
    claims_are_true,
    cut_everywhere,
    holds_together,
    next_update_works,
    open_plain,
    primitives,
)
from tests.told import Told

Device = Callable[..., Path]
# Every cut is tried always. Of long operations, the recovery from every so many of them is cut again; under
# SUREFOOT_FULL=1 it is always.
SHARE = 1 if os.environ.get("SUREFOOT_FULL") == "1" else 6


def _nothing(store: Store, releases: Releases) -> None: ...


class Case(NamedTuple):
    """Where an operation starts, and the versions that may serve when it was cut.

    ``before``: what else is done to the device before the operation. ``lifts``: whether it takes a digest out of
    quarantine.
    """

    confirmed: tuple[str, ...]
    operation: Callable[[Store, Releases], object]
    serving: set[str | None]
    ready: str | None = None
    trial: str | None = None
    before: Callable[[Store, Releases], object] = _nothing
    lifts: bool = False
    format_: int | None = None

    def start(self, device: Device, releases: Releases) -> Path:
        """A device where the operation starts."""
        folder = device(*self.confirmed, ready=self.ready, trial=self.trial, format_=self.format_)
        self.before(kit.open_store(folder, FastDisk(), newest_format=self.format_), releases)
        return folder


def _rot_the_active_slot(store: Store, releases: Releases) -> object:
    active = store.read().active
    assert active is not None
    model = store.slot_path(active) / "model.onnx"
    if model.exists() and model.read_bytes() == releases["3.0.0"].files["model.onnx"].read_bytes():
        kit.flip_a_bit(model)
    return store.recover()


def _traffic_first(store: Store) -> object:
    store.repair()
    with store.postponing():
        return store.rollback()


def _taken(store: Store, release: kit.Release) -> object:
    inbox = store.slot_path("a").parents[2] / "inbox"
    shutil.rmtree(inbox, ignore_errors=True)
    inbox.mkdir()
    files = {name: Path(shutil.copy(path, inbox)) for name, path in release.files.items()}
    store.mark_ready(store.take(release.manifest, release.data, kit.VARIANT, files))
    return store.read()


def _deferred(store: Store, release: kit.Release) -> object:
    return store.defer(store.fill(release.manifest, release.data, kit.VARIANT, release.files), "it is hot")


def _refused(store: Store, releases: Releases) -> object:
    return store.refuse(kit.install(store, releases["2.0.0"]), "gate")


def _tried_again(store: Store) -> object:
    store.put_off("no try is left")
    return store.try_again(store.read().inactive)


CASES = {
    "first install": Case((), lambda store, r: kit.install(store, r["1.0.0"]), {None}),
    "second install": Case(("1.0.0",), lambda store, r: kit.install(store, r["2.0.0"]), {"1.0.0"}),
    "install, its files moved": Case(("1.0.0", "2.0.0"), lambda store, r: _taken(store, r["3.0.0"]), {"2.0.0"}),
    "third install, archiving": Case(("1.0.0", "2.0.0"), lambda store, r: kit.install(store, r["3.0.0"]), {"2.0.0"}),
    "fourth install, pruning": Case(
        ("1.0.0", "2.0.0", "3.0.0"), lambda store, r: kit.deploy(store, r["4.0.0"]), {"3.0.0", "4.0.0"}
    ),
    "first activate": Case((), lambda store, r: store.activate("a"), {None, "1.0.0"}, ready="1.0.0"),
    "activate": Case(("1.0.0",), lambda store, r: store.activate("b"), {"1.0.0", "2.0.0"}, ready="2.0.0"),
    "activate one confirmed before": Case(("1.0.0", "2.0.0"), lambda store, r: store.activate("a"), {"1.0.0", "2.0.0"}),
    "record a try": Case(("1.0.0",), lambda store, r: store.record_try(), {"2.0.0"}, trial="2.0.0"),
    "first confirm": Case((), lambda store, r: store.confirm("ok"), {"1.0.0"}, trial="1.0.0"),
    "confirm": Case(("1.0.0", "2.0.0"), lambda store, r: store.confirm("ok"), {"3.0.0"}, trial="3.0.0"),
    "reject a trial": Case(("1.0.0",), lambda store, r: store.reject("bad"), {"1.0.0", "2.0.0"}, trial="2.0.0"),
    "reject the first trial": Case((), lambda store, r: store.reject("bad"), {None, "1.0.0"}, trial="1.0.0"),
    "reject a confirmed one": Case(("1.0.0", "2.0.0"), lambda store, r: store.reject("bad"), {"1.0.0", "2.0.0"}),
    "refuse": Case(("1.0.0",), lambda store, r: store.refuse("b", "gate"), {"1.0.0"}, ready="2.0.0"),
    "lift a quarantine": Case(
        ("1.0.0",), lambda store, r: store.lift_quarantine(r["2.0.0"].digest), {"1.0.0"}, before=_refused, lifts=True
    ),
    "release a hold": Case(
        ("1.0.0", "2.0.0"), lambda store, r: store.release_hold(), {"1.0.0"}, before=lambda store, r: store.rollback()
    ),
    "install, its gate deferred": Case(("1.0.0",), lambda store, r: _deferred(store, r["2.0.0"]), {"1.0.0"}),
    "revert": Case(("1.0.0",), lambda store, r: store.revert("later"), {"1.0.0", "2.0.0"}, trial="2.0.0"),
    "rollback of a trial": Case(("1.0.0",), lambda store, r: store.rollback(), {"1.0.0", "2.0.0"}, trial="2.0.0"),
    "rollback": Case(("1.0.0", "2.0.0"), lambda store, r: store.rollback(), {"1.0.0", "2.0.0"}),
    "rollback, the traffic first": Case(("1.0.0", "2.0.0"), lambda store, r: _traffic_first(store), {"1.0.0", "2.0.0"}),
    "rollback of two steps, from the archive": Case(
        ("1.0.0", "2.0.0", "3.0.0"), lambda store, r: store.rollback(2), {"1.0.0", "3.0.0"}
    ),
    "recovery from rot": Case(("1.0.0", "2.0.0", "3.0.0"), _rot_the_active_slot, {"2.0.0", "3.0.0"}),
    "put off, and tried again": Case(
        ("1.0.0",), lambda store, r: _tried_again(store), {"1.0.0", "2.0.0"}, trial="2.0.0"
    ),
    "migration": Case(("1.0.0", "2.0.0"), lambda store, r: store.migrate(), {"3.0.0"}, trial="3.0.0", format_=1),
}


@pytest.mark.parametrize("name", CASES)
def test_a_cut_at_any_primitive_leaves_the_old_or_the_new(
    name: str, device: Device, releases: Releases, scratch: Path, told: Told
) -> None:
    case = CASES[name]
    prepared = case.start(device, releases)
    before = kit.open_store(prepared, FastDisk()).read()
    inner_cuts = outer_cuts = 0
    seed = int(os.environ["SUREFOOT_SEED"])

    def operation(store: Store, folder: Path) -> object:
        return case.operation(store, releases)

    share = SHARE if len(primitives(prepared, scratch / "count", operation)) > 20 else 1
    offset = random.Random(f"{seed} {name}").randrange(share)
    for at, folder in cut_everywhere(prepared, scratch / "cut", operation):
        outer_cuts += 1
        if name != "recovery from rot":
            claims_are_true(open_plain(folder, FastDisk()), folder)
        for again, recovered in (
            cut_everywhere(folder, scratch / "again", _recover) if outer_cuts % share == offset else ()
        ):
            inner_cuts += 1
            state = holds_together(open_plain(recovered, FastDisk()), before, recovered, lifts=case.lifts)
            assert kit.serving(open_plain(recovered, FastDisk())) in case.serving, (at, again, state)
        store = open_plain(folder, FastDisk())
        state = holds_together(store, before, folder, lifts=case.lifts)
        assert kit.serving(store) in case.serving, (at, state)
        next_update_works(store, releases["9.0.0"])
    print(f"{name}: {outer_cuts} cuts, {inner_cuts} cuts again inside the recovery, seed {seed}")
    told("cuts before a primitive", outer_cuts)
    told("cuts again, inside a recovery", inner_cuts)
    assert outer_cuts >= 5


def _recover(store: Store, folder: Path) -> object:
    return store.recover()


def test_counting_twice_gives_the_same_number(device: Device, releases: Releases, scratch: Path) -> None:
    """Otherwise a cut would fall elsewhere than counted."""
    operation: Operation = lambda store, folder: kit.install(store, releases["2.0.0"])  # noqa: E731  # one line, used once
    prepared = device("1.0.0")
    first, second = (primitives(prepared, scratch / "count", operation) for _ in range(2))
    assert first == second


def test_a_cut_disk_writes_nothing_after_the_cut(device: Device, scratch: Path) -> None:
    with Copied(device("1.0.0"), scratch / "copy") as folder:
        disk = CutDisk(0)
        for _ in range(3):
            with pytest.raises(BaseException, match="before primitive"):
                disk.write(folder / "x", b"")
        assert not (folder / "x").exists()
