"""A disk without inodes, one with a quota, and one that belongs to somebody else: each refuses, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from surefoot.errors import DeviceUnable
from surefoot.slots import recovery
from surefoot.slots.content import fault
from surefoot.slots.scrub import fault_on_disk
from tests.app.slots import kit
from tests.crash.cuts import FastDisk, holds_together, next_update_works
from tests.parts import debian
from tests.told import Told

INODES = 200
NOBODY = 65_534
QUOTA_BYTES = 4 << 20
MODEL_BYTES = 1 << 20


@pytest.fixture
def mounted(tmp_path: Path, needs: Callable[[bool, str], None]) -> Iterator[Callable[..., Path]]:
    """``mounted("tmpfs", "tmpfs", "size=1m")``: a file system of one's own."""
    made: list[Path] = []

    def mount(kind: str, source: str, options: str) -> Path:
        needs(os.geteuid() == 0, "root, to mount a file system")
        folder = tmp_path / f"mounted-{len(made)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", kind, "-o", options, source, folder], check=False, capture_output=True)
        needs(done.returncode == 0, f"{kind}: {done.stderr.decode()}")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", folder], check=True)


# -- inodes ------------------------------------------------------------------------------------------------------------


class OutOfInodes(FastDisk):
    """Before its n-th new name somebody else takes all that are left."""

    def __init__(self, ballast: Path, at: int) -> None:
        self.ballast, self.left = ballast, at

    def step(self, primitive: str, path: Path) -> None:
        if primitive in ("create", "mkdir", "append"):
            self.left -= 1
            if self.left == -1:
                take_all_names(self.ballast)


def take_all_names(folder: Path) -> None:
    folder.mkdir()
    try:
        for number in range(10 * INODES):
            (folder / str(number)).touch()
    except OSError:
        return
    raise AssertionError("this disk does not run out of inodes")


def test_a_disk_that_runs_out_of_inodes_at_any_name_leaves_the_active_model_and_the_next_try_works(
    mounted: Callable[..., Path], tmp_path: Path, told: Told
) -> None:
    disk = mounted("tmpfs", "tmpfs", f"size=8m,nr_inodes={INODES}")
    first, second = (kit.make_release(tmp_path, version) for version in ("1.0.0", "2.0.0"))
    refused = 0
    for at in range(100):
        device, ballast = disk / "device", disk / "ballast"
        subprocess.run(["rm", "-rf", device], check=True)
        kit.deploy(kit.open_store(device, FastDisk()), first)
        before = kit.open_store(device, FastDisk()).read()
        failing = OutOfInodes(ballast, at)
        try:
            kit.install(kit.open_store(device, failing), second)
        except DeviceUnable as error:
            refused += 1
            assert "ENOSPC" in error.found and error.hint, error
        assert kit.serving(kit.open_store(device, FastDisk())) == "1.0.0"
        subprocess.run(["rm", "-rf", ballast], check=True)
        holds_together(kit.open_store(device, FastDisk()), before, device)
        assert kit.install(kit.open_store(device, FastDisk()), second) == "b", "debris blocks the next try"
        if failing.left >= 0:
            break
    print(f"inodes were taken at {at} names, {refused} of them refused")
    assert refused >= 5
    told("disks full, out of inodes, over their quota", at)
    next_update_works(kit.open_store(device, FastDisk()), kit.make_release(tmp_path, "9.0.0"))


# -- quota -------------------------------------------------------------------------------------------------------------


