"""What the supervisor and the gateway ask a worker, and what it answers. MessagePack arrays, tagged by name."""

from __future__ import annotations

import msgspec

from surefoot.errors import BadRequest, DeviceUnable, SurefootError, TransportFailed, UntrustedRelease
from surefoot.release.manifest import DataType, Tensor
from surefoot.watch.gates import Verdict


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of every message."""


class TensorHead(Message, frozen=True):
    """One tensor of the payload: they lie there in order, C order, little endian."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    size_bytes: int


# -- questions -----------------------------------------------------------------------------------------------------


class Load(Message, frozen=True, tag="load"):
    """Load one variant from a slot directory, after checking it against ``digest``. Sent once, first."""

    directory: str
    lock: str  # flock, held shared as long as the worker lives; empty for none
    digest: str  # SHA-256 of manifest.json, the release's digest
    variant: str
    threads: int
    provider: str = ""


class Hold(Message, frozen=True, tag="hold"):
    """Hold this lock, shared, from now on, and no other; empty for none."""

    lock: str


class Attach(Message, frozen=True, tag="attach"):
    """Serve the descriptor that comes with this frame too."""


class Golden(Message, frozen=True, tag="golden"):
    """Run and judge every golden case once."""


class Clock(Message, frozen=True, tag="clock"):
    """Time the runtime on golden inputs, at the priority of serving: ``runs`` times, the same input, number ``at``.

    The numbers go round the inputs that the worker keeps, so that two workers of like releases are given like inputs.
    """

    at: int
    runs: int


class Infer(Message, frozen=True, tag="infer"):
    """One inference. ``deadline_s`` is on CLOCK_MONOTONIC, which all processes of a machine share."""

    id: int
    deadline_s: float
    inputs: tuple[TensorHead, ...]
    outputs: tuple[str, ...] = ()  # empty: all


class Classify(Message, frozen=True, tag="classify"):
    """One encoded picture, the payload, to a label."""

    id: int
    deadline_s: float


Question = Load | Hold | Attach | Golden | Clock | Infer | Classify

# -- answers -------------------------------------------------------------------------------------------------------


class Loaded(Message, frozen=True, tag="loaded"):
    """The model is loaded and warm."""

    name: str
    version: str
    digest: str
    variant: str
    runtime: str
    runtime_version: str
    provider: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...]
    classifies: bool  # pictures can be sent
    stateless: bool
    load_s: float
    memory_bytes: int
    exclusive: bool = False  # the accelerator in use takes one process at a time


class GoldenRun(Message, frozen=True, tag="golden-run"):
    """All golden cases, judged. Memory is taken before the judging."""

    verdict: Verdict
    memory_bytes: int


class Clocked(Message, frozen=True, tag="clocked"):
    """Of the runtime call alone, by run. ``waited_ms``: the part of it in which other processes had the CPU."""

    latencies_ms: tuple[float, ...]
    waited_ms: tuple[float, ...]


class Held(Message, frozen=True, tag="held"):
    """The lock is held, or none is."""


class Attached(Message, frozen=True, tag="attached"):
    """The new descriptor is being served."""


class Inferred(Message, frozen=True, tag="inferred"):
    """Outputs, in the payload."""

    id: int
    outputs: tuple[TensorHead, ...]
    run_ms: float


class Classified(Message, frozen=True, tag="classified"):
    """The calibrated answer."""

    id: int
    label_index: int
    label: str
    confidence: float
    probabilities: tuple[float, ...]
    run_ms: float


class Failed(Message, frozen=True, tag="failed"):
    """The question could not be answered. ``evidence``: the release itself is at fault, not the device."""

    id: int
    family: str
    what: str
    found: str = ""
    expected: str = ""
    hint: str = ""
    evidence: bool = False


Answer = Loaded | Held | GoldenRun | Clocked | Attached | Inferred | Classified | Failed

_encoder = msgspec.msgpack.Encoder()
_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
encode = _encoder.encode
decode_question = _questions.decode
decode_answer = _answers.decode

_FAMILIES: dict[str, type[SurefootError]] = {
    family.__name__: family for family in (UntrustedRelease, DeviceUnable, BadRequest, TransportFailed)
}


def failure(request_id: int, error: SurefootError, evidence: bool = False) -> Failed:
    """An error for the wire."""
    family = next((name for name, kind in _FAMILIES.items() if isinstance(error, kind)), DeviceUnable.__name__)
    return Failed(request_id, family, error.what, error.found, error.expected, error.hint, evidence)


def error_of(failed: Failed) -> SurefootError:
    """The error that :func:`failure` was given, of its family."""
    family = _FAMILIES.get(failed.family, DeviceUnable)
    return family(failed.what, found=failed.found, expected=failed.expected, hint=failed.hint)
