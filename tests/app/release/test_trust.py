"""What a device believes, and every attack on it that the TUF specification names (1.5.2), and cuts of power."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Root, Timestamp

from surefoot.durable import Disk
from surefoot.errors import DeviceUnable, TransportFailed, UntrustedRelease
from surefoot.release import repository, walk
from surefoot.release.clock import BUILD_TIME, FLOOR_NAME, Clock
from surefoot.release.metadata import target_path, text
from surefoot.release.source import NotFound
from surefoot.release.trust import TrustStore
from tests.app.release.publishing import NAME, START, Cut, CuttingDisk, Publisher, files_of
from tests.app.release.refreshing import refresh, refused


def test_a_first_refresh_walks_and_keeps_everything(publisher, store):
    publisher.publish("1.0.0")
    trusted = refresh(store, publisher)
    assert (trusted.versions(NAME), trusted.freshness) == (["1.0.0"], "proven")
    assert trusted.expires == START + timedelta(days=14)
    assert set(files_of(store.directory)) == {
        "1.root.json",
        "1.timestamp.json",
        "1.snapshot.json",
        "1.targets.json",
        FLOOR_NAME,
    }


def test_the_present_state_needs_no_network(publisher, store):
    assert store.current() is None
    publisher.publish("1.0.0")
    refresh(store, publisher)
    shutil.rmtree(publisher.repository)
    current = store.current()
    assert current is not None and current.versions(NAME) == ["1.0.0"]
    assert current.target(target_path(NAME, "1.0.0")).length > 0


def test_only_the_last_accepted_metadata_is_kept_but_all_roots(publisher, store):
    publisher.publish("1.0.0")
    refresh(store, publisher)
    publisher.publish("2.0.0")
    publisher.renew()
    publisher.refresh()
    assert refresh(store, publisher).versions(NAME) == ["1.0.0", "2.0.0"]
    assert set(files_of(store.directory)) == {
        "1.root.json",
        "2.root.json",
        "3.timestamp.json",
        "3.snapshot.json",
        "2.targets.json",
        FLOOR_NAME,
    }


# -- who is trusted --------------------------------------------------------------------------------------------------


def test_a_device_without_a_root_says_so(tmp_path, publisher):
    with pytest.raises(DeviceUnable, match="trusts no publisher yet"):
        refresh(TrustStore(tmp_path / "none", Disk()), publisher)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeviceUnable, match="trusts no publisher yet"):
        refresh(TrustStore(tmp_path / "empty", Disk()), publisher)


@pytest.mark.attack
def test_the_same_root_again_changes_nothing_and_another_is_refused(tmp_path, publisher, store):
    store.initialise(publisher.root)
    stranger = Publisher(tmp_path / "stranger")
    with pytest.raises(UntrustedRelease, match="trusts another root"):
        store.initialise(stranger.root)


@pytest.mark.attack
def test_a_root_that_was_walked_to_is_no_other_root(publisher, store):
    publisher.publish()
    newer = publisher.renew().read_bytes()
    with pytest.raises(UntrustedRelease, match="trusts another root"):
        store.initialise(newer)
    publisher.refresh()
    refresh(store, publisher)
    store.initialise(newer)


@pytest.mark.attack
@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff\x00", b"[" * 100_000, b'{"signed": {"_type": "root"}, "signatures": []}']
)
def test_what_is_no_root_is_not_pinned(tmp_path, data):
    with pytest.raises(UntrustedRelease, match="root"):
        TrustStore(tmp_path / "trust", Disk()).initialise(data)


@pytest.mark.attack
def test_a_root_that_lacks_a_signature_is_not_pinned(tmp_path, publisher):
    metadata = Metadata.from_bytes(publisher.root)
    metadata.signatures.popitem()
    with pytest.raises(UntrustedRelease, match="not signed by enough"):
        TrustStore(tmp_path / "trust", Disk()).initialise(metadata.to_bytes())


@pytest.mark.attack
def test_another_publishers_repository_is_refused(tmp_path, publisher, store):
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish()
    refused(store, stranger, "timestamp.json is not signed by enough")


def test_an_empty_place_is_no_repository(tmp_path, publisher, store):
    with pytest.raises(NotFound, match=r"timestamp\.json is not there"):
        refresh(store, publisher, tmp_path)


# -- changed metadata ------------------------------------------------------------------------------------------------


def edit(path: Path, change) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(json.dumps(document, separators=(",", ":"), sort_keys=True).encode())


@pytest.mark.attack
@pytest.mark.parametrize("role", ["timestamp", "1.snapshot", "1.targets"])
def test_metadata_changed_after_signing_is_refused(publisher, store, role):
    publisher.publish()
    edit(
        publisher.repository / f"metadata/{role}.json",
        lambda all_: all_["signed"].update(expires="2099-01-01T00:00:00Z"),
    )
    refused(store, publisher, f"{role.split('.')[-1]}.json is not")


@pytest.mark.attack
@pytest.mark.parametrize("role", ["timestamp", "1.snapshot", "1.targets", "2.root"])
@pytest.mark.parametrize("data", [b"", b"null", b"{}", b"\xff\xfe", b"[" * 10_000, b'{"signatures": [], "signed": {}}'])
def test_metadata_that_is_none_is_refused(publisher, store, role, data):
    publisher.publish()
    publisher.renew()
    publisher.refresh()
    names = {"1.snapshot": "2.snapshot"}  # the one in force after the refresh
    (publisher.repository / f"metadata/{names.get(role, role)}.json").write_bytes(data)
    refused(store, publisher, f"{role.split('.')[-1]}.json")


@pytest.mark.attack
@pytest.mark.parametrize(("role", "most"), [("timestamp", 16_384), ("2.root", 512_000)])
def test_endless_metadata_is_refused(publisher, store, role, most):
    publisher.publish()
    (publisher.repository / f"metadata/{role}.json").write_bytes(b" " * (most + 1))
    refused(store, publisher, "longer than it can be")


@pytest.mark.attack
def test_a_snapshot_longer_than_signed_is_refused_before_it_is_read(publisher, store):
    publisher.publish()
    path = publisher.repository / "metadata/1.snapshot.json"
    path.write_bytes(path.read_bytes() + b" ")
    refused(store, publisher, "longer than it can be")


@pytest.mark.attack
def test_the_case_of_a_signature_is_no_room_to_change_a_bit(publisher, store):
    publisher.publish()

    def upper(document) -> None:
        document["signatures"][0]["sig"] = document["signatures"][0]["sig"].upper()

    edit(publisher.repository / "metadata/timestamp.json", upper)
    refused(store, publisher, "a signature that was not written so")


@pytest.mark.attack
def test_too_few_signatures_of_a_new_root_are_refused(publisher, store):
    publisher.publish()
    publisher.renew()
    publisher.refresh()
    edit(publisher.repository / "metadata/2.root.json", lambda document: document["signatures"].pop())
    refused(store, publisher, "root.json is not signed by enough")


@pytest.mark.attack
def test_a_new_root_by_a_stranger_is_refused(tmp_path, publisher, store):
    publisher.publish()
    stranger = Publisher(tmp_path / "stranger")
    shutil.copy(stranger.renew(), publisher.repository / "metadata/2.root.json")
    refused(store, publisher, "root.json is not signed by enough")


@pytest.mark.attack
def test_a_root_that_jumps_a_version_is_refused(publisher, store):
    publisher.publish()
    publisher.renew()
    publisher.renew()
    shutil.copy(publisher.keys / "3.root.json", publisher.repository / "metadata/2.root.json")
    refused(store, publisher, "version that must not be")


@pytest.mark.attack
def test_a_stolen_online_key_cannot_sign_releases(publisher, store):
    """The timestamp key signs targets of its own: they do not count."""
    publisher.publish()
    ring = publisher.ring
    path = publisher.repository / "metadata/1.targets.json"
    metadata = Metadata.from_bytes(path.read_bytes())
    metadata.signed.version = 2
    metadata.sign(ring.signers("timestamp")[0])
    data = metadata.to_bytes()
    (publisher.repository / "metadata/2.targets.json").write_bytes(data)
    state = repository.open_repository(publisher.snapshot_of_now(), ring)
    snapshot = state.snapshot
    snapshot.version, snapshot.meta["targets.json"] = 2, repository._meta(metadata.signed, data)
    signed = ring.sign(snapshot, "snapshot", START).to_bytes()
    (publisher.repository / "metadata/2.snapshot.json").write_bytes(signed)
    timestamp = Timestamp(version=2, snapshot_meta=repository._meta(snapshot, signed))
    (publisher.repository / "metadata/timestamp.json").write_bytes(ring.sign(timestamp, "timestamp", START).to_bytes())
    refused(store, publisher, "targets.json is not signed by enough")


# -- old and mixed metadata ------------------------------------------------------------------------------------------


@pytest.mark.attack
def test_an_older_repository_is_refused(publisher, store):
    publisher.publish("1.0.0")
    old = publisher.snapshot_of_now()
    publisher.publish("2.0.0")
    refresh(store, publisher)
    refused(store, publisher, "timestamp.json has a version that must not be", old)
    refused(store, publisher, "timestamp.json has a version that must not be", old, "untrusted")


@pytest.mark.attack
def test_an_older_repository_is_refused_even_if_only_its_timestamp_was_seen(publisher, store):
    """The newer timestamp counts from the moment it was verified, although its snapshot never came."""
    publisher.publish("1.0.0")
    old = publisher.snapshot_of_now()
    publisher.publish("2.0.0")
    (publisher.repository / "metadata/2.snapshot.json").unlink()
    with pytest.raises(NotFound):
        refresh(store, publisher)
    refused(store, publisher, "timestamp.json has a version that must not be", old)


@pytest.mark.attack
def test_targets_never_go_back_even_under_a_new_timestamp(publisher, store):
    """Whoever holds the online keys cannot hide a release again."""
    publisher.publish("1.0.0")
    old = publisher.snapshot_of_now()
    publisher.publish("2.0.0")
    refresh(store, publisher)
    ring = publisher.ring
    state = repository.open_repository(old, ring)
    state.snapshot.version = 9
    data = ring.sign(state.snapshot, "snapshot", START).to_bytes()
    (old / "metadata/9.snapshot.json").write_bytes(data)
    timestamp = Timestamp(version=9, snapshot_meta=repository._meta(state.snapshot, data))
    (old / "metadata/timestamp.json").write_bytes(ring.sign(timestamp, "timestamp", START).to_bytes())
    refused(store, publisher, "snapshot.json has a version that must not be", old)


@pytest.mark.attack
def test_a_mix_of_two_states_is_refused(publisher, store):
    publisher.publish("1.0.0")
    old = publisher.snapshot_of_now()
    publisher.publish("2.0.0")
    shutil.copy(old / "metadata/1.snapshot.json", publisher.repository / "metadata/2.snapshot.json")
    refused(store, publisher, "snapshot.json is not what the signed metadata names|longer than it can be")


def test_the_same_state_again_is_fine(publisher, store):
    publisher.publish("1.0.0")
    refresh(store, publisher)
    before = files_of(store.directory)
    assert refresh(store, publisher).versions(NAME) == ["1.0.0"]
    assert files_of(store.directory) == before


# -- cuts ------------------------------------------------------------------------------------------------------------


def test_a_refresh_cut_anywhere_leaves_a_whole_state_and_can_be_repeated(tmp_path, publisher, store, clock, told):
    publisher.publish("1.0.0")
    refresh(store, publisher)
    publisher.renew("timestamp")
    publisher.publish("2.0.0")
    cuts = 0
    while True:
        folder = shutil.copytree(store.directory, tmp_path / f"cut-{cuts}")
        try:
            refresh(TrustStore(folder, CuttingDisk(cuts), clock), publisher)
        except Cut:
            again = TrustStore(folder, Disk(), clock)
            current = again.current()
            assert current is not None and current.versions(NAME) in (["1.0.0"], ["1.0.0", "2.0.0"])
            assert refresh(again, publisher).versions(NAME) == ["1.0.0", "2.0.0"]
            assert {"1.root.json", "2.root.json"} <= set(files_of(folder))
            cuts += 1
            continue
        break
    told("cuts of trust, fetching and publishing", cuts)
    assert cuts > 20


def test_only_one_refresh_runs_at_a_time(publisher, store, monkeypatch):
    from surefoot.durable import locked
    from surefoot.release import trust

    publisher.publish("1.0.0")
    monkeypatch.setattr(trust, "LOCK_WAIT_S", 0.0)
    with locked(store.directory), pytest.raises(DeviceUnable, match="in use by another process"):
        refresh(store, publisher)


# -- mutants: with the check taken out, the attack succeeds, so the tests above can fail -----------------------------


def test_mutant_without_signature_checks_a_stranger_is_believed(tmp_path, publisher, store, monkeypatch):
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish("6.6.6")
    monkeypatch.setattr(Root, "verify_delegate", lambda *_: None)
    assert refresh(store, stranger).versions(NAME) == ["6.6.6"]


def test_mutant_without_the_keys_own_verification_a_changed_expiry_is_believed(publisher, store, monkeypatch, clock):
    publisher.publish("1.0.0")
    edit(
        publisher.repository / "metadata/timestamp.json",
        lambda all_: all_["signed"].update(expires="2099-01-01T00:00:00Z"),
    )
    refused(store, publisher, "not signed by enough")
    monkeypatch.setattr(SSlibKey, "verify_signature", lambda *_: None)
    assert refresh(store, publisher).versions(NAME) == ["1.0.0"]


def test_mutant_without_kept_timestamps_an_older_repository_is_believed(publisher, store, monkeypatch):
    publisher.publish("1.0.0")
    old = publisher.snapshot_of_now()
    publisher.publish("2.0.0")
    refresh(store, publisher)
    monkeypatch.setattr(TrustStore, "_prime_timestamp", lambda *_: None)
    monkeypatch.setattr(TrustStore, "_prime_snapshot", lambda *_: None)
    assert refresh(store, publisher, old).versions(NAME) == ["1.0.0"]


def test_mutant_without_the_form_check_a_changed_bit_goes_unseen(publisher, store, monkeypatch):
    publisher.publish("1.0.0")

    def upper(document) -> None:
        document["signatures"][0]["sig"] = document["signatures"][0]["sig"].upper()

    edit(publisher.repository / "metadata/timestamp.json", upper)
    monkeypatch.setattr(walk, "check_form", lambda *_: None)
    assert refresh(store, publisher).versions(NAME) == ["1.0.0"]


def test_mutant_without_the_future_check_the_floor_is_lifted(publisher, store, monkeypatch):
    publisher.now = START + timedelta(days=3000)
    publisher.publish("1.0.0")
    monkeypatch.setattr(TrustStore, "check_issued", lambda *_: None)
    refresh(store, publisher)
    assert text(store.floor()) == text(publisher.now)


# -- what nobody asked for -------------------------------------------------------------------------------------------


def test_a_release_that_is_not_there_is_said_with_those_that_are(publisher, store):
    publisher.publish("1.0.0")
    trusted = refresh(store, publisher)
    with pytest.raises(UntrustedRelease, match=r"no tiny/9\.9\.9.*found: 1\.0\.0"):
        trusted.target(target_path(NAME, "9.9.9"))
    assert trusted.versions("nothing") == []


@pytest.mark.attack
def test_no_exception_of_tuf_gets_out(publisher, store):
    """Every single-byte change of a timestamp gives an error of ours or nothing at all."""
    publisher.publish("1.0.0")
    path = publisher.repository / "metadata/timestamp.json"
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        with pytest.raises((UntrustedRelease, TransportFailed)):
            refresh(store, publisher)


def test_the_machines_own_clock_answers():
    own = Clock()
    assert own.now() > BUILD_TIME
    assert own.synchronised() in {True, False}


def test_a_refresh_in_another_process_sees_the_same(publisher, store, tmp_path):
    """The store is files alone: a fresh process reads what this one wrote."""
    publisher.publish("1.0.0")
    refresh(store, publisher)
    program = (
        "import sys; from pathlib import Path; from surefoot.durable import Disk; "
        "from surefoot.release.trust import TrustStore; "
        "print(TrustStore(Path(sys.argv[1]), Disk()).current('untrusted').versions('tiny'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(store.directory)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert done.stdout == "['1.0.0']\n"
