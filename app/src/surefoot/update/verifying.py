"""Can this app serve what the device holds? Asked by a new app beside the one that serves. Reads only.

It needs no network and no right to write: the state's copies are read as they are, a worker of its own loads the
active release as serving would, and its golden cases are judged by its manifest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import msgspec

from surefoot import __version__
from surefoot.config import Config
from surefoot.durable import read_bounded
from surefoot.errors import DeviceUnable, SurefootError
from surefoot.release import manifest as manifests
from surefoot.release.manifest import Variant
from surefoot.runtimes.protocol import available
from surefoot.serving.measuring import Started, opened
from surefoot.serving.messages import Load
from surefoot.serving.proving import needed_bytes
from surefoot.slots.state import ReleaseRef, Slot, State
from surefoot.slots.store import Store
from surefoot.update.stores import open_store
from surefoot.watch.doctor.files import Files
from surefoot.watch.surroundings import look, too_little


class GoldenReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this app can serve one model as the device holds it. ``reasons``: why not, empty where it can.

    The rest speaks of the active release, and stays empty where there is none.
    """

    ok: bool
    reasons: tuple[str, ...] = ()
    slot: str | None = None
    version: str | None = None
    digest: str | None = None
    variant: str | None = None
    cases: int = 0
    agreed: int = 0
    worst_difference: float = 0.0
    load_s: float = 0.0
    memory_bytes: int = 0
    runtime: str = ""
    runtime_version: str = ""
    provider: str = ""


def golden(config: Config, name: str, files: Files | None = None) -> GoldenReport:
    """Load the active release of a model and run its golden cases; see that those to return to can be read.

    A damaged release to return to is not held against this app: :meth:`surefoot.slots.store.Store.verify` finds it.

    Args:
        config: the device.
        name: the model.
        files: the machine's /proc and /sys; a test's own folder has no memory left.

    Raises:
        NewerFormat: a newer app wrote the state.
    """
    store = open_store(config, name)
    state = store.read()
    unfit = tuple(_unfit_to_return_to(store, state))
    if state.active is None or state.serving is None:
        return GoldenReport(ok=not unfit, reasons=unfit)
    slot, release = state.active, state.serving
    report = GoldenReport(ok=False, slot=slot, version=release.version, digest=release.digest, variant=release.variant)
    try:
        variant = _fit(
            read_bounded(store.slot_path(slot) / manifests.FILE_NAME, manifests.MOST_MANIFEST_BYTES), release
        )
        if reason := too_little(look(files or Files()), needed_bytes(variant)):
            raise DeviceUnable("there is no room to load it beside what serves", found=reason)
        started = asyncio.run(_run(config, store, slot, release))
    except OSError as error:
        return _because(report, *unfit, f"the manifest in slot {slot} cannot be read: {error.strerror}")
    except SurefootError as error:
        return _because(report, *unfit, str(error))
    verdict, loaded = started.golden.verdict, started.loaded
    reasons = (*unfit, *verdict.reasons)
    return msgspec.structs.replace(
        report,
        ok=not reasons,
        reasons=reasons,
        cases=verdict.cases,
        agreed=verdict.agreed,
        worst_difference=verdict.worst_difference,
        load_s=loaded.load_s,
        memory_bytes=started.measured.memory_bytes,
        runtime=loaded.runtime,
        runtime_version=loaded.runtime_version,
        provider=loaded.provider,
    )


def _because(report: GoldenReport, *reasons: str) -> GoldenReport:
    return msgspec.structs.replace(report, reasons=reasons)


async def _run(config: Config, store: Store, slot: Slot, release: ReleaseRef) -> Started:
    # Where no worker has ever held the slot there is no file to lock, and none is made: the disk may take no writes.
    lock = store.slot_lock_path(slot)
    load = Load(
        directory=str(store.slot_path(slot)),
        lock=str(lock) if lock.exists() else "",
        digest=release.digest,
        variant=release.variant,
        threads=config.runtime.threads,
    )
    async with opened(load, config.runtime.load_timeout_s) as started:
        return started


def _unfit_to_return_to(store: Store, state: State) -> Iterator[str]:
    """Why this app could not serve the releases that a rollback, or the end of the trial, returns to."""
    wanted = {ref.digest: ref for ref in state.lineage if ref != state.serving}
    for directory in store.directories():
        with contextlib.suppress(OSError, DeviceUnable):  # damage is no fault of this app
            data = read_bounded(directory / manifests.FILE_NAME, manifests.MOST_MANIFEST_BYTES)
            release = wanted.pop(manifests.digest(data), None)
            if release is not None:
                try:
                    _fit(data, release)
                except SurefootError as error:
                    yield f"{release}, which the device can return to: {error}"


def _fit(data: bytes, release: ReleaseRef) -> Variant:
    """The variant that a slot holds, if this app can read its manifest and has its runtime.

    Raises:
        UntrustedRelease: it cannot read it.
        DeviceUnable: it is too old for it, or lacks the runtime.
    """
    manifest = manifests.decode(data)
    variant = manifest.variant(release.variant)
    if manifests.version_key(manifest.minimum_app_version) > manifests.version_key(__version__):
        raise DeviceUnable(
            f"release {manifest.name} {manifest.version} needs a newer app",
            found=__version__,
            expected=f"{manifest.minimum_app_version} or newer",
            hint="return the model first, or keep the newer app",
        )
    if variant.runtime not in available():
        raise DeviceUnable(
            f"release {manifest.name} {manifest.version} needs a runtime that this app does not have",
            found=", ".join(sorted(available())) or "none",
            expected=variant.runtime,
        )
    return variant
