"""A built release in its folder: read back and checked against its own manifest before anybody signs it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from surefoot.durable import hash_file, read_bounded
from surefoot.errors import BadRequest, DeviceUnable, UntrustedRelease
from surefoot.release import golden, manifest

SIGNED_FOLDER = "signed"


class Packed(msgspec.Struct, frozen=True):
    """A release folder that agrees with its manifest."""

    directory: Path
    manifest: manifest.Manifest
    manifest_bytes: bytes

    @property
    def digest(self) -> str:
        """The release's digest."""
        return manifest.digest(self.manifest_bytes)

    def kinds(self) -> dict[str, str]:
        """Every file by name, with what it is: manifest, artifact, golden or card."""
        kinds = {file.name: "artifact" for file in self.manifest.files()}
        kinds[self.manifest.golden.file.name] = "golden"
        kinds[self.manifest.card.file.name] = "card"
        return {manifest.FILE_NAME: "manifest", **kinds}


def read(directory: Path) -> Packed:
    """Read a release folder and check every file in it.

    Raises:
        BadRequest: it is no release folder.
        UntrustedRelease: a file is missing, too many, or not what the manifest says; golden cases are not valid or
            leave a class out.
    """
    try:
        data = read_bounded(directory / manifest.FILE_NAME, manifest.MOST_MANIFEST_BYTES)
    except OSError as error:
        raise BadRequest(
            f"{directory} holds no release",
            found=f"{manifest.FILE_NAME}: {error.strerror}",
            hint="surefoot release build",
        ) from error
    except DeviceUnable as error:
        raise UntrustedRelease(error.what, found=error.found, expected=error.expected) from error
    release = manifest.decode(data)
    for file in release.files():
        check_file(directory / file.name, file)
    there = {path.name for path in directory.iterdir()}
    strangers = there - {file.name for file in release.files()} - {manifest.FILE_NAME, SIGNED_FOLDER}
    if strangers:
        raise UntrustedRelease(
            f"{directory} holds files that are not in its manifest", found=", ".join(sorted(strangers)[:10])
        )
    check_golden(release, read_bounded(directory / release.golden.file.name, golden.MOST_GOLDEN_BYTES))
    return Packed(directory, release, data)


def check_file(path: Path, file: manifest.File) -> None:
    """Compare a file with what the manifest says.

    Raises:
        UntrustedRelease: missing, or another length or hash.
    """
    try:
        digest, length = hash_file(path)
    except OSError as error:
        raise UntrustedRelease(
            f"{path} is missing",
            found=str(error.strerror),
            expected="every file of the manifest",
            hint="build it again",
        ) from error
    if (digest, length) != (file.sha256, file.length_bytes):
        raise UntrustedRelease(
            f"{path} is not what the manifest says",
            found=f"{length} bytes, sha256 {digest}",
            expected=f"{file.length_bytes} bytes, sha256 {file.sha256}",
            hint="build the release again: it is never changed by hand",
        )


def check_golden(release: manifest.Manifest, data: bytes) -> list[golden.Case]:
    """Read the golden cases and compare them with the manifest.

    Raises:
        UntrustedRelease: not valid, none, another number than declared, a label out of range, or a class left out.
    """
    cases = golden.decode(data)
    if len(cases) != release.golden.cases:
        raise UntrustedRelease(
            "the golden file has another number of cases than the manifest says",
            found=str(len(cases)),
            expected=str(release.golden.cases),
        )
    if not release.labels:
        return cases
    covered = {case.label for case in cases}
    beyond = [case.id for case in cases if case.label is None or not 0 <= case.label < len(release.labels)]
    if beyond:
        raise UntrustedRelease("golden cases without a label of this release", found=", ".join(beyond[:10]))
    missing = [name for index, name in enumerate(release.labels) if index not in covered]
    if missing:
        raise UntrustedRelease("classes without a golden case", found=", ".join(missing[:20]))
    return cases
