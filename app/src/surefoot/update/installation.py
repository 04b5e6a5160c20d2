"""From a repository to a slot whose gate has passed. Nothing here moves traffic."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from surefoot import __version__
from surefoot.config import Config
from surefoot.durable import Disk, hash_file, read_bounded, taken_bytes
from surefoot.errors import DeviceUnable, SurefootError, UntrustedRelease
from surefoot.release import manifest as manifests
from surefoot.release.download import PART_SUFFIX, download, reserve
from surefoot.release.location import open_source
from surefoot.release.manifest import Manifest, Variant
from surefoot.release.source import Source
from surefoot.release.trust import Trusted, TrustStore
from surefoot.serving.baseline import Baseline
from surefoot.serving.proving import Proof, prove
from surefoot.slots.state import Slot
from surefoot.slots.store import Store
from surefoot.update.patience import Patience
from surefoot.update.stores import open_store, waiting_path

MOST_ROOT_BYTES = 512 * 1024
Tell = Callable[[str], None]


class GateFailed(DeviceUnable):
    """The release is genuine, but this device saw it fail a check that it must pass."""


class GateDeferred(DeviceUnable):
    """This device could not tell whether the release is good. Nothing is held against it; try again later."""


class InstallReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an install did. ``gate`` is ``None`` where the slot had passed it before."""

    changed: bool
    name: str
    slot: str
    version: str
    digest: str
    variant: str
    freshness: str
    gate: Proof | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an install would do, found out without changing a slot."""

    name: str
    version: str
    digest: str
    variant: str
    freshness: str
    steps: tuple[str, ...]


class Candidate(msgspec.Struct, frozen=True):
    """A release this device may believe, with the variant made for it. ``data``: the manifest's bytes as published."""

    manifest: Manifest
    data: bytes
    digest: str
    variant: Variant


def plan(config: Config, name: str, version: str, repository: str, root: Path | None = None) -> Plan:
    """Find out what :func:`install` would do: the release is looked up, believed or refused, and matched to the device.

    Nothing on the device changes: trust is walked in a copy. Raises what :func:`install` raises before it fills a slot.
    """
    store = open_store(config, name)
    with tempfile.TemporaryDirectory(prefix="surefoot-plan-") as folder:
        copy = msgspec.structs.replace(config, data_dir=Path(folder))
        if config.trust_dir.is_dir():
            shutil.copytree(config.trust_dir, copy.trust_dir)
        trusted, source = _believe(copy, repository, root)
        candidate = _candidate(copy, store, name, version, trusted, source)
    held = store.admit(candidate.manifest, candidate.digest)
    return Plan(
        name=name,
        version=candidate.manifest.version,
        digest=candidate.digest,
        variant=candidate.variant.id,
        freshness=trusted.freshness,
        steps=() if held is not None else ("gate",) if store.staged(candidate.digest) else ("fetch", "fill", "gate"),
    )


def install(
    config: Config, name: str, version: str, repository: str, root: Path | None = None, tell: Tell = lambda _: None
) -> InstallReport:
    """Bring a release into the inactive slot and make it pass its gate. What serves goes on serving.

    Args:
        config: the device.
        name: the model.
        version: MAJOR.MINOR.PATCH, or ``latest``.
        repository: folder, ``file://``, ``http://`` or ``https://``.
        root: the first trusted root, needed once on a device that has none.
        tell: called with a line for people at each step.

    Raises:
        UntrustedRelease: the repository or the release must not be believed, or has nothing for this device.
        DeviceUnable: a trial runs, no space, another operation runs.
        GateFailed: the model does not load here, disagrees with its golden cases, or breaks its budget; quarantined.
        GateDeferred: that cannot be told now; it stays in its slot, and the next install goes on with the gate.
        TransportFailed: bytes did not arrive; what did is kept for the next try.
    """
    store = open_store(config, name)
    with store.operation("install"):
        store.recover()
        _refuse_during_trial(store)
        try:
            trusted, source = _believe(config, repository, root)
            tell(f"trust: metadata verified, freshness {trusted.freshness}")
            candidate = _candidate(config, store, name, version, trusted, source)
            manifest, variant = candidate.manifest, candidate.variant
            tell(f"release: {name} {manifest.version} ({candidate.digest[:12]}), variant {variant.id}")
            held = store.admit(manifest, candidate.digest)
            if held is not None:
                return _report(name, held, candidate, trusted)
            staged = store.staged(candidate.digest)  # its gate was deferred, or cut off
            if staged is None:
                files = _fetch(config, store, candidate, trusted, source, tell)
            lay = store.take if _side_by_side(config) else store.fill
            slot = staged or lay(manifest, candidate.data, variant.id, files)
        except UntrustedRelease:
            _empty_inbox(config, name)  # nothing that came with it is used by the next try
            raise
        tell(f"slot {slot}: filled and verified")
        _empty_inbox(config, name)
        proof = _gate(config, store, slot, manifest, variant)
        tell(f"gate: {proof.summary()}")
        return _report(name, slot, candidate, trusted, proof)


