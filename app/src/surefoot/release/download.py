"""One verified file out of a repository: resumable, counted, hashed while it arrives, its final name given last."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tuf.api.metadata import TargetFile

from surefoot.durable import Disk, hash_file
from surefoot.errors import DeviceUnable, TransportFailed, UntrustedRelease
from surefoot.release.metadata import sha256_of, split_target_path, stored_path
from surefoot.release.source import Source
from surefoot.release.trust import Trusted

PART_SUFFIX = ".part"
Progress = Callable[[int], None]  # bytes that are here, of those expected


def download(
    source: Source,
    trusted: Trusted,
    target_path: str,
    directory: Path,
    disk: Disk,
    *,
    reserve_bytes: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Fetch a target, or find it there already.

    What arrived of an earlier try (``*.part``) is hashed and gone on from. If the whole then is not what was signed,
    it is thrown away and fetched anew, once.

    Args:
        source: where the bytes come from. It is not believed.
        trusted: says length and hash.
        target_path: as in the metadata, ``NAME/VERSION/FILE``.
        directory: the inbox of this release; the file gets its own name in it.
        disk: the durable writer.
        reserve_bytes: what must stay free on that file system.
        progress: told how many bytes are here.

    Raises:
        UntrustedRelease: not named by the metadata, too long, or another hash.
        TransportFailed: it broke off or is too short; the part stays for the next try.
        DeviceUnable: no space for it, or the disk cannot be written.
    """
    target = trusted.target(target_path)
    final = directory / split_target_path(target.path)[2]
    if final.is_file() and hash_file(final) == (sha256_of(target), target.length):
        return final
    disk.make_directory(directory)
    part = final.with_name(f"{final.name}{PART_SUFFIX}")
    resumed = _size(part)
    if resumed > target.length:
        disk.remove(part)
        resumed = 0
    reserve(directory, target.length - resumed + reserve_bytes, target_path)
    try:
        _fetch(source, target, part, resumed, disk, progress)
    except UntrustedRelease:
        disk.remove(part)
        if not resumed:
            raise
        reserve(directory, target.length + reserve_bytes, target_path)
        try:
            _fetch(source, target, part, 0, disk, progress)
        except UntrustedRelease:
            disk.remove(part)
            raise
    disk.move_file(part, final)
    return final


def reserve(directory: Path, needed_bytes: int, what: str) -> None:
    """Make sure of space before a byte is fetched.

    Raises:
        DeviceUnable: there is less than ``needed_bytes`` for us.
    """
    free = os.statvfs(directory)
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < needed_bytes:
        raise DeviceUnable(
            f"no space for {what}",
            found=f"{free_bytes} bytes free",
            expected=f"{needed_bytes} bytes",
            hint=f"free space on the file system of {directory}, then run the same command again",
        )


def _fetch(source: Source, target: TargetFile, part: Path, resumed: int, disk: Disk, progress: Progress | None) -> None:
    digest = hashlib.sha256()
    length = resumed
    if resumed:
        with part.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)

    def checked() -> Iterator[bytes]:
        nonlocal length
        if length == target.length:
            return
        for chunk in source.stream(stored_path(target), length):
            length += len(chunk)
            if length > target.length:
                raise UntrustedRelease(
                    f"{target.path} is longer than was signed",
                    found=f"more than {target.length} bytes",
                    expected=f"{target.length} bytes",
                    hint="the repository was changed: check it with `surefoot release verify`",
                )
            digest.update(chunk)
            yield chunk
            if progress:
                progress(length)

    disk.extend(part, checked(), resumed)
    if length < target.length:
        raise TransportFailed(
            f"{target.path} broke off",
            found=f"{length} bytes",
            expected=f"{target.length} bytes",
            hint="run the same command again: it goes on from there; if it stays, publish the release again",
        )
    if digest.hexdigest() != sha256_of(target):
        raise UntrustedRelease(
            f"{target.path} is not what was signed",
            found=f"sha256 {digest.hexdigest()}",
            expected=f"sha256 {sha256_of(target)}",
            hint="the file was changed after it was signed: check the repository with `surefoot release verify`",
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
