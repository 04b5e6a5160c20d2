"""A recipe: what a release is made of, written by a person in TOML or JSON beside the artifacts.

Paths are relative to the recipe's folder. The format is documented in ``docs/reference/release.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from surefoot.durable import read_bounded
from surefoot.errors import BadRequest, DeviceUnable
from surefoot.release.manifest import (
    Budget,
    Calibration,
    Check,
    FileName,
    ImagePreprocessing,
    Name,
    Tensor,
    Tolerance,
    VersionText,
)

MOST_RECIPE_BYTES = 256 * 1024
MOST_LABELS_BYTES = 4 * 1024 * 1024
RelativePath = Annotated[str, Meta(min_length=1, max_length=1024)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section: nothing unknown, so that a mistyped key does not pass silently."""


class CardSection(Section, frozen=True, kw_only=True):
    """The model card, and the heart of it in a sentence each."""

    file: RelativePath
    data: Annotated[str, Meta(min_length=1)]
    limits: Annotated[str, Meta(min_length=1)]
    fails_where: Annotated[str, Meta(min_length=1)]


class GoldenSection(Section, frozen=True, kw_only=True):
    """A folder of PNG and JPEG images, and in it a JSON file that gives each its label: see :func:`load_labels`."""

    folder: RelativePath
    labels: FileName = "labels.json"


class Labelled(msgspec.Struct, frozen=True):
    """One golden image in the longer form of ``labels.json``. Further keys are for people and are not read."""

    file: str
    label_index: int


class ReferenceSection(Section, frozen=True, kw_only=True):
    """The FP32 model that says what must come out for the golden cases. It need not be part of the release."""

    artifact: RelativePath
    runtime: Name
    preprocessing: ImagePreprocessing
    output_kind: Literal["logits", "other"] = "logits"


class VariantSection(Section, frozen=True, kw_only=True):
    """One artifact, for some device classes and one runtime."""

    id: FileName
    artifact: RelativePath
    device_classes: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=64)]
    runtime: Name
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=64)]
    outputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=64)]
    tolerance: Tolerance
    preprocessing: ImagePreprocessing | None = None
    output_kind: Literal["logits", "other"] = "logits"
    calibration: Calibration = Calibration()
    budget: Budget = Budget()
    checks: Annotated[tuple[Check, ...], Meta(max_length=16)] = ()
    cpu_fallback: bool = False


class Recipe(Section, frozen=True, kw_only=True):
    """The whole recipe."""

    name: Name
    version: VersionText
    labels: Annotated[tuple[str, ...], Meta(min_length=1, max_length=100_000)]
    card: CardSection
    golden: GoldenSection
    reference: ReferenceSection
    variants: Annotated[tuple[VariantSection, ...], Meta(min_length=1, max_length=64)]
    stateless: bool = True
    input_may_leave_device: bool = False
    minimum_app_version: VersionText = "0.1.0"


def load(path: Path) -> Recipe:
    """Read a recipe; ``.json`` is JSON, anything else TOML.

    Raises:
        BadRequest: missing, too long, not TOML or JSON, or with a key or value that cannot be.
    """
    try:
        data = read_bounded(path, MOST_RECIPE_BYTES)
        if path.suffix == ".json":
            return msgspec.json.decode(data, type=Recipe)
        return msgspec.toml.decode(data, type=Recipe)
    except OSError as error:
        raise BadRequest(f"cannot read the recipe {path}", found=str(error.strerror)) from error
    except DeviceUnable as error:
        raise BadRequest(error.what, found=error.found, expected=error.expected) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(
            f"the recipe {path} is not valid", found=str(error), hint="the format is in docs/reference/release.md"
        ) from error


def load_labels(path: Path, most_label: int) -> dict[str, int]:
    """Read the labels of the golden images: ``{"FILE": INDEX}``, or a list of :class:`Labelled`.

    Raises:
        BadRequest: missing, neither of the two forms, a file named twice, or a label beyond ``most_label``.
    """
    try:
        read = msgspec.json.decode(read_bounded(path, MOST_LABELS_BYTES), type=dict[str, int] | list[Labelled])
    except OSError as error:
        raise BadRequest(f"cannot read the golden labels {path}", found=str(error.strerror)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, DeviceUnable) as error:
        raise BadRequest(
            f"the golden labels {path} are not valid", found=str(error), expected='{"FILE NAME": LABEL INDEX, ...}'
        ) from error
    labels = read if isinstance(read, dict) else {each.file: each.label_index for each in read}
    if len(labels) != len(read):
        raise BadRequest(f"the golden labels {path} name a file twice", hint="remove one of the entries")
    wrong = [f"{name}: {label}" for name, label in labels.items() if not 0 <= label <= most_label]
    if wrong:
        raise BadRequest(
            "golden labels are out of range",
            found=", ".join(wrong[:10]),
            expected=f"0 to {most_label}, an index of labels",
        )
    return labels
