"""One verified file: resumed, counted, hashed, its name given last."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from surefoot.durable import Disk
from surefoot.errors import DeviceUnable, TransportFailed, UntrustedRelease
from surefoot.release import download as downloading
from surefoot.release.download import download
from surefoot.release.metadata import stored_path, target_path
from surefoot.release.source import FileSource, Piece
from tests.app.release.publishing import NAME, Cut, CuttingDisk, files_of
from tests.app.release.reaching import reach
from tests.app.release.webserver import Fault

MODEL = os.urandom(300_000)
TARGET = target_path(NAME, "1.0.0", "model.onnx")


@pytest.fixture
def trusted(publisher, store, web):
    publisher.publish("1.0.0", MODEL)
    return store.refresh(FileSource(publisher.repository))


@pytest.fixture
def stored(trusted) -> str:
    """Where the model lies in the repository."""
    return stored_path(trusted.target(TARGET))


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


def fetch(web, trusted, inbox: Path, **more) -> Path:
    return download(reach(web.url), trusted, TARGET, inbox, more.pop("disk", Disk()), **more)


def damage(web, stored: str, data: bytes) -> None:
    (web.folder / stored).write_bytes(data)


def test_a_download_is_what_was_signed(web, trusted, inbox):
    seen: list[int] = []
    path = fetch(web, trusted, inbox, progress=seen.append)
    assert path == inbox / "model.onnx"
    assert path.read_bytes() == MODEL
    assert seen[-1] == len(MODEL) and seen == sorted(seen)
    assert list(files_of(inbox)) == ["model.onnx"]


def test_the_whole_way_over_the_web(publisher, store, web, inbox):
    release = publisher.publish("1.0.0", MODEL)
    source = reach(web.url)
    trusted = store.refresh(source)
    for file in release.kinds():
        path = download(source, trusted, target_path(NAME, "1.0.0", file), inbox, Disk())
        assert path.read_bytes() == (release.directory / file).read_bytes()
    assert web.asked("metadata/2.root.json") == web.asked("metadata/timestamp.json") == [None]


def test_from_a_folder_too(publisher, trusted, inbox):
    path = download(FileSource(publisher.repository), trusted, TARGET, inbox, Disk())
    assert path.read_bytes() == MODEL


def test_what_is_there_and_right_is_not_fetched_again(web, trusted, inbox, stored):
    fetch(web, trusted, inbox)
    fetch(web, trusted, inbox)
    assert len(web.asked(stored)) == 1


def test_what_is_there_and_wrong_is_fetched_again(web, trusted, inbox, stored):
    inbox.mkdir()
    (inbox / "model.onnx").write_bytes(MODEL[:-1] + b"?")
    assert fetch(web, trusted, inbox).read_bytes() == MODEL
    assert len(web.asked(stored)) == 1


def test_a_truncated_download_keeps_its_part_and_goes_on_from_it(web, trusted, inbox, stored):
    web.fail(stored, Fault(cut=100_000), *(Fault(cut=0) for _ in range(5)))
    with pytest.raises(TransportFailed):
        fetch(web, trusted, inbox)
    assert not (inbox / "model.onnx").exists()
    assert (inbox / "model.onnx.part").read_bytes() == MODEL[:100_000]
    assert fetch(web, trusted, inbox).read_bytes() == MODEL
    assert web.asked(stored)[-1] == "bytes=100000-"


def test_a_file_that_is_too_short_on_the_server_is_a_failed_transport(web, trusted, inbox, stored):
    damage(web, stored, MODEL[:1000])
    for _ in range(2):
        with pytest.raises(TransportFailed, match=r"broke off.*1000 bytes.*300000 bytes"):
            fetch(web, trusted, inbox)
    damage(web, stored, MODEL)
    assert fetch(web, trusted, inbox).read_bytes() == MODEL


@pytest.mark.attack
def test_a_file_that_is_too_long_is_refused_and_leaves_nothing(web, trusted, inbox, stored):
    damage(web, stored, MODEL + b"more")
    with pytest.raises(UntrustedRelease, match="longer than was signed"):
        fetch(web, trusted, inbox)
    assert files_of(inbox) == {}


@pytest.mark.attack
def test_an_endless_file_is_refused(web, trusted, inbox, stored):
    web.fail(stored, Fault(endless=True))
    with pytest.raises(UntrustedRelease, match="longer than was signed"):
        fetch(web, trusted, inbox)
    assert files_of(inbox) == {}


@pytest.mark.attack
@pytest.mark.parametrize("position", [0, 1, 150_000, len(MODEL) - 1])
def test_one_flipped_bit_is_refused_and_leaves_nothing(web, trusted, inbox, stored, position):
    changed = bytearray(MODEL)
    changed[position] ^= 1
    damage(web, stored, bytes(changed))
    with pytest.raises(UntrustedRelease, match="is not what was signed"):
        fetch(web, trusted, inbox)
    assert files_of(inbox) == {}
    assert len(web.asked(stored)) == 1


def test_a_wrong_part_is_thrown_away_and_fetched_anew_once(web, trusted, inbox, stored):
    inbox.mkdir()
    (inbox / "model.onnx.part").write_bytes(b"w" * 5000)
    assert fetch(web, trusted, inbox).read_bytes() == MODEL
    assert web.asked(stored) == ["bytes=5000-", None]


@pytest.mark.attack
def test_a_wrong_part_and_a_wrong_file_end_after_one_more_try(web, trusted, inbox, stored):
    inbox.mkdir()
    (inbox / "model.onnx.part").write_bytes(b"w" * 5000)
    damage(web, stored, b"x" * len(MODEL))
    with pytest.raises(UntrustedRelease):
        fetch(web, trusted, inbox)
    assert web.asked(stored) == ["bytes=5000-", None]
    assert files_of(inbox) == {}


def test_a_part_that_is_too_long_is_thrown_away(web, trusted, inbox, stored):
    inbox.mkdir()
    (inbox / "model.onnx.part").write_bytes(MODEL + b"x")
    assert fetch(web, trusted, inbox).read_bytes() == MODEL
    assert web.asked(stored) == [None]


def test_a_whole_part_is_not_fetched_again(web, trusted, inbox, stored):
    inbox.mkdir()
    (inbox / "model.onnx.part").write_bytes(MODEL)
    assert fetch(web, trusted, inbox).read_bytes() == MODEL
    assert web.asked(stored) == []


def test_no_space_is_found_out_before_a_byte_is_fetched(web, trusted, inbox, stored):
    free = os.statvfs(inbox.parent)
    with pytest.raises(DeviceUnable, match=r"no space for tiny/1.0.0/model.onnx"):
        fetch(web, trusted, inbox, reserve_bytes=free.f_bavail * free.f_frsize)
    assert web.asked(stored) == []


@pytest.mark.attack
def test_what_the_metadata_does_not_name_is_not_fetched(web, trusted, inbox):
    with pytest.raises(UntrustedRelease, match=r"has no tiny/1\.0\.0/other"):
        download(reach(web.url), trusted, target_path(NAME, "1.0.0", "other"), inbox, Disk())
    assert [path for path, _ in web.requests if path.startswith("targets")] == []


@pytest.mark.attack
def test_a_part_that_is_a_link_is_not_written_through(web, trusted, inbox, tmp_path):
    inbox.mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (inbox / "model.onnx.part").symlink_to(victim)
    with pytest.raises(DeviceUnable):
        fetch(web, trusted, inbox)
    assert victim.read_bytes() == b"mine"


def test_a_download_cut_anywhere_never_shows_the_name_before_the_whole(web, trusted, inbox, tmp_path, told):
    cuts = 0
    while True:
        place = tmp_path / f"inbox-{cuts}"
        try:
            fetch(web, trusted, place, disk=CuttingDisk(cuts))
        except Cut:
            final = place / "model.onnx"
            assert not final.exists() or final.read_bytes() == MODEL
            assert fetch(web, trusted, place).read_bytes() == MODEL
            cuts += 1
            continue
        break
    told("cuts of trust, fetching and publishing", cuts)
    assert cuts > 8


def test_mutant_without_the_hash_a_changed_model_is_taken(web, trusted, inbox, stored, monkeypatch):
    wanted = hashlib.sha256(MODEL).hexdigest()

    class Blind:
        """Says what the metadata wants to hear."""

        def update(self, data: bytes) -> None: ...

        def hexdigest(self) -> str:
            return wanted

    damage(web, stored, b"x" * len(MODEL))
    monkeypatch.setattr(downloading, "hashlib", SimpleNamespace(sha256=Blind))
    assert fetch(web, trusted, inbox).read_bytes() == b"x" * len(MODEL)


def test_mutant_with_the_name_given_first_a_cut_shows_half_a_model(web, trusted, inbox, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "PART_SUFFIX", "")
    shown = []
    for at in range(6, 10):
        place = tmp_path / f"inbox-{at}"
        try:
            fetch(web, trusted, place, disk=CuttingDisk(at))
        except Cut:
            shown += [path.read_bytes() for path in place.glob("model.onnx")]
    assert any(data != MODEL for data in shown)


def test_a_copy_that_is_here_is_used_and_nothing_fetched(web, trusted, inbox, stored, tmp_path):
    (tmp_path / "copy").write_bytes(MODEL)
    path = fetch(web, trusted, inbox, copies=[tmp_path / "none", tmp_path / "copy"])
    assert path.read_bytes() == MODEL
    assert not path.samefile(tmp_path / "copy")
    assert web.asked(stored) == []
    assert list(files_of(inbox)) == ["model.onnx"]


@pytest.mark.attack
def test_copies_that_are_not_what_was_signed_are_passed_over(web, trusted, inbox, stored, tmp_path):
    places = {"rotted": MODEL[:-1] + b"?", "short": MODEL[:-1], "long": MODEL + b"?"}
    for name, data in places.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    copies = [tmp_path / name for name in (*places, "folder", "pipe", "none")]
    assert fetch(web, trusted, inbox, copies=copies).read_bytes() == MODEL
    assert web.asked(stored) == [None]
    assert list(files_of(inbox)) == ["model.onnx"]


def test_a_copy_on_a_block_that_cannot_be_read_is_passed_over(web, trusted, inbox, tmp_path, monkeypatch):
    (tmp_path / "copy").write_bytes(MODEL)

    def broken(self, relative, offset=0, tag="", length=None):
        yield Piece(0, MODEL[:100_000])
        raise TransportFailed("cannot read", found="Input/output error")

    monkeypatch.setattr(FileSource, "stream", broken)
    assert fetch(web, trusted, inbox, copies=[tmp_path / "copy"]).read_bytes() == MODEL
    assert list(files_of(inbox)) == ["model.onnx"]


@pytest.mark.attack
def test_a_tag_that_is_damaged_does_no_harm(web, trusted, inbox, stored):
    inbox.mkdir()
    (inbox / "model.onnx.part").write_bytes(MODEL[:5000])
    for tag in (b"", b"\xff\xfe", b'"' + b"x" * 1000 + b'"', b'"another"', b'"a\r\nb: c"'):
        (inbox / "model.onnx.part.etag").write_bytes(tag)
        assert fetch(web, trusted, inbox).read_bytes() == MODEL
        assert list(files_of(inbox)) == ["model.onnx"]
        (inbox / "model.onnx").rename(inbox / "model.onnx.part")
        os.truncate(inbox / "model.onnx.part", 5000)


def test_a_repository_on_a_stick_that_was_pulled_out(publisher, trusted, inbox):
    shutil.rmtree(publisher.repository / "targets")
    with pytest.raises(TransportFailed, match="is not there"):
        download(FileSource(publisher.repository), trusted, TARGET, inbox, Disk())
