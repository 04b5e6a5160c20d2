"""What an install fetches, and what it does not: over a line to nginx, from a stick, from what is here already."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from surefoot.config import Config, Fetch, Storage, Trust
from surefoot.errors import DeviceUnable, TransportFailed, UntrustedRelease
from surefoot.release import download
from surefoot.release.source import FileSource
from surefoot.slots.content import fault
from surefoot.slots.store import Store
from surefoot.update import installation as installing
from surefoot.update import patience as patiently
from surefoot.update.installation import install
from surefoot.update.stores import open_store
from tests.app.release.publishing import NAME, Publisher
from tests.parts import nginx
from tests.parts.line import Fault, Line

MODELS = [bytes([n]) * 1000 + os.urandom(299_000) for n in range(4)]


class Device:
    """A device in a folder whose gate lets everything pass: what it fetches is looked at, not what it runs."""

    def __init__(self, folder: Path, root: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.config = Config(
            data_dir=folder, run_dir=folder / "run", device_class="generic-amd64", trust=Trust(clock="untrusted"),
            storage=Storage(reserve_bytes=0), fetch=Fetch(timeout_s=5.0, retries=0),
        )  # fmt: skip
        self.root = root

    @property
    def store(self) -> Store:
        return open_store(self.config, NAME)

    def install(self, version: str, repository: str) -> None:
        install(self.config, NAME, version, repository, self.root)
        state = self.store.read()
        held = [now.release.version for now in state.slots.values() if now.release]
        assert version in held
        for slot, now in state.slots.items():
            assert now.release is None or fault(self.store.slot_path(slot), now.release) is None

    def deploy(self, version: str, repository: str) -> None:
        self.install(version, repository)
        slots = self.store.read().slots
        (slot,) = [slot for slot, now in slots.items() if now.release and now.release.version == version]
        self.store.activate(slot)
        self.store.confirm("the test says so")


@pytest.fixture(autouse=True)
def open_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    def passed(config: Config, store: Store, slot: str, *rest: object, **more: object) -> SimpleNamespace:
        store.mark_ready(slot)
        return SimpleNamespace(summary=lambda: "not run")

    monkeypatch.setattr(installing, "_gate", passed)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    made = Publisher(tmp_path / "publisher")
    made.publish("1.0.0", MODELS[0])
    return made


@pytest.fixture
def line(publisher: Publisher, tmp_path: Path, needs: Callable[[bool, str], None]) -> Iterator[Line]:
    needs(nginx.possible(), "nginx, or root on Debian to unpack it")
    with nginx.running(publisher.repository, tmp_path / "n") as server, Line(server.plain) as made:
        yield made


@pytest.fixture
def device(publisher: Publisher, tmp_path: Path) -> Device:
    return Device(tmp_path / "device", publisher.keys / "1.root.json")


def files(line: Line) -> list[str]:
    """The names of the targets that were asked for since this was asked last."""
    names = [each.path.split(".", 3)[-1] for each in line.passed if each.path.startswith("targets/")]
    line.passed.clear()
    return names


def stored(publisher: Publisher, name: str, version: str = "1.0.0") -> Path:
    (found,) = (publisher.repository / "targets" / NAME / version).glob(f"*.{name}")
    return found


def test_what_slots_and_archive_hold_is_not_fetched_again(line, publisher, device):
    device.deploy("1.0.0", line.url)
    assert files(line) == ["manifest.json", "model.onnx", "golden.msgpack", "card.md"]
    publisher.publish("1.1.0", MODELS[1])
    device.deploy("1.1.0", line.url)
    assert files(line) == ["manifest.json", "model.onnx"]  # the rest is in the active slot
    publisher.publish("1.2.0", MODELS[0])
    device.deploy("1.2.0", line.url)
    assert files(line) == ["manifest.json"]  # the model is in the slot that it is about to fill
    publisher.publish("1.3.0", MODELS[2])
    device.deploy("1.3.0", line.url)
    assert files(line) == ["manifest.json", "model.onnx"]
    publisher.publish("1.4.0", MODELS[1])
    device.deploy("1.4.0", line.url)
    assert files(line) == ["manifest.json"]  # the model is in the archive
    directories = device.store.directories()
    assert len(directories) > 2
    inodes = [path.stat().st_ino for directory in directories for path in directory.iterdir()]
    assert len(set(inodes)) == len(inodes), "one bad block would take two releases"


def test_mutant_without_copies_everything_is_fetched_again(line, publisher, device, monkeypatch):
    monkeypatch.setattr(installing, "_copies", lambda store, file: ())
    device.deploy("1.0.0", line.url)
    publisher.publish("1.1.0", MODELS[1])
    device.deploy("1.1.0", line.url)
    assert files(line)[-2:] == ["golden.msgpack", "card.md"]


def test_what_an_unfinished_fetch_of_another_version_left_is_used(line, publisher, device):
    publisher.publish("1.1.0", MODELS[0])
    stored(publisher, "golden.msgpack").rename(publisher.folder / "aside")
    with pytest.raises(TransportFailed, match="is not there"):
        device.install("1.0.0", line.url)
    assert files(line) == ["manifest.json", "model.onnx", "golden.msgpack"]
    device.install("1.1.0", line.url)
    assert files(line) == ["manifest.json", "golden.msgpack", "card.md"]
    assert not (device.config.inbox_dir / NAME).exists()


def test_a_quarantined_release_is_refused_before_its_manifest_is_fetched(line, publisher, device):
    device.deploy("1.0.0", line.url)
    publisher.publish("1.1.0", MODELS[1])
    device.deploy("1.1.0", line.url)
    device.store.reject("the test says so")
    files(line)
    for _ in range(3):
        with pytest.raises(DeviceUnable, match="quarantined"):
            device.install("1.1.0", line.url)
    assert files(line) == []


def failing(device: Device, line: Line, times: int) -> list[str]:
    """Install over and over. What was asked for beside the manifest, and the last error's message."""
    message = ""
    for _ in range(times):
        with pytest.raises((TransportFailed, UntrustedRelease)) as caught:
            device.install("1.0.0", line.url)
        message = str(caught.value)
    return [*(name for name in files(line) if name != "manifest.json"), message]