def test_a_quota_that_is_reached_at_any_byte_leaves_the_active_model_and_more_of_it_helps(
    mounted: Callable[..., Path], tmp_path: Path, needs: Callable[[bool, str], None], told: Told
) -> None:
    """Free space says nothing here: the file system has plenty. btrfs, whose quota holds for root as well."""
    needs("btrfs" in Path("/proc/filesystems").read_text() and debian.possible("btrfs-progs"), "btrfs")
    library = debian.program("liblzo2-2", "lib/x86_64-linux-gnu/liblzo2.so.2")
    btrfs, environment = (
        debian.program("btrfs-progs", "bin/btrfs"),
        {**os.environ, "LD_LIBRARY_PATH": str(library.parent)},
    )
    image = tmp_path / "disk.img"
    with image.open("wb") as stream:
        stream.truncate(256 << 20)

    def run(program: str, *arguments: object) -> None:
        line = [str(btrfs.parents[1] / program), *map(str, arguments)]
        subprocess.run(line, check=True, capture_output=True, env=environment)

    run("sbin/mkfs.btrfs", "-q", image)
    disk = mounted("btrfs", str(image), "loop")
    run("bin/btrfs", "quota", "enable", disk)
    run("bin/btrfs", "subvolume", "create", disk / "data")
    device = disk / "data"
    first, second = (kit.make_release(tmp_path, version, size_bytes=MODEL_BYTES) for version in ("1.0.0", "2.0.0"))

    def limit(most_bytes: int) -> None:
        subprocess.run(["sync", "-f", disk], check=True)
        run("bin/btrfs", "qgroup", "limit", most_bytes, device)

    kit.deploy(kit.open_store(device), first)
    before = kit.open_store(device).read()
    refused = 0
    for most_bytes in range(MODEL_BYTES + (128 << 10), QUOTA_BYTES, 256 << 10):
        limit(most_bytes)
        try:
            kit.install(kit.open_store(device), second)
        except DeviceUnable as error:
            refused += 1
            assert "EDQUOT" in error.found and "quota" in error.hint, error
            assert kit.serving(kit.open_store(device)) == "1.0.0"
        else:
            break
        limit(64 << 20)
        holds_together(kit.open_store(device), before, device)
    print(f"{refused} quotas were reached")
    assert refused >= 3
    told("disks full, out of inodes, over their quota", refused)
    limit(64 << 20)
    holds_together(kit.open_store(device), before, device)
    next_update_works(kit.open_store(device), kit.make_release(tmp_path, "9.0.0"))


# -- owner -------------------------------------------------------------------------------------------------------------


def as_nobody(task: Callable[[], str]) -> str:
    """What a task says in a process of an ordinary user."""
    context = get_context("fork")
    said = context.SimpleQueue()

    def run() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            said.put(task())
        except DeviceUnable as error:
            said.put(f"DeviceUnable: {error}")

    process = context.Process(target=run)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0
    return str(said.get())


@pytest.fixture
def two_owners(tmp_path: Path, needs: Callable[[bool, str], None]) -> Path:
    """A device whose folders are an ordinary user's, and whose files are root's."""
    needs(os.geteuid() == 0, "root, to be two users")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o711)
    device = tmp_path / "device"
    kit.deploy(kit.open_store(device), *(kit.make_release(tmp_path, version) for version in ("1.0.0", "2.0.0")))
    return device


def tree(device: Path) -> dict[str, bytes]:
    return {str(path.relative_to(device)): path.read_bytes() for path in device.rglob("*") if path.is_file()}


def test_a_device_that_is_another_users_is_refused_and_not_changed(two_owners: Path, tmp_path: Path) -> None:
    release, before = kit.make_release(tmp_path, "3.0.0"), tree(two_owners)
    for task in (
        lambda: kit.install(kit.open_store(two_owners), release),
        lambda: str(kit.open_store(two_owners).rollback()),
        lambda: str(kit.open_store(two_owners).reject("bad")),
    ):
        said = as_nobody(task)
        assert said.startswith("DeviceUnable: cannot write") and "EACCES" in said and "who owns" in said, said
    assert tree(two_owners) == before


@pytest.fixture
def unreadable(two_owners: Path) -> Path:
    """The model of the active slot may not be read by the user to whom all the rest belongs, who could remove it."""
    for path in (two_owners, *two_owners.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    model = kit.open_store(two_owners).slot_path("b") / "model.onnx"
    os.chown(model, 0, 0)
    model.chmod(0o600)
    return two_owners


def recovered(device: Path) -> str:
    recovery = kit.open_store(device).recover()
    return f"{recovery.state.active} serves, written: {recovery.written}, {recovery.actions}"


def test_a_slot_that_may_not_be_read_is_not_taken_for_rotten(unreadable: Path) -> None:
    before = kit.open_store(unreadable).read()
    said = as_nobody(lambda: recovered(unreadable))
    assert said.startswith("a serves, written: False") and "cannot read" in said and "chown" in said, said
    assert kit.open_store(unreadable).read() == before
    os.chown(kit.open_store(unreadable).slot_path("b") / "model.onnx", NOBODY, NOBODY)
    assert as_nobody(lambda: recovered(unreadable)) == "b serves, written: True, []"


def test_mutant_that_takes_it_for_rotten_gives_it_up(unreadable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(look: Callable[..., str | None], *arguments: object) -> str | None:
        try:
            return look(*arguments)
        except DeviceUnable as error:
            return str(error)

    for look in (fault, fault_on_disk):
        monkeypatch.setattr(recovery, look.__name__, partial(careless, look))
    assert as_nobody(lambda: recovered(unreadable)).startswith("a serves, written: True")
    assert kit.open_store(unreadable).read().slots["b"].status == "empty"
