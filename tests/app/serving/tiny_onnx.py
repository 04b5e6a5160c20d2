"""Writes small, real ONNX files by hand, so that a test can have a model with weights, shapes or faults of its choice.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import itertools

import numpy as np

_TYPES = {"FP32": 1, "UINT8": 2, "INT8": 3, "INT32": 6, "INT64": 7, "BOOL": 9, "FP16": 10, "FP64": 11}


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: int) -> bytes:
    body = b"".join(_bytes(1, name) for name in inputs) + b"".join(_bytes(2, name) for name in outputs)
    body += _bytes(3, outputs[0] + "_node") + _bytes(4, kind)
    for name, value in attributes.items():
        body += _bytes(5, _bytes(1, name) + _number(3, value) + _number(20, 2))
    return _bytes(1, body)


def constant(name: str, array: np.ndarray, datatype: str = "FP32") -> bytes:
    body = b"".join(_number(1, size) for size in array.shape) + _number(2, _TYPES[datatype])
    return _bytes(5, body + _bytes(8, name) + _bytes(9, array.tobytes()))


def tensor(field: int, name: str, datatype: str, shape: list[int | str]) -> bytes:
    sizes = b"".join(_bytes(1, _bytes(2, size) if isinstance(size, str) else _number(1, size)) for size in shape)
    kind = _bytes(1, _number(1, _TYPES[datatype]) + _bytes(2, sizes))
    return _bytes(field, _bytes(1, name) + _bytes(2, kind))


def model(*parts: bytes, opset: int = 13) -> bytes:
    graph = b"".join(parts) + _bytes(2, "graph")
    return _number(1, 8) + _bytes(2, "surefoot-tests") + _bytes(7, graph) + _bytes(8, _number(2, opset))


def classifier(weights: np.ndarray, bias: np.ndarray, side: int, batch: int | str = "batch") -> bytes:
    """``logits = flatten(image) @ weights + bias``: image float32 [batch, 1, side, side], logits float32 [batch, C]."""
    return model(
        node("Flatten", ["image"], ["flat"], axis=1),
        node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        constant("weights", weights.astype(np.float32)),
        constant("bias", bias.astype(np.float32)),
        tensor(11, "image", "FP32", [batch, 1, side, side]),
        tensor(12, "logits", "FP32", [batch, len(bias)]),
    )


def identity(datatype: str) -> bytes:
    """``y = x`` for any datatype, shape [batch, 3]."""
    return model(
        node("Identity", ["x"], ["y"]),
        tensor(11, "x", datatype, ["batch", 3]),
        tensor(12, "y", datatype, ["batch", 3]),
    )


def slow(rounds: int, side: int = 256) -> bytes:
    """A chain of matrix products that takes a while: x float32 [side, side] to y of the same shape."""
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal((side, side)) / np.sqrt(side)).astype(np.float32)
    parts = [constant("weights", weights), tensor(11, "x", "FP32", [side, side]), tensor(12, "y", "FP32", [side, side])]
    names = ["x", *(f"h{index}" for index in range(rounds - 1)), "y"]
    parts += [node("MatMul", [before, "weights"], [after]) for before, after in itertools.pairwise(names)]
    return model(*parts)
