"""Write the INT8 artifacts from the FP32 ones: `python -m fashion_mnist.quantize`.

Both are static and per channel, calibrated on the same real training pictures, and keep
float32 at both ends, so that a device feeds either version the same tensor.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from ai_edge_quantizer import quantizer, recipe
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import TFLOperationName

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from fashion_mnist.data import training_and_validation
from fashion_mnist.preprocessing import LABELS, FloatArray, batch_tensor
from fashion_mnist.tflite_file import name_ends
from fashion_mnist.variants import INPUT_NAME, VARIANTS, Variant

IMAGES_PER_CLASS = 40
IMAGES_SEED = 8
ACTIVATION_PERCENTILE = 99.99
"""Activations beyond it are clipped; 99.9, 99.999 and none at all agreed less with FP32 on validation."""


def calibration_images() -> FloatArray:
    """Return float32 [400, 1, 56, 56]: training images, as many of each class, shuffled."""
    training, _ = training_and_validation()
    order = np.random.default_rng(IMAGES_SEED).permutation(len(training))
    labels = training.labels[order]
    rows = [order[labels == label][:IMAGES_PER_CLASS] for label in range(len(LABELS))]
    chosen = np.random.default_rng(IMAGES_SEED).permutation(np.concatenate(rows))
    return batch_tensor(training.images[chosen])


class ImageReader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    """Hands onnxruntime's calibrator one picture at a time."""

    def __init__(self, images: FloatArray) -> None:
        self._images: Iterator[FloatArray] = iter(images[:, np.newaxis])

    def get_next(self) -> dict[str, FloatArray] | None:
        """Return the next picture by its input name, or None after the last."""
        image = next(self._images, None)
        return None if image is None else {INPUT_NAME: image}


def write_onnx(source: Path, target: Path, images: FloatArray) -> None:
    """Write QDQ with uint8 activations and int8 weights.

    Those are the pair that onnxruntime fuses on x86: with int8 activations a picture took more than three times
    as long. Weights keep to seven bits (`reduce_range`): a processor without VNNI adds two products of eight by
    eight bits in sixteen, saturating. On one of those, weights of eight bits cost 4 points of validation
    accuracy; on another processor the same file would answer differently.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared)
        quantize_static(
            prepared,
            target,
            ImageReader(images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": ACTIVATION_PERCENTILE},
        )
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)


def write_tflite(source: Path, target: Path, images: FloatArray) -> None:
    """Write INT8 TFLite whose input and output stay float32."""
    rewriter = quantizer.Quantizer(str(source))
    rewriter.load_quantization_recipe(recipe.static_wi8_ai8())
    for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
        rewriter.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    samples = [{INPUT_NAME: image[np.newaxis, 0, :, :, np.newaxis]} for image in images]
    found = rewriter.calibrate({"serving_default": samples}, num_threads=1)
    rewriter.quantize(found).export_model(str(target), overwrite=True)
    name_ends(target)


def source_of(variant: Variant) -> Variant:
    """Return the FP32 variant that this INT8 variant is made from."""
    return next(v for v in VARIANTS if v.name == variant.baseline)


def main() -> None:
    """Write both INT8 artifacts."""
    images = calibration_images()
    print(f"calibrating on {len(images)} training images, seed {IMAGES_SEED}", flush=True)
    writers = {"onnx": write_onnx, "tflite": write_tflite}
    for variant in VARIANTS:
        if variant.precision == "int8":
            variant.path.parent.mkdir(parents=True, exist_ok=True)
            writers[variant.runtime](source_of(variant).path, variant.path, images)
            print(f"{variant.name}: {variant.path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
