"""From a recipe to a release: artifacts copied, golden cases made, everything hashed, the manifest written.

The same recipe with the same files gives the same bytes where ``created`` is the same
(SOURCE_DATE_EPOCH, https://reproducible-builds.org/specs/source-date-epoch/).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from surefoot.durable import TEMPORARY_PREFIX, Disk, pieces, read_bounded
from surefoot.errors import BadRequest, DeviceUnable, UntrustedRelease
from surefoot.release import golden, manifest
from surefoot.release.metadata import text
from surefoot.release.recipe import Recipe, VariantSection, load_labels

GOLDEN_NAME = "golden.msgpack"
MOST_IMAGE_BYTES = 8 * 1024 * 1024
MOST_CARD_BYTES = 4 * 1024 * 1024
DIGITS = 7  # of an expected probability: float32 has no more

# An encoded image to the values of each output, flat: probabilities where the output is logits.
Reference = Callable[[bytes], dict[str, list[float]]]
Progress = Callable[[str, int, int], None]  # what, done, of how many


class Built(msgspec.Struct, frozen=True):
    """A finished release."""

    directory: Path
    manifest: manifest.Manifest
    digest: str


def build(
    recipe: Recipe,
    base: Path,
    out: Path,
    reference: Reference,
    *,
    created: datetime,
    disk: Disk,
    progress: Progress | None = None,
) -> Built:
    """Make a release.

    Args:
        recipe: what it is made of.
        base: the folder that the recipe's paths are relative to.
        out: the release's folder; it must not be there yet, or be empty.
        reference: the FP32 model with its preprocessing.
        created: what the manifest says; see :func:`creation_time`.
        disk: the durable writer.
        progress: told what is being done.

    Raises:
        BadRequest: something is missing, or contradicts itself: no golden case for a class, a label that the
            reference model does not give, outputs that differ between the variants and the reference.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadRequest(f"{out} is not empty", hint="a release is never changed: remove it, or choose another folder")
    out = out.absolute()
    made = out.with_name(f"{TEMPORARY_PREFIX}{out.name}")
    disk.remove_directory(made)
    disk.make_directory(made)
    try:
        files: dict[str, tuple[Path, manifest.File]] = {}

        def take(relative: str) -> manifest.File:
            return _copy(base, relative, made, files, disk)

        variants = tuple(_variant(section, take(section.artifact)) for section in recipe.variants)
        cases = golden_cases(recipe, base, reference, progress)
        file = _write(made, GOLDEN_NAME, golden.encode(cases), files, disk)
        whole = manifest.Manifest(
            name=recipe.name,
            version=recipe.version,
            created=text(created),
            variants=variants,
            golden=manifest.Golden(file=file, cases=len(cases)),
            card=manifest.Card(
                file=take(recipe.card.file),
                data=recipe.card.data,
                limits=recipe.card.limits,
                fails_where=recipe.card.fails_where,
            ),
            labels=recipe.labels,
            stateless=recipe.stateless,
            input_may_leave_device=recipe.input_may_leave_device,
            minimum_app_version=recipe.minimum_app_version,
        )
        data = manifest.encode(whole)
        try:
            golden.decode(golden.encode(cases))
            whole = manifest.decode(data)  # what a device will do: limits and contradictions are found here
        except UntrustedRelease as error:
            raise BadRequest(
                f"the recipe makes no release: {error.what}",
                found=error.found,
                expected=error.expected,
                hint=error.hint,
            ) from error
        disk.write(made / manifest.FILE_NAME, data)
        disk.publish_directory(made, out)
    except BaseException:
        disk.remove_directory(made)
        raise
    return Built(out, whole, manifest.digest(data))


