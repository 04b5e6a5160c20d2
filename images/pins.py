"""Reads the digests of the vendors' bases from their registries into versions.hcl: `make pin-bases`.

usage: python -m images.pins [FILE]

Needs a network that reaches those registries. All digests are read before the file is written, whole and at once.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from images.base.debian import Problem
from images.build import ROOT, need_engine
from images.push import docker
from surefoot.durable import Disk

_VARIABLE = re.compile(r'^variable "(?P<name>\w+)" \{ default = "(?P<value>[^"]*)" \}$', re.MULTILINE)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def read_digest(image: str) -> str:
    """What a registry says that an image is.

    Raises:
        Problem: it does not answer, has no such image, or answers nonsense.
    """
    try:
        found = docker("buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", image)
    except Problem as problem:
        why = str(problem).splitlines()[-1].strip()
        raise Problem(
            f"cannot read the digest of {image}: nothing was changed\n  found: {why}\n"
            "  what to do: run make pin-bases on a machine that reaches that registry (`docker login` where it asks)"
        ) from problem
    if not _DIGEST.fullmatch(found):
        raise Problem(f"the registry gave no digest for {image}: nothing was changed\n  found: {found[:100]!r}")
    return found


def pin(path: Path) -> dict[str, str]:
    """Set every ``…_DIGEST`` in the file to that of the image beside it: ``NAME_BASE`` or ``NAME``.

    Returns:
        The digest of each image.
    """
    text = path.read_text()
    values = {match["name"]: match["value"] for match in _VARIABLE.finditer(text)}
    images: dict[str, str] = {}
    for variable in values:
        if variable.endswith("_DIGEST"):
            stem = variable.removesuffix("_DIGEST")
            images[variable] = values.get(f"{stem}_BASE") or values[stem]
    digests = {variable: read_digest(image) for variable, image in images.items()}
    for variable, digest in digests.items():
        before = f'variable "{variable}" {{ default = "{values[variable]}" }}'
        text = text.replace(before, f'variable "{variable}" {{ default = "{digest}" }}')
    Disk().write(path, text.encode())
    return {images[variable]: digest for variable, digest in digests.items()}


def main() -> int:
    """Pin, and say what."""
    try:
        need_engine()
        for image, digest in pin(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "images" / "versions.hcl").items():
            print(f"{image}@{digest}")
    except Problem as problem:
        print(f"surefoot: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
