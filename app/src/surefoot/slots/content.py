"""What a slot or an archived release holds on disk, and whether it is what was installed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from surefoot.durable import Disk, hash_file, read_bounded
from surefoot.errors import BadRequest, DeviceUnable, SurefootError, UntrustedRelease
from surefoot.release import manifest as manifests
from surefoot.release.manifest import FILE_NAME, MOST_MANIFEST_BYTES, File, Manifest
from surefoot.slots.sealed import UnreadableError, read_sealed, seal
from surefoot.slots.state import ReleaseRef

MOST_RECORD_BYTES = 16 * 1024
CHUNK_BYTES = 1 << 20
# What an error says of the content, and not of this process or this moment: it is not there, no file, or lost.
ABOUT_CONTENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO, errno.EBADMSG, errno.EUCLEAN)

Hash = Callable[[Path], tuple[str, int]]  # SHA-256 (hex) and length in bytes of a file


class Record(msgspec.Struct, frozen=True):
    """What a slot knows of itself, beside its directory, for a rebuild when both copies of the state are lost.

    ``order``: the generation in which it was confirmed, 0 if never. ``floor``: the floor when this was written.
    """

    release: ReleaseRef
    ever_confirmed: bool
    order: int = 0
    floor: str | None = None


def read_record(path: Path) -> Record | None:
    """The record, or ``None`` where there is none that can be believed."""
    try:
        return read_sealed(path, Record, MOST_RECORD_BYTES)
    except UnreadableError:
        return None


def write_record(disk: Disk, path: Path, record: Record) -> None:
    """Make the record on disk this one."""
    if read_record(path) != record:
        disk.write(path, seal(record))


def wanted(manifest: Manifest, variant_id: str) -> tuple[File, ...]:
    """The files that a device keeps of a release: its variant's artifact, the golden cases, the card."""
    variant = manifest.variant(variant_id)
    files = (variant.artifact, manifest.golden.file, manifest.card.file)
    return tuple({file.name: file for file in files}.values())


def fault(directory: Path, release: ReleaseRef, hashed: Hash = hash_file) -> str | None:
    """What is wrong with a slot's content; ``None`` when every byte is what was installed.

    A file with two names is wrong too: one bad block would take both.

    Args:
        directory: the slot's.
        release: what it should hold.
        hashed: how files are read.

    Raises:
        DeviceUnable: it cannot be read now, or not by this user. That is nothing about what it holds.
    """
    try:
        data = read_bounded(directory / FILE_NAME, MOST_MANIFEST_BYTES)
        if manifests.digest(data) != release.digest:
            return f"{FILE_NAME} is not the one of {release}"
        for file in wanted(manifests.decode(data), release.variant):
            path = directory / file.name
            facts = os.lstat(path)
            if not stat.S_ISREG(facts.st_mode):
                return f"{file.name} is no regular file"
            if facts.st_nlink != 1:
                return f"{file.name} shares its inode with another name"
            if hashed(path) != (file.sha256, file.length_bytes):
                return f"{file.name} does not match its digest"
    except OSError as error:
        if error.errno in ABOUT_CONTENT:
            return str(error)
        hint = "run as the user who owns the data directory, or give it back to that user: chown -R"
        raise DeviceUnable(
            f"cannot read {error.filename or directory}",
            found=f"{error.strerror}, as user {os.geteuid()}",
            hint=hint if isinstance(error, PermissionError) else "that says nothing about what it holds: try again",
        ) from error
    except SurefootError as error:
        return str(error)
    return None


def copy_release(
    disk: Disk, into: Path, manifest: Manifest, manifest_bytes: bytes, variant_id: str, files: dict[str, Path]
) -> None:
    """Write a release's files into an empty directory, one by one, durable, each checked as it is written.

    Raises:
        UntrustedRelease: a file is not what the manifest says.
        DeviceUnable: the disk does not take it.
    """
    disk.make_directory(into)
    disk.write(into / FILE_NAME, manifest_bytes)
    for file in wanted(manifest, variant_id):
        _copy(disk, files[file.name], into, manifest, file)


def _copy(disk: Disk, source: Path, into: Path, manifest: Manifest, file: File) -> None:
    found = disk.write_stream(into / file.name, _chunks(source, file.length_bytes))
    if found != (file.sha256, file.length_bytes):
        raise UntrustedRelease(
            f"{file.name} of {manifest.name} {manifest.version} does not match its manifest",
            found=f"sha256 {found[0]}, {found[1]} bytes",
            expected=f"sha256 {file.sha256}, {file.length_bytes} bytes",
            hint="fetch the release again; if that does not help, publish it again",
        )


def move_release(
    disk: Disk, into: Path, manifest: Manifest, manifest_bytes: bytes, variant_id: str, files: dict[str, Path]
) -> None:
    """The same without a copy, of files on this file system that were checked as they were written.

    Where they lie below another mount of it, the kernel moves nothing: then each is copied and goes, so that there has
    to be room for the longest.

    Raises:
        UntrustedRelease: a file is not as long as the manifest says, or where it is copied another one.
        DeviceUnable: the disk does not take it.
    """
    disk.make_directory(into)
    disk.write(into / FILE_NAME, manifest_bytes)
    for file in wanted(manifest, variant_id):
        found = files[file.name].stat().st_size
        if found != file.length_bytes:
            raise UntrustedRelease(
                f"{file.name} of {manifest.name} {manifest.version} was changed since it was fetched",
                found=f"{found} bytes",
                expected=f"{file.length_bytes} bytes",
                hint="fetch the release again",
            )
        disk.sync_file(files[file.name])  # what a try wrote that was killed may not be on the disk
        try:
            disk.move_file(files[file.name], into / file.name)
        except DeviceUnable as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EXDEV:
                raise
            _copy(disk, files[file.name], into, manifest, file)
            disk.remove(files[file.name])


def _chunks(path: Path, length_bytes: int) -> Iterator[bytes]:
    """At most one byte more than announced, so that a file that is too long is seen as such and fills no disk."""
    left = length_bytes + 1
    try:
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise BadRequest(f"{path} is missing", hint="fetch the release again") from error
    with stream:
        while left and (chunk := stream.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk
