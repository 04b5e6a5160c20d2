"""Each image, started as a device starts it, answers golden cases."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.place import MODEL, SAMPLES
from images import sizes
from tests.conftest import Device, Repository
from tests.images.conftest import Image
from tests.images.container import ContainerDevice
from tests.parts.docker import Engine

RUNTIMES = {"rpi": ("onnxruntime", "tflite"), "jetson-jp6": ("onnxruntime",)}
MakeContainer = Callable[..., ContainerDevice]


def answers(device: ContainerDevice, runtime: str) -> None:
    """The model is served by that runtime, and names each sample picture as its file does."""
    status, model = device.get(f"/v2/models/{MODEL}")
    assert status == 200
    assert model["platform"] == runtime
    for sample in sorted(SAMPLES.glob("*.png")):
        status, answer = device.ask("POST", f"/v2/models/{MODEL}/classify", sample.read_bytes(), "image/png")
        assert status == 200, answer
        assert answer["label"] in sample.stem


@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite"])
def test_the_generic_image_takes_a_model_and_answers(
    runtime: str, built: Callable[..., Image], make_container: MakeContainer
) -> None:
    device = make_container(built("generic-amd64"), runtime)
    device.start()
    device.deploy()
    answers(device, runtime)


@pytest.fixture
def arm64(built: Callable[..., Image]) -> Callable[[str], Image]:
    """The arm64 images; Jetson's on our own Debian, since its vendor's base is not to be had in a test."""

    def image(target: str) -> Image:
        if target != "jetson-jp6":
            return built(target)
        return built(target, BASE_IMAGE=built("debian-arm64").name, PYTHON_VERSION="3.11")

    return image


@pytest.mark.parametrize(
    ("target", "runtime"), [(name, runtime) for name, all_ in RUNTIMES.items() for runtime in all_]
)
def test_an_arm64_image_answers_under_emulation(
    target: str,
    runtime: str,
    arm64: Callable[[str], Image],
    make_container: MakeContainer,
    make_device: Callable[..., Device],
    patient_repository: Repository,
) -> None:
    """The model is put in place natively: an emulated gate takes minutes, and is not what is shown here."""
    native = make_device("native", runtimes=[runtime])
    native.config.write_text('device_class = "generic-arm64"\n' + native.config.read_text())
    native.serve()
    native.deploy("1.0.0", patient_repository)
    device = make_container(arm64(target), runtime)
    device.take(native)
    device.start("--platform=linux/arm64")
    device.wait_for(lambda: device.get("/v2/health/ready")[0] == 200)
    answers(device, runtime)


def test_jemalloc_on_arm64_is_built_for_pages_of_64_kib_and_works_on_those_of_16(
    arm64: Callable[[str], Image], engine: Engine
) -> None:
    """PITFALLS 50: a library whose page is larger than the kernel's works; only a smaller one aborts."""
    ask = (
        "import ctypes; page, size = ctypes.c_size_t(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_size_t));"
        "lib = ctypes.CDLL('/opt/surefoot/lib/libjemalloc.so.2');"
        "assert lib.mallctl(b'arenas.page', ctypes.byref(page), ctypes.byref(size), None, 0) == 0; print(page.value)"
    )
    image = arm64("rpi").name
    done = engine.docker(
        "run", "--rm", "--platform=linux/arm64", "--network=none", "--entrypoint=python3", image, "-c", ask
    )
    assert int(done.stdout) == 65536


def test_the_jetson_image_has_cuda_bindings_and_no_tflite(arm64: Callable[[str], Image]) -> None:
    stem = str(arm64("jetson-jp6").archive).removesuffix(".docker.tar")
    licences = Path(f"{stem}.licences.tsv").read_text()
    assert re.search(r"^cuda-bindings\t12\.", licences, re.MULTILINE)
    assert "litert" not in licences
    assert "sympy" not in licences
    _, above = sizes.layers(arm64("jetson-jp6").archive)
    print(f"jetson-jp6: {above / 1e6:.1f} MB above the base")
    assert above <= 55_000_000
