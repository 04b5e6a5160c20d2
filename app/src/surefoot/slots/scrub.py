"""Bits rot where nobody reads. Every byte of a model's slots and archive is read from the disk itself, slowly.

Reading as usual would show what the kernel has in memory. Nothing is changed here and no lock is held, for
gigabytes take their time: what to do about a fault is ``Store.heal``'s, which looks whether that still lies there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from surefoot.durable import read_bounded
from surefoot.errors import SurefootError
from surefoot.release import manifest as manifests
from surefoot.release.manifest import FILE_NAME, MOST_MANIFEST_BYTES
from surefoot.slots.content import fault, wanted
from surefoot.slots.journal import Journal
from surefoot.slots.state import SLOTS, ReleaseRef, State

AGAIN_AFTER_S = 0.5
CHUNK_BYTES = 256 * 1024
_F_NOCACHE = 48  # fcntl(2) of macOS
Pause = Callable[[float], object]  # is given seconds
T = TypeVar("T")


class Kept(msgspec.Struct, frozen=True):
    """A file that should hold this. ``where``: ``a``, ``b`` or ``archive/<entry>``."""

    where: str
    path: Path
    sha256: str


class Rotten(msgspec.Struct, frozen=True):
    """A release that was not what was installed, twice in a row. ``identity``: of its folder then."""

    where: str
    path: Path
    release: ReleaseRef
    identity: tuple[int, ...]

    def lies_there(self) -> bool:
        """Whether that folder has its place still, and nothing else was put there since."""
        return _identity(self.path) == self.identity


def rotten(journal: Journal, state: State, pause: Pause) -> list[Rotten]:
    """Every release of which a byte is not what was installed, by what the disk holds.

    Raises:
        DeviceUnable: one cannot be read now, or not by this user.
    """
    found = []
    for where, path, release in _places(journal, state):
        identity = _identity(path)
        wrong = twice(partial(fault_on_disk, path, release), pause) if identity else None
        if wrong:
            found.append(Rotten(where, path, release, identity))
    return found


def twice(look: Callable[[], T], pause: Pause) -> T:
    """What a look finds wrong, and not by chance: a disk may answer EIO once, and a bit may flip on its way here."""
    if not (found := look()):
        return found
    pause(AGAIN_AFTER_S)
    return look()


def fault_on_disk(directory: Path, release: ReleaseRef) -> str | None:
    """As ``content.fault``, by what the disk itself holds.

    What the kernel has in memory is forgotten: whoever reads next, as a worker does, would meet a bit that flipped on
    its way there again and again.
    """
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if path.is_file():
                os.close(_open_past_the_cache(path, 0))
    return fault(directory, release, hash_from_disk)


def _identity(path: Path) -> tuple[int, ...]:
    try:
        facts = path.lstat()
    except OSError:
        return ()
    return facts.st_dev, facts.st_ino, facts.st_ctime_ns


def kept(journal: Journal, state: State) -> list[Kept]:
    """Every file of every release that is not being written now."""
    found = []
    for where, folder, release in _places(journal, state):
        found.append(Kept(where, folder / FILE_NAME, release.digest))
        try:
            manifest = manifests.decode(read_bounded(folder / FILE_NAME, MOST_MANIFEST_BYTES))
            found += [Kept(where, folder / file.name, file.sha256) for file in wanted(manifest, release.variant)]
        except (OSError, SurefootError):  # its digest will not agree
            continue
    return found


def _places(journal: Journal, state: State) -> list[tuple[str, Path, ReleaseRef]]:
    """Where releases lie that are not being written now, each as ``where`` of what is found there."""
    slots = [
        (str(slot), journal.layout.slot(slot), release)
        for slot in SLOTS
        if (release := state.slots[slot].release) is not None
        and state.slots[slot].status not in ("filling", "archiving")
    ]
    archived = [
        (f"archive/{entry.path.name}", entry.path, entry.record.release)
        for entry in journal.archive.entries()
        if entry.record is not None
    ]
    return slots + archived


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
