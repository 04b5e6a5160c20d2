"""A disk that stops taking writes in the middle of an operation: a real ext4, filled or remounted read-only.

Whatever was under way: it is refused with what to do, or done; what served serves, and once the disk takes writes again
the next update works.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from plugins.module_utils.app_store import Apps
from surefoot.cli.main import main
from surefoot.durable import Disk, hash_file, unable
from surefoot.errors import UntrustedRelease
from surefoot.slots.content import fault
from surefoot.slots.state import Slot
from surefoot.slots.store import Store
from tests.app.release.publishing import Publisher
from tests.app.release.refreshing import refresh
from tests.app.slots import kit
from tests.crash import disks, kernel
from tests.crash.conftest import Releases
from tests.crash.cuts import FastDisk, holds_together, next_update_works, open_plain
from tests.crash.refusing import Full, Outcome, ReadOnly, Subject, small_disk, stepping, sweep
from tests.crash.test_cuts import CASES, Case
from tests.crash.test_cuts_around import MODEL_BYTES, Fetching
from tests.crash.test_power_cuts import holds, trust
from tests.roles import test_app_store as app_store
from tests.told import Told

IN_CI = (
    "install, its files moved",
    "activate",
    "confirm",
    "reject a trial",
    "reject a confirmed one",
    "rollback",
    "rollback of two steps, from the archive",
)
HAZARDS = {"full": Full, "read-only": ReadOnly}
of_both = pytest.mark.parametrize("hazard", HAZARDS)
WHAT = {"full": "disks full, out of inodes, over their quota", "read-only": "disks read-only in the middle"}


@pytest.fixture
def swept(
    needs: Callable[[bool, str], None], scratch: Path, told: Told, request: pytest.FixtureRequest
) -> Callable[..., Outcome]:
    """``swept("full", subject)``: go through it on a disk of its own, and count."""
    needs(disks.possible(), "root, /dev/fuse and loop devices on Linux, for a disk of our own")

    def run(hazard: str, subject: Subject, least: int = 1) -> Outcome:
        def inside() -> Outcome:
            with small_disk(scratch) as small:
                return sweep(subject, small, HAZARDS[hazard](small))

        outcome = kernel.privately(inside)
        print(f"{request.node.name}: {outcome.tried} times, {outcome.refused} refused, {outcome.aborted} aborted")
        told(WHAT[hazard], outcome.tried)
        assert outcome.refused >= least
        return outcome

    return run


@of_both
@pytest.mark.parametrize(
    "name", [*IN_CI, *(pytest.param(name, marks=pytest.mark.full) for name in CASES if name not in IN_CI)]
)
def test_a_disk_that_refuses_in_the_middle_leaves_the_old_or_the_new(
    name: str,
    hazard: str,
    device: Callable[..., Path],
    releases: Releases,
    swept: Callable[..., Outcome],
) -> None:
    tells = name == "recovery from rot"  # it refuses nothing, and says what is true
    swept(hazard, subject_of(CASES[name], device, releases), least=0 if tells else 1)


def subject_of(case: Case, device: Callable[..., Path], releases: Releases) -> Subject:
    """One of the store's operations."""
    prepared = case.start(device, releases)
    before = open_plain(prepared, FastDisk()).read()
    done = before

    def operate(folder: Path, kind: type[Disk], trigger: Callable[[str], None]) -> None:
        nonlocal done
        case.operation(open_plain(folder, stepping(kind, trigger)), releases)
        done = open_plain(folder, FastDisk()).read()

    def serves(folder: Path) -> None:
        store = open_plain(folder, FastDisk())
        read = () if case is CASES["recovery from rot"] else (store.read(),)  # that was not recovered from yet
        for state in (*read, store.recover().state):  # the last: it is started again as it is
            version = state.serving.version if state.serving else None
            assert version in case.serving, f"{version} serves"
            if state.active and state.serving:
                assert fault(store.slot_path(state.active), state.serving) is None

    def judge(folder: Path, said_done: bool) -> None:
        store = open_plain(folder, FastDisk())
        state = holds_together(store, done if said_done else before, folder, lifts=case.lifts)
        assert (state.serving.version if state.serving else None) in case.serving
        assert state.generation >= (done if said_done else before).generation, "what was acknowledged is lost"
        next_update_works(store, releases["9.0.0"])

    return Subject(prepared, operate, serves, judge)


