"""JSON numbers to one flat array of a datatype, refusing whatever would change a value on the way."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from surefoot.errors import BadRequest
from surefoot.runtimes.protocol import DTYPES

_floats = msgspec.json.Decoder(list[float])
_integers = msgspec.json.Decoder(list[int])
_booleans = msgspec.json.Decoder(list[bool])
_anything = msgspec.json.Decoder(list[Any])


def flat_array(name: str, data: bytes, datatype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Parse the ``data`` of one input: flat, or nested exactly as ``shape`` says, row-major.

    Args:
        name: the input, for errors.
        data: a JSON array.
        datatype: of the protocol.
        shape: what the values must fill.

    Raises:
        BadRequest: not an array, a value of another kind or out of range, another count, another nesting.
    """
    dtype = DTYPES[datatype]
    values = _values(name, data, datatype, shape)
    count = math.prod(shape)
    if len(values) != count:
        raise BadRequest(
            f"input {name} has the wrong number of values",
            found=f"{len(values)} values",
            expected=f"{count} for shape {list(shape)}",
        )
    if dtype.kind in "iu" and (min(values) < np.iinfo(dtype).min or max(values) > np.iinfo(dtype).max):
        raise _out_of_range(name, datatype)
    with np.errstate(over="ignore"):
        result = np.array(values, np.float64 if dtype.kind == "f" else dtype).astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(result).all():
        raise _out_of_range(name, datatype)
    return result


def _values(name: str, data: bytes, datatype: str, shape: tuple[int, ...]) -> list[Any]:
    decoder: Any = {"f": _floats, "b": _booleans}.get(DTYPES[datatype].kind, _integers)
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


def _out_of_range(name: str, datatype: str) -> BadRequest:
    return BadRequest(f"input {name} has a value that {datatype} cannot hold")
