"""Each image, started as a device starts it, answers golden cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from demo.place import MODEL, SAMPLES
from tests.images.conftest import Image
from tests.images.container import ContainerDevice


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
@pytest.mark.parametrize("target", ["generic-amd64", "rpi"])
def test_an_image_serves_golden_cases_with_nothing_but_its_two_folders(
    target: str, runtime: str, built: Callable[..., Image], make_container: Callable[..., ContainerDevice]
) -> None:
    device = make_container(built(target), runtime)
    device.start()
    device.deploy()
    answers(device, runtime)
