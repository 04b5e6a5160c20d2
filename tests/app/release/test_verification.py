"""``release verify`` finds any one changed bit of any file, and what does not belong there."""

from __future__ import annotations

import os
import random
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from surefoot.errors import BadRequest, UntrustedRelease
from surefoot.release import verification
from surefoot.release.metadata import stored_path
from tests.app.release.publishing import START, Publisher, files_of


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    """A repository with a history: two models, several versions of all metadata, replaced keys."""
    publisher = Publisher(tmp_path_factory.mktemp("lived-in"))
    publisher.publish("1.0.0")
    publisher.refresh()
    publisher.publish("1.0.0", name="other")
    publisher.renew("timestamp", "targets")
    publisher.publish("2.0.0")
    publisher.now += timedelta(days=55)
    publisher.refresh()
    return publisher


@pytest.fixture
def copy(lived_in: Publisher, tmp_path: Path) -> Path:
    return shutil.copytree(lived_in.repository, tmp_path / "copy")


def problems(lived_in: Publisher, folder: Path) -> tuple[str, ...]:
    return verification.verify(folder, lived_in.keys / "1.root.json", now=lived_in.now).problems


def test_a_repository_with_a_history_is_whole(lived_in):
    found = verification.verify(lived_in.repository, lived_in.keys / "1.root.json", now=lived_in.now)
    assert (found.problems, found.releases) == ((), 3)
    assert found.files == len(files_of(lived_in.repository)) == 2 + 3 + 4 + 1 + 12
    found.raise_if_bad()


@pytest.mark.attack
def test_any_flipped_bit_in_any_file_is_found(lived_in, copy, told):
    """Every file; its first and last byte, and twelve more places at random."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    where, flips = random.Random(seed), 0
    for name, data in files_of(copy).items():
        bits = {0, 7, len(data) * 8 - 8, len(data) * 8 - 1} | {where.randrange(len(data) * 8) for _ in range(12)}
        for bit in sorted(bits):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            (copy / name).write_bytes(changed)
            assert problems(lived_in, copy), f"bit {bit} of {name}"
            flips += 1
        (copy / name).write_bytes(data)
    told("bits flipped in a repository", flips)
    assert problems(lived_in, copy) == ()


@pytest.mark.attack
@pytest.mark.parametrize("name", ["2.root.json", "1.targets.json", "timestamp.json"])
def test_every_single_bit_of_a_signature_counts(lived_in, copy, name):
    """The case of a hex digit leaves the signature good: the form is compared as well."""
    path = copy / "metadata" / name
    data = path.read_bytes()
    start = data.index(b'"sig":"') + 7
    for bit in range(start * 8, (start + 10) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert problems(lived_in, copy), bit
    path.write_bytes(data)


def test_mutant_without_the_form_of_signatures_a_changed_case_goes_unseen(lived_in, copy, monkeypatch):
    path = copy / "metadata" / "1.targets.json"
    data = path.read_bytes()
    start = data.index(b'"sig":"') + 7
    path.write_bytes(data[:start] + data[start : start + 128].upper() + data[start + 128 :])
    assert problems(lived_in, copy)
    monkeypatch.setattr(verification.Inspector, "_check_every_signature", lambda *_: None)
    monkeypatch.setattr(verification.Inspector, "_check_link", lambda *_: None)
    assert problems(lived_in, copy) == ()


@pytest.mark.attack
def test_every_missing_file_is_found(lived_in, copy):
    for name, data in files_of(copy).items():
        (copy / name).unlink()
        assert problems(lived_in, copy), name
        (copy / name).write_bytes(data)


@pytest.mark.attack
@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        ".hidden",
        "metadata/notes.json",
        "metadata/root.json",
        "metadata/01.root.json",
        "metadata/.tmp-timestamp.json",
        "targets/tiny/1.0.0/model.onnx",
        "targets/tiny/9.9.9/x",
    ],
)
def test_what_no_metadata_names_is_found(lived_in, copy, name):
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_bytes(b"x")
    assert any(name in problem for problem in problems(lived_in, copy))


@pytest.mark.attack
def test_links_and_pipes_are_found_and_not_followed(lived_in, copy, tmp_path):
    (copy / "link").symlink_to("/etc")
    assert any("link is not a plain file" in problem for problem in problems(lived_in, copy))
    (copy / "link").unlink()
    os.mkfifo(copy / "pipe")
    assert any("pipe is not a plain file" in problem for problem in problems(lived_in, copy))
    (copy / "pipe").unlink()
    target = next((copy / "targets/tiny/1.0.0").glob("*.card.md"))
    target.rename(tmp_path / "card")
    target.symlink_to(tmp_path / "card")
    assert problems(lived_in, copy)
    target.unlink()
    os.mkfifo(target)
    assert problems(lived_in, copy)


@pytest.mark.attack
def test_every_extra_metadata_version_is_found(lived_in, copy):
    for name in ("9.targets.json", "9.snapshot.json", "9.root.json"):
        role = name.split(".")[1]
        shutil.copy(copy / f"metadata/1.{role}.json", copy / "metadata" / name)
        assert problems(lived_in, copy), name
        (copy / "metadata" / name).unlink()


@pytest.mark.attack
def test_another_publishers_whole_repository_is_refused_by_the_pinned_root(lived_in, tmp_path):
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish()
    assert verification.verify(stranger.repository, None, now=START).problems == ()
    found = verification.verify(stranger.repository, lived_in.keys / "1.root.json", now=START)
    assert any("not signed by enough" in problem for problem in found.problems)


def test_expired_metadata_is_a_problem(lived_in):
    late = lived_in.now + timedelta(days=15)
    found = verification.verify(lived_in.repository, None, now=late)
    assert len(found.problems) == 1 and "timestamp.json has expired" in found.problems[0]
    with pytest.raises(UntrustedRelease, match="not whole"):
        found.raise_if_bad()


@pytest.mark.attack
def test_signed_metadata_that_leaves_a_file_out_is_not_published(publisher):
    """Signed with the right key, but the manifest names another artifact: no device could install it."""
    release = publisher.build()
    publisher.sign(release)
    signed = next((release.directory / "signed").glob("*.targets.json"))
    metadata = Metadata.from_bytes(signed.read_bytes())
    del metadata.signed.targets["tiny/1.0.0/model.onnx"]
    metadata.signatures.clear()
    metadata.sign(publisher.ring.signers("targets")[0])
    signed.write_bytes(metadata.to_bytes())
    with pytest.raises(BadRequest, match="signed for another state"):
        publisher.put(release)


def test_an_interrupted_publication_is_said_to_be_one(publisher):
    publisher.publish("1.0.0")
    done = publisher.snapshot_of_now()
    publisher.publish("2.0.0")
    shutil.copy(done / "metadata/timestamp.json", publisher.repository / "metadata/timestamp.json")
    found = verification.verify(publisher.repository, None, now=START)
    assert any("a publication was interrupted" in problem for problem in found.problems)


def test_a_folder_that_is_no_repository_is_not_whole(tmp_path):
    assert verification.verify(tmp_path, None, now=START).problems


def test_targets_lie_where_their_path_says(lived_in):
    for path in (lived_in.repository / "metadata").glob("*.targets.json"):
        for target in Metadata.from_bytes(path.read_bytes()).signed.targets.values():
            assert (lived_in.repository / stored_path(target)).is_file()
