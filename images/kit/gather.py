"""Gathers an offline kit: `make offline-kit PLATFORM=… REPOSITORY=… KEYS=…`.

One folder for a USB stick: the image (or the macOS bundle), the Linux bundles where they were built, the Debian
packages that provisioning needs, the published releases, and kit.json, the signed list of all of it. Gathered under a
temporary name; what was interrupted is no kit.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from images.base.debian import KIT_LOCK, Package, Problem, fetch, read_lock
from images.build import BUILD, DIST, ROOT
from images.push import PLATFORMS, need_archives
from surefoot import __version__
from surefoot.cli.keys import passphrase
from surefoot.durable import TEMPORARY_PREFIX, Disk, locked
from surefoot.errors import SurefootError
from surefoot.release import kit
from surefoot.release.keys import Keyring

MACOS = "macos"
# Jetsons stand on the vendor's Ubuntu, which brings Docker; a Mac runs no container.
DEBIAN = {"rpi": ("arm64",), "generic": ("amd64", "arm64"), "generic-openvino": ("amd64",)}

README = """Surefoot {version} for {platform}: an offline kit.

Check it before every use, with a root of the publisher that did not come with it:
  surefoot kit verify THIS_FOLDER --root 1.root.json

{parts}
  repository/    signed releases: surefoot model install NAME --repository THIS_FOLDER/repository
"""


def payload(platform: str, dist: Path) -> list[Path]:
    """What was built for a platform, with the lists of its parts and licences where they lie beside it.

    Raises:
        Problem: it was not built.
    """
    if platform == MACOS:
        built = [dist / f"surefoot-{__version__}-macos-arm64.tar.gz"]
        if not built[0].exists():
            raise Problem(f"{built[0].name} is not in {dist}\n  what to do: make bundle-macos")
    else:
        bundles = (dist / f"surefoot-{__version__}-linux-{each}.tar.gz" for each in DEBIAN.get(platform, ()))
        built = [*need_archives(platform, dist), *(path for path in bundles if path.exists())]
    stems = [path.name.removesuffix(".docker.tar").removesuffix(".tar.gz") for path in built]
    return sorted({path for stem in stems for path in dist.glob(f"{stem}.*") if path.is_file()})


def index(packages: list[Package], folder: Path) -> str:
    """The ``Packages`` file that makes a folder of .debs a repository for apt (sources.list(5), the flat form)."""

    def paragraphs() -> Iterator[str]:
        for package in packages:
            file = folder / package.file
            line = ["dpkg-deb", "--field", str(file)]
            fields = subprocess.run(line, check=True, capture_output=True, text=True).stdout
            yield f"{fields.strip()}\nFilename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {package.sha256}\n"

    return "\n".join(paragraphs())


def add_debs(architecture: str, folder: Path) -> None:
    """The locked packages of an architecture and their index, in ``folder``."""
    cache = BUILD / "kit" / "debs"
    packages = [package for package in read_lock(KIT_LOCK) if package.architecture == architecture]
    fetch(packages, cache)
    folder.mkdir(parents=True)
    for package in packages:
        shutil.copyfile(cache / package.file, folder / package.file)
    (folder / "Packages").write_text(index(packages, folder))


def fill(folder: Path, platform: str, repository: Path, dist: Path) -> None:
    """Lay everything but the signed list into a folder that is there and empty."""
    parts = []
    for path in payload(platform, dist):
        shutil.copyfile(path, folder / path.name)
        if path.name.endswith((".docker.tar", ".tar.gz")):
            what = "the image: docker load --input" if path.name.endswith(".tar") else "the bundle: tar -xzf"
            parts.append(f"  {path.name}    {what} THIS_FOLDER/{path.name}")
    for architecture in DEBIAN.get(platform, ()):
        add_debs(architecture, folder / "debs" / architecture)
        parts.append(
            f"  debs/{architecture}/    a repository for apt: deb [trusted=yes] file:THIS_FOLDER/debs/{architecture} ./"
        )
    shutil.copytree(repository, folder / kit.REPOSITORY, symlinks=True)
    (folder / "README.txt").write_text(README.format(version=__version__, platform=platform, parts="\n".join(parts)))


def gather(platform: str, repository: Path, ring: Keyring, *, dist: Path = DIST, now: datetime | None = None) -> Path:
    """Make a kit, and check it as its reader will.

    Returns:
        Its folder: ``kit-VERSION-PLATFORM`` in ``dist``. One of that name from before is replaced at the very end.

    Raises:
        Problem: something that belongs in it was not built.
        SurefootError: keys or repository are not in order.
    """
    now = now or datetime.now(timezone.utc)
    if platform not in (MACOS, *PLATFORMS):
        raise Problem(f"no platform {platform!r}; there are {', '.join((*PLATFORMS, MACOS))}")
    payload(platform, dist)
    ring.signers("targets")  # what cannot be signed is not gathered
    if not (repository / "metadata").is_dir():
        raise Problem(f"{repository} is no published repository\n  what to do: surefoot release publish")
    disk = Disk()
    made = dist / f"kit-{__version__}-{platform}"
    partial = dist / f"{TEMPORARY_PREFIX}{made.name}"
    with locked(dist / f".{made.name}.lock", wait_s=0, what=f"the making of {made.name}"):
        disk.remove_directory(partial)
        partial.mkdir()
        fill(partial, platform, repository, dist)
        kit.seal(partial, ring, platform=platform, version=__version__, now=now, disk=disk)
        kit.verify(partial, ring.roots()[0], now=now)
        disk.remove_directory(made)
        disk.publish_directory(partial, made)
    return made


def main() -> int:
    """Gather what the command line names."""
    parser = argparse.ArgumentParser(prog="make offline-kit", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("platform", choices=(*PLATFORMS, MACOS))
    parser.add_argument("--repository", type=Path, required=True, help="a published repository")
    parser.add_argument("--keys", type=Path, required=True, help="the folder that `surefoot keys init` made")
    parser.add_argument("--passphrase-file", type=Path, help="default: $SUREFOOT_PASSPHRASE, else you are asked")
    parser.add_argument("--dist", type=Path, default=DIST, help="where the images are, and the kit goes")
    given = parser.parse_args()
    try:
        made = gather(
            given.platform, given.repository, Keyring(given.keys, passphrase(given.passphrase_file)), dist=given.dist
        )
    except (Problem, SurefootError) as problem:
        print(f"surefoot: {problem}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    shown = made.relative_to(ROOT) if made.is_relative_to(ROOT) else made
    print(f"{shown}  {size / 1e6:.1f} MB, sealed and checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
