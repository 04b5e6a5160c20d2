"""Power cuts on a real ext4 in what lies around the store: downloads, the app's own update, a rotated history."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from plugins.module_utils.app_store import Apps
from surefoot.durable import Disk, hash_file
from surefoot.release.download import download
from surefoot.release.metadata import sha256_of, target_path
from surefoot.release.source import FileSource
from surefoot.slots.store import Store
from tests.app.release.publishing import NAME, Publisher
from tests.app.release.refreshing import refresh
from tests.app.slots import kit
from tests.crash.conftest import Releases
from tests.crash.cuts import FastDisk, holds_together, next_update_works, open_plain
from tests.crash.powercuts import Acknowledge, Bench
from tests.crash.test_power_cuts import every_share, report, trust
from tests.roles import test_app_store as app_store
from tests.told import Told

TARGET = target_path(NAME, "1.0.0", "model.onnx")
MODEL_BYTES = 300_000


@every_share
def test_a_power_cut_in_a_download_never_shows_the_name_before_the_whole(
    most: int, bench: Bench, scratch: Path, tmp_path: Path, told: Told
) -> None:
    """Twice: what a first try left is gone on from."""
    publisher = Publisher(tmp_path / "publisher")
    publisher.publish("1.0.0", model=bytes(number % 251 for number in range(MODEL_BYTES)))
    store = trust(tmp_path / "device", FastDisk())
    store.initialise(publisher.root)
    trusted = refresh(store, publisher)
    digest = sha256_of(trusted.target(TARGET))
    source = FileSource(publisher.repository)
    (scratch / "prepared" / "inbox").mkdir(parents=True)

    def fetch(folder: Path, disk: Disk) -> Path:
        return download(source, trusted, TARGET, folder / "inbox", disk)

    def operate(folder: Path, acknowledge: Acknowledge[bool]) -> None:
        disk = Disk()
        disk.extend(
            folder / "inbox" / "model.onnx.part", [(source_bytes := stored.read_bytes())[: MODEL_BYTES // 3]], 0
        )
        assert len(source_bytes) == MODEL_BYTES
        fetch(folder, disk)
        acknowledge(True)

    def judge(folder: Path, arrived: bool) -> None:
        final = folder / "inbox" / "model.onnx"
        assert final.exists() or not arrived, "what was acknowledged is lost"
        assert not final.exists() or hash_file(final)[0] == digest, "the name stands for something else"
        assert hash_file(fetch(folder, FastDisk()))[0] == digest

    stored = next((publisher.repository / "targets" / NAME / "1.0.0").glob("*.model.onnx"))
    record = bench.record(scratch / "prepared", False, operate)
    report("download", bench, bench.explore(record, most, judge), most, told)


@every_share
def test_a_power_cut_in_an_operation_that_rotates_the_history_loses_no_event_of_now(
    most: int, bench: Bench, device: Callable[..., Path], releases: Releases, told: Told
) -> None:
    prepared = device("1.0.0", "2.0.0")
    small = msgspec.structs.replace(kit.STORAGE, history_bytes=4096)
    history = prepared / "models" / kit.NAME / "history.jsonl"

    def opened(folder: Path, disk: Disk) -> Store:
        return kit.open_store(folder, disk, small)

    while history.stat().st_size < small.history_bytes - 300:  # the next one goes beyond
        store = opened(prepared, FastDisk())
        store.defer(kit.install(store, releases["3.0.0"]), "it is hot")
    before = opened(prepared, FastDisk()).read()
    length = history.stat().st_size

    def operate(folder: Path, acknowledge: Acknowledge[object]) -> None:
        store = opened(folder, Disk())
        for reason in ("it is hot", "it is hot again", "and again"):
            store.defer("a", reason)
            acknowledge(store.read())
        assert (folder / "models" / kit.NAME / "history.jsonl").stat().st_size < length, "it was not rotated"

    def judge(folder: Path, last: object) -> None:
        store = open_plain(folder, FastDisk())
        state = holds_together(store, before, folder)
        assert state.generation >= last.generation, "a state was acknowledged and is lost"
        assert last.event in store.history(1000), "the history leaves out what was acknowledged"
        assert len(store.history(1000)) >= 4, "more than the older half of the history is gone"
        next_update_works(store, releases["9.0.0"])

    record = bench.record(prepared, before, operate)
    report("rotated history", bench, bench.explore(record, most, judge), most, told)


@every_share
@pytest.mark.parametrize("change", [app_store.update, app_store.fail, app_store.abandon, app_store.go_back])
def test_a_power_cut_in_an_update_of_the_app_leaves_a_whole_app_and_the_one_to_return_to(
    change: Callable[[Apps], None], most: int, bench: Bench, scratch: Path, told: Told
) -> None:
    prepared = scratch / "prepared"
    (prepared / "apps").mkdir(parents=True)
    apps = Apps(prepared / "apps")
    for app in ("zero", "one"):
        app_store.put(apps, app)
        apps.switch(app)
    ended = scratch / "ended"
    shutil.copytree(prepared, ended, symlinks=True)
    change(Apps(ended / "apps"))
    wanted = Apps(ended / "apps").current

    def operate(folder: Path, acknowledge: Acknowledge[bool]) -> None:
        change(Apps(folder / "apps"))
        acknowledge(True)

    def judge(folder: Path, done: bool) -> None:
        good = Apps(folder / "apps")
        current, before = good.current, good.before
        assert good.is_("complete", current), f"{current} is not whole"
        assert good.is_("confirmed", current) or good.is_("confirmed", before), "nothing here was ever confirmed"
        if done:
            assert current == wanted, f"{current} is current, {wanted} was acknowledged"
        change(Apps(folder / "apps"))
        assert Apps(folder / "apps").current == wanted, "the next run does not end as this one would have"

    record = bench.record(prepared, False, operate)
    report(f"app: {change.__name__}", bench, bench.explore(record, most, judge), most, told)