def test_what_is_not_there_is_not_asked_for_in_a_loop(line, publisher, device):
    stored(publisher, "model.onnx").rename(publisher.folder / "aside")
    *asked, message = failing(device, line, 10)
    assert asked == ["model.onnx"] * patiently.FREE_FAILURES
    assert "is not fetched again yet" in message and "HTTP 404" in message and "release refresh" in message


def test_a_wrong_file_is_not_fetched_in_a_loop(line, publisher, device):
    model = stored(publisher, "model.onnx")
    model.write_bytes(MODELS[1])
    *asked, message = failing(device, line, 10)
    assert asked == ["model.onnx"] * patiently.FREE_FAILURES
    assert "is not fetched again yet" in message and "is not what was signed" in message
    # Once it is mended, and the publisher says that something changed, no device waits.
    model.write_bytes(MODELS[0])
    assert failing(device, line, 1)[:-1] == []
    publisher.refresh()
    device.install("1.0.0", line.url)
    assert not installing.waiting_path(device.config, NAME).exists()


def test_mutant_without_patience_a_wrong_file_is_fetched_each_time(line, publisher, device, monkeypatch):
    monkeypatch.setattr(patiently, "FREE_FAILURES", 10**9)
    stored(publisher, "model.onnx").write_bytes(MODELS[1])
    *asked, _ = failing(device, line, 10)
    assert asked == ["model.onnx"] * 10


def test_another_release_is_not_held_up_by_one_that_is_wrong(line, publisher, device):
    stored(publisher, "model.onnx").write_bytes(MODELS[1])
    failing(device, line, 5)
    publisher.publish("1.0.1", MODELS[0])
    device.install("1.0.1", line.url)


def test_a_broken_line_never_makes_the_device_wait(line, device):
    line.always = Fault(cut=30_000)
    for _ in range(2 * patiently.FREE_FAILURES):
        with pytest.raises(TransportFailed) as caught:
            device.install("1.0.0", line.url)
        assert "again yet" not in str(caught.value)
    line.always = None
    device.install("1.0.0", line.url)


def patience(path: Path, now: list[float], signed: int = 1) -> patiently.Patience:
    return patiently.Patience(path, patiently.Disk(), signed, lambda: now[0])


def try_in(where: patiently.Patience) -> bool:
    """Fail once; whether it was tried at all."""
    tried = False
    with pytest.raises(TransportFailed), where.trying("a file", "aa"):
        tried = True
        raise patiently.NotFound("it is not there")
    return tried


def test_waits_between_failures_double_to_a_bound(tmp_path):
    now = [1000.0]
    where = patience(tmp_path / "waiting", now)
    waits = []
    for _ in range(20):
        began = now[0]
        while not try_in(where):
            now[0] += 30
        waits.append(now[0] - began)
    assert waits[:8] == [0, 0, 0, 60, 120, 240, 480, 960]
    assert waits[-1] == patiently.MOST_WAIT_S == max(waits)


def test_a_reboot_neither_forgets_nor_waits_longer(tmp_path, monkeypatch):
    now = [50_000.0]
    where = patience(tmp_path / "waiting", now)
    for _ in range(5):
        while not try_in(where):
            now[0] += 30
    monkeypatch.setattr(patiently, "boot_id", lambda: "the next boot")
    now[0] = 10.0
    assert not try_in(where)
    now[0] = 240.0
    assert try_in(where)


def test_a_memory_that_is_damaged_is_none(tmp_path):
    where = patience(tmp_path / "waiting", [0.0])
    for _ in range(4):
        try_in(where)
    assert not try_in(where)
    (tmp_path / "waiting").write_bytes(b"{}")
    assert try_in(where)


