"""Offline kits: sealed only when whole, and nothing in a sealed one changes unseen."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from pathlib import Path

import pytest

from surefoot.errors import BadRequest, UntrustedRelease
from surefoot.release import kit as kits
from tests.app.release.publishing import DAY, Cut, CuttingDisk, Publisher, files_of


def gather(publisher: Publisher, folder: Path) -> Path:
    """What `make offline-kit` lays together, in small."""
    (folder / "debs").mkdir(parents=True)
    (folder / "debs" / "docker.io_20.10.24+dfsg1-1_arm64.deb").write_bytes(b"a package")
    (folder / "image.tar").write_bytes(random.Random(7).randbytes(4000))
    shutil.copytree(publisher.repository, folder / kits.REPOSITORY)
    return folder


def seal(publisher: Publisher, folder: Path) -> kits.Kit:
    return kits.seal(folder, publisher.ring, platform="rpi", version="0.1.0", now=publisher.now, disk=publisher.disk)


def check(publisher: Publisher, folder: Path, root: bytes = b"") -> kits.Checked:
    return kits.verify(folder, root or publisher.root, now=publisher.now)


@pytest.fixture
def kit(publisher: Publisher, tmp_path: Path) -> Path:
    publisher.publish()
    folder = gather(publisher, tmp_path / "kit")
    seal(publisher, folder)
    return folder


def test_a_sealed_kit_is_whole_wherever_it_is_copied(publisher, kit, tmp_path):
    copy = shutil.copytree(kit, tmp_path / "stick" / "kit")
    found = check(publisher, copy)
    assert set(found.kit.files) == set(files_of(kit)) - {kits.FILE_NAME}
    assert (found.kit.platform, found.kit.version, found.fresh) == ("rpi", "0.1.0", True)


@pytest.mark.attack
def test_one_flipped_bit_in_any_file_is_found(publisher, kit):
    for name, good in files_of(kit).items():
        path = kit / name
        bit = random.randrange(len(good) * 8)
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(UntrustedRelease):
            check(publisher, kit)
            pytest.fail(f"{name}: bit {bit}")
        path.write_bytes(good)
    assert check(publisher, kit), "the mutant: with every bit back in its place the kit is whole"


@pytest.mark.attack
def test_a_flipped_bit_in_any_byte_of_the_list_itself_is_found(publisher, kit):
    """Judged as `verify` does; the rest of the kit need not be read two thousand times for that."""
    good = (kit / kits.FILE_NAME).read_bytes()
    root = publisher.ring.root().signed
    assert kits.open_list(good, root)
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << random.randrange(8)
        with pytest.raises(UntrustedRelease):
            kits.open_list(bytes(bad), root)
            pytest.fail(f"byte {place}: {bytes(bad[place - 10 : place + 10])!r}")


@pytest.mark.attack
@pytest.mark.parametrize("change", ["a space", "a field", "a signature twice"])
def test_a_list_that_means_the_same_but_was_written_otherwise_is_refused(publisher, kit, change):
    path = kit / kits.FILE_NAME
    value = json.loads(path.read_bytes())
    if change == "a field":
        value["note"] = "x"
    if change == "a signature twice":
        value["signatures"] *= 2
    indent = 2 if change == "a space" else 1
    path.write_text(json.dumps(value, indent=indent, sort_keys=True) + "\n")
    with pytest.raises(UntrustedRelease, match=r"kit\.json is damaged"):
        check(publisher, kit)


@pytest.mark.attack
def test_a_file_too_many_is_named(publisher, kit):
    (kit / "debs" / "evil.deb").write_bytes(b"x")
    with pytest.raises(UntrustedRelease, match=r"debs/evil\.deb is not of this kit"):
        check(publisher, kit)


@pytest.mark.attack
def test_a_missing_file_is_named(publisher, kit):
    (kit / "image.tar").unlink()
    with pytest.raises(UntrustedRelease, match=r"image\.tar is missing"):
        check(publisher, kit)


@pytest.mark.attack
def test_a_link_to_the_very_same_bytes_is_refused(publisher, kit, tmp_path):
    shutil.move(kit / "image.tar", tmp_path / "image.tar")
    (kit / "image.tar").symlink_to(tmp_path / "image.tar")
    with pytest.raises(UntrustedRelease, match=r"image\.tar is no plain file"):
        check(publisher, kit)


@pytest.mark.attack
def test_a_file_cut_short_is_named_with_both_lengths(publisher, kit):
    (kit / "image.tar").write_bytes((kit / "image.tar").read_bytes()[:1000])
    with pytest.raises(UntrustedRelease, match=r"image\.tar has 1000 bytes, not 4000"):
        check(publisher, kit)


@pytest.mark.attack
def test_a_kit_of_another_publisher_is_refused(publisher, kit, tmp_path):
    other = Publisher(tmp_path / "other")
    with pytest.raises(UntrustedRelease, match=r"not signed by the targets key"):
        check(publisher, kit, other.root)


@pytest.mark.attack
def test_a_list_signed_by_a_key_of_another_role_is_refused(publisher, kit, monkeypatch):
    (kit / kits.FILE_NAME).unlink()
    ring = publisher.ring
    monkeypatch.setattr(ring, "signers", lambda role: publisher.ring.signers("snapshot"))
    kits.seal(kit, ring, platform="rpi", version="0.1.0", now=publisher.now, disk=publisher.disk)
    with pytest.raises(UntrustedRelease, match=r"not signed by the targets key"):
        check(publisher, kit)


def test_a_device_with_the_first_root_takes_a_kit_signed_after_the_targets_key_was_renewed(publisher, tmp_path):
    publisher.publish()
    pinned = publisher.root
    publisher.renew("targets")
    publisher.publish("2.0.0")
    folder = gather(publisher, tmp_path / "kit")
    seal(publisher, folder)
    assert check(publisher, folder, pinned)


@pytest.mark.attack
def test_a_kit_signed_by_a_key_that_the_root_no_longer_names_is_refused(publisher, kit):
    publisher.renew("targets")
    newest = (publisher.keys / "2.root.json").read_bytes()
    with pytest.raises(UntrustedRelease):
        check(publisher, kit, newest)


@pytest.mark.attack
def test_an_old_kit_says_that_it_is_old_and_is_still_whole(publisher, kit):
    publisher.now += 400 * DAY
    found = check(publisher, kit)
    assert not found.fresh and found.fresh_until.startswith("2026-06-15")


def test_a_kit_is_never_made_of_a_repository_that_has_expired(publisher, tmp_path):
    publisher.publish()
    folder = gather(publisher, tmp_path / "kit")
    publisher.now += 400 * DAY
    with pytest.raises(UntrustedRelease, match="expired"):
        seal(publisher, folder)
    assert not (folder / kits.FILE_NAME).exists()


def test_a_kit_is_never_made_of_a_damaged_repository(publisher, tmp_path):
    publisher.publish()
    folder = gather(publisher, tmp_path / "kit")
    target = next((folder / kits.REPOSITORY / "targets").rglob("*.model.onnx"))
    target.write_bytes(target.read_bytes()[:-1])
    with pytest.raises(UntrustedRelease, match="not what was signed"):
        seal(publisher, folder)


def test_without_releases_there_is_no_kit(publisher, tmp_path):
    publisher.publish()
    folder = gather(publisher, tmp_path / "kit")
    shutil.rmtree(folder / kits.REPOSITORY)
    with pytest.raises(BadRequest, match="holds no releases"):
        seal(publisher, folder)


@pytest.mark.parametrize("name", ["keys/targets.pem", "notes.txt"])
def test_a_private_key_never_gets_into_a_kit(publisher, tmp_path, name):
    publisher.publish()
    folder = gather(publisher, tmp_path / "kit")
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copy(publisher.keys / "targets.pem", folder / name)
    with pytest.raises(BadRequest, match=f"{name} holds a private key"):
        seal(publisher, folder)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a:b", "may not hold"), ("what?", "may not hold"), ("dot.", "may not hold"), (".hidden", "may not hold"),
        ("line\nbreak", "may not hold"), ("IMAGE.tar", "only in case"),
    ],
)  # fmt: skip
def test_a_name_that_a_usb_stick_cannot_hold_is_refused(publisher, tmp_path, name, why):
    publisher.publish()
    folder = gather(publisher, tmp_path / "kit")
    (folder / name).write_bytes(b"x")
    with pytest.raises(BadRequest, match=why):
        seal(publisher, folder)


def test_a_kit_is_sealed_once(publisher, kit):
    with pytest.raises(BadRequest, match="sealed already"):
        seal(publisher, kit)


def test_a_seal_cut_at_any_instant_leaves_no_kit_or_a_whole_one(publisher, tmp_path):
    publisher.publish()
    at, whole = 0, False
    while not whole:
        folder = gather(publisher, tmp_path / f"kit-{at}")
        publisher.disk = CuttingDisk(at)
        with contextlib.suppress(Cut):
            seal(publisher, folder)
        try:
            check(publisher, folder)
            whole = True
        except UntrustedRelease as refused:
            assert "there is no whole kit" in refused.what
        at += 1
    assert at > 3, "cut before the file was there, while it was written, before it had its name"


@pytest.mark.attack
def test_fewer_signatures_than_the_root_asks_for_are_too_few(publisher, kit, tmp_path):
    """The twin with the signature taken out: nothing else about the kit changed."""
    path = kit / kits.FILE_NAME
    value = json.loads(path.read_bytes())
    value["signatures"] = []
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    with pytest.raises(UntrustedRelease, match="not signed by the targets key"):
        check(publisher, kit)
