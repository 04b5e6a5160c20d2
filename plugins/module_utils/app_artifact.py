# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
"""What an archive of the app is, read from its first bytes and its index: a Docker archive, or a bundle.

Reads only, by the standard library alone: on the controller by the lookup ``app_artifact``, on a device where the
archive lies there already. Of a Docker archive no layer is read, and a bundle no further than its ``bundle.conf``.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

MOST_INDEX_BYTES = 4 << 20
MOST_CONF_BYTES = 64 << 10
MOST_ENTRIES = 10_000
GZIP = b"\x1f\x8b"  # RFC 1952
# As `uname -m` says on Linux, by the words of OCI images.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# What an engine writes beside the layers, and what unpacking may take more than the sum of its files.
MARGIN_BYTES, FACTOR = 32 << 20, 1.1
VERSION_LABEL = "org.opencontainers.image.version"


class ArtifactError(Exception):
    """The file is none of ours, or damaged. The message has what was found and what was expected."""


def describe(path: str | Path) -> dict[str, Any]:
    """What is in an archive, as plain values.

    Args:
        path: of what ``make image-…`` or ``make bundle-…`` wrote.

    Returns:
        ``kind`` (image or bundle), ``name``, ``id`` (version and the first twelve digits of a digest), ``version``,
        ``system`` and ``machine`` as uname says them, ``python`` (of a bundle), ``images`` (digests that an engine may
        know it by), ``bytes`` of the archive and ``needed_bytes`` that it takes beside the archive.

    Raises:
        ArtifactError: it is neither.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == GZIP
        about = _bundle(path) if packed else _image(path)
    except (OSError, EOFError, tarfile.TarError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is no archive of the app; found {error or type(error).__name__}, expected what make image-… or "
            "make bundle-… wrote"
        ) from error
    return dict(about, name=path.name, bytes=path.stat().st_size)


def _image(path: Path) -> dict[str, Any]:
    with tarfile.open(path, "r:") as archive:
        members = {member.name: member for member in islice(archive, MOST_ENTRIES)}
        manifests = json.loads(_read(archive, members["manifest.json"]))
        if len(manifests) != 1:
            raise ValueError(f"{len(manifests)} images in one archive")
        (manifest,) = manifests
        configuration = _read(archive, members[manifest["Config"]])
        digest = hashlib.sha256(configuration).hexdigest()
        if digest not in manifest["Config"]:
            raise ValueError("a configuration that is not what its name says")
        configuration = json.loads(configuration)
        layers = sum(_unpacked_bytes(archive, members[name]) for name in manifest["Layers"])
        images = [f"sha256:{digest}"]
        if "index.json" in members:  # an engine with containerd's store knows an image by its manifest
            images += [each["digest"] for each in json.loads(_read(archive, members["index.json"]))["manifests"]]
    version = configuration["config"]["Labels"][VERSION_LABEL]
    return {
        "kind": "image",
        "id": f"{version}-{digest[:12]}",
        "version": version,
        "system": configuration["os"].capitalize(),
        "machine": MACHINES.get(configuration["architecture"], configuration["architecture"]),
        "python": "",
        "images": images,
        "needed_bytes": int(layers * FACTOR) + MARGIN_BYTES,
    }


def _unpacked_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    """The length of a layer once unpacked: gzip ends with it, modulo 4 GiB (RFC 1952)."""
    stream = archive.extractfile(member)
    if stream is None:
        raise ValueError(f"{member.name} cannot be read")
    if stream.read(2) != GZIP:
        return member.size
    stream.seek(member.size - 4)
    return int(struct.unpack("<I", stream.read(4))[0])


def _bundle(path: Path) -> dict[str, Any]:
    with tarfile.open(path, "r:gz") as archive:
        for member in islice(archive, MOST_ENTRIES):
            if member.name.endswith("/bundle.conf"):
                conf = _read(archive, member, MOST_CONF_BYTES).decode()
                break
        else:
            raise ValueError("no bundle.conf")
    said = settings(conf)
    return {
        "kind": "bundle",
        "id": said["id"],
        "version": said["version"],
        "system": said["system"],
        "machine": said["machine"],
        "python": said["python_version"],
        "images": [],
        # The wheels are unpacked from the archive before they are installed.
        "needed_bytes": int(said["needed_kb"]) * 1024 + path.stat().st_size,
    }


def settings(conf: str) -> dict[str, str]:
    """The settings of a ``bundle.conf``, without their prefix."""
    return dict(re.findall(r"^bundle_([a-z_]+)='([^']*)'$", conf, re.MULTILINE))


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, most_bytes: int = MOST_INDEX_BYTES) -> bytes:
    if not member.isfile() or member.size > most_bytes:
        raise ValueError(f"{member.name} of {member.size} bytes")
    stream = archive.extractfile(member)
    if stream is None:
        raise ValueError(f"{member.name} cannot be read")
    return stream.read()