@pytest.fixture
def small_disk(tmp_path: Path, needs: Callable[[bool, str], None]) -> Iterator[Path]:
    """A file system of 1.5 MiB."""
    needs(os.geteuid() == 0, "root, to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    needs(mounted.returncode == 0, "the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("held_kib", [400, 700, 1000, 1200])
def test_room_is_found_to_be_missing_before_a_byte_of_a_release_is_fetched(line, publisher, small_disk, held_kib):
    """300 KB of model, which moves from the inbox into the slot, and 256 KiB for the store: too little is left."""
    device = Device(small_disk / "device", publisher.keys / "1.root.json")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(held_kib * 1024))
    fits = held_kib in (400, 700)
    if fits:
        device.install("1.0.0", line.url)
        return
    with pytest.raises(DeviceUnable, match=r"room|space"):
        device.install("1.0.0", line.url)
    assert files(line) == ["manifest.json"]
    ballast.unlink()
    device.install("1.0.0", line.url)


def test_mutant_without_the_check_a_release_is_fetched_that_has_no_room_in_its_slot(
    line, publisher, small_disk, monkeypatch
):
    monkeypatch.setattr(installing, "reserve", lambda *all_of_it: None)
    monkeypatch.setattr(download, "reserve", lambda *all_of_it: None)
    monkeypatch.setattr(Store, "check_room", lambda self, needed_bytes: None)
    device = Device(small_disk / "device", publisher.keys / "1.root.json")
    (small_disk / "ballast").write_bytes(bytes(1200 * 1024))
    with pytest.raises(DeviceUnable):
        device.install("1.0.0", line.url)
    assert "model.onnx" in files(line)


def test_a_stick_goes_on_from_what_came_over_the_line(line, publisher, device, tmp_path):
    line.always = Fault(cut=100_000)
    for _ in range(2):
        with pytest.raises(TransportFailed):
            device.install("1.0.0", line.url)
    (part,) = device.config.inbox_dir.rglob("*.part")
    assert 90_000 < part.stat().st_size < 200_000
    line.passed.clear()
    stick = shutil.copytree(publisher.repository, tmp_path / "stick")
    device.install("1.0.0", stick.as_uri())
    assert line.passed == []


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_stick_and_a_folder_are_read_by_the_same_path(publisher, device, tmp_path, form):
    stick = shutil.copytree(publisher.repository, tmp_path / "stick")
    stored_there = next((stick / "targets" / NAME / "1.0.0").glob("*.model.onnx"))
    good = stored_there.read_bytes()
    stored_there.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UntrustedRelease, match="is not what was signed"):
        device.install("1.0.0", form.format(stick))
    stored_there.unlink()
    with pytest.raises(TransportFailed, match="is not there"):
        device.install("1.0.0", form.format(stick))
    stored_there.write_bytes(good)
    device.install("1.0.0", form.format(stick))


def test_a_process_that_is_killed_while_it_fetches_is_gone_on_from(line, publisher, device):
    config = device.config.data_dir / "surefoot.toml"
    config.write_text('data_dir = "."\nrun_dir = "run"\ndevice_class = "generic-amd64"\n[trust]\nclock = "untrusted"\n')
    line.always = Fault(stall=150_000)
    command = ["model", "install", NAME, "--version", "1.0.0", "--repository", line.url, "--root", str(device.root)]
    process = subprocess.Popen([sys.executable, "-m", "surefoot", "--config", str(config), *command])
    part = device.config.inbox_dir / NAME / "1.0.0" / "model.onnx.part"
    deadline = time.monotonic() + 60
    while not part.exists() or part.stat().st_size < 100_000:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    kept = part.stat().st_size
    line.always = None
    line.passed.clear()
    device.install("1.0.0", line.url)
    (model,) = [each for each in line.passed if each.path.endswith("model.onnx")]
    assert (model.range, model.body_bytes) == (f"bytes={kept}-", len(MODELS[0]) - kept)
    assert model.if_range.startswith('"')


@pytest.mark.parametrize(("clock", "judged"), [("untrusted", False), ("trusted", True)])
def test_dates_of_certificates_are_judged_where_the_clock_is_believed(publisher, device, monkeypatch, clock, judged):
    asked = []

    def opened(location: str, fetch: Fetch, *, check_dates: bool) -> FileSource:
        asked.append(check_dates)
        return FileSource(publisher.repository)

    monkeypatch.setattr(installing, "open_source", opened)
    device.config = msgspec.structs.replace(device.config, trust=Trust(clock=clock))
    with contextlib.suppress(UntrustedRelease):  # what the tests publish has expired by any clock that is right
        device.install("1.0.0", "https://repository.test")
    assert asked == [judged]


def test_a_cap_holds_for_a_whole_install(line, device):
    device.config = msgspec.structs.replace(
        device.config, fetch=msgspec.structs.replace(device.config.fetch, most_bytes_s=400_000)
    )
    began = time.monotonic()
    device.install("1.0.0", line.url)
    assert time.monotonic() - began > 0.75