def creation_time(environment: dict[str, str] | os._Environ[str], now: datetime) -> datetime:
    """SOURCE_DATE_EPOCH where it is set, else ``now``.

    Raises:
        BadRequest: it is set to what is no number of seconds.
    """
    epoch = environment.get("SOURCE_DATE_EPOCH", "")
    if not epoch:
        return now
    try:
        return datetime.fromtimestamp(int(epoch), timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise BadRequest("SOURCE_DATE_EPOCH is no time", found=epoch, expected="seconds since 1970") from error


def golden_cases(
    recipe: Recipe, base: Path, reference: Reference, progress: Progress | None = None
) -> list[golden.Case]:
    """The golden cases, sorted by name, with what the reference model gives.

    Raises:
        BadRequest: no cases, a class without one, an image missing, outputs that do not fit the variants, or a label
            that the reference model itself does not give.
    """
    folder = base / recipe.golden.folder
    labels = load_labels(folder / recipe.golden.labels, len(recipe.labels) - 1)
    if not labels:
        raise BadRequest(f"there are no golden cases in {folder}", expected="at least one image for each class")
    missing = [name for index, name in enumerate(recipe.labels) if index not in set(labels.values())]
    if missing:
        raise BadRequest(
            "classes without a golden case",
            found=", ".join(missing[:20]),
            hint="add an image of each to the golden folder",
        )
    cases: list[golden.Case] = []
    wrong: list[str] = []
    for number, (name, label) in enumerate(sorted(labels.items())):
        if progress:
            progress("golden cases", number, len(labels))
        image = _image(folder, name)
        expected = {key: [round(value, DIGITS) for value in values] for key, values in reference(image).items()}
        _check_outputs(recipe, expected)
        scores = next((values for values in expected.values() if len(values) == len(recipe.labels)), None)
        if scores is not None and (best := max(range(len(scores)), key=scores.__getitem__)) != label:
            wrong.append(f"{name} is {recipe.labels[label]}, taken for {recipe.labels[best]}")
        cases.append(golden.Case(id=name, expected=expected, label=label, image=image))
    if wrong:
        raise BadRequest(
            "the reference model itself is wrong on golden cases",
            found="; ".join(wrong[:20]),
            expected="cases that it gets right: a device compares with them",
            hint="correct labels.json, or take other images of these classes",
        )
    return cases


def _check_outputs(recipe: Recipe, expected: dict[str, list[float]]) -> None:
    for variant in recipe.variants:
        declared = {tensor.name: _elements(tensor) for tensor in variant.outputs}
        given = {name: len(values) for name, values in expected.items()}
        if declared != given:
            raise BadRequest(
                f"variant {variant.id} has other outputs than the reference model",
                found=", ".join(f"{name} with {count} values" for name, count in declared.items()),
                expected=", ".join(f"{name} with {count} values" for name, count in given.items()),
                hint="correct variants.outputs, or export the artifact with the same output names and sizes",
            )
    for name, values in expected.items():
        if not all(map(math.isfinite, values)):
            raise BadRequest(f"the reference model gives values that are no numbers in its output {name}")


def _elements(tensor: manifest.Tensor) -> int:
    """Values for one input: the free sizes (the batch) count as one."""
    return math.prod(size for size in tensor.shape if size != -1)


def _image(folder: Path, name: str) -> bytes:
    if "/" in name or name.startswith("."):
        raise BadRequest("a golden image must lie in the golden folder itself", found=name)
    try:
        return read_bounded(folder / name, MOST_IMAGE_BYTES)
    except OSError as error:
        raise BadRequest(f"cannot read the golden image {folder / name}", found=str(error.strerror)) from error
    except DeviceUnable as error:
        raise BadRequest(error.what, found=error.found, expected=error.expected) from error


def _variant(section: VariantSection, artifact: manifest.File) -> manifest.Variant:
    fields = {name: getattr(section, name) for name in section.__struct_fields__ if name != "artifact"}
    return manifest.Variant(artifact=artifact, **fields)


def _copy(
    base: Path, relative: str, made: Path, files: dict[str, tuple[Path, manifest.File]], disk: Disk
) -> manifest.File:
    """Copy a file into the release, once."""
    path = (base / relative).resolve()
    if path.name in files:
        if files[path.name][0] != path:
            raise BadRequest(
                "two files of the recipe have one name",
                found=f"{path}, {files[path.name][0]}",
                hint="rename one of them",
            )
        return files[path.name][1]
    if path.name in {manifest.FILE_NAME, GOLDEN_NAME}:
        raise BadRequest(f"{path.name} is a name of the release's own", found=str(path), hint="rename the file")
    try:
        with path.open("rb") as stream:
            digest, length = disk.write_stream(made / path.name, pieces(stream))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise BadRequest(
            f"cannot read {relative}, which the recipe names", found=str(error.strerror), hint=f"looked in {base}"
        ) from error
    if length == 0:
        raise BadRequest(f"{relative} is empty")
    files[path.name] = (path, manifest.File(name=path.name, sha256=digest, length_bytes=length))
    return files[path.name][1]


def _write(
    made: Path, name: str, data: bytes, files: dict[str, tuple[Path, manifest.File]], disk: Disk
) -> manifest.File:
    digest, length = disk.write_stream(made / name, [data])
    files[name] = (made / name, manifest.File(name=name, sha256=digest, length_bytes=length))
    return files[name][1]
