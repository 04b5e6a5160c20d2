"""Pushes built images to an OCI registry: `make push REGISTRY=host[:port]/name [PLATFORM=…]`.

Pushes what lies in dist/, unchanged: what was tested is what devices get. Each tag is VERSION-TARGET; for `generic`,
VERSION-generic is one name for both architectures. A tag that is there already with another content is refused.
Credentials are those of `docker login`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from images.base.debian import Problem
from images.build import DIST, need_engine
from images.pins import read_digest
from surefoot import __version__

# What `make image-…` builds, and so what is pushed together.
PLATFORMS = {
    "rpi": ("rpi",),
    "generic": ("generic-amd64", "generic-arm64"),
    "generic-openvino": ("generic-openvino",),
    "jetson": ("jetson-jp6",),
    "jetson-jp7": ("jetson-jp7",),
}
# https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests; the host as Docker reads it.
_REGISTRY = re.compile(
    r"(localhost|[\w-]+(\.[\w-]+)+|[\w.-]+(?=:\d)|\[[0-9a-f:]+\])(:\d{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
)
MOST_INDEX_BYTES = 1 << 20


def archive_of(target: str, dist: Path) -> Path:
    """Where `make image-…` leaves a target's archive."""
    return dist / f"surefoot-{__version__}-{target}.docker.tar"


def targets_of(platform: str) -> tuple[str, ...]:
    """What is built for a platform; one of its targets stands for itself.

    Raises:
        Problem: there is no such platform.
    """
    if any(platform in targets for targets in PLATFORMS.values()):
        return (platform,)
    if platform not in PLATFORMS:
        raise Problem(f"no platform {platform!r}; there are {', '.join(PLATFORMS)}")
    return PLATFORMS[platform]


def need_archives(platform: str, dist: Path) -> list[Path]:
    """The archives of a platform.

    Raises:
        Problem: no such platform, or it was not built.
    """
    archives = [archive_of(target, dist) for target in targets_of(platform)]
    for archive in archives:
        if not archive.exists():
            command = {"jetson-jp7": "jetson JETPACK=7"}.get(
                platform, platform.removesuffix("-amd64").removesuffix("-arm64")
            )
            raise Problem(f"{archive.name} is not in {dist}\n  what to do: make image-{command}")
    return archives


def manifest_digest(archive: Path) -> str:
    """The digest of the image in an archive."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("index.json")
        if member is None:
            raise Problem(f"{archive} is no archive of `make image-…`")
        manifests = json.loads(member.read(MOST_INDEX_BYTES))["manifests"]
    return str(manifests[0]["digest"])


def docker(*arguments: str) -> str:
    """Run docker. Returns what it printed.

    Raises:
        Problem: it failed; with its own last lines.
    """
    line = ["docker", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.strip().splitlines() if line][-3:]
        raise Problem("\n  ".join([f"docker {' '.join(arguments)} failed", *said]))
    return done.stdout.strip()


def published(reference: str) -> str:
    """The digest that a registry has under a name; empty where it answers that it has none.

    Raises:
        Problem: it does not answer, or refuses.
    """
    try:
        return read_digest(reference)
    except Problem as problem:
        if str(problem).endswith(f"{reference}: not found"):
            return ""
        raise Problem(f"{problem}\n  what to do: check REGISTRY, the network, and `docker login`") from problem


def push_archive(archive: Path, reference: str) -> str:
    """Push one image. Returns its digest.

    Raises:
        Problem: another image has that name already, or did not arrive as it is.
    """
    digest = manifest_digest(archive)
    before = published(reference)
    if before not in {"", digest}:
        raise Problem(
            f"{reference} is published already with another content\n  found: {before}\n  expected: {digest}\n"
            "  what to do: raise the version in app/src/surefoot/__init__.py and build again"
        )
    if not before:
        docker("load", "--quiet", "--input", str(archive))
        docker("tag", digest, reference)  # by digest: another build may have taken the archive's own tag meanwhile
        try:
            docker("push", "--quiet", reference)
        finally:
            docker("image", "rm", reference)
        after = published(reference)
        if after != digest:
            raise Problem(
                f"{reference} is not the image that was built\n  found: {after}\n  expected: {digest}\n"
                '  what to do: turn on its containerd store ("features": {"containerd-snapshotter": true})'
            )
    print(f"{reference}@{digest}{'  (was there)' if before else ''}", flush=True)
    return digest


def push(registry: str, platforms: list[str], dist: Path = DIST) -> None:
    """Push the platforms' images, and one name over the architectures where a platform has several."""
    if not _REGISTRY.fullmatch(registry):
        raise Problem(
            f"REGISTRY is {registry!r}; expected host[:port]/name, such as registry.example.com/edge/surefoot"
        )
    need_engine()
    if not platforms:
        platforms = [name for name, targets in PLATFORMS.items() if all(archive_of(t, dist).exists() for t in targets)]
        if not platforms:
            raise Problem(f"there is no image of {__version__} in {dist}\n  what to do: make image-rpi, or another")
    for platform in platforms:
        archives = need_archives(platform, dist)
        digests = [
            push_archive(archive, f"{registry}:{__version__}-{target}")
            for archive, target in zip(archives, targets_of(platform), strict=True)
        ]
        if len(digests) > 1:
            name = f"{registry}:{__version__}-{platform}"
            docker("buildx", "imagetools", "create", "--tag", name, *(f"{registry}@{digest}" for digest in digests))
            print(f"{name}@{published(name)}", flush=True)


def main() -> int:
    """Push what the command line names."""
    parser = argparse.ArgumentParser(prog="make push", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("registry", help="host[:port]/name")
    parser.add_argument(
        "platforms", nargs="*", metavar="platform", help=f"{', '.join(PLATFORMS)}; default: all in dist"
    )
    parser.add_argument("--dist", type=Path, default=DIST, help="where the archives are")
    given = parser.parse_args()
    try:
        push(given.registry, given.platforms, given.dist)
    except Problem as problem:
        print(f"surefoot: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
