"""Writes the table of docs/images.md, what the bytes of images are: `python -m images.sizes ARCHIVE…`."""

from __future__ import annotations

import collections
import json
import re
import sys
import tarfile
import zlib
from pathlib import Path

from images.base.debian import Problem

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "images.md"
MARKS = ("<!-- sizes: written by python -m images.sizes -->\n", "<!-- end of sizes -->")
BARS_MB = {"rpi": 70.0, "generic": 70.0, "jetson": 55.0}
SHOWN = ("onnxruntime", "numpy", "ai_edge_litert", "cryptography", "uvloop", "PIL", "cuda")
OWN_LAYERS = 4  # natives, wheels, bytecode, app: what images/Dockerfile copies onto the base


def layers(archive: Path) -> tuple[int, int]:
    """Compressed bytes of the base's layers, and of those above."""
    with tarfile.open(archive) as outer:
        manifest = outer.extractfile("manifest.json")
        if manifest is None:
            raise Problem(f"{archive} is not a Docker archive")
        sizes = [outer.getmember(name).size for name in json.load(manifest)[0]["Layers"]]
    return sum(sizes[:-OWN_LAYERS]), sum(sizes[-OWN_LAYERS:])


def shares(archive: Path) -> dict[str, float]:
    """How the bytes above the base divide, each file compressed by itself: a share of 1 for each part."""
    parts: collections.Counter[str] = collections.Counter()
    with tarfile.open(archive) as outer:
        manifest = outer.extractfile("manifest.json")
        if manifest is None:
            raise Problem(f"{archive} is not a Docker archive")
        for name in json.load(manifest)[0]["Layers"][-OWN_LAYERS:]:
            with tarfile.open(fileobj=outer.extractfile(name)) as layer:
                for member in layer:
                    file = layer.extractfile(member) if member.isreg() else None
                    if file:
                        parts[part(member.name)] += len(zlib.compress(file.read(), 6))
    whole = sum(parts.values())
    return {name: size / whole for name, size in parts.items()}


def part(name: str) -> str:
    """Which row of the table a file is counted in."""
    if "__pycache__" in name:
        return "bytecode"
    found = re.match(r"opt/surefoot/(?:wheels/([^/.-]+)|(app|lib|bin))", name)
    if not found:
        return "other wheels"
    if found[2]:
        return "surefoot" if found[2] == "app" else "jemalloc, tini"
    package = "PIL" if found[1] == "pillow" else found[1]
    return package if package in SHOWN else "other wheels"


def table(archives: list[Path]) -> str:
    """The table in Markdown, in MB (10^6 bytes) as compressed in the archive."""
    names = [re.sub(r"surefoot-[^-]+-|\.docker\.tar", "", archive.name) for archive in archives]
    whole = [layers(archive) for archive in archives]
    divided = [shares(archive) for archive in archives]
    rows = [[row, *(f"{share.get(row, 0) * above / 1e6:.1f}" for share, (_, above) in zip(divided, whole, strict=True))]
            for row in (*SHOWN, "other wheels", "bytecode", "jemalloc, tini", "surefoot")]  # fmt: skip
    rows.append(["**above the base**", *(f"**{above / 1e6:.1f}**" for _, above in whole)])
    rows.append(["at most", *(f"{BARS_MB.get(name.partition('-')[0], 70.0):.0f}" for name in names)])
    rows.append(["our Debian base", *(f"{base / 1e6:.1f}" for base, _ in whole)])
    return (
        "\n".join("| " + " | ".join(row) + " |" for row in (["MB", *names], ["---", *("---:" for _ in names)], *rows))
        + "\n"
    )


def main() -> int:
    """Put the table into the document."""
    before, _, rest = DOCUMENT.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    DOCUMENT.write_text(before + MARKS[0] + table([Path(name) for name in sys.argv[1:]]) + MARKS[1] + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
