"""Attacks that take more than one file: stolen keys, chains of roots, clocks, stale copies. See docs/security.md."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta, timezone

import pytest
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Timestamp

from surefoot.durable import Disk
from surefoot.release import kit as kits
from surefoot.release import repository, walk
from surefoot.release.clock import FLOOR_NAME, read_floor
from surefoot.release.trust import TrustStore
from tests.app.release.publishing import DAY, NAME, START, Publisher, files_of
from tests.app.release.refreshing import refresh, refused

pytestmark = pytest.mark.attack

# -- stolen keys -----------------------------------------------------------------------------------------------------


def forge_root(publisher: Publisher, thief: Publisher, how: str) -> None:
    """Lay down a 2.root.json that makes the thief the publisher, with one of the two root keys stolen."""
    root: Root = Metadata.from_bytes(thief.root).signed
    root.version = 2
    stolen = publisher.ring.signers("root")[0]
    metadata: Metadata[Root] = Metadata(root)
    metadata.sign(stolen)
    if how == "with keys of the thief's":
        for signer in thief.ring.signers("root"):
            metadata.sign(signer, append=True)
    document = json.loads(metadata.to_bytes())
    if how == "signed twice":
        document["signatures"] *= 2
    if how == "under both names":
        document["signatures"] = [
            {**document["signatures"][0], "keyid": keyid} for keyid in publisher.ring.root().signed.roles["root"].keyids
        ]
    shutil.copytree(thief.repository, publisher.repository, dirs_exist_ok=True)
    (publisher.repository / "metadata/2.root.json").write_text(json.dumps(document))


@pytest.mark.parametrize("how", ["alone", "signed twice", "under both names", "with keys of the thief's"])
def test_one_stolen_root_key_of_two_makes_no_root(tmp_path, publisher, store, how):
    publisher.publish("1.0.0")
    thief = Publisher(tmp_path / "thief")
    thief.publish("6.6.6")
    forge_root(publisher, thief, how)
    refused(store, publisher, "root.json is not")


def test_mutant_with_a_threshold_of_one_a_stolen_root_key_is_enough(tmp_path, clock):
    publisher = Publisher(tmp_path / "publisher", root_keys=2, root_threshold=1)
    publisher.publish("1.0.0")
    thief = Publisher(tmp_path / "thief")
    thief.publish("6.6.6")
    forge_root(publisher, thief, "with keys of the thief's")
    store = TrustStore(tmp_path / "trust", Disk(), clock)
    store.initialise(publisher.root)
    assert refresh(store, publisher).versions(NAME) == ["6.6.6"]


def future_timestamp(publisher: Publisher, moment: datetime) -> None:
    """What a stolen timestamp key can sign: the present snapshot, from far in the future."""
    ring = publisher.ring
    state = repository.open_repository(publisher.repository, ring)
    timestamp = Timestamp(version=state.timestamp.version + 1, snapshot_meta=state.timestamp.snapshot_meta)
    signed = ring.sign(timestamp, "timestamp", moment)
    (publisher.repository / "metadata/timestamp.json").write_bytes(signed.to_bytes())


def test_a_stolen_timestamp_key_cannot_lift_the_floor_where_the_clock_is_trusted(publisher, store):
    publisher.publish("1.0.0")
    refresh(store, publisher)
    future_timestamp(publisher, START + timedelta(days=30_000))
    refused(store, publisher, "signed in the future")
    assert store.floor() == START


def test_a_stolen_timestamp_key_stops_updates_without_a_trusted_clock_until_a_root_replaces_it(publisher, store, clock):
    """By the floor that it lifted all has expired, until its key is gone. What serves goes on serving."""
    publisher.publish("1.0.0")
    refresh(store, publisher)
    good = publisher.snapshot_of_now()
    clock.known = False
    future_timestamp(publisher, START + timedelta(days=30_000))
    assert refresh(store, publisher).freshness == "unproven"
    shutil.rmtree(publisher.repository)
    shutil.copytree(good, publisher.repository)
    publisher.refresh()
    for clock.known in (False, True):
        refused(store, publisher, "root.json has expired")
    current = store.current()
    assert current is not None and current.versions(NAME) == ["1.0.0"]
    publisher.renew("timestamp")
    publisher.refresh()
    for clock.known, freshness in ((False, "unproven"), (True, "proven")):
        assert refresh(store, publisher).freshness == freshness
    assert store.floor() == START


def test_a_new_online_key_takes_nothing_from_what_root_and_targets_have_signed(publisher, store, clock):
    publisher.publish("1.0.0")
    publisher.now = clock.moment = START + 20 * DAY
    publisher.publish("2.0.0")
    publisher.now = clock.moment = START + 22 * DAY
    publisher.refresh()
    refresh(store, publisher)
    assert store.floor() == START + 22 * DAY
    publisher.now = START + 21 * DAY  # signed by a publisher whose clock runs behind
    publisher.renew("timestamp")
    publisher.refresh()
    clock.known = False
    refresh(store, publisher)
    assert store.floor() == START + 21 * DAY
    kept = read_floor(store.directory / FLOOR_NAME)
    assert kept.lasting == START + 21 * DAY and kept.by("other keys") == kept.lasting


# -- roots -----------------------------------------------------------------------------------------------------------


def test_forty_roots_are_walked_one_by_one_and_those_that_expired_too(publisher, store, clock):
    """Every other root replaces its keys; by the end all but the last have expired."""
    publisher.publish("1.0.0")
    refresh(store, publisher)
    publisher.now = START + 100 * DAY
    for number in range(39):
        publisher.renew(*(["root", "timestamp"] if number % 2 else []))
    publisher.now = clock.moment = START + timedelta(days=3700)
    publisher.renew("root", "targets", "snapshot", "timestamp")
    release = publisher.build("2.0.0")
    publisher.sign(release)
    publisher.put(release)
    trusted = refresh(store, publisher)
    assert (trusted.root_version, trusted.freshness, trusted.versions(NAME)) == (41, "proven", ["1.0.0", "2.0.0"])
    assert {f"{number}.root.json" for number in range(1, 42)} <= set(files_of(store.directory))


def test_a_gap_in_the_roots_hides_what_is_behind_it(publisher, store):
    """Withheld roots are a freeze: what the keys of the last one reached sign still counts, and nothing newer."""
    publisher.publish("1.0.0")
    refresh(store, publisher)
    publisher.renew("timestamp")
    publisher.renew("timestamp")
    for path in publisher.keys.glob("timestamp*.pem"):
        if "-3-" not in path.name:
            path.unlink()
    publisher.refresh()
    (publisher.repository / "metadata/2.root.json").unlink()
    refused(store, publisher, "timestamp.json is not signed by enough")


def test_an_endless_chain_of_roots_ends_the_refresh_and_the_next_goes_on(publisher, store, monkeypatch):
    publisher.publish("1.0.0")
    for _ in range(5):
        publisher.renew()
    publisher.refresh()
    monkeypatch.setattr(walk, "MOST_ROOTS", 3)
    refused(store, publisher, "more new roots than can be")
    assert refresh(store, publisher).root_version == 6


# -- online keys that go back ----------------------------------------------------------------------------------------


def test_a_new_timestamp_never_names_an_older_snapshot(publisher, store):
    publisher.publish("1.0.0")
    old = repository.open_repository(publisher.snapshot_of_now(), publisher.ring).timestamp.snapshot_meta
    publisher.publish("2.0.0")
    refresh(store, publisher)
    signed = publisher.ring.sign(Timestamp(version=3, snapshot_meta=old), "timestamp", START)
    (publisher.repository / "metadata/timestamp.json").write_bytes(signed.to_bytes())
    refused(store, publisher, "timestamp.json has a version that must not be.*New snapshot version")


@pytest.mark.parametrize("known", [True, False], ids=["known before", "a new device"])
def test_a_snapshot_that_leaves_the_targets_out_is_refused(publisher, store, known):
    publisher.publish("1.0.0")
    if known:
        refresh(store, publisher)
    ring = publisher.ring
    snapshot = Snapshot(version=2, meta={})
    data = ring.sign(snapshot, "snapshot", START).to_bytes()
    (publisher.repository / "metadata/2.snapshot.json").write_bytes(data)
    timestamp = Timestamp(version=2, snapshot_meta=repository._meta(snapshot, data))
    (publisher.repository / "metadata/timestamp.json").write_bytes(ring.sign(timestamp, "timestamp", START).to_bytes())
    refused(store, publisher, "missing info for 'targets.json'" if known else "does not name targets.json")


# -- freezes and stale copies ----------------------------------------------------------------------------------------


def test_a_repository_that_is_frozen_is_refused_when_its_timestamp_ends(publisher, store, clock):
    publisher.publish("1.0.0")
    frozen = publisher.snapshot_of_now()
    for day in (1, 13):
        clock.moment = START + day * DAY
        assert refresh(store, publisher, frozen).freshness == "proven"
    clock.moment = START + 14 * DAY
    refused(store, publisher, r"timestamp\.json has expired", frozen)


def test_mutant_without_expiry_a_frozen_repository_is_proven_for_ever(publisher, store, clock, monkeypatch):
    publisher.publish("1.0.0")
    clock.moment = START + 1000 * DAY
    monkeypatch.setattr(Signed, "is_expired", lambda *_: False)
    assert refresh(store, publisher).versions(NAME) == ["1.0.0"]


@pytest.mark.parametrize("known", [True, False])
def test_a_stale_kit_never_takes_a_device_back(publisher, store, clock, tmp_path, known):
    publisher.publish("1.0.0")
    stick = tmp_path / "stick"
    stick.mkdir()
    shutil.copytree(publisher.repository, stick / kits.REPOSITORY)
    kits.seal(stick, publisher.ring, platform="rpi", version="0.1.0", now=publisher.now, disk=publisher.disk)
    publisher.publish("2.0.0")
    refresh(store, publisher)
    clock.moment, clock.known = START + 400 * DAY, known
    assert kits.verify(stick, publisher.root, now=clock.moment), "the kit itself is whole"
    refused(store, publisher, "timestamp.json has a version that must not be", stick / kits.REPOSITORY)


def test_a_new_device_takes_a_stale_kit_only_where_its_clock_cannot_be_trusted(publisher, store, clock, tmp_path):
    publisher.publish("1.0.0")
    stick = shutil.copytree(publisher.repository, tmp_path / "stick")
    publisher.publish("2.0.0")
    clock.moment = START + 730 * DAY
    refused(store, publisher, "has expired", stick)
    clock.moment, clock.known = datetime(1970, 1, 2, tzinfo=timezone.utc), False
    trusted = refresh(store, publisher, stick)
    assert (trusted.freshness, trusted.versions(NAME)) == ("unproven", ["1.0.0"])


def test_a_device_offline_for_two_years_keeps_what_it_believes_and_is_not_taken_back(publisher, store, clock):
    publisher.publish("1.0.0")
    publisher.publish("2.0.0")
    old = publisher.snapshot_of_now()
    refresh(store, publisher)
    clock.moment = START + 730 * DAY
    current = store.current()
    assert current is not None and (current.freshness, current.versions(NAME)) == ("unproven", ["1.0.0", "2.0.0"])
    refused(store, publisher, "has expired", old)
    clock.known = False
    assert refresh(store, publisher, old).freshness == "unproven"
