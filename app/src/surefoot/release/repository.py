"""The publisher's side of a repository: sign offline, publish, refresh. A repository is a plain folder.

Writing order is what keeps a reader safe: target files, targets, snapshot, and the timestamp last. Nothing that a
timestamp ever named is changed or removed, so a client that began before goes on with what it began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec
from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from surefoot.durable import TEMPORARY_PREFIX, Disk, hash_file, locked, pieces, read_bounded
from surefoot.errors import BadRequest, UntrustedRelease
from surefoot.release import walk
from surefoot.release.keys import Keyring, periods_of
from surefoot.release.metadata import (
    BEGINNING,
    CUSTOM,
    MOST_BYTES,
    Role,
    judged,
    metadata_path,
    parse,
    sha256_of,
    stored_path,
    target_path,
    text,
)
from surefoot.release.packed import SIGNED_FOLDER, Packed
from surefoot.release.source import FileSource, NotFound

LOCK_WAIT_S = 60.0
WARN_SHARE = 4  # a role is said to near its end in the last quarter of its period
Progress = Callable[[str, int, int], None]  # what, bytes done, of how many


class SignedTargets(msgspec.Struct, frozen=True):
    """What ``sign`` made."""

    file: Path
    targets_version: int
    renewed: bool


class Published(msgspec.Struct, frozen=True):
    """What ``publish`` or ``refresh`` did. ``nearing`` names roles that need a key kept offline, and until when."""

    changed: bool
    timestamp: int
    snapshot: int
    targets: int
    expires: dict[str, str]
    nearing: dict[str, str]


def open_repository(repository: Path, ring: Keyring) -> walk.Rules | None:
    """The verified state of a repository by its own roots; ``None`` where nothing was published yet.

    Expiry is no obstacle here.

    Raises:
        UntrustedRelease: its metadata is not what these keys signed.
        BadRequest: the keys are of an earlier root than the repository's.
    """
    source = FileSource(repository)
    rules = walk.begin(ring.roots()[0], BEGINNING)
    try:
        walk.fetch_all(rules, source)
    except NotFound:
        if "timestamp" in rules:
            raise
        return None
    if rules.root.version > ring.root().signed.version:
        raise BadRequest(
            f"the repository has a newer root than {ring.directory}",
            found=f"root {rules.root.version} in the repository",
            expected=f"root {ring.root().signed.version}",
            hint="copy the *.root.json that `keys renew` wrote into that folder",
        )
    return rules


def sign(packed: Packed, ring: Keyring, repository: Path, *, now: datetime, disk: Disk) -> SignedTargets:
    """Sign the targets metadata that adds a release to what is published. Needs the targets key alone.

    A release that is published already is signed again, which renews the expiry.

    Returns:
        Where the metadata lies: ``RELEASE/signed/N.targets.json``.

    Raises:
        BadRequest: that version is published with another content, or the key is not here.
        UntrustedRelease: the repository's metadata is not what these keys signed.
    """
    state = open_repository(repository, ring)
    version = state.targets.version + 1 if state else 1
    targets = Targets(version=version, targets=dict(state.targets.targets) if state else {})
    release = packed.manifest
    renewed = published_digest(targets, release.name, release.version) is not None
    check_unpublished(targets, packed)
    for target in _targets_of(packed):
        targets.targets[target.path] = target
    metadata = ring.sign(targets, "targets", now, before=state.root if state else None)
    folder = packed.directory / SIGNED_FOLDER
    disk.make_directory(folder)
    file = folder / f"{version}.targets.json"
    disk.write(file, metadata.to_bytes())
    for old in folder.glob("*.targets.json"):
        if old != file:
            disk.remove(old)
    return SignedTargets(file, version, renewed)


def published_digest(targets: Targets, name: str, version: str) -> str | None:
    """The digest under which a version is published, if it is."""
    target = targets.targets.get(target_path(name, version))
    return sha256_of(target) if target else None


def check_unpublished(targets: Targets, packed: Packed) -> None:
    """A published version never changes.

    Raises:
        BadRequest: the version is published with another digest.
    """
    release = packed.manifest
    before = published_digest(targets, release.name, release.version)
    if before not in {None, packed.digest}:
        raise BadRequest(
            f"{release.name} {release.version} is published already with another content",
            found=f"digest {packed.digest}",
            expected=f"digest {before}",
            hint="raise the version in the recipe and build again",
        )


def publish(
    packed: Packed, ring: Keyring, repository: Path, *, now: datetime, disk: Disk, progress: Progress | None = None
) -> Published:
    """Put a signed release into a repository, so that a reader sees the state before or the state after.

    Needs the snapshot and timestamp keys. Again with the same release changes nothing.

    Raises:
        BadRequest: not signed, or signed for another state of the repository.
        UntrustedRelease: the signature is not of the root's targets key, or does not fit the release.
    """
    data = _signed_targets(packed)
    disk.make_directory(repository / "metadata")
    with locked(repository / "metadata", wait_s=LOCK_WAIT_S, what=f"the repository {repository}"):
        _sweep(repository, disk)
        state = open_repository(repository, ring)
        targets = _check_targets(data, packed, ring, state)
        if state and targets.version == state.targets.version:
            return _report(False, state.root, state.timestamp, state.snapshot, state.targets, now)
        _copy_targets(packed, targets, repository, disk, progress)
        disk.write(repository / metadata_path("targets", targets.version), data)
        snapshot = Snapshot(version=state.snapshot.version + 1 if state else 1)
        snapshot.meta["targets.json"] = _meta(targets, data)
        return _close(ring, repository, state, snapshot, targets, now, disk)


def refresh(ring: Keyring, repository: Path, *, now: datetime, disk: Disk) -> Published:
    """Sign a new timestamp, and a new snapshot where the old would end first; lay down roots that are new.

    Needs the snapshot and timestamp keys. To be run from cron or CI, well before the timestamp ends.

    Raises:
        BadRequest: nothing is published there, a key is missing, or a new root needs targets that are signed again.
        UntrustedRelease: the repository's metadata is not what these keys signed.
    """
    folder = repository / "metadata"
    if not folder.is_dir():
        raise BadRequest(f"no repository in {repository}", hint="surefoot release publish")
    with locked(folder, wait_s=LOCK_WAIT_S, what=f"the repository {repository}"):
        _sweep(repository, disk)
        state = open_repository(repository, ring)
        if state is None:
            raise BadRequest(f"nothing is published in {repository}", hint="surefoot release publish")
        root = ring.root().signed
        kept = parse(
            read_bounded(repository / metadata_path("targets", state.targets.version), MOST_BYTES["targets"]), "targets"
        )
        if not root.get_verification_result("targets", kept.signed_bytes, kept.signatures).verified:
            raise BadRequest(
                f"the targets are not signed by the keys of {root.version}.root.json",
                hint="`surefoot release sign` the newest release again with the new key, then `publish` it",
            )
        snapshot = state.snapshot
        if root.version != state.root.version or state.snapshot.expires - now <= periods_of(root).of("timestamp"):
            snapshot = Snapshot(version=state.snapshot.version + 1, meta=dict(state.snapshot.meta))
        return _close(ring, repository, state, snapshot, state.targets, now, disk)


def _close(
    ring: Keyring,
    repository: Path,
    state: walk.Rules | None,
    snapshot: Snapshot,
    targets: Targets,
    now: datetime,
    disk: Disk,
) -> Published:
    """Sign and write the snapshot, if there is a new one, then the timestamp, which makes it count, then new roots.

    New roots come last, since metadata is signed by the keys of the root before as well: a client that has not seen
    the new root yet, and one that has, both find what they can verify.
    """
    before = state.root if state else None
    timestamp = Timestamp(version=state.timestamp.version + 1 if state else 1)
    ring.signers("timestamp")  # before the first write: a missing key must not leave half a publication
    if state is not None and snapshot is state.snapshot:
        timestamp.snapshot_meta = state.timestamp.snapshot_meta
    else:
        data = ring.sign(snapshot, "snapshot", now, before=before).to_bytes()
        timestamp.snapshot_meta = _meta(snapshot, data)
        disk.write(repository / metadata_path("snapshot", snapshot.version), data)
    signed = ring.sign(timestamp, "timestamp", now, before=before)
    disk.write(repository / metadata_path("timestamp"), signed.to_bytes())
    for data in ring.roots():
        path = repository / metadata_path("root", parse(data, "root").signed.version)
        if not path.exists():
            disk.write(path, data)
    return _report(True, ring.root().signed, timestamp, snapshot, targets, now)


def _signed_targets(packed: Packed) -> bytes:
    files = sorted((packed.directory / SIGNED_FOLDER).glob("*.targets.json"))
    if len(files) != 1:
        raise BadRequest(
            f"{packed.directory} is not signed",
            found=", ".join(file.name for file in files) or f"no metadata in its folder {SIGNED_FOLDER}",
            hint="surefoot release sign",
        )
    return read_bounded(files[0], MOST_BYTES["targets"])


def _check_targets(data: bytes, packed: Packed, ring: Keyring, state: walk.Rules | None) -> Targets:
    """Compare signed targets with the release, and with what is published.

    Raises:
        UntrustedRelease: not signed by the targets key, or not of this release.
        BadRequest: signed for another state of the repository.
    """
    metadata = parse(data, "targets")
    with judged("targets", data):
        ring.root().signed.verify_delegate("targets", metadata.signed_bytes, metadata.signatures)
    targets: Targets = metadata.signed
    if published_digest(targets, packed.manifest.name, packed.manifest.version) != packed.digest:
        raise UntrustedRelease(
            "the signed metadata is not of this release",
            found=f"digest {packed.digest}",
            expected=f"digest {published_digest(targets, packed.manifest.name, packed.manifest.version)}",
            hint="the release was built again after it was signed: sign it again",
        )
    now_there = state.targets if state else None
    if now_there and targets == now_there:
        return targets
    expected = now_there.version + 1 if now_there else 1
    wanted = {**(now_there.targets if now_there else {}), **{each.path: each for each in _targets_of(packed)}}
    if targets.version != expected or targets.targets != wanted:
        raise BadRequest(
            "the release was signed for another state of the repository",
            found=f"targets version {targets.version}",
            expected=f"targets version {expected}",
            hint="another release was published or signed meanwhile: sign this one again",
        )
    return targets


def _targets_of(packed: Packed) -> Iterator[TargetFile]:
    release = packed.manifest
    for file, kind in packed.kinds().items():
        target = TargetFile.from_file(target_path(release.name, release.version, file), str(packed.directory / file))
        target.unrecognized_fields["custom"] = {
            CUSTOM: {"kind": kind, "name": release.name, "version": release.version},
        }
        yield target


def _copy_targets(packed: Packed, targets: Targets, repository: Path, disk: Disk, progress: Progress | None) -> None:
    mine = [
        targets.targets[target_path(packed.manifest.name, packed.manifest.version, file)] for file in packed.kinds()
    ]
    total, done = sum(target.length for target in mine), 0
    for target in mine:
        path = repository / stored_path(target)
        if not (path.is_file() and hash_file(path) == (sha256_of(target), target.length)):
            disk.make_directory(path.parent)
            with (packed.directory / target.path.rsplit("/", 1)[1]).open("rb") as stream:
                written = disk.write_stream(path, pieces(stream))
            if written != (sha256_of(target), target.length):
                disk.remove(path)
                raise UntrustedRelease(f"{target.path} changed while it was published", hint="build and sign it again")
        done += target.length
        if progress:
            progress(target.path, done, total)


def _meta(signed: Signed, data: bytes) -> MetaFile:
    return MetaFile.from_data(signed.version, data, ["sha256"])


def _sweep(repository: Path, disk: Disk) -> None:
    """Remove what an interrupted write left under a temporary name. The caller holds the lock."""
    for path in list(repository.rglob(f"{TEMPORARY_PREFIX}*")):
        disk.remove(path)


def _report(
    changed: bool, root: Root, timestamp: Timestamp, snapshot: Snapshot, targets: Targets, now: datetime
) -> Published:
    signed: dict[Role, Signed] = {"root": root, "targets": targets, "snapshot": snapshot, "timestamp": timestamp}
    periods = periods_of(root)
    nearing: dict[str, str] = {
        role: text(each.expires)
        for role, each in signed.items()
        if role in {"root", "targets"} and each.expires - now < periods.of(role) / WARN_SHARE
    }
    return Published(
        changed=changed,
        timestamp=timestamp.version,
        snapshot=snapshot.version,
        targets=targets.version,
        expires={role: text(each.expires) for role, each in signed.items()},
        nearing=nearing,
    )
