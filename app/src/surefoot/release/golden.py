"""Golden cases: real inputs with the output that the FP32 model gives, shipped in the release.

The file is one MessagePack array (https://msgpack.org) of :class:`Case`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from surefoot.errors import UntrustedRelease
from surefoot.release.manifest import DataType

MOST_GOLDEN_BYTES = 64 * 1024 * 1024


class RawTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor as bytes, C order, little endian."""

    datatype: DataType
    shape: Annotated[tuple[int, ...], Meta(max_length=8)]
    data: bytes


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input and what must come out.

    Either ``image`` (an encoded PNG or JPEG, taken through the variant's preprocessing) or ``inputs``.
    ``expected``: for each output the values, flat, C order; probabilities where the variant's output is logits.
    """

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    expected: dict[str, list[float]]
    label: int | None = None
    image: bytes | None = None
    inputs: dict[str, RawTensor] | None = None


def encode(cases: list[Case]) -> bytes:
    """The cases as the bytes of the golden file."""
    return msgspec.msgpack.encode(cases)


def decode(data: bytes) -> list[Case]:
    """Read golden cases.

    Raises:
        UntrustedRelease: too long, not a list of cases, empty, or a case with no input or with two.
    """
    if len(data) > MOST_GOLDEN_BYTES:
        raise UntrustedRelease(
            "the golden file is too long", found=f"{len(data)} bytes", expected=f"<= {MOST_GOLDEN_BYTES}"
        )
    try:
        cases = msgspec.msgpack.decode(data, type=list[Case])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UntrustedRelease("the golden file is not valid", found=str(error)) from error
    if not cases:
        raise UntrustedRelease("the release has no golden cases", expected="at least one a class")
    for case in cases:
        if (case.image is None) == (case.inputs is None):
            raise UntrustedRelease(f"golden case {case.id} needs either an image or tensors as input")
    return cases
