"""A device in a folder, with real stores, real releases and a real server."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from surefoot.config import Config, Gateway, Runtime, Storage, Trial, default_device_class
from surefoot.release import golden, manifest
from surefoot.release.manifest import (
    Calibration,
    Card,
    File,
    Golden,
    ImagePreprocessing,
    Manifest,
    Tensor,
    Tolerance,
    Variant,
)
from surefoot.runtimes.calibrated import softmax
from surefoot.runtimes.preprocessing import image_to_tensor
from surefoot.serving.admin import AdminClient
from surefoot.serving.detach import start_detached
from surefoot.serving.endpoint import Endpoint
from surefoot.slots.store import Store
from tests.app.serving import tiny_onnx

SIDE = 8
LABELS = ("ant", "bee", "cat")
SPEC = ImagePreprocessing(width=SIDE, height=SIDE, color="gray", layout="NCHW", mean=(0.3,), std=(0.35,))
WAIT_S = 30.0


class Release(msgspec.Struct, frozen=True):
    """A release that is not published anywhere: its files as bytes."""

    manifest: Manifest
    data: bytes
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        return manifest.digest(self.data)


def picture(seed: int = 0, side: int = 12) -> bytes:
    """A PNG of grey noise."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def weights(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((SIDE * SIDE, len(LABELS))).astype(np.float32) / SIDE, np.zeros(len(LABELS), np.float32)


def _file(name: str, data: bytes) -> File:
    import hashlib

    return File(name=name, sha256=hashlib.sha256(data).hexdigest(), length_bytes=len(data))


def release_of(
    variant: Variant, artifact: bytes, cases: list[golden.Case], *, name: str, version: str, labels: tuple[str, ...]
) -> Release:
    """Put a release together."""
    golden_data, card = golden.encode(cases), b"# card\n"
    variant = msgspec.structs.replace(variant, artifact=_file(variant.artifact.name, artifact))
    whole = Manifest(
        name=name,
        version=version,
        created="2026-01-01T00:00:00Z",
        variants=(variant,),
        golden=Golden(file=_file("golden.msgpack", golden_data), cases=len(cases)),
        card=Card(file=_file("card.md", card), data="noise", limits="a test", fails_where="everywhere"),
        labels=labels,
    )
    files = {variant.artifact.name: artifact, "golden.msgpack": golden_data, "card.md": card}
    return Release(whole, manifest.encode(whole), files)


def classifier_release(
    version: str = "1.0.0",
    *,
    name: str = "tiny",
    seed: int = 1,
    cases: int = 6,
    artifact: bytes | None = None,
    spoil: Callable[[golden.Case], golden.Case] = lambda case: case,
    temperature: float = 1.5,
) -> Release:
    """A small classifier of pictures; ``seed`` chooses its weights, so that versions answer differently."""
    matrix, bias = weights(seed)
    made = []
    for index in range(cases):
        image = picture(100 + index)
        logits = image_to_tensor(image, SPEC).reshape(1, -1) @ matrix + bias
        expected = softmax(logits)[0]
        case = golden.Case(f"case-{index}", {"logits": expected.tolist()}, int(expected.argmax()), image=image)
        made.append(spoil(case))
    variant = Variant(
        id="onnx-fp32",
        device_classes=(default_device_class(),),
        runtime="onnxruntime",
        artifact=File(name="model.onnx", sha256="0" * 64, length_bytes=1),
        inputs=(Tensor(name="image", datatype="FP32", shape=(-1, 1, SIDE, SIDE)),),
        outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, len(LABELS))),),
        tolerance=Tolerance(probability=0.01),
        preprocessing=SPEC,
        output_kind="logits",
        calibration=Calibration(temperature=temperature),
    )
    data = artifact if artifact is not None else tiny_onnx.classifier(matrix, bias, SIDE)
    return release_of(variant, data, made, name=name, version=version, labels=LABELS)


def slow_release(rounds: int, version: str = "1.0.0", *, name: str = "slow", side: int = 256) -> Release:
    """A model that takes a while for each answer."""
    raw = golden.RawTensor("FP32", (side, side), np.zeros((side, side), np.float32).tobytes())
    case = golden.Case("zeros", {"y": [0.0] * side * side}, None, inputs={"x": raw})
    variant = Variant(
        id="onnx-fp32",
        device_classes=(default_device_class(),),
        runtime="onnxruntime",
        artifact=File(name="model.onnx", sha256="0" * 64, length_bytes=1),
        inputs=(Tensor(name="x", datatype="FP32", shape=(side, side)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(side, side)),),
        tolerance=Tolerance(output=0.001),
    )
    return release_of(variant, tiny_onnx.slow(rounds, side), [case], name=name, version=version, labels=())