class InPlace(Disk):
    """Writes over what is there."""

    def write_all(
        self, files: Mapping[Path, bytes], mode: int = 0o644, modes: Mapping[Path, int] | None = None
    ) -> None:
        for path, data in files.items():
            try:
                descriptor = self._create(path, mode)
                try:
                    self._write(descriptor, data, path)
                    self._fsync(descriptor, path)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise unable(error, path) from error


@of_both
def test_mutant_that_writes_in_place_is_caught(
    hazard: str,
    device: Callable[..., Path],
    releases: Releases,
    needs: Callable[[bool, str], None],
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs(disks.possible(), "root, /dev/fuse and loop devices on Linux, for a disk of our own")
    monkeypatch.setattr(HAZARDS[hazard], "disk", InPlace)
    subject = subject_of(CASES["confirm"], device, releases)

    def inside() -> None:
        with small_disk(scratch) as small, pytest.raises(AssertionError, match=r"2\.0\.0 serves"):
            sweep(subject, small, HAZARDS[hazard](small))

    kernel.privately(inside)


COMMANDS = {"rollback": (), "reject": ("--reason", "bad"), "activate": ()}  # and what each needs beside the model


@of_both
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_leaves_with_the_status_of_a_device_that_cannot(
    command: str,
    hazard: str,
    device: Callable[..., Path],
    needs: Callable[[bool, str], None],
    scratch: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs(disks.possible(), "root, /dev/fuse and loop devices on Linux, for a disk of our own")
    prepared = device("1.0.0", "2.0.0")

    def run() -> None:
        with small_disk(scratch) as small:
            folder = small.at / "device"
            shutil.copytree(prepared, folder)
            config = scratch / "surefoot.toml"
            config.write_text(f'data_dir = "{folder}"\nrun_dir = "{scratch}/run"\n')
            befallen = HAZARDS[hazard](small)
            befallen.befall()
            line = ["--config", str(config), "model", command, kit.NAME, *COMMANDS[command], "--json"]
            status = main(line)
            error = json.loads(capsys.readouterr().out)
            assert (status, error["error"]) == (4, "DeviceUnable"), error
            assert any(each in error["found"] for each in befallen.refuses) and error["hint"], error
            befallen.end()
            main(line)
            assert kit.serving(open_plain(folder, FastDisk())) == "1.0.0", capsys.readouterr().out

    kernel.privately(run)


# -- an inbox below another mount of the same file system --------------------------------------------------------------


def taken_from_another_mount(store: Store, release: kit.Release) -> Slot:
    """As an install takes it, from an inbox that is a bind mount."""
    inbox, there = (store.slot_path("a").parents[2] / name for name in ("inbox", "elsewhere"))
    for folder in (inbox, there):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    files = {name: inbox / name for name in release.files}
    kernel.bind(there, inbox)
    try:
        for name, path in release.files.items():
            shutil.copy(path, inbox)
            with pytest.raises(OSError, match="Invalid cross-device link"):
                files[name].rename(inbox.parent / name)
        slot = store.take(release.manifest, release.data, kit.VARIANT, files)
        assert list(there.iterdir()) == [], "it was copied, and not moved"
    finally:
        kernel.unmount(inbox, lazily=True)  # an error keeps open what was being copied
    store.mark_ready(slot)
    return slot


def test_what_lies_below_another_mount_of_the_file_system_is_taken_all_the_same(
    needs: Callable[[bool, str], None], device: Callable[..., Path], releases: Releases
) -> None:
    needs(disks.possible(), "root on Linux, to mount a folder twice")
    folder = device("1.0.0")

    def run() -> None:
        store = open_plain(folder, Disk())
        before = store.read()
        slot = taken_from_another_mount(store, releases["2.0.0"])
        assert store.activate(slot).serving != before.serving
        store.record_try()
        store.confirm("ok")
        next_update_works(store, releases["9.0.0"])
        changed = kit.make_release(folder / "changed", "3.0.0")
        kit.flip_a_bit(changed.files["model.onnx"])
        was = store.read().serving
        with pytest.raises(UntrustedRelease, match="does not match its manifest"):
            taken_from_another_mount(store, changed)
        assert holds_together(open_plain(folder, FastDisk()), store.read(), folder).serving == was

    kernel.privately(run)


@of_both
def test_a_disk_that_refuses_while_that_is_copied_leaves_the_old(
    hazard: str, device: Callable[..., Path], releases: Releases, swept: Callable[..., Outcome]
) -> None:
    case = Case(("1.0.0",), lambda store, r: taken_from_another_mount(store, r["2.0.0"]), {"1.0.0"})
    swept(hazard, subject_of(case, device, releases))


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    made = Publisher(tmp_path / "publisher")
    made.publish("1.0.0", model=bytes(number % 251 for number in range(MODEL_BYTES)))
    return made


@of_both
def test_a_disk_that_refuses_in_a_trust_update_leaves_the_old_or_the_new(
    hazard: str, publisher: Publisher, tmp_path: Path, swept: Callable[..., Outcome]
) -> None:
    """A new root, a new release and all metadata with them."""
    prepared = tmp_path / "prepared"
    store = trust(prepared, FastDisk())
    store.initialise(publisher.root)
    before, floor = refresh(store, publisher), store.floor()
    publisher.publish("2.0.0")
    publisher.renew()
    publisher.refresh()

    def operate(folder: Path, kind: type[Disk], trigger: Callable[[str], None]) -> None:
        refresh(trust(folder, stepping(kind, trigger)), publisher)

    def serves(folder: Path) -> None:
        current = trust(folder, FastDisk()).current()
        assert current is not None and current.timestamp_version >= before.timestamp_version

    def judge(folder: Path, said_done: bool) -> None:
        assert trust(folder, FastDisk()).floor() >= floor, "the time floor went back"
        holds(publisher, folder, before, [["1.0.0", "2.0.0"]] if said_done else [["1.0.0"], ["1.0.0", "2.0.0"]])

    swept(hazard, Subject(prepared, operate, serves, judge))


@of_both
@pytest.mark.parametrize("part_bytes", [0, 100_000])
def test_a_disk_that_refuses_in_a_download_never_shows_the_name_before_the_whole(
    part_bytes: int, hazard: str, publisher: Publisher, tmp_path: Path, swept: Callable[..., Outcome]
) -> None:
    fetching = Fetching(publisher, tmp_path / "device")
    inbox = tmp_path / "prepared" / "inbox"
    inbox.mkdir(parents=True)
    if part_bytes:
        (inbox / "model.onnx.part").write_bytes(fetching.stored.read_bytes()[:part_bytes])

    def operate(folder: Path, kind: type[Disk], trigger: Callable[[str], None]) -> None:
        fetching(stepping(kind, trigger), folder)

    def serves(folder: Path) -> None:
        final = folder / "inbox" / "model.onnx"
        assert not final.exists() or hash_file(final) == hash_file(fetching.stored)

    def judge(folder: Path, said_done: bool) -> None:
        assert (folder / "inbox" / "model.onnx").exists() or not said_done, "what was acknowledged is lost"
        fetching.judge(folder)

    swept(hazard, Subject(tmp_path / "prepared", operate, serves, judge))


@of_both
@pytest.mark.parametrize("change", [app_store.update, app_store.fail, app_store.abandon, app_store.go_back])
def test_a_disk_that_refuses_in_an_update_of_the_app_leaves_a_whole_one_and_the_one_to_return_to(
    change: Callable[[Apps], None], hazard: str, tmp_path: Path, swept: Callable[..., Outcome]
) -> None:
    prepared = tmp_path / "prepared"
    (prepared / "apps").mkdir(parents=True)
    apps = Apps(prepared / "apps")
    for app in ("zero", "one"):
        app_store.put(apps, app)
        apps.switch(app)
    wanted = {app_store.update: "two", app_store.go_back: "zero"}.get(change, "one")

    def operate(folder: Path, kind: type[Disk], trigger: Callable[[str], None]) -> None:
        change(Apps(folder / "apps", lambda what: trigger(what.split()[0])))

    def serves(folder: Path) -> None:
        here = Apps(folder / "apps")
        assert here.is_("complete", here.current), f"{here.current} is not whole"
        assert here.may_return_to(here.before)

    def judge(folder: Path, said_done: bool) -> None:
        here = Apps(folder / "apps")
        if said_done:
            assert here.current == wanted, f"{here.current} is current, {wanted} was acknowledged"
        change(here)
        assert here.current == wanted, "the next run does not end as this one would have"

    swept(hazard, Subject(prepared, operate, serves, judge, (OSError,)))