def _fetch(
    config: Config, store: Store, candidate: Candidate, trusted: Trusted, source: Source, tell: Tell
) -> dict[str, Path]:
    manifest = candidate.manifest
    inbox = _inbox(config, manifest.name, manifest.version)
    wanted = (candidate.variant.artifact, manifest.golden.file, manifest.card.file)
    _take_over(inbox, wanted)
    # In the inbox, where an earlier try may have left some of it, and again in the slot where that is a copy.
    missing_bytes = sum(file.length_bytes for file in wanted) - _fetched_bytes(inbox, wanted)
    copied_bytes = 0 if _side_by_side(config) else sum(file.length_bytes for file in wanted)
    store.check_room(missing_bytes + copied_bytes)
    reserve_bytes = config.storage.reserve_bytes
    reserve(inbox, missing_bytes + reserve_bytes, f"{manifest.name} {manifest.version}")
    patience = _patience(config, manifest.name, trusted)
    files = {manifests.FILE_NAME: inbox / manifests.FILE_NAME}
    for file in wanted:
        tell(f"fetch: {file.name}, {file.length_bytes:,} bytes")
        target = f"{manifest.name}/{manifest.version}/{file.name}"
        _agree(trusted, target, file)
        with patience.trying(target, file.sha256):
            files[file.name] = download(
                source, trusted, target, inbox, Disk(), reserve_bytes=reserve_bytes, copies=_copies(store, file)
            )
    patience.clear()
    return files


def _take_over(inbox: Path, wanted: tuple[manifests.File, ...]) -> None:
    """Whole files that this release shares with one that was never finished come along; the rest of that one goes."""
    disk = Disk()
    for other in (path for path in inbox.parent.iterdir() if path != inbox):
        for file in wanted:
            here, there = inbox / file.name, other / file.name
            if not here.exists() and there.is_file() and hash_file(there) == (file.sha256, file.length_bytes):
                disk.move_file(there, here)
        disk.remove_directory(other)


def _copies(store: Store, file: manifests.File) -> Iterator[Path]:
    """Files in slots and archive that their manifests say are this one."""
    for directory in store.directories():
        with contextlib.suppress(OSError, SurefootError):
            held = manifests.decode(read_bounded(directory / manifests.FILE_NAME, manifests.MOST_MANIFEST_BYTES))
            for each in held.files():
                if each.sha256 == file.sha256:
                    yield directory / each.name


def _patience(config: Config, name: str, trusted: Trusted) -> Patience:
    return Patience(waiting_path(config, name), Disk(), trusted.timestamp_version)


def _side_by_side(config: Config) -> bool:
    """Whether what was fetched can be moved into a slot."""
    return config.inbox_dir.stat().st_dev == config.models_dir.stat().st_dev


def _inbox(config: Config, name: str, version: str) -> Path:
    return config.inbox_dir / name / version


def _empty_inbox(config: Config, name: str) -> None:
    Disk().remove_directory(config.inbox_dir / name)


def _report(name: str, slot: Slot, candidate: Candidate, trusted: Trusted, gate: Proof | None = None) -> InstallReport:
    return InstallReport(
        changed=gate is not None,
        name=name,
        slot=slot,
        version=candidate.manifest.version,
        digest=candidate.digest,
        variant=candidate.variant.id,
        freshness=trusted.freshness,
        gate=gate,
    )


def _believe(config: Config, repository: str, root: Path | None) -> tuple[Trusted, Source]:
    disk = Disk()
    disk.make_directory(config.trust_dir)
    trust = TrustStore(config.trust_dir, disk)
    if root is not None:
        try:
            trust.initialise(read_bounded(root, MOST_ROOT_BYTES))
        except OSError as error:
            raise DeviceUnable(
                f"cannot read the root of trust {root}",
                found=str(error.strerror),
                hint="name the publisher's 1.root.json, or leave --root out on a device that has one",
            ) from error
    dates = trust.reading(config.trust.clock).trusted
    source = open_source(repository, config.fetch, check_dates=dates)
    return trust.refresh(source, config.trust.clock), source


