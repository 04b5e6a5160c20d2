"""The publisher's keys: encrypted, private, never overwritten, and who may sign what."""

from __future__ import annotations

import shutil
import stat
import time
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from tuf.api.metadata import Metadata

from surefoot.durable import Disk
from surefoot.errors import BadRequest
from surefoot.release import keyfile, keys, repository
from tests.app.release.publishing import CHEAP, PASSPHRASE, START, Cut, CuttingDisk, Publisher


def test_a_key_file_round_trips(tmp_path):
    key = Ed25519PrivateKey.generate()
    keyfile.write(tmp_path / "key.pem", key, "words", Disk(), CHEAP)
    assert keyfile.read(tmp_path / "key.pem", "words").public_key() == key.public_key()
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("passphrase", ["x", "ä ö ü", "x" * 1000, "with\nlines"])
def test_any_passphrase_but_the_empty_one(tmp_path, passphrase):
    key = Ed25519PrivateKey.generate()
    keyfile.write(tmp_path / "key.pem", key, passphrase, Disk(), CHEAP)
    assert keyfile.read(tmp_path / "key.pem", passphrase).public_key() == key.public_key()


def test_an_empty_passphrase_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="empty passphrase"):
        keyfile.write(tmp_path / "key.pem", Ed25519PrivateKey.generate(), "", Disk(), CHEAP)
    with pytest.raises(BadRequest, match="empty passphrase"):
        keys.create(tmp_path / "keys", "", keys.Plan(cost=CHEAP), now=START, disk=Disk())
    assert not (tmp_path / "keys").exists()


@pytest.mark.attack
def test_no_key_is_in_the_clear(tmp_path):
    key = Ed25519PrivateKey.generate()
    data = keyfile.encrypt(key, b"words", CHEAP)
    assert key.private_bytes_raw() not in data
    with pytest.raises(TypeError, match=r"[Pp]assword"):
        load_pem_private_key(data, None)


@pytest.mark.attack
def test_a_guess_at_the_passphrase_is_dear_and_dearer_than_the_librarys_own():
    """The library's default costs well under a millisecond; ours is at least 50 ms on any machine of today."""

    def cost(data: bytes) -> float:
        started = time.process_time()
        load_pem_private_key(data, b"words")
        return time.process_time() - started

    key = Ed25519PrivateKey.generate()
    ours = cost(keyfile.encrypt(key, b"words", keyfile.Cost()))
    theirs = min(
        cost(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"words"))) for _ in range(5)
    )
    print(f"ours {ours * 1000:.1f} ms, the library's {theirs * 1000:.2f} ms")
    assert ours > 0.05
    assert ours > 50 * theirs


@pytest.mark.attack
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
def test_a_key_that_others_can_reach_is_not_used(tmp_path, mode):
    path = tmp_path / "key.pem"
    keyfile.write(path, Ed25519PrivateKey.generate(), "words", Disk(), CHEAP)
    path.chmod(mode)
    with pytest.raises(BadRequest, match="others can reach the key") as caught:
        keyfile.read(path, "words")
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.attack
def test_a_wrong_passphrase_a_damaged_file_and_another_kind_of_key_are_refused(tmp_path):
    path = tmp_path / "key.pem"
    keyfile.write(path, Ed25519PrivateKey.generate(), "words", Disk(), CHEAP)
    with pytest.raises(BadRequest, match="cannot open the key"):
        keyfile.read(path, "other words")
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(BadRequest, match="cannot open the key"):
        keyfile.read(path, "words")
    other = generate_private_key(SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"words")))
    with pytest.raises(BadRequest, match="wrong kind"):
        keyfile.read(path, "words")
    with pytest.raises(BadRequest, match="cannot read the key"):
        keyfile.read(tmp_path / "none.pem", "words")


def test_keys_are_never_overwritten(tmp_path, publisher):
    with pytest.raises(BadRequest, match="not empty"):
        keys.create(publisher.keys, PASSPHRASE, keys.Plan(cost=CHEAP), now=START, disk=Disk())
    path = publisher.keys / "targets.pem"
    with pytest.raises(BadRequest, match="never overwritten"):
        keyfile.write(path, Ed25519PrivateKey.generate(), PASSPHRASE, Disk(), CHEAP)


@pytest.mark.parametrize(("count", "threshold"), [(1, 2), (0, 0), (17, 1), (2, 0)])
def test_a_threshold_that_cannot_be_met_is_refused(tmp_path, count, threshold):
    with pytest.raises(BadRequest, match="threshold"):
        keys.create(tmp_path / "keys", PASSPHRASE, keys.Plan(count, threshold, cost=CHEAP), now=START, disk=Disk())


def test_making_keys_cut_anywhere_leaves_none_or_all(tmp_path):
    at = 0
    while True:
        folder = tmp_path / f"keys-{at}"
        try:
            keys.create(folder, PASSPHRASE, keys.Plan(cost=CHEAP), now=START, disk=CuttingDisk(at))
        except Cut:
            if folder.exists():
                assert len(list(folder.iterdir())) == 6
            else:
                keys.create(folder, PASSPHRASE, keys.Plan(cost=CHEAP), now=START, disk=Disk())
                keys.Keyring(folder, PASSPHRASE).signers("root")
            at += 1
            continue
        break
    assert at > 20


def test_the_root_is_signed_to_its_threshold_by_two_of_three(tmp_path):
    publisher = Publisher(tmp_path / "three", root_keys=3, root_threshold=2)
    root = Metadata.from_bytes(publisher.root)
    assert len(root.signatures) == 2
    root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    for name in ("root-1.pem", "root-2.pem", "root-3.pem"):
        (publisher.keys / name).rename(publisher.keys / f"{name}.away")
        assert publisher.ring.signers("root")
        (publisher.keys / f"{name}.away").rename(publisher.keys / name)


def test_every_role_ends_when_its_period_says(publisher):
    publisher.publish()
    done = publisher.refresh()
    ends = {role: START + timedelta(days=days) for role, days in
            {"root": 3650, "targets": 1825, "snapshot": 60, "timestamp": 14}.items()}  # fmt: skip
    assert done.expires == {role: f"{end:%Y-%m-%dT%H:%M:%SZ}" for role, end in ends.items()}


def test_a_renewal_cut_anywhere_can_be_repeated(tmp_path):
    at = 0
    while True:
        publisher = Publisher(tmp_path / f"{at}")
        publisher.publish()
        publisher.disk = CuttingDisk(at)
        try:
            publisher.renew("timestamp", "root")
        except Cut:
            publisher.disk = Disk()
            if publisher.ring.root().signed.version == 1:
                publisher.renew("timestamp", "root")
            assert publisher.refresh().timestamp == 2
            at += 1
            continue
        break
    assert at > 10


def test_a_renewal_needs_the_root_keys(publisher):
    (publisher.keys / "root-1.pem").unlink()
    with pytest.raises(BadRequest, match="too few root keys"):
        publisher.renew("timestamp")


def test_keys_older_than_the_repositorys_root_are_said_to_be(publisher, tmp_path):
    publisher.publish()
    old = shutil.copytree(publisher.keys, tmp_path / "old")
    publisher.renew()
    publisher.refresh()
    with pytest.raises(BadRequest, match="newer root than"):
        repository.refresh(keys.Keyring(old, PASSPHRASE), publisher.repository, now=START, disk=Disk())
