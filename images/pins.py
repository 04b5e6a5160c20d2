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
from images.push import registry_digest
from surefoot.durable import Disk

_VARIABLE = re.compile(r'^variable "(\w+)" \{ default = "([^"]*)" \}$', re.MULTILINE)


def read_digest(image: str) -> str:
    """What a registry says that an image is.

    Raises:
        Problem: it does not say.
    """
    try:
        return registry_digest(image)
    except Problem as problem:
        why = str(problem).splitlines()[-1].strip()
        raise Problem(
            f"cannot read the digest of {image}: nothing was changed\n  found: {why}\n"
            "  what to do: run make pin-bases on a machine that reaches that registry (`docker login` where it asks)"
        ) from problem


def images_of(text: str) -> dict[str, str]:
    """The image of each ``…_DIGEST`` in the file: ``NAME_BASE`` or ``NAME`` beside it."""
    values = dict(_VARIABLE.findall(text))
    stems = {name: name.removesuffix("_DIGEST") for name in values if name.endswith("_DIGEST")}
    return {name: values.get(f"{stem}_BASE") or values[stem] for name, stem in stems.items()}


def pin(path: Path) -> dict[str, str]:
    """Set every ``…_DIGEST`` in the file to what the registry of its image says now.

    Returns:
        The digest of each image.
    """
    text = path.read_text()
    images = images_of(text)
    digests = {name: read_digest(image) for name, image in images.items()}

    def pinned(match: re.Match[str]) -> str:
        name, value = match.groups()
        return f'variable "{name}" {{ default = "{digests.get(name, value)}" }}'

    Disk().write(path, _VARIABLE.sub(pinned, text).encode())
    return {images[name]: digest for name, digest in digests.items()}


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
