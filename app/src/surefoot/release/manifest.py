"""The manifest: what a release says about itself. Typed, versioned, immutable.

The SHA-256 of the manifest's bytes is the release's digest; since the manifest holds the digest of every other
file, that one value stands for the whole release. The JSON schema in ``docs/reference/manifest.schema.json`` is
generated from these types.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from surefoot.errors import UntrustedRelease

FORMAT: Final = 1
MOST_MANIFEST_BYTES = 256 * 1024
FILE_NAME = "manifest.json"

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z", description="Lower-case letters, digits, hyphens.")]
VersionText = Annotated[str, Meta(pattern=r"^(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\Z")]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,126}\Z", description="One path component.")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Bytes = Annotated[int, Meta(ge=1, le=1 << 40)]
# The datatypes of the Open Inference Protocol v2 that the runtimes here can carry.
DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"
]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every part of the manifest."""


class File(Part, frozen=True, kw_only=True):
    """One file of the release. ``name`` is a single path component beside the manifest."""

    name: FileName
    sha256: Sha256
    length_bytes: Bytes


class Tensor(Part, frozen=True, kw_only=True):
    """One input or output. In ``shape``, -1 is a size the caller chooses (the batch)."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    datatype: DataType
    shape: Annotated[tuple[Annotated[int, Meta(ge=-1, le=1 << 31)], ...], Meta(max_length=8)]


class ImagePreprocessing(Part, frozen=True, kw_only=True):
    """Encoded image to tensor: decode, convert, resize (Pillow), float32, times ``scale``, minus ``mean``, by ``std``.

    ``mean`` and ``std`` have one value a channel, in units of the scaled pixel.
    """

    width: Annotated[int, Meta(ge=1, le=8192)]
    height: Annotated[int, Meta(ge=1, le=8192)]
    color: Literal["gray", "rgb"]
    layout: Literal["NCHW", "NHWC"]
    resize: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Annotated[float, Meta(gt=0)], ...] = (1.0,)


class Calibration(Part, frozen=True, kw_only=True):
    """Temperature that makes logits honest probabilities; energy above which an input is unlike the training data."""

    temperature: Annotated[float, Meta(gt=0, le=100)] = 1.0
    energy_threshold: float | None = None


class Tolerance(Part, frozen=True, kw_only=True):
    """How far the variant may be from the expected output of a golden case.

    ``probability``: largest absolute difference of softmax(output) from the expected probabilities.
    ``output``: largest absolute difference of the raw output, for models whose output is not logits.
    ``agreement``: least share of golden cases whose label must be the expected one.
    """

    probability: Annotated[float, Meta(ge=0, le=1)] | None = None
    output: Annotated[float, Meta(ge=0)] | None = None
    agreement: Annotated[float, Meta(ge=0, le=1)] = 1.0


class Budget(Part, frozen=True, kw_only=True):
    """Limits a variant must keep on its device class. ``None`` is no limit."""

    latency_p99_ms: Annotated[float, Meta(gt=0)] | None = None
    latency_ratio: Annotated[float, Meta(gt=0)] | None = None
    memory_bytes: Bytes | None = None
    load_s: Annotated[float, Meta(gt=0)] | None = None
    temperature_c: float | None = None


class Check(Part, frozen=True, kw_only=True):
    """A model's own check: one figure over all golden cases, and the limit that it must keep on the device.

    ``accuracy``: share of the labelled cases that get their label. ``least_class_accuracy``: the same of the class that
    fares worst. ``label_probability``: mean calibrated probability of the label (logits only). ``mean_difference``:
    mean over the cases of the largest absolute difference of the output, or of the probabilities where it is logits.
    """

    metric: Literal["accuracy", "least_class_accuracy", "label_probability", "mean_difference"]
    at_least: float | None = None
    at_most: float | None = None


class Variant(Part, frozen=True, kw_only=True):
    """The artifact for some device classes and one runtime."""

    id: FileName
    device_classes: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=64)]
    runtime: Name
    artifact: File
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=64)]
    outputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=64)]
    tolerance: Tolerance
    preprocessing: ImagePreprocessing | None = None
    output_kind: Literal["logits", "other"] = "other"
    calibration: Calibration = Calibration()
    budget: Budget = Budget()
    checks: Annotated[tuple[Check, ...], Meta(max_length=16)] = ()
    cpu_fallback: bool = False


class Golden(Part, frozen=True, kw_only=True):
    """The file of golden cases (see ``release.golden``) and how many it holds."""

    file: File
    cases: Annotated[int, Meta(ge=1, le=10_000)]


class Card(Part, frozen=True, kw_only=True):
    """The model card: the whole as a file, the heart of it here."""

    file: File
    data: str
    limits: str
    fails_where: str


class Manifest(Part, frozen=True, kw_only=True):
    """A release of one model under one version."""

    format: Literal[1] = FORMAT
    name: Name
    version: VersionText
    created: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z", description="UTC, RFC 3339.")]
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1, max_length=64)]
    golden: Golden
    card: Card
    labels: Annotated[tuple[str, ...], Meta(max_length=100_000)] = ()
    stateless: bool = True
    input_may_leave_device: bool = False
    minimum_app_version: VersionText = "0.1.0"

    def files(self) -> tuple[File, ...]:
        """Every file of the release but the manifest itself; shared artifacts once."""
        every = [variant.artifact for variant in self.variants] + [self.golden.file, self.card.file]
        return tuple({file.name: file for file in every}.values())

    def variant(self, variant_id: str) -> Variant:
        """The variant of that id.

        Raises:
            UntrustedRelease: there is none.
        """
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        raise UntrustedRelease(f"release {self.name} {self.version} has no variant {variant_id!r}")


def encode(manifest: Manifest) -> bytes:
    """The manifest as canonical bytes: sorted keys, indented for people, one newline at the end."""
    plain = {"format": manifest.format, **msgspec.to_builtins(manifest)}
    return msgspec.json.format(msgspec.json.encode(plain, order="sorted"), indent=1) + b"\n"


def decode(data: bytes) -> Manifest:
    """Read a manifest, refusing what is not one.

    Raises:
        UntrustedRelease: too long, another format, a field missing, unknown or out of range, or inconsistent.
    """
    if len(data) > MOST_MANIFEST_BYTES:
        raise UntrustedRelease(
            "the manifest is too long", found=f"{len(data)} bytes", expected=f"at most {MOST_MANIFEST_BYTES}"
        )
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.format != FORMAT:
            raise UntrustedRelease(
                "the manifest has a format this version does not read",
                found=str(head.format),
                expected=str(FORMAT),
                hint="update the app before the model",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UntrustedRelease("the manifest is not valid", found=str(error)) from error
    check(manifest)
    return manifest


class _Head(msgspec.Struct):
    format: int


def check(manifest: Manifest) -> None:
    """What the types alone cannot say.

    Raises:
        UntrustedRelease: the parts contradict each other.
    """
    seen: dict[str, File] = {}
    for file in [variant.artifact for variant in manifest.variants] + [manifest.golden.file, manifest.card.file]:
        if seen.setdefault(file.name, file) != file or file.name == FILE_NAME:
            raise UntrustedRelease(f"the manifest gives two contents for one file name, {file.name}")
    ids = [variant.id for variant in manifest.variants]
    if len(set(ids)) != len(ids):
        raise UntrustedRelease("the manifest names a variant twice", found=", ".join(ids))
    for variant in manifest.variants:
        if variant.tolerance.probability is None and variant.tolerance.output is None:
            raise UntrustedRelease(
                f"variant {variant.id} has no tolerance", expected="tolerance.probability or tolerance.output"
            )
        if variant.tolerance.probability is not None and variant.output_kind != "logits":
            raise UntrustedRelease(f"variant {variant.id}: a tolerance on probabilities needs output_kind = logits")
        for own in variant.checks:
            if (own.at_least is None) == (own.at_most is None):
                raise UntrustedRelease(
                    f"variant {variant.id}: the check {own.metric} needs one limit", expected="at_least or at_most"
                )
            if own.metric == "label_probability" and variant.output_kind != "logits":
                raise UntrustedRelease(f"variant {variant.id}: the check {own.metric} needs output_kind = logits")
        channels = {"gray": 1, "rgb": 3}
        pre = variant.preprocessing
        if pre is not None and not {len(pre.mean), len(pre.std)} <= {1, channels[pre.color]}:
            raise UntrustedRelease(f"variant {variant.id}: mean and std need one value, or one a channel")


def digest(data: bytes) -> str:
    """The release's digest: SHA-256 (hex) of the manifest's bytes as published."""
    return hashlib.sha256(data).hexdigest()


def version_key(version: str) -> tuple[int, int, int]:
    """A version as something that sorts.

    Raises:
        UntrustedRelease: it is not MAJOR.MINOR.PATCH.
    """
    if not re.match(r"^(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8})){2}\Z", version):
        raise UntrustedRelease("not a version", found=repr(version), expected="MAJOR.MINOR.PATCH")
    major, minor, patch = version.split(".")
    return int(major), int(minor), int(patch)


def select_variant(manifest: Manifest, device_class: str, runtimes: tuple[str, ...]) -> Variant:
    """The variant for a device: its class, and the first of its runtimes that one is made for.

    Raises:
        UntrustedRelease: the release has nothing for this device.
    """
    for runtime in runtimes:
        for variant in manifest.variants:
            if variant.runtime == runtime and device_class in variant.device_classes:
                return variant
    offered = sorted({f"{cls}/{variant.runtime}" for variant in manifest.variants for cls in variant.device_classes})
    raise UntrustedRelease(
        f"release {manifest.name} {manifest.version} has no variant for this device",
        found=", ".join(offered),
        expected=f"{device_class} with one of: {', '.join(runtimes)}",
        hint="release a variant for this device class, or correct device_class in the device's configuration",
    )


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the manifest, generated from the types.

    Patterns are written for ECMA-262, as the specification asks: Python's ``\\Z`` is ``$`` there.
    """
    plain = msgspec.json.encode(msgspec.json.schema(Manifest)).replace(rb"\\Z", b"$")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_settled(msgspec.json.decode(plain))}


def _settled(value: Any) -> Any:
    """The same from every version of msgspec (order of alternatives) and of Python (indentation of docstrings)."""
    if isinstance(value, dict):
        return {
            key: inspect.cleandoc(item) if key == "description" and isinstance(item, str) else _settled(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        items = [_settled(item) for item in value]
        return sorted(items, key=msgspec.json.encode) if any(isinstance(item, dict) for item in items) else items
    return value


def schema_text() -> str:
    """The schema as text, sorted and indented."""
    return msgspec.json.format(msgspec.json.encode(schema(), order="sorted"), indent=2).decode() + "\n"
