"""A real ONNX model, small enough to write by hand: logits = flatten(image) x weights.

Encoded as https://protobuf.dev/programming-guides/encoding/ and the field numbers of onnx.proto3 (ONNX 1.16) say.
"""

from __future__ import annotations

import io
import struct

from PIL import Image

FLOAT, INT64 = 1, 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, shape: tuple[int, ...], kind: int, data: bytes) -> bytes:
    return b"".join(_number(1, size) for size in shape) + _number(2, kind) + _bytes(8, name) + _bytes(9, data)


def _tensor_elsewhere(name: str, shape: tuple[int, ...], location: str, length: int) -> bytes:
    """Float32 data that lies in another file, as large models keep theirs: TensorProto.external_data."""
    said = {"location": location, "offset": "0", "length": str(length)}
    entries = b"".join(_bytes(13, _bytes(1, key) + _bytes(2, value)) for key, value in said.items())
    return b"".join(_number(1, size) for size in shape) + _number(2, FLOAT) + _bytes(8, name) + entries + _number(14, 1)


def _value(name: str, *shape: int | str) -> bytes:
    sizes = [_number(1, size) if isinstance(size, int) else _bytes(2, size) for size in shape]
    dimensions = b"".join(_bytes(1, size) for size in sizes)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, FLOAT) + _bytes(2, dimensions)))


def _node(operator: str, inputs: list[str], output: str) -> bytes:
    return b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, operator)


def stripes_weights(sharpness: float = 4.0) -> bytes:
    """Float32 [9, 3]."""
    weights = [sharpness if row == label else 0.0 for row in range(3) for _ in range(3) for label in range(3)]
    return struct.pack("<27f", *weights)


def stripes_model(sharpness: float = 4.0, weights_in: str = "") -> bytes:
    """An ONNX file: float32 [N, 1, 3, 3] "image" to float32 [N, 3] "logits": which of the three rows is bright.

    Args:
        sharpness: of the logits.
        weights_in: another file that holds :func:`stripes_weights`; empty: they are in this one.
    """
    weights = stripes_weights(sharpness)
    graph = b"".join(
        [
            _bytes(1, _node("Reshape", ["image", "shape"], "flat")),
            _bytes(1, _node("MatMul", ["flat", "weights"], "logits")),
            _bytes(2, "stripes"),
            _bytes(
                5,
                _tensor_elsewhere("weights", (9, 3), weights_in, len(weights))
                if weights_in
                else _tensor("weights", (9, 3), FLOAT, weights),
            ),
            _bytes(5, _tensor("shape", (2,), INT64, struct.pack("<2q", -1, 9))),
            _bytes(11, _value("image", "N", 1, 3, 3)),
            _bytes(12, _value("logits", "N", 3)),
        ]
    )
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _bytes(1, "") + _number(2, 13))


def stripe(row: int) -> bytes:
    """A gray PNG of 3 x 3 pixels with one bright row."""
    picture = Image.new("L", (3, 3), 0)
    for column in range(3):
        picture.putpixel((column, row), 255)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
