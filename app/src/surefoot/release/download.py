"""One verified file out of a repository: resumable, counted, hashed while it arrives, its final name given last."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tuf.api.metadata import TargetFile

from surefoot.durable import Disk, hash_file, pieces, read_bounded, taken_bytes
from surefoot.errors import DeviceUnable, TransportFailed, UntrustedRelease
from surefoot.release.metadata import sha256_of, split_target_path, stored_path
from surefoot.release.source import FileSource, Piece, Source, strong
from surefoot.release.trust import Trusted

PART_SUFFIX = ".part"
TAG_SUFFIX = ".part.etag"  # beside a part: the validator of the file that it is of, where the server told one
MOST_TAG_BYTES = 256
Progress = Callable[[int], None]  # bytes that are here, of those expected


def download(
    source: Source,
    trusted: Trusted,
    target_path: str,
    directory: Path,
    disk: Disk,
    *,
    reserve_bytes: int = 0,
    copies: Iterable[Path] = (),
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
        copies: files here that may hold the same bytes; one that does is copied, and nothing is fetched.
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
    reserve(directory, max(0, target.length - taken_bytes(part)) + reserve_bytes, target_path)
    if not any(_copy(path, target, part, disk) for path in copies):
        arrival = _Arrival(source, target, part, disk, progress)
        try:
            arrival.fetch()
        except UntrustedRelease:
            arrival.forget()
            if not resumed:
                raise
            reserve(directory, target.length + reserve_bytes, target_path)
            try:
                arrival.fetch()
            except UntrustedRelease:
                arrival.forget()
                raise
    disk.move_file(part, final)
    disk.remove(_tag_path(part))
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


def _copy(path: Path, target: TargetFile, part: Path, disk: Disk) -> bool:
    """Whether ``path`` held the target; then the part does, by bytes of its own: one bad block must not take two.

    A file that cannot be read, or was damaged, is passed over.
    """
    if not path.is_file() or path.stat().st_size != target.length:
        return False
    try:
        found = disk.write_stream(part, (piece.data for piece in FileSource(path.parent).stream(path.name)))
    except (TransportFailed, UntrustedRelease):
        return False
    if found != (sha256_of(target), target.length):
        disk.remove(part)
        return False
    return True


class _Arrival:
    """One target on its way into its part."""

    def __init__(self, source: Source, target: TargetFile, part: Path, disk: Disk, progress: Progress | None) -> None:
        self._source, self._target, self._part, self._disk = source, target, part, disk
        self._progress = progress
        self._digest, self._length = hashlib.sha256(), 0
        self._tag = ""

    def forget(self) -> None:
        """Remove what arrived."""
        self._disk.remove(self._part)
        self._disk.remove(_tag_path(self._part))

    def fetch(self) -> None:
        """Go on from what is there to the end, and check the whole."""
        target = self._target
        self._resume()
        if self._length < target.length:
            stream = self._source.stream(stored_path(target), self._length, self._tag, target.length)
            following = next(stream, None)
            while following is not None:
                if following.offset != self._length:
                    self._begin()
                self._keep_tag(following.tag)
                run = _Run(following, stream)
                self._disk.extend(self._part, self._checked(run), following.offset, room_bytes=target.length)
                following = run.following
        if self._length < target.length:
            raise TransportFailed(
                f"{target.path} broke off",
                found=f"{self._length} bytes",
                expected=f"{target.length} bytes",
                hint="run the same command again: it goes on from there; if it stays, publish the release again",
            )
        if self._digest.hexdigest() != sha256_of(target):
            raise UntrustedRelease(
                f"{target.path} is not what was signed",
                found=f"sha256 {self._digest.hexdigest()}",
                expected=f"sha256 {sha256_of(target)}",
                hint="the file was changed after it was signed: check the repository with `surefoot release verify`",
            )

    def _resume(self) -> None:
        self._digest, self._length, self._tag = hashlib.sha256(), 0, ""
        if not _size(self._part):
            return
        with self._part.open("rb") as stream:
            for chunk in pieces(stream):
                self._digest.update(chunk)
                self._length += len(chunk)
        with contextlib.suppress(OSError, UnicodeDecodeError, DeviceUnable):
            self._tag = strong(read_bounded(_tag_path(self._part), MOST_TAG_BYTES).decode("ascii"))

    def _begin(self) -> None:
        """What was there is void. It goes before the tag does: old bytes must never stand under a new tag."""
        self.forget()
        self._digest, self._length, self._tag = hashlib.sha256(), 0, ""

    def _keep_tag(self, tag: str) -> None:
        if tag != self._tag:
            self._tag = tag
            if tag:
                self._disk.write(_tag_path(self._part), tag.encode("ascii"))
            else:
                self._disk.remove(_tag_path(self._part))

    def _checked(self, run: Iterable[Piece]) -> Iterator[bytes]:
        target = self._target
        for piece in run:
            self._length += len(piece.data)
            if self._length > target.length:
                raise UntrustedRelease(
                    f"{target.path} is longer than was signed",
                    found=f"more than {target.length} bytes",
                    expected=f"{target.length} bytes",
                    hint="the repository was changed: check it with `surefoot release verify`",
                )
            self._digest.update(piece.data)
            yield piece.data
            if self._progress:
                self._progress(self._length)


class _Run:
    """Pieces that lie one behind the other and are of one file. ``following``: the first that does not belong there."""

    def __init__(self, first: Piece, stream: Iterator[Piece]) -> None:
        self._first, self._stream = first, stream
        self.following: Piece | None = None

    def __iter__(self) -> Iterator[Piece]:
        yield self._first
        before = self._first
        for piece in self._stream:
            if (piece.offset, piece.tag) != (before.end, before.tag):
                self.following = piece
                return
            yield piece
            before = piece


def _tag_path(part: Path) -> Path:
    return part.with_name(f"{part.name.removesuffix(PART_SUFFIX)}{TAG_SUFFIX}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
