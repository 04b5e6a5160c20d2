"""Bits rot where nobody reads. Every byte of a model's slots and archive is read from the disk itself, slowly.

Reading as usual would show what the kernel has in memory. Nothing is changed here: what to do about a fault is
``Store.heal``'s, which looks again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from surefoot.durable import read_bounded
from surefoot.errors import SurefootError
from surefoot.release import manifest as manifests
from surefoot.release.manifest import FILE_NAME, MOST_MANIFEST_BYTES
from surefoot.slots.content import wanted
from surefoot.slots.journal import Journal
from surefoot.slots.state import SLOTS, ReleaseRef, State

CHUNK_BYTES = 256 * 1024
_F_NOCACHE = 48  # fcntl(2) of macOS


class Kept(msgspec.Struct, frozen=True):
    """A file that should hold this. ``where``: ``a``, ``b`` or ``archive/<entry>``."""

    where: str
    path: Path
    sha256: str


def kept(journal: Journal, state: State) -> list[Kept]:
    """Every file of every release that is not being written now."""
    places: list[tuple[str, Path, ReleaseRef | None]] = [
        (slot, journal.layout.slot(slot), here.release)
        for slot in SLOTS
        if (here := state.slots[slot]).release is not None and here.status not in ("filling", "archiving")
    ]
    places += [
        (f"archive/{entry.path.name}", entry.path, entry.record.release)
        for entry in journal.archive.entries()
        if entry.record is not None
    ]
    found = []
    for where, folder, release in places:
        if release is None:
            continue
        found.append(Kept(where, folder / FILE_NAME, release.digest))
        try:
            manifest = manifests.decode(read_bounded(folder / FILE_NAME, MOST_MANIFEST_BYTES))
            found += [Kept(where, folder / file.name, file.sha256) for file in wanted(manifest, release.variant)]
        except (OSError, SurefootError):  # its digest will not agree
            continue
    return found


def hash_from_disk(path: Path, passed: Callable[[int], object] = lambda _: None) -> tuple[str, int]:
    """SHA-256 (hex) and length in bytes of what the disk holds, not of what the kernel remembers of it.

    Args:
        path: the file.
        passed: called with the bytes of each piece that was read; may wait, or raise to end it.

    Raises:
        OSError: it cannot be read. A disk says EIO where it knows that it lost something.
    """
    try:
        return _hash(_open_past_the_cache(path, getattr(os, "O_DIRECT", 0)), passed)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # A file system without direct reads says so at the open, or only when it is read.
        return _hash(_open_past_the_cache(path, 0), passed)


def _hash(descriptor: int, passed: Callable[[int], object]) -> tuple[str, int]:
    digest, length = hashlib.sha256(), 0
    try:
        size = os.fstat(descriptor).st_size
        with mmap.mmap(-1, CHUNK_BYTES) as buffer:  # lies at a page's beginning, as O_DIRECT wants it
            while length < size and (count := os.readv(descriptor, [buffer])):
                with memoryview(buffer) as view, view[:count] as piece:
                    digest.update(piece)
                length += count
                passed(count)
    finally:
        os.close(descriptor)
    return digest.hexdigest(), length


def _open_past_the_cache(path: Path, direct: int) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | direct)
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, _F_NOCACHE, 1)
    elif not direct:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor
