"""JSON numbers to the bytes of a tensor and back, refusing whatever would change a value on the way.

Without numpy: it is a tenth of what an idle device holds in memory, and the gateway only hands tensors on.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec

from surefoot.errors import BadRequest

# As struct writes them: https://docs.python.org/3/library/struct.html#format-characters
FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
SIZES = {datatype: struct.calcsize("<" + letter) for datatype, letter in FORMATS.items()}

_floats = msgspec.json.Decoder(list[float])
_integers = msgspec.json.Decoder(list[int])
_booleans = msgspec.json.Decoder(list[bool])
_anything = msgspec.json.Decoder(list[Any])


def to_bytes(name: str, data: bytes, datatype: str, shape: tuple[int, ...]) -> bytes:
    """Parse the ``data`` of one input: flat, or nested exactly as ``shape`` says, row-major.

    Args:
        name: the input, for errors.
        data: a JSON array.
        datatype: of the protocol.
        shape: what the values must fill.

    Raises:
        BadRequest: not an array, a value of another kind or out of range, another count, another nesting.
    """
    values = _values(name, data, datatype, shape)
    count = math.prod(shape)
    if len(values) != count:
        raise BadRequest(
            f"input {name} has the wrong number of values",
            found=f"{len(values)} values",
            expected=f"{count} for shape {list(shape)}",
        )
    try:
        if datatype.startswith("FP") and not all(map(math.isfinite, values)):
            raise OverflowError
        return struct.pack(f"<{count}{FORMATS[datatype]}", *values)
    except (OverflowError, struct.error) as error:
        raise BadRequest(f"input {name} has a value that {datatype} cannot hold") from error


def to_numbers(part: memoryview, datatype: str) -> tuple[Any, ...]:
    """The values of a tensor. ``part``: its bytes, little endian."""
    return struct.unpack(f"<{len(part) // SIZES[datatype]}{FORMATS[datatype]}", part)


def _values(name: str, data: bytes, datatype: str, shape: tuple[int, ...]) -> list[Any]:
    decoder: Any = _booleans if datatype == "BOOL" else _floats if datatype.startswith("FP") else _integers
    try:
        values: list[Any] = decoder.decode(data)
        return values
    except (msgspec.DecodeError, RecursionError) as error:
        flat = _flatten(data, shape)
        if flat is None:
            raise BadRequest(
                f"input {name}: data cannot be read as {datatype}",
                found=str(error)[:200],
                expected=f"numbers, flat or nested as {list(shape)}",
            ) from error
    return _values(name, msgspec.json.encode(flat), datatype, ())


def _flatten(data: bytes, shape: tuple[int, ...]) -> list[Any] | None:
    """The leaves of an array that is nested as ``shape`` says; ``None`` if it is not."""
    if len(shape) < 2:
        return None
    try:
        level: list[Any] = _anything.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
    if len(level) != shape[0]:
        return None
    for size in shape[1:]:
        if not all(isinstance(part, list) and len(part) == size for part in level):
            return None
        level = [leaf for part in level for leaf in part]
    return level
