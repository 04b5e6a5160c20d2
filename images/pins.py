"""`make pin-bases`: reads the digests of the vendors' bases from their registries into versions.hcl."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from images.base.debian import Problem
from images.build import need_engine

VERSIONS = Path(__file__).parent / "versions.hcl"
VARIABLE = re.compile(r'^variable "(\w+)" \{ default = "(.*)" \}$', re.MULTILINE)


def read_digest(image: str) -> str:
    """The digest that the registry gives for an image now."""
    line = ["docker", "buildx", "imagetools", "inspect", image]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    found = re.search(r"^Digest:\s+(sha256:[0-9a-f]{64})$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or found is None:
        raise Problem(f"cannot read the digest of {image}\n{done.stderr.strip()}")
    return found[1]


def pin(text: str, ask: Callable[[str], str]) -> str:
    """``versions.hcl`` with every digest as the registries have it."""
    values = dict(VARIABLE.findall(text))
    for name in (name for name in values if name.endswith("_DIGEST")):
        stem = name.removesuffix("_DIGEST")
        image = values[stem] if stem in values else values[f"{stem}_BASE"]
        line = f'variable "{name}" {{ default = "%s" }}'
        text = text.replace(line % values[name], line % ask(image))
        print(f"{name}: {image}")
    return text


def main() -> int:
    """Write the file, or nothing."""
    try:
        need_engine()
        VERSIONS.write_text(pin(VERSIONS.read_text(), read_digest))
    except Problem as problem:
        print(f"surefoot: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
