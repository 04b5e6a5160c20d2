"""The publisher's side: what is signed, in which order it is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from surefoot.durable import Disk
from surefoot.errors import BadRequest, UntrustedRelease
from surefoot.release import keys, repository, verification
from surefoot.release.metadata import stored_path, target_path
from surefoot.release.source import FileSource
from surefoot.release.trust import TrustStore
from tests.app.release.publishing import (
    DAY,
    NAME,
    PASSPHRASE,
    START,
    Cut,
    CuttingDisk,
    FixedClock,
    Publisher,
    files_of,
)


def check(publisher: Publisher) -> verification.Verification:
    return verification.verify(publisher.repository, publisher.keys / "1.root.json", now=publisher.now)


def test_a_first_publication_makes_a_whole_repository(publisher):
    publisher.publish("1.0.0")
    names = {name for name in files_of(publisher.repository) if name.startswith("metadata")}
    assert names == {
        "metadata/1.root.json",
        "metadata/1.targets.json",
        "metadata/1.snapshot.json",
        "metadata/timestamp.json",
    }
    found = check(publisher)
    assert (found.problems, found.releases, found.files) == ((), 1, 8)


def test_targets_say_what_they_are_and_lie_under_their_hash(publisher):
    release = publisher.publish("1.0.0")
    metadata = json.loads((publisher.repository / "metadata/1.targets.json").read_bytes())["signed"]
    assert {path: target["custom"]["surefoot"]["kind"] for path, target in metadata["targets"].items()} == {
        "tiny/1.0.0/manifest.json": "manifest",
        "tiny/1.0.0/model.onnx": "artifact",
        "tiny/1.0.0/golden.msgpack": "golden",
        "tiny/1.0.0/card.md": "card",
    }
    assert metadata["x-surefoot-issued"] == "2026-06-01T00:00:00Z"
    stored = publisher.repository / "targets/tiny/1.0.0" / f"{release.digest}.manifest.json"
    assert stored.read_bytes() == release.manifest_bytes


def test_a_second_release_keeps_the_first(publisher, store):
    publisher.publish("1.0.0")
    publisher.publish("1.10.0")
    publisher.publish("1.9.0")
    trusted = store.refresh(FileSource(publisher.repository))
    assert trusted.versions(NAME) == ["1.0.0", "1.9.0", "1.10.0"]
    assert trusted.names() == [NAME]
    assert check(publisher).problems == ()


def test_publishing_again_changes_nothing(publisher):
    release = publisher.publish("1.0.0")
    before = files_of(publisher.repository)
    assert publisher.put(release).changed is False
    assert files_of(publisher.repository) == before


@pytest.mark.attack
def test_a_published_version_with_another_content_is_refused_when_signing(publisher):
    publisher.publish("1.0.0", b"one")
    with pytest.raises(BadRequest, match="published already with another content"):
        publisher.sign(publisher.build("1.0.0", b"two"))


def test_two_releases_signed_for_one_state_cannot_both_be_published(publisher):
    publisher.publish("1.0.0")
    second, third = publisher.build("2.0.0"), publisher.build("3.0.0")
    publisher.sign(second)
    publisher.sign(third)
    publisher.put(second)
    with pytest.raises(BadRequest, match="signed for another state"):
        publisher.put(third)
    publisher.sign(third)
    publisher.put(third)
    assert check(publisher).problems == ()


@pytest.mark.attack
def test_an_unsigned_release_is_not_published(publisher):
    with pytest.raises(BadRequest, match="is not signed"):
        publisher.put(publisher.build())


@pytest.mark.attack
def test_a_release_built_again_after_signing_is_not_published(publisher, tmp_path):
    first = publisher.build("1.0.0", b"one")
    publisher.sign(first)
    second = publisher.build("1.0.0", b"two")
    shutil.copytree(first.directory / "signed", second.directory / "signed")
    with pytest.raises(UntrustedRelease, match="not of this release"):
        publisher.put(second)


@pytest.mark.attack
def test_another_publishers_signature_is_not_published(publisher, tmp_path):
    stranger = Publisher(tmp_path / "stranger")
    release = publisher.build()
    repository.sign(release, stranger.ring, stranger.repository, now=START, disk=Disk())
    with pytest.raises(UntrustedRelease, match="not signed by enough"):
        publisher.put(release)


@pytest.mark.attack
def test_signing_on_another_publishers_repository_is_refused(publisher, tmp_path):
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish()
    with pytest.raises(UntrustedRelease, match="not signed by enough"):
        repository.sign(publisher.build(), publisher.ring, stranger.repository, now=START, disk=Disk())


@pytest.mark.attack
@pytest.mark.parametrize("file", ["model.onnx", "golden.msgpack", "card.md"])
def test_a_release_changed_after_it_was_built_is_not_signed(publisher, file):
    release = publisher.build()
    path = release.directory / file
    path.write_bytes(path.read_bytes() + b"x")
    from surefoot.release import packed

    with pytest.raises(UntrustedRelease, match="not what the manifest says"):
        packed.read(release.directory)


@pytest.mark.attack
def test_a_stranger_in_the_release_folder_is_not_signed(publisher):
    from surefoot.release import packed

    release = publisher.build()
    (release.directory / "notes.txt").write_text("?")
    with pytest.raises(UntrustedRelease, match="not in its manifest"):
        packed.read(release.directory)


def test_signing_needs_the_targets_key_alone_and_publishing_the_online_keys_alone(publisher, tmp_path):
    release = publisher.build()
    offline, online = tmp_path / "offline", tmp_path / "online"
    for folder, roles in ((offline, ["targets"]), (online, ["snapshot", "timestamp"])):
        folder.mkdir()
        for name in ["1.root.json", *(f"{role}.pem" for role in roles)]:
            shutil.copy(publisher.keys / name, folder)
    repository.sign(release, keys.Keyring(offline, PASSPHRASE), publisher.repository, now=START, disk=Disk())
    ring = keys.Keyring(online, PASSPHRASE)
    repository.publish(release, ring, publisher.repository, now=START, disk=Disk())
    repository.refresh(ring, publisher.repository, now=START + DAY, disk=Disk())
    assert check(publisher).problems == ()
    with pytest.raises(BadRequest, match="too few targets keys"):
        repository.sign(release, ring, publisher.repository, now=START, disk=Disk())


def test_refresh_moves_the_timestamp_alone_until_the_snapshot_nears_its_end(publisher):
    publisher.publish()
    first = publisher.refresh()
    assert (first.timestamp, first.snapshot) == (2, 1)
    publisher.now += timedelta(days=50)
    late = publisher.refresh()
    assert (late.timestamp, late.snapshot, late.targets) == (3, 2, 1)
    assert check(publisher).problems == ()


def test_refresh_names_the_offline_roles_that_near_their_end(publisher):
    publisher.publish()
    assert publisher.refresh().nearing == {}
    publisher.now += timedelta(days=1700)
    assert set(publisher.refresh().nearing) == {"targets"}


def test_refresh_of_nothing_is_refused(publisher):
    with pytest.raises(BadRequest, match="no repository"):
        publisher.refresh()


def test_a_renewed_targets_signature_keeps_the_releases(publisher, store):
    release = publisher.publish()
    publisher.now += timedelta(days=1800)
    assert publisher.sign(release).renewed
    assert publisher.put(release).targets == 2
    assert check(publisher).problems == ()


def _cuts(publisher: Publisher, what: str, act) -> int:
    """Run ``act`` on copies of the repository, cut before each primitive; give how many there were."""
    at = 0
    while True:
        copy = publisher.folder / f"{what}-{at}"
        if publisher.repository.exists():
            shutil.copytree(publisher.repository, copy)
        try:
            act(copy, CuttingDisk(at))
        except Cut:
            at += 1
            continue
        return at


def test_a_publication_cut_anywhere_leaves_readers_a_whole_state_and_can_be_repeated(publisher, tmp_path, told):
    publisher.publish("1.0.0")
    release = publisher.build("2.0.0")
    publisher.sign(release)

    def act(copy: Path, disk: CuttingDisk) -> None:
        try:
            repository.publish(release, publisher.ring, copy, now=START, disk=disk)
        except Cut:
            device = TrustStore(tmp_path / f"device-{copy.name}", Disk(), FixedClock())
            device.initialise(publisher.root)
            trusted = device.refresh(FileSource(copy))
            assert trusted.versions(NAME) in (["1.0.0"], ["1.0.0", "2.0.0"])
            for version in trusted.versions(NAME):
                target = trusted.target(target_path(NAME, version, "model.onnx"))
                assert (copy / stored_path(target)).stat().st_size == target.length
            repository.publish(release, publisher.ring, copy, now=START, disk=Disk())
            assert device.refresh(FileSource(copy)).versions(NAME) == ["1.0.0", "2.0.0"]
            assert verification.verify(copy, None, now=START).problems == ()
            raise

    cuts = _cuts(publisher, "cut", act)
    told("cuts of trust, fetching and publishing", cuts)
    assert cuts > 30


def test_the_order_of_writing_matters(publisher, tmp_path):
    """The mutant: with the timestamp written before the snapshot, a reader in between is refused."""
    publisher.publish("1.0.0")
    release = publisher.build("2.0.0")
    publisher.sign(release)
    done = publisher.snapshot_of_now()
    repository.publish(release, publisher.ring, done, now=START, disk=Disk())
    shutil.copy(done / "metadata/timestamp.json", publisher.repository / "metadata/timestamp.json")
    device = TrustStore(tmp_path / "device", Disk(), FixedClock())
    device.initialise(publisher.root)
    with pytest.raises(Exception, match="snapshot"):
        device.refresh(FileSource(publisher.repository))
