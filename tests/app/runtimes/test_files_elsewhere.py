"""A model file may name other files that hold its weights. It must not get at any: only its own bytes were verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot.runtimes import onnx
from surefoot.runtimes.onnx import OnnxRuntime
from surefoot.runtimes.onnx_file import names_other_files
from surefoot.runtimes.protocol import ModelRefused, Options
from tests.app.release import tiny_onnx
from tests.app.release.tiny_onnx import stripes_model, stripes_weights

ARTIFACTS = Path(__file__).parents[3] / "models/fashion_mnist/artifacts"


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    folder = tmp_path / "slot"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(stripes_weights())
    (folder / "weights").write_bytes(stripes_weights())
    (folder / "link").symlink_to(tmp_path / "secret")
    return folder


@pytest.mark.attack
@pytest.mark.parametrize("where", ["weights", "../secret", "../slot/../secret", "link", "absolute"])
def test_a_model_gets_at_no_other_file(slot, where):
    location = str(slot.parent / "secret") if where == "absolute" else where
    (slot / "model.onnx").write_bytes(stripes_model(weights_in=location))
    with pytest.raises(ModelRefused, match="its weights are in another file"):
        OnnxRuntime().load(slot / "model.onnx", Options())


def test_mutant_without_the_look_at_the_file_it_does(slot, monkeypatch):
    monkeypatch.setattr(onnx, "names_other_files", lambda path: False)
    (slot / "model.onnx").write_bytes(stripes_model(weights_in="weights"))
    runtime = OnnxRuntime()
    assert [tensor.name for tensor in runtime.load(slot / "model.onnx", Options()).outputs] == ["logits"]
    runtime.close()


def nested(tensor: bytes, path: str) -> bytes:
    """A model with a tensor at one of the places that may hold one; field numbers of onnx.proto3."""
    numbers = {
        "initializer": (7, 5),
        "sparse values": (7, 15, 1),
        "sparse indices": (7, 15, 2),
        "attribute": (7, 1, 5, 5),
        "attribute's list": (7, 1, 5, 10),
        "attribute's sparse": (7, 1, 5, 22, 1),
        "attribute's list of sparse": (7, 1, 5, 23, 2),
        "branch": (7, 1, 5, 6, 5),
        "list of branches": (7, 1, 5, 11, 5),
        "branch in a branch": (7, 1, 5, 6, 1, 5, 6, 5),
        "function": (25, 7, 5, 5),
        "function's default": (25, 11, 5),
        "training": (20, 1, 5),
        "training algorithm": (20, 2, 5),
    }[path]
    for number in reversed(numbers):
        tensor = tiny_onnx._bytes(number, tensor)
    return tiny_onnx._number(1, 8) + tensor


PLACES = (
    "initializer", "sparse values", "sparse indices", "attribute", "attribute's list", "attribute's sparse",
    "attribute's list of sparse", "branch", "list of branches", "branch in a branch", "function", "function's default",
    "training", "training algorithm",
)  # fmt: skip


@pytest.mark.attack
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("said", "elsewhere"),
    [
        (tiny_onnx._number(14, 1), True),
        (tiny_onnx._number(14, (1 << 32) + 1), True),  # protobuf takes the low 32 bits
        (tiny_onnx._bytes(13, tiny_onnx._bytes(1, "location")), True),
        (tiny_onnx._number(14, 0) + tiny_onnx._bytes(9, bytes(8)), False),
    ],
)
def test_every_place_that_holds_a_tensor_is_looked_at(tmp_path, place, said, elsewhere):
    (tmp_path / "model.onnx").write_bytes(nested(said, place))
    assert names_other_files(tmp_path / "model.onnx") is elsewhere


@pytest.mark.parametrize("path", [ARTIFACTS / "v1/model.onnx", ARTIFACTS / "v2/model.onnx"], ids=["v1", "v2"])
def test_real_models_are_whole(path):
    assert not names_other_files(path)


@pytest.mark.attack
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x3a\xff\xff\xff\xff\x0f", "goes on after the end"),
        (b"\x3a" + b"\xff" * 12, "number without an end"),
        (b"\x3b", "kind that ONNX has not"),
        (b"\xba\x80\x80\x80\x10\x00", "number that cannot be"),  # bit 32: protobuf would see field 7
        (b"not a model at all", ""),
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path, data, reason):
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ModelRefused, match="cannot be loaded") as caught:
        OnnxRuntime().load(tmp_path / "model.onnx", Options())
    assert reason in caught.value.found


@pytest.mark.attack
def test_parts_that_lie_too_deep_are_refused(tmp_path):
    graph = b""
    for _ in range(60):
        graph = tiny_onnx._bytes(1, tiny_onnx._bytes(5, tiny_onnx._bytes(6, graph)))
    (tmp_path / "model.onnx").write_bytes(tiny_onnx._bytes(7, graph))
    with pytest.raises(ValueError, match="deep"):
        names_other_files(tmp_path / "model.onnx")
