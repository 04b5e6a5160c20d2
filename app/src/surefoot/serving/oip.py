"""The Open Inference Protocol v2 on HTTP, without IO: bytes to a typed request, tensors to bytes.

Follows https://github.com/kserve/open-inference-protocol (REST) and the binary tensor extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
Not offered, and refused by name: BYTES tensors, shared memory, the classification extension.
A value that is not finite has no JSON; it becomes ``null`` there. Binary outputs carry it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from surefoot.errors import BadRequest
from surefoot.release.manifest import Tensor
from surefoot.serving.messages import TensorHead
from surefoot.serving.tensors import SIZES, to_bytes, to_numbers

MOST_TENSORS = 64
MOST_TIMEOUT_US = 3_600_000_000
_SHARED_MEMORY = "shared_memory_region"


class OutputWanted(msgspec.Struct, frozen=True):
    """One output to return, and whether as bytes behind the JSON."""

    name: str
    binary: bool


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that fits its model. ``payload``: the tensors' bytes in the order of ``inputs``."""

    id: str | None
    inputs: tuple[TensorHead, ...]
    payload: list[memoryview]
    outputs: tuple[OutputWanted, ...]
    timeout_s: float | None = None


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_requests = msgspec.json.Decoder(_Request)
_json = msgspec.json.Encoder()


def parse(body: bytes, header_length: str | None, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> InferRequest:
    """Read the body of ``POST /v2/models/<model>/infer``.

    Args:
        body: the whole body.
        header_length: value of ``Inference-Header-Content-Length``, ``None`` without that header.
        inputs: what the model takes.
        outputs: what the model gives.

    Raises:
        BadRequest: not a request of the protocol, or one that does not fit the model; says what was expected.
    """
    head, binary = _split(body, header_length)
    try:
        request = _requests.decode(head)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(
            "the request is not an inference request",
            found=str(error) if head else "an empty body",
            expected='a JSON object with "inputs"',
        ) from error
    if len(request.inputs) > MOST_TENSORS:
        raise BadRequest("too many inputs", found=str(len(request.inputs)), expected=f"at most {MOST_TENSORS}")
    _same_names([tensor.name for tensor in request.inputs], [tensor.name for tensor in inputs])
    declared = {tensor.name: tensor for tensor in inputs}
    heads: list[TensorHead] = []
    payload: list[memoryview] = []
    at = 0
    for tensor in request.inputs:
        _fits(tensor, declared[tensor.name])
        size = math.prod(tensor.shape) * SIZES[tensor.datatype]
        stated = tensor.parameters.get("binary_data_size")
        if stated is None:
            part = memoryview(to_bytes(tensor.name, bytes(tensor.data), tensor.datatype, tuple(tensor.shape)))
        else:
            _binary_size(tensor, stated, size, len(binary) - at)
            part = binary[at : at + size]
            _booleans(tensor, part)
            at += size
        heads.append(TensorHead(tensor.name, declared[tensor.name].datatype, tuple(tensor.shape), size))
        payload.append(part)
    if at != len(binary):
        raise BadRequest(
            "bytes are left over after the binary tensors",
            found=f"{len(binary)} bytes behind the JSON",
            expected=f"{at} bytes, the sum of binary_data_size",
        )
    parameters = request.parameters or {}
    wanted = _outputs(request.outputs, bool(parameters.get("binary_data_output", False)), outputs)
    return InferRequest(
        id=request.id, inputs=tuple(heads), payload=payload, outputs=wanted, timeout_s=_timeout(parameters)
    )


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return view, view[:0]
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 16):
        raise BadRequest("Inference-Header-Content-Length is not a number", found=repr(header_length[:40]))
    length = int(header_length)
    if length > len(body):
        raise BadRequest(
            "Inference-Header-Content-Length is longer than the body",
            found=str(length),
            expected=f"at most {len(body)}",
        )
    return view[:length], view[length:]


def _same_names(found: list[str], expected: list[str]) -> None:
    if sorted(found) != sorted(expected):
        raise BadRequest(
            "the inputs are not those of the model",
            found=", ".join(found)[:500] or "none",
            expected=", ".join(expected),
            hint="GET /v2/models/<model> describes them",
        )