def dense_release(runtime: str, version: str = "1.0.0") -> Release:
    """One layer, x float32 [batch, 12] to y float32 [batch, 4], as a file of either runtime; named after it."""
    from tests.app.runtimes.contract import test_contract as contract

    given = contract.x()
    case = golden.Case(
        "one",
        {"y": (given @ contract.WEIGHTS + contract.BIAS)[0].tolist()},
        inputs={"x": golden.RawTensor("FP32", given.shape, given.tobytes())},
    )
    variant = Variant(
        id=f"{runtime}-fp32",
        device_classes=(default_device_class(),),
        runtime=runtime,
        artifact=File(name="model.bin", sha256="0" * 64, length_bytes=1),
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, contract.WIDE)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, contract.CLASSES)),),
        tolerance=Tolerance(output=0.001),
    )
    return release_of(variant, contract.MODELS[runtime](True), [case], name=runtime, version=version, labels=())


class Device:
    """A device in a folder. ``start`` and ``stop`` run a real server as a process of its own."""

    def __init__(self, root: Path, **gateway: object) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        settings = {"port": 0, "request_timeout_s": 10.0, "drain_timeout_s": 10.0, **gateway}
        self.config = Config(
            data_dir=root / "data",
            run_dir=root / "run",
            device_class=default_device_class(),
            gateway=Gateway(**settings),
            runtime=Runtime(load_timeout_s=30.0),
            trial=Trial(tries=3, min_seconds=0.0, min_inferences=1),
            storage=Storage(reserve_bytes=1 << 20),
        )
        self.endpoint: Endpoint | None = None

    def store(self, name: str = "tiny") -> Store:
        return Store(self.config.models_dir, name, storage=self.config.storage, tries=self.config.trial.tries)

    def fill(self, release: Release) -> str:
        """Into the inactive slot, gate not looked at."""
        store = self.store(release.manifest.name)
        inbox = self.root / "inbox"
        inbox.mkdir(exist_ok=True)
        files = {}
        for name, data in release.files.items():
            (inbox / name).write_bytes(data)
            files[name] = inbox / name
        self.config.models_dir.mkdir(parents=True, exist_ok=True)
        store.recover()
        return store.fill(release.manifest, release.data, release.manifest.variants[0].id, files)

    def activate(self, release: Release) -> str:
        """Fill, skip the gate, activate: on trial."""
        slot = self.fill(release)
        store = self.store(release.manifest.name)
        store.mark_ready(slot)
        store.activate(slot)
        return slot

    def confirm(self, release: Release) -> str:
        """Fill, activate and confirm without a server."""
        slot = self.activate(release)
        self.store(release.manifest.name).confirm("a test says so")
        return slot

    def start(self) -> Endpoint:
        self.endpoint = start_detached(self.config)
        return self.endpoint

    @property
    def url(self) -> str:
        assert self.endpoint is not None
        return self.endpoint.url

    @property
    def admin(self) -> AdminClient:
        return AdminClient.connect(self.config)

    def log(self) -> str:
        path = self.config.run_dir / "serve.log"
        return path.read_text() if path.exists() else ""

    def stop(self) -> None:
        from surefoot.serving import endpoint

        if self.endpoint is not None and endpoint.running(self.config.run_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.endpoint.pid, signal.SIGTERM)
            if not settles(lambda: not endpoint.running(self.config.run_dir), 20.0):
                os.kill(self.endpoint.pid, signal.SIGKILL)


def open_files(pid: int) -> list[str]:
    """What a process has open, as Linux's /proc names it: paths, ``pipe:[…]``. Some may be gone by now."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(each.readlink()))
    return found


def settles(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> bool:
    """Wait until something is so; whether it came to be in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)  # polling what another process does; the condition decides, not the time
    return condition()


@contextlib.contextmanager
def running(device: Device) -> Iterator[Device]:
    """The device's server, for the length of the block."""
    device.start()
    try:
        yield device
    finally:
        device.stop()


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run this interpreter."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)
