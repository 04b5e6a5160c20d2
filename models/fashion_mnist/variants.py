"""The four artifacts and how each is run: one thread, one picture at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fashion_mnist.preprocessing import SIDE_PX, FloatArray

FOLDER = Path(__file__).resolve().parent
ARTIFACTS = FOLDER / "artifacts"
INPUT_NAME, OUTPUT_NAME = "image", "logits"


@dataclass(frozen=True)
class Variant:
    """One artifact: a version of the model in one runtime's format."""

    version: str
    runtime: str
    precision: str
    baseline: str | None
    """Name of the variant that this one is compared with; None where it is the baseline."""

    @property
    def name(self) -> str:
        """Return what reports and `recipe.json` call it."""
        return f"{self.version}-{self.runtime}"

    @property
    def path(self) -> Path:
        """Return where the artifact is."""
        suffix = {"onnx": "onnx", "tflite": "tflite"}[self.runtime]
        return ARTIFACTS / self.version / f"model.{suffix}"


VARIANTS: tuple[Variant, ...] = (
    Variant("v1", "onnx", "fp32", None),
    Variant("v1", "tflite", "fp32", None),
    Variant("v2", "onnx", "int8", "v1-onnx"),
    Variant("v2", "tflite", "int8", "v1-tflite"),
)
REFERENCE = VARIANTS[0]
"""What the other variants' probabilities are compared with."""


@dataclass(frozen=True)
class TensorFacts:
    """A tensor as the artifact itself declares it; a symbolic size is a string.

    Attributes:
        name: the tensor's name; in TFLite also its name in the signature.
        dtype: numpy's name for the type of its elements.
        shape: its sizes, in the order of `layout`.
        layout: what each size counts.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    layout: str


class Session(Protocol):
    """A loaded artifact."""

    def logits(self, image: FloatArray) -> FloatArray:
        """Return float32 [10] for one picture, float32 [1, 1, 56, 56]."""

    def input(self) -> TensorFacts:
        """Return what the artifact declares about its only input."""

    def output(self) -> TensorFacts:
        """Return what the artifact declares about its only output."""


class OnnxSession:
    """ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        # onnxruntime 1.32 carries a telemetry client that keeps a device id and calls home.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def logits(self, image: FloatArray) -> FloatArray:
        """Return float32 [10] for float32 [1, 1, 56, 56]."""
        (batch,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: image})
        row: FloatArray = batch[0]
        return row

    def input(self) -> TensorFacts:
        """Return what the file declares about its input."""
        return self._facts(self._session.get_inputs(), "NCHW")

    def output(self) -> TensorFacts:
        """Return what the file declares about its output."""
        return self._facts(self._session.get_outputs(), "NC")

    def _facts(self, nodes: list[Any], layout: str) -> TensorFacts:
        (node,) = nodes
        dtype = {"tensor(float)": "float32"}[node.type]
        return TensorFacts(node.name, dtype, tuple(node.shape), layout)


class TfliteSession:
    """LiteRT on the CPU, with XNNPACK as it comes."""

    def __init__(self, path: Path) -> None:
        interpreter = _interpreter_class()(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        self._interpreter = interpreter
        (self._input,) = interpreter.get_input_details()
        (self._output,) = interpreter.get_output_details()
        self._shape = tuple(int(size) for size in self._input["shape"])

    def logits(self, image: FloatArray) -> FloatArray:
        """Return float32 [10] for float32 [1, 1, 56, 56]."""
        # With one channel, channel first and channel last are the same bytes.
        self._interpreter.set_tensor(self._input["index"], image.reshape(self._shape))
        self._interpreter.invoke()
        row: FloatArray = self._interpreter.get_tensor(self._output["index"])[0]
        return row

    def input(self) -> TensorFacts:
        """Return what the file declares about its input."""
        layout = "NHWC" if self._shape[1:] == (SIDE_PX, SIDE_PX, 1) else "NCHW"
        return self._facts(self._input, layout)

    def output(self) -> TensorFacts:
        """Return what the file declares about its output."""
        return self._facts(self._output, "NC")

    def _facts(self, details: dict[str, Any], layout: str) -> TensorFacts:
        shape = tuple(int(size) for size in details["shape"])
        return TensorFacts(details["name"], np.dtype(details["dtype"]).name, shape, layout)


def _interpreter_class() -> Any:
    """Return LiteRT's interpreter, or that of its predecessor where only it is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        from tflite_runtime.interpreter import Interpreter
    return Interpreter


def session(variant: Variant) -> Session:
    """Load a variant's committed artifact.

    Raises:
        FileNotFoundError: the artifact is not there; the message says what makes it.
    """
    if not variant.path.is_file():
        raise FileNotFoundError(f"{variant.path} is missing: models/build makes it")
    classes: dict[str, Callable[[Path], Session]] = {"onnx": OnnxSession, "tflite": TfliteSession}
    return classes[variant.runtime](variant.path)
