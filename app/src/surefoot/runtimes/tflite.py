"""TensorFlow Lite: ``ai_edge_litert``, or ``tflite_runtime`` where only that exists.

Batch: an input whose file says -1 for a size is resized to what a request brings. A size that the file fixes stays
fixed, and a request with another is refused; running such a request piece by piece would hide the cost and change
the latency that the budget was judged by.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.errors import BadRequest, DeviceUnable
from surefoot.release.manifest import DataType, Tensor
from surefoot.runtimes.protocol import DTYPES, Array, Facts, ModelRefused, Options, Signature

CPU = "CPU"
_LIBRARIES = (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime"))


class TfliteRuntime:
    """One TFLite model in one interpreter. The library is imported here, never when this module is."""

    proof = Path(__file__).with_name("proof.tflite")

    def __init__(self) -> None:
        self._library, self._version = _import_library()
        self._interpreter: Any = None
        self._inputs: dict[str, dict[str, Any]] = {}
        self._outputs: dict[str, int] = {}

    def providers(self) -> tuple[str, ...]:
        """The CPU. See :class:`surefoot.runtimes.protocol.Runtime`."""
        return (CPU,)

    def load(self, artifact: Path, options: Options) -> Signature:
        """Load a ``.tflite`` file. See :class:`surefoot.runtimes.protocol.Runtime`."""
        if options.provider not in ("", CPU):
            raise DeviceUnable(
                f"TFLite does not give the provider {options.provider}",
                found=CPU,
                expected=options.provider,
                hint="install the delegate for this accelerator; the CPU does not stand in for it",
            )
        try:
            interpreter = self._library.Interpreter(model_path=str(artifact), num_threads=options.threads)
            interpreter.allocate_tensors()
        except Exception as error:  # ValueError or RuntimeError, by version
            raise ModelRefused(
                f"{artifact.name} cannot be loaded by TFLite {self._version}",
                found=(str(error).strip().splitlines() or [type(error).__name__])[0][:500],
                hint="release a model this version can run, or update the app",
            ) from error
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        signature = Signature(
            inputs=tuple(_tensor(detail) for detail in inputs), outputs=tuple(_tensor(detail) for detail in outputs)
        )
        self._inputs = {detail["name"]: detail for detail in inputs}
        self._outputs = {detail["name"]: detail["index"] for detail in outputs}
        return signature

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. See :class:`surefoot.runtimes.protocol.Runtime`."""
        if set(inputs) != set(self._inputs):
            raise BadRequest(
                "TFLite needs every input once", found=", ".join(inputs), expected=", ".join(sorted(self._inputs))
            )
        try:
            self._resize(inputs)
            for name, array in inputs.items():
                self._interpreter.set_tensor(self._inputs[name]["index"], np.ascontiguousarray(array))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise BadRequest(
                "TFLite refuses these inputs", found=(str(error).strip().splitlines() or [""])[0][:500]
            ) from error
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}

    def _resize(self, inputs: Mapping[str, Array]) -> None:
        changed = False
        for name, array in inputs.items():
            detail = self._inputs[name]
            if tuple(detail["shape"]) == array.shape:
                continue
            free = _shape(detail)
            if len(free) != array.ndim or any(a not in (-1, b) for a, b in zip(free, array.shape, strict=True)):
                raise BadRequest(
                    f"input {name} has a shape the model does not take",
                    found=str(list(array.shape)),
                    expected=str(list(free)),
                )
            self._interpreter.resize_tensor_input(detail["index"], array.shape, strict=True)
            changed = True
        if changed:
            self._interpreter.allocate_tensors()
            self._inputs = {detail["name"]: detail for detail in self._interpreter.get_input_details()}

    def facts(self) -> Facts:
        """Version and provider really in use."""
        return Facts(runtime="tflite", version=self._version, provider=CPU)

    def close(self) -> None:
        """Free the interpreter."""
        self._interpreter = None


def _import_library() -> tuple[Any, str]:
    missing: list[ImportError] = []
    for module, distribution in _LIBRARIES:
        try:
            return import_module(f"{module}.interpreter"), metadata.version(distribution)
        except ImportError as error:
            missing.append(error)
    absent = all(isinstance(error, ModuleNotFoundError) for error in missing)  # else: there, and broken
    raise (ModuleNotFoundError if absent else ImportError)("; ".join(map(str, missing)))


def _shape(detail: dict[str, Any]) -> tuple[int, ...]:
    signature = detail.get("shape_signature")
    return tuple(int(size) for size in (detail["shape"] if signature is None or len(signature) == 0 else signature))


def _tensor(detail: dict[str, Any]) -> Tensor:
    name: DataType
    for name, dtype in DTYPES.items():  # type: ignore[assignment]  # its keys are the literals of DataType
        if dtype == np.dtype(detail["dtype"]):
            return Tensor(name=detail["name"], datatype=name, shape=_shape(detail))
    raise ModelRefused(
        f"tensor {detail['name']} has a type that cannot be carried",
        found=str(detail["dtype"]),
        expected=", ".join(DTYPES),
    )
