"""Small real releases, and the ways to take a store through them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from surefoot.config import Storage
from surefoot.durable import Disk
from surefoot.release import manifest as manifests
from surefoot.release.manifest import Card, File, Golden, Manifest, Tensor, Tolerance, Variant
from surefoot.slots.state import Slot, State
from surefoot.slots.store import Store

NAME = "tiny"
VARIANT = "generic-onnx"
STORAGE = Storage(reserve_bytes=0, archive_bytes=1 << 20, steps_back=2)


@dataclass(frozen=True)
class Release:
    """A release whose files lie in a folder."""

    manifest: Manifest
    data: bytes
    files: dict[str, Path]

    @property
    def digest(self) -> str:
        return manifests.digest(self.data)

    @property
    def version(self) -> str:
        return self.manifest.version


def make_release(folder: Path, version: str, salt: str = "", size_bytes: int = 600) -> Release:
    """A release of three small files; another ``salt`` gives another digest under the same version."""
    here = folder / f"release-{version}-{salt}"
    here.mkdir(parents=True, exist_ok=True)
    contents = {
        "model.onnx": (f"model {version} {salt} ".encode() * size_bytes)[:size_bytes],
        "golden.msgpack": b"golden cases that every version shares",
        "card.md": f"# {version}".encode(),
    }
    for name, content in contents.items():
        (here / name).write_bytes(content)
    artifact, golden, card = (_file(name, content) for name, content in contents.items())
    tensor = Tensor(name="x", datatype="FP32", shape=(-1, 1))
    variant = Variant(
        id=VARIANT,
        device_classes=("generic-amd64",),
        runtime="onnxruntime",
        artifact=artifact,
        inputs=(tensor,),
        outputs=(tensor,),
        tolerance=Tolerance(output=0.1),
    )
    manifest = Manifest(
        name=NAME,
        version=version,
        created="2025-01-01T00:00:00Z",
        variants=(variant,),
        golden=Golden(file=golden, cases=1),
        card=Card(file=card, data="d", limits="l", fails_where="f"),
    )
    data = manifests.encode(manifest)
    assert manifests.decode(data) == manifest
    return Release(manifest, data, {name: here / name for name in contents})


def _file(name: str, content: bytes) -> File:
    return File(name=name, sha256=hashlib.sha256(content).hexdigest(), length_bytes=len(content))


def open_store(
    folder: Path,
    disk: Disk | None = None,
    storage: Storage = STORAGE,
    boot: str = "boot-1",
    newest_format: int | None = None,
) -> Store:
    return Store(
        folder / "models", NAME, disk=disk, storage=storage, boot=boot, slot_wait_s=0.2, newest_format=newest_format
    )


def install(store: Store, release: Release) -> Slot:
    """Admitted, filled, its gate passed."""
    held = store.admit(release.manifest, release.digest)
    if held is not None:
        return held
    slot = store.fill(release.manifest, release.data, VARIANT, release.files)
    store.mark_ready(slot)
    return slot


def put_on_trial(store: Store, release: Release) -> State:
    return store.activate(install(store, release))


def deploy(store: Store, *releases: Release) -> State:
    """Installed, activated, tried and confirmed, one after the other."""
    state = store.read()
    for release in releases:
        state = put_on_trial(store, release)
        if state.trial is not None:
            store.record_try()
            state = store.confirm("30 inferences, 60 s")
    return state


def with_storage(**values: int) -> Storage:
    return msgspec.structs.replace(STORAGE, **values)


def serving(store: Store) -> str | None:
    """The version that serves."""
    ref = store.read().serving
    return ref.version if ref else None


def flip_a_bit(path: Path) -> None:
    """Rot, in place."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