def _candidate(config: Config, store: Store, name: str, version: str, trusted: Trusted, source: Source) -> Candidate:
    versions = trusted.versions(name)
    wanted = versions[-1] if version == "latest" and versions else version
    if wanted not in versions:
        raise UntrustedRelease(
            f"the repository has no release {name} {wanted}",
            found=", ".join(versions) or "no release of that model",
            hint="publish it, or ask for one of those",
        )
    digest = trusted.manifest_digest(name, wanted)
    store.admit_version(wanted, digest)  # what is refused is not fetched
    inbox = _inbox(config, name, wanted)
    Disk().make_directory(inbox)
    target = f"{name}/{wanted}/{manifests.FILE_NAME}"
    held = (directory / manifests.FILE_NAME for directory in store.directories())
    held = (path for path in held if path.is_file() and hash_file(path)[0] == digest)
    with _patience(config, name, trusted).trying(target, digest):
        path = download(source, trusted, target, inbox, Disk(), copies=held)
    data = read_bounded(path, manifests.MOST_MANIFEST_BYTES)
    manifest = manifests.decode(data)
    if (manifest.name, manifest.version) != (name, wanted):
        raise UntrustedRelease(
            "the manifest speaks of another release than the one it was published as",
            found=f"{manifest.name} {manifest.version}",
            expected=f"{name} {wanted}",
            hint="publish the release again under its own name and version",
        )
    if manifests.version_key(manifest.minimum_app_version) > manifests.version_key(__version__):
        raise DeviceUnable(
            f"release {name} {wanted} needs a newer app",
            found=__version__,
            expected=f"{manifest.minimum_app_version} or newer",
            hint="update the app first",
        )
    variant = manifests.select_variant(manifest, config.device_class, config.runtimes)
    return Candidate(manifest, data, manifests.digest(data), variant)


def _agree(trusted: Trusted, target: str, file: manifests.File) -> None:
    """The signed metadata and the manifest must say the same of a file."""
    listed = trusted.target(target)
    if (listed.hashes.get("sha256"), listed.length) != (file.sha256, file.length_bytes):
        raise UntrustedRelease(
            f"the manifest and the signed metadata disagree about {file.name}",
            found=f"{file.sha256[:12]}, {file.length_bytes} bytes in the manifest",
            expected=f"{str(listed.hashes.get('sha256'))[:12]}, {listed.length} bytes",
            hint="build, sign and publish the release again",
        )


def _fetched_bytes(inbox: Path, wanted: tuple[manifests.File, ...]) -> int:
    """What the inbox has of the disk for the files wanted: what an earlier try has left, and room that it had taken."""
    return sum(
        min(file.length_bytes, taken_bytes(inbox / file.name) + taken_bytes(inbox / f"{file.name}{PART_SUFFIX}"))
        for file in wanted
    )


def _refuse_during_trial(store: Store) -> None:
    state = store.read()
    if state.trial is not None and state.active is not None:
        release = state.slots[state.active].release
        raise DeviceUnable(
            "an install during a trial is refused: the other slot holds the model to fall back to",
            found=f"{release.version if release else '?'} is on trial in slot {state.active}",
            hint="confirm it, reject it or roll it back first",
        )


def _gate(config: Config, store: Store, slot: Slot, manifest: Manifest, variant: Variant) -> Proof:
    try:
        proof = prove(config, store.slot_path(slot), manifest, variant, baseline=_baseline(store))
    except DeviceUnable as error:
        store.refuse(slot, str(error), evidence=False)
        raise
    reason = "; ".join(proof.reasons)
    if proof.deferred:
        store.defer(slot, reason)
        raise GateDeferred(
            f"the gate of {manifest.name} {manifest.version} is deferred: this device cannot judge it now",
            found=reason,
            expected="a device that is cool and not busy, and an interval on one side of the budget",
            hint="install it again later; it lies in its slot, and nothing is held against it",
        )
    if not proof.passed:
        store.refuse(slot, reason, evidence=True)
        raise GateFailed(
            f"{manifest.name} {manifest.version} failed its gate on this device and is quarantined",
            found=reason,
            expected="loads, agrees with its golden cases, keeps its budget",
            hint="what served goes on serving; release a corrected version",
        )
    store.mark_ready(slot)
    return proof


def _baseline(store: Store) -> Baseline | None:
    """The release that serves, for the comparison."""
    state = store.read()
    if state.active is None or state.serving is None:
        return None
    return Baseline(
        directory=store.slot_path(state.active),
        lock=store.slot_lock_path(state.active),
        digest=state.serving.digest,
        variant=state.serving.variant,
    )
