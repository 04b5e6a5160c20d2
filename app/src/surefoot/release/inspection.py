"""A release or a repository for people to look at. Nothing here says that it is to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.metadata import Targets

from surefoot.durable import read_bounded
from surefoot.errors import BadRequest, DeviceUnable, UntrustedRelease
from surefoot.release import manifest
from surefoot.release.metadata import (
    MOST_BYTES,
    ROLES,
    metadata_path,
    parse,
    sha256_of,
    split_target_path,
    stored_path,
    target_path,
    text,
)
from surefoot.release.source import FileSource


class Listed(msgspec.Struct, frozen=True):
    """One release in a repository."""

    name: str
    version: str
    digest: str
    files: int
    size_bytes: int


class Inspection(msgspec.Struct, frozen=True):
    """What lies in a folder: a release with its ``manifest``, or a repository with its ``releases``."""

    kind: str
    digest: str | None = None
    manifest: manifest.Manifest | None = None
    releases: tuple[Listed, ...] = ()
    metadata: dict[str, dict[str, Any]] = {}


def inspect(folder: Path, name: str | None = None, version: str | None = None) -> Inspection:
    """Look at a release folder or a repository.

    Args:
        folder: either.
        name: in a repository, show only this model.
        version: in a repository, show this version whole.

    Raises:
        BadRequest: the folder is neither, or holds no such release.
        UntrustedRelease: what is there cannot be read.
    """
    if (folder / manifest.FILE_NAME).is_file():
        try:
            data = read_bounded(folder / manifest.FILE_NAME, manifest.MOST_MANIFEST_BYTES)
        except DeviceUnable as error:
            raise UntrustedRelease(error.what, found=error.found, expected=error.expected) from error
        return Inspection(kind="release", digest=manifest.digest(data), manifest=manifest.decode(data))
    if (folder / metadata_path("timestamp")).is_file():
        return _inspect_repository(folder, name, version)
    raise BadRequest(
        f"{folder} is neither a release nor a repository",
        expected=f"{manifest.FILE_NAME} or {metadata_path('timestamp')} in it",
    )


def _inspect_repository(folder: Path, name: str | None, version: str | None) -> Inspection:
    source = FileSource(folder)
    timestamp = parse(source.read(metadata_path("timestamp"), MOST_BYTES["timestamp"]), "timestamp").signed
    number = timestamp.snapshot_meta.version
    snapshot = parse(source.read(metadata_path("snapshot", number), MOST_BYTES["snapshot"]), "snapshot").signed
    number = snapshot.meta["targets.json"].version if "targets.json" in snapshot.meta else 0
    targets = parse(source.read(metadata_path("targets", number), MOST_BYTES["targets"]), "targets").signed
    releases = [entry for entry in _releases(targets) if name in {None, entry.name}]
    signed = {"timestamp": timestamp, "snapshot": snapshot, "targets": targets}
    roots = sorted(folder.glob("metadata/*.root.json"), key=lambda path: int(path.name.split(".")[0]))
    if roots:
        signed["root"] = parse(read_bounded(roots[-1], MOST_BYTES["root"]), "root").signed
    metadata: dict[str, dict[str, Any]] = {
        role: {"version": signed[role].version, "expires": text(signed[role].expires)}
        for role in ROLES
        if role in signed
    }
    if version is None:
        return Inspection(kind="repository", releases=tuple(releases), metadata=metadata)
    wanted = [entry for entry in releases if entry.version == version]
    if len(wanted) != 1:
        raise BadRequest(
            f"no one release {name or ''} {version} is there".replace("  ", " "),
            found=", ".join(f"{entry.name} {entry.version}" for entry in releases) or "none",
            hint="name the model with --name" if wanted else "",
        )
    target = targets.targets[target_path(wanted[0].name, version)]
    data = source.read(stored_path(target), manifest.MOST_MANIFEST_BYTES)
    return Inspection(kind="release", digest=manifest.digest(data), manifest=manifest.decode(data), metadata=metadata)


def _releases(targets: Targets) -> list[Listed]:
    found: dict[tuple[str, str], list[str]] = {}
    for path in targets.targets:
        name, version, _ = split_target_path(path)
        found.setdefault((name, version), []).append(path)
    listed = []
    for (name, version), paths in found.items():
        head = targets.targets.get(target_path(name, version))
        size = sum(targets.targets[path].length for path in paths)
        listed.append(Listed(name, version, sha256_of(head) if head else "", len(paths), size))
    return sorted(listed, key=lambda entry: (entry.name, manifest.version_key(entry.version)))


def describe(whole: manifest.Manifest, digest: str) -> str:
    """A release in one line."""
    size = sum(file.length_bytes for file in whole.files())
    return (
        f"{whole.name} {whole.version} ({digest[:12]}): {len(whole.variants)} variants, "
        f"{whole.golden.cases} golden cases, {size:,} bytes"
    )


def table(found: Inspection) -> str:
    """What was found, for people."""
    if found.manifest is not None and found.digest is not None:
        return "\n".join(_release_lines(found.manifest, found.digest))
    rows = [("NAME", "VERSION", "FILES", "BYTES", "DIGEST")]
    rows += [
        (entry.name, entry.version, str(entry.files), f"{entry.size_bytes:,}", entry.digest[:12] or "no manifest")
        for entry in found.releases
    ]
    states = [f"{role} {facts['version']}, valid until {facts['expires']}" for role, facts in found.metadata.items()]
    return "\n".join([*columns(rows), "", *states])


def _release_lines(whole: manifest.Manifest, digest: str) -> list[str]:
    rows = [("VARIANT", "RUNTIME", "ARTIFACT", "BYTES", "DEVICE CLASSES")]
    rows += [
        (each.id, each.runtime, each.artifact.name, f"{each.artifact.length_bytes:,}", ", ".join(each.device_classes))
        for each in whole.variants
    ]
    return [
        f"{whole.name} {whole.version}, created {whole.created}",
        f"digest {digest}",
        f"labels {', '.join(whole.labels)}",
        f"golden cases {whole.golden.cases}; stateless {_word(whole.stateless)}; "
        f"input may leave the device {_word(whole.input_may_leave_device)}; app >= {whole.minimum_app_version}",
        "",
        *columns(rows),
        "",
        f"data: {whole.card.data}",
        f"limits: {whole.card.limits}",
        f"fails where: {whole.card.fails_where}",
    ]


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _word(value: bool) -> str:
    return "yes" if value else "no"
