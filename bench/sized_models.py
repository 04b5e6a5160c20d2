"""Real ONNX models of a wanted size, built into releases, signed and published by the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from demo import releases
from tests.app.serving import tiny_onnx

SIDE = 56
RECIPE = """
name = "{name}"
version = "{version}"
labels = ["thing"]
[card]
file = "card.md"
data = "noise"
limits = "a benchmark"
fails_where = "everywhere"
[golden]
folder = "golden"
[reference]
artifact = "model.onnx"
runtime = "onnxruntime"
preprocessing = {preprocessing}
output_kind = "logits"
[[variants]]
id = "onnx"
artifact = "model.onnx"
device_classes = ["generic-amd64", "generic-arm64", "macos-arm64"]
runtime = "onnxruntime"
inputs = [{{ name = "image", datatype = "FP32", shape = [-1, 1, {side}, {side}] }}]
outputs = [{{ name = "logits", datatype = "FP32", shape = [-1, 1] }}]
output_kind = "logits"
preprocessing = {preprocessing}
tolerance = {{ probability = 0.01 }}
"""
PREPROCESSING = f'{{ width = {SIDE}, height = {SIDE}, color = "gray", layout = "NCHW" }}'


def wide(size_bytes: int, seed: int) -> bytes:
    """Three dense layers: image float32 [batch, 1, SIDE, SIDE] to logits float32 [batch, 1]. All weights are used."""
    chance, flat = np.random.default_rng(seed), SIDE * SIDE
    width = round((-flat + (flat * flat + size_bytes) ** 0.5) / 2)  # 4 bytes * (flat * width + width * width)
    first = (chance.standard_normal((flat, width)) / flat).astype(np.float32)
    second = (chance.standard_normal((width, width)) / width).astype(np.float32)
    return tiny_onnx.model(
        tiny_onnx.node("Flatten", ["image"], ["flat"], axis=1),
        tiny_onnx.node("MatMul", ["flat", "first"], ["hidden"]),
        tiny_onnx.node("Relu", ["hidden"], ["bent"]),
        tiny_onnx.node("MatMul", ["bent", "second"], ["deeper"]),
        tiny_onnx.node("MatMul", ["deeper", "last"], ["logits"]),
        tiny_onnx.constant("first", first),
        tiny_onnx.constant("second", second),
        tiny_onnx.constant("last", np.ones((width, 1), np.float32)),
        tiny_onnx.tensor(11, "image", "FP32", ["batch", 1, SIDE, SIDE]),
        tiny_onnx.tensor(12, "logits", "FP32", ["batch", 1]),
    )


def table(size_bytes: int, seed: int) -> bytes:
    """One dense layer and a look into a table of that size: large on the disk, and quick, so that its gate is short."""
    rows = size_bytes // 1024
    chance = np.random.default_rng(seed)
    return tiny_onnx.model(
        tiny_onnx.node("Flatten", ["image"], ["flat"], axis=1),
        tiny_onnx.node("MatMul", ["flat", "weights"], ["first"]),
        tiny_onnx.node("ReduceMax", ["image"], ["brightest"], keepdims=0),
        tiny_onnx.node("Cast", ["brightest"], ["row"], to=7),
        tiny_onnx.node("Gather", ["table", "row"], ["looked_up"], axis=0),
        tiny_onnx.node("ReduceMean", ["looked_up"], ["mean"], keepdims=0),
        tiny_onnx.node("Add", ["first", "mean"], ["logits"]),
        tiny_onnx.constant("weights", np.ones((SIDE * SIDE, 1), np.float32)),
        tiny_onnx.constant("table", chance.random((rows, 256), np.float32)),
        tiny_onnx.tensor(11, "image", "FP32", ["batch", 1, SIDE, SIDE]),
        tiny_onnx.tensor(12, "logits", "FP32", ["batch", 1]),
    )


def publish(name: str, models: dict[str, bytes], work: Path, keys: Path, repository: Path) -> None:
    """Each model as the release of its version."""
    for version, model in models.items():
        folder = work / f"{name}-{version}"
        (folder / "golden").mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model)
        (folder / "card.md").write_text("# A benchmark\n")
        picture().save(folder / "golden" / "thing.png")
        (folder / "golden" / "labels.json").write_text(json.dumps({"thing.png": 0}))
        recipe = folder / "recipe.toml"
        recipe.write_text(RECIPE.format(name=name, version=version, side=SIDE, preprocessing=PREPROCESSING))
        releases.release(recipe, folder / "built", keys, repository)


def picture() -> Image.Image:
    """Grey noise."""
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE), np.uint8)
    return Image.fromarray(pixels)
