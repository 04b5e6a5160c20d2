"""What a device believes as time goes by: expiry, clocks that are wrong, and keys that are replaced."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta, timezone

import pytest
from tuf.api.metadata import Metadata, Timestamp

from surefoot.errors import DeviceUnable, UntrustedRelease
from surefoot.release import keys, repository
from surefoot.release.clock import BUILD_TIME, FLOOR_NAME
from surefoot.release.metadata import text
from surefoot.release.trust import TrustStore
from tests.app.release.publishing import DAY, NAME, START, Publisher, files_of
from tests.app.release.refreshing import refresh, refused

# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.attack
def test_expired_metadata_stops_a_device_with_a_trusted_clock(publisher, store, clock):
    publisher.publish("1.0.0")
    clock.moment = START + timedelta(days=15)
    refused(store, publisher, r"timestamp.json has expired")
    with pytest.raises(UntrustedRelease) as caught:
        refresh(store, publisher)
    assert caught.value.found == "valid until 2026-06-15T00:00:00Z"
    assert "surefoot release refresh" in caught.value.hint


@pytest.mark.attack
@pytest.mark.parametrize(
    ("days", "role"), [(61, "snapshot"), (1826, "targets"), (3651, "root")], ids=["snapshot", "targets", "root"]
)
def test_each_role_expires_and_says_what_to_do(publisher, store, clock, days, role):
    """Whoever holds the timestamp key alone cannot keep the rest alive."""
    publisher.publish("1.0.0")
    clock.moment = START + timedelta(days=days)
    ring = publisher.ring
    state = repository.open_repository(publisher.repository, ring)
    data = (publisher.repository / "metadata/1.snapshot.json").read_bytes()
    if role in {"targets", "root"}:
        data = ring.sign(state.snapshot, "snapshot", clock.moment).to_bytes()
        (publisher.repository / "metadata/1.snapshot.json").write_bytes(data)
    timestamp = Timestamp(version=2, snapshot_meta=repository._meta(state.snapshot, data))
    signed = ring.sign(timestamp, "timestamp", clock.moment)
    (publisher.repository / "metadata/timestamp.json").write_bytes(signed.to_bytes())
    refused(store, publisher, f"{role}.json has expired")


def test_a_refresh_of_the_publisher_makes_it_fresh_again(publisher, store, clock):
    publisher.publish("1.0.0")
    publisher.now = clock.moment = START + timedelta(days=15)
    refused(store, publisher, "has expired")
    publisher.refresh()
    assert refresh(store, publisher).freshness == "proven"


@pytest.mark.attack
def test_expired_metadata_on_an_untrusted_clock_is_taken_as_unproven(publisher, store, clock):
    publisher.publish("1.0.0")
    clock.moment, clock.known = START + timedelta(days=400), False
    assert refresh(store, publisher).freshness == "unproven"
    clock.known = True
    assert refresh_is_expired(store, publisher)


def refresh_is_expired(store: TrustStore, publisher: Publisher) -> bool:
    try:
        refresh(store, publisher)
    except UntrustedRelease as error:
        return "expired" in error.what
    return False


def test_the_operator_decides_for_the_clock(publisher, store, clock):
    publisher.publish("1.0.0")
    clock.moment = START + timedelta(days=400)
    assert refresh(store, publisher, mode="untrusted").freshness == "unproven"
    clock.known = False
    refused(store, publisher, "has expired", mode="trusted")


@pytest.mark.attack
def test_what_expired_before_the_floor_is_refused_on_any_clock(publisher, store, clock):
    """The device saw metadata of day 100; what ended before that is old, whatever its clock says."""
    publisher.publish("1.0.0")
    frozen = publisher.snapshot_of_now()
    publisher.now = clock.moment = START + timedelta(days=100)
    publisher.refresh()
    refresh(store, publisher)
    for path in store.directory.glob("*.timestamp.json"):
        path.unlink()  # so that versions say nothing and time alone decides
    for path in store.directory.glob("*.snapshot.json"):
        path.unlink()
    clock.moment, clock.known = datetime(1970, 1, 2, tzinfo=timezone.utc), False
    refused(store, publisher, "timestamp.json has expired", frozen)


@pytest.mark.attack
def test_the_floor_is_the_newest_signed_issue_time_and_never_sinks(publisher, store, clock):
    assert store.floor() == BUILD_TIME
    publisher.publish("1.0.0")
    refresh(store, publisher)
    assert store.floor() == START
    publisher.now = clock.moment = START + 3 * DAY
    publisher.refresh()
    refresh(store, publisher)
    assert store.floor() == START + 3 * DAY
    (store.directory / FLOOR_NAME).write_text("1999-01-01T00:00:00Z\n1999-01-01T00:00:00Z 00\n")
    assert store.floor() == BUILD_TIME
    (store.directory / FLOOR_NAME).write_text("2027-06-01T00:00:00Z\n")  # one line: as it was written once
    assert text(store.floor()) == "2027-06-01T00:00:00Z"
    (store.directory / FLOOR_NAME).write_bytes(b"\xff garbage")
    assert store.floor() == BUILD_TIME


@pytest.mark.attack
def test_a_clock_before_the_floor_is_wrong_whatever_is_said_of_it(publisher, store, clock):
    publisher.publish("1.0.0")
    refresh(store, publisher)
    clock.moment = START - DAY
    assert refresh(store, publisher, mode="trusted").freshness == "unproven"
    current = store.current("trusted")
    assert current is not None and current.freshness == "unproven"


@pytest.mark.attack
def test_metadata_signed_in_the_future_does_not_lift_the_floor(publisher, store, clock):
    publisher.now = START + timedelta(days=3)
    publisher.publish("1.0.0")
    refused(store, publisher, "signed in the future")
    assert store.floor() == BUILD_TIME
    clock.moment = START + timedelta(days=2, hours=1)
    assert refresh(store, publisher).freshness == "proven"


def test_the_present_state_goes_stale_with_time_but_stays(publisher, store, clock):
    publisher.publish("1.0.0")
    refresh(store, publisher)
    clock.moment += timedelta(days=4000)
    current = store.current()
    assert current is not None and (current.freshness, current.versions(NAME)) == ("unproven", ["1.0.0"])


@pytest.mark.attack
def test_a_device_offline_for_two_years_walks_all_roots_and_takes_a_fresh_release(publisher, store, clock):
    publisher.publish("1.0.0")
    refresh(store, publisher)
    for month in range(24):
        publisher.now = START + timedelta(days=30 * (month + 1))
        if month % 6 == 5:
            release = publisher.build(f"1.{month}.0")
            publisher.renew("root", "targets", "snapshot", "timestamp")
            publisher.sign(release)
            publisher.put(release)
        publisher.refresh()
    clock.moment = publisher.now
    trusted = refresh(store, publisher)
    assert (trusted.freshness, trusted.root_version) == ("proven", 5)
    assert trusted.versions(NAME) == ["1.0.0", "1.5.0", "1.11.0", "1.17.0", "1.23.0"]
    assert {f"{number}.root.json" for number in range(1, 6)} <= set(files_of(store.directory))


# -- rotation --------------------------------------------------------------------------------------------------------


@pytest.mark.attack
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_a_replaced_key_is_followed_and_the_old_one_no_longer_counts(tmp_path, publisher, store, role):
    publisher.publish("1.0.0")
    refresh(store, publisher)
    old_keys = shutil.copytree(publisher.keys, tmp_path / "stolen")
    publisher.renew(role)
    release = publisher.build("2.0.0")
    publisher.sign(release)
    publisher.put(release)
    assert refresh(store, publisher).versions(NAME) == ["1.0.0", "2.0.0"]
    stolen = keys.Keyring(old_keys, publisher.ring._passphrase)
    metadata_role = "timestamp" if role == "root" else role
    if role != "root":
        state = repository.open_repository(publisher.repository, publisher.ring)
        signed = getattr(state, metadata_role)
        forged = Metadata(signed)
        for signer in stolen.signers_of(stolen.root().signed, metadata_role):
            forged.sign(signer, append=True)
        with pytest.raises(Exception, match="was signed by 0/1 keys"):
            state.root.verify_delegate(metadata_role, forged.signed_bytes, forged.signatures)


def test_a_replaced_targets_key_needs_the_releases_signed_again_before_a_refresh(publisher, store):
    from surefoot.errors import BadRequest

    release = publisher.publish("1.0.0")
    publisher.renew("targets")
    with pytest.raises(BadRequest, match="not signed by the keys of 2"):
        publisher.refresh()
    publisher.sign(release)
    publisher.put(release)
    publisher.refresh()
    assert refresh(store, publisher).root_version == 2


def test_readers_on_both_sides_of_a_change_of_keys_can_verify(tmp_path, publisher, store):
    """A reader between the new timestamp and the new root, which is laid down last, is not refused."""
    publisher.publish("1.0.0")
    refresh(store, publisher)
    publisher.renew("timestamp", "snapshot")
    publisher.refresh()
    between = publisher.snapshot_of_now()
    (between / "metadata/2.root.json").unlink()
    assert refresh(store, publisher, between).root_version == 1
    assert refresh(store, publisher).root_version == 2


@pytest.mark.attack
def test_a_fast_forwarded_timestamp_is_recovered_from_by_a_new_key(publisher, store):
    publisher.publish("1.0.0")
    ring = publisher.ring
    state = repository.open_repository(publisher.repository, ring)
    state.timestamp.version = 2_000_000_000
    path = publisher.repository / "metadata/timestamp.json"
    before = path.read_bytes()
    path.write_bytes(ring.sign(state.timestamp, "timestamp", START).to_bytes())
    refresh(store, publisher)
    path.write_bytes(before)
    refused(store, publisher, "version that must not be")
    publisher.renew("timestamp")
    (publisher.keys / "timestamp.pem").unlink()
    publisher.refresh()
    assert refresh(store, publisher).timestamp_version == 2


@pytest.mark.attack
def test_a_damaged_kept_root_is_fetched_again_and_a_damaged_pin_is_said(publisher, store):
    publisher.publish("1.0.0")
    publisher.renew()
    publisher.refresh()
    refresh(store, publisher)
    (store.directory / "2.root.json").write_bytes(b"rot")
    assert refresh(store, publisher).root_version == 2
    assert json.loads((store.directory / "2.root.json").read_bytes())["signed"]["version"] == 2
    (store.directory / "1.root.json").write_bytes(b"rot")
    with pytest.raises(DeviceUnable, match=r"pinned root .* is damaged"):
        refresh(store, publisher)
    assert store.current() is None


@pytest.mark.attack
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_damaged_kept_metadata_is_fetched_again(publisher, store, role):
    publisher.publish("1.0.0")
    refresh(store, publisher)
    (store.directory / f"1.{role}.json").write_bytes(b"rot")
    assert store.current() is None
    assert refresh(store, publisher).versions(NAME) == ["1.0.0"]
    assert store.current() is not None
