"""What a model file names outside of itself, read before any runtime opens it.

A tensor of an ONNX file may say that its bytes are in another file (``TensorProto.external_data``). ONNX Runtime before
1.32 follows that anywhere this user may read. Field numbers: onnx.proto3 of ONNX 1.16; encoding:
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Union

Message = str
_Value = Union[int, "tuple[int, int]"]

# Of each message that a tensor can be in: the fields that lead to one, and what they hold.
_INSIDE: dict[Message, dict[int, Message]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_MOST_DEPTH = 100  # protobuf's own bound


def names_other_files(path: Path) -> bool:
    """Whether any tensor of an ONNX file has its bytes elsewhere.

    Raises:
        ValueError: it is no ONNX file, or a damaged one.
        OSError: it cannot be read.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        waiting: list[tuple[Message, int, int, int]] = [("model", 0, len(data), 0)]
        while waiting:
            message, start, end, depth = waiting.pop()
            if depth > _MOST_DEPTH:
                raise ValueError(f"its parts lie over {_MOST_DEPTH} deep in each other")
            for field, value in _fields(data, start, end):
                if message == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)):
                    return True
                inside = _INSIDE[message].get(field)
                if inside and not isinstance(value, int):
                    waiting.append((inside, *value, depth + 1))
    return False


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, _Value]]:
    """Number and value of each field: a number, or where its bytes start and end."""
    while at < end:
        tag, at = _varint(data, at, end)
        if tag >> 32:  # readers that take the low 32 bits would see another field
            raise ValueError(f"a field of a number that cannot be, before byte {at}")
        kind = tag & 7
        value: _Value = 0
        if kind == _VARINT:
            value, at = _varint(data, at, end)
        elif kind == _LENGTH:
            length, at = _varint(data, at, end)
            value = (at, at + length)
            at += length
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field of a kind that ONNX has not, before byte {at}")
        if at > end:
            raise ValueError(f"a field goes on after the end of what it is in, byte {end}")
        yield tag >> 3, value


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """The number at a place, and the place after it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number without an end, before byte {at}")