def _fits(tensor: _Input, declared: Tensor) -> None:
    if tensor.datatype != declared.datatype:
        hint = "BYTES tensors are not taken; send pictures to /v2/models/<model>/classify"
        raise BadRequest(
            f"input {tensor.name} has the wrong datatype",
            found=tensor.datatype[:40],
            expected=declared.datatype,
            hint=hint if tensor.datatype == "BYTES" else "",
        )
    shape = tensor.shape
    if len(shape) != len(declared.shape) or any(
        size < 1 or size != want != -1 for size, want in zip(shape, declared.shape, strict=True)
    ):
        raise BadRequest(
            f"input {tensor.name} has the wrong shape",
            found=str(shape[:16]),
            expected=f"{list(declared.shape)}" + (", -1 is any size from 1" if -1 in declared.shape else ""),
        )
    if any(size > 1 << 31 for size in shape):
        raise BadRequest(f"input {tensor.name} is too large", found=str(shape))
    if _SHARED_MEMORY in tensor.parameters:
        raise BadRequest(f"input {tensor.name} asks for shared memory, which this server does not offer")
    given = len(bytes(tensor.data)) > 0
    if ("binary_data_size" in tensor.parameters) == given:
        raise BadRequest(
            f"input {tensor.name} needs its values once",
            found="both" if given else "neither",
            expected="data, or parameters.binary_data_size with the bytes behind the JSON",
        )


def _binary_size(tensor: _Input, stated: object, size: int, left: int) -> None:
    if stated != size or isinstance(stated, bool):
        raise BadRequest(
            f"input {tensor.name}: binary_data_size is not what shape and datatype need",
            found=str(stated)[:40],
            expected=f"{size} bytes for {tensor.datatype} {tensor.shape}",
        )
    if size > left:
        raise BadRequest(f"input {tensor.name} is cut short", found=f"{left} bytes", expected=f"{size} bytes")


def _booleans(tensor: _Input, part: memoryview) -> None:
    if tensor.datatype == "BOOL" and bytes(part).strip(b"\0\1"):
        raise BadRequest(f"input {tensor.name}: a BOOL byte is neither 0 nor 1")


def _outputs(asked: list[_Output] | None, binary: bool, offered: Sequence[Tensor]) -> tuple[OutputWanted, ...]:
    names = [tensor.name for tensor in offered]
    if not asked:
        return tuple(OutputWanted(name, binary) for name in names)
    wanted = [output.name for output in asked]
    if len(set(wanted)) != len(wanted) or not set(wanted) <= set(names):
        raise BadRequest(
            "the outputs asked for are not those of the model",
            found=", ".join(wanted)[:500],
            expected=f"each at most once: {', '.join(names)}",
        )
    for output in asked:
        for refused in (_SHARED_MEMORY, "classification"):
            if output.parameters.get(refused):
                raise BadRequest(f"output {output.name} asks for {refused}, which this server does not offer")
    return tuple(OutputWanted(output.name, bool(output.parameters.get("binary_data", binary))) for output in asked)


def _timeout(parameters: dict[str, Any]) -> float | None:
    """The parameter ``timeout`` in microseconds, as Triton has it. It can only shorten the server's own."""
    value = parameters.get("timeout")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST_TIMEOUT_US:
        raise BadRequest("the parameter timeout is not a time", found=str(value)[:40], expected="microseconds, above 0")
    return value / 1e6


def respond(
    name: str, version: str, request: InferRequest, heads: Sequence[TensorHead], payload: memoryview
) -> tuple[list[bytes | memoryview], int | None]:
    """The body of the answer, in parts.

    Returns:
        The parts, and the value of ``Inference-Header-Content-Length`` where some output is binary.
    """
    described: list[dict[str, Any]] = []
    parts: list[bytes | memoryview] = []
    at = 0
    for head, wanted in zip(heads, request.outputs, strict=True):
        part = payload[at : at + head.size_bytes]
        at += head.size_bytes
        entry: dict[str, Any] = {"name": head.name, "datatype": head.datatype, "shape": head.shape}
        if wanted.binary:
            entry["parameters"] = {"binary_data_size": head.size_bytes}
            parts.append(part)
        else:
            entry["data"] = to_numbers(part, head.datatype)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": described}
    if request.id is not None:
        answer["id"] = request.id
    head_bytes = _json.encode(answer)
    return [head_bytes, *parts], len(head_bytes) if parts else None


def describe(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Tensors as model metadata shows them."""
    return [{"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)} for tensor in tensors]
