"""A model file may name other files that hold its weights. It must not get at any outside of its own folder."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from surefoot.runtimes.onnx import OnnxRuntime
from surefoot.runtimes.protocol import ModelRefused, Options
from tests.app.release.tiny_onnx import stripes_model, stripes_weights


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    folder = tmp_path / "slot"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(stripes_weights())
    (folder / "weights").write_bytes(stripes_weights())
    (folder / "link").symlink_to(tmp_path / "secret")
    return folder


# 1.23.2, the lowest that is supported, reads any file; 1.32 is known to refuse. Between them nobody has looked.
OLD = tuple(int(part) for part in version("onnxruntime").split(".")[:2]) < (1, 32)


@pytest.mark.xfail(OLD, reason="ONNX Runtime before 1.32 may read weights from any file", strict=False)
@pytest.mark.parametrize("where", ["../secret", "../slot/../secret", "link", "absolute"])
def test_a_model_gets_at_no_file_outside_of_its_folder(slot, where):
    location = str(slot.parent / "secret") if where == "absolute" else where
    (slot / "model.onnx").write_bytes(stripes_model(weights_in=location))
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        OnnxRuntime().load(slot / "model.onnx", Options())


def test_a_file_beside_it_is_read_so_the_refusals_are_of_the_place(slot):
    (slot / "model.onnx").write_bytes(stripes_model(weights_in="weights"))
    runtime = OnnxRuntime()
    assert [tensor.name for tensor in runtime.load(slot / "model.onnx", Options()).outputs] == ["logits"]
    runtime.close()
