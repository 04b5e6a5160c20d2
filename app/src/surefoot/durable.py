"""The only code that writes state: every change survives a power cut whole, or did not happen.

A file is written under a temporary name in the same directory, fsynced, renamed, and its directory fsynced.
A directory is filled file by file, synced, renamed into place, and its parent fsynced. A failed fsync is final:
the kernel may have dropped the dirty pages, so trying again would report a success that is none
(see https://www.usenix.org/conference/atc20/presentation/rebello).

Every primitive goes through :class:`Disk`, so that a test can count them and cut between any two.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from surefoot.errors import DeviceUnable, SurefootError

TEMPORARY_PREFIX = ".tmp-"
_KEEP_SIZE = 1  # linux/falloc.h


class Disk:
    """Durable operations on one file system.

    Subclass :meth:`step` to observe or interrupt: it is called before each primitive with its name and path, so that
    a cut before primitive N + 1 is the cut after primitive N. The primitives themselves may be overridden too, which
    lets a test record what was written or lose what was never synced.
    """

    def step(self, primitive: str, path: Path) -> None:
        """Called before each primitive that changes the disk. Does nothing here."""

    # -- primitives: each is one thing that a power cut can fall before or after --------------------------------

    def _create(self, path: Path, mode: int) -> int:
        self.step("create", path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        os.fchmod(descriptor, mode)  # whatever the umask is: workers of another user must be able to read
        return descriptor

    def _open_log(self, path: Path, mode: int) -> int:
        self.step("append", path)
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)

    def _write(self, descriptor: int, data: bytes, path: Path) -> None:
        self.step("write", path)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def _fsync(self, descriptor: int, path: Path) -> None:
        self.step("fsync", path)
        if sys.platform == "darwin":  # plain fsync leaves data in the drive's cache there: fcntl(2), F_FULLFSYNC
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)

    def _rename(self, source: Path, target: Path) -> None:
        self.step("rename", target)
        source.rename(target)

    def _unlink(self, path: Path) -> None:
        self.step("unlink", path)
        path.unlink()

    def _mkdir(self, path: Path, mode: int) -> None:
        self.step("mkdir", path)
        path.mkdir(mode, exist_ok=True)
        path.chmod(mode)

    def _rmdir(self, path: Path) -> None:
        self.step("rmdir", path)
        path.rmdir()

    def _syncfs(self, path: Path) -> None:
        self.step("syncfs", path)
        sync_file_system(path)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        with _reported(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._fsync(descriptor, path)
            finally:
                os.close(descriptor)

    # -- files -----------------------------------------------------------------------------------------------------

    def write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """Replace the content of ``path``, durably; after a cut it holds the old content or the new, never a mix."""
        self.write_stream(path, [data], mode)

    def write_all(
        self, files: Mapping[Path, bytes], mode: int = 0o644, modes: Mapping[Path, int] | None = None
    ) -> None:
        """Replace several files in order, durably. None changes unless there was room for all of them.

        A directory is fsynced once for files of it that follow each other: after a cut each holds its old content or
        its new one, and which of them have the new one is open until this returns.

        ``modes`` is for files that are to have another mode than the rest.
        """
        modes = modes or {}
        prepared: list[tuple[Path, Path]] = []
        try:
            for path, data in files.items():
                prepared.append((self._prepare(path, [data], modes.get(path, mode))[0], path))
        except SurefootError:
            for temporary, _ in prepared:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
            raise
        for number, (temporary, path) in enumerate(prepared):
            with _reported(path):
                self._rename(temporary, path)
            if number + 1 == len(prepared) or prepared[number + 1][1].parent != path.parent:
                self.sync_directory(path.parent)

    def write_stream(self, path: Path, chunks: Iterable[bytes], mode: int = 0o644) -> tuple[str, int]:
        """Write ``chunks`` to ``path`` durably, hashing what is written.

        Returns:
            The SHA-256 (hex) and the length in bytes.
        """
        temporary, digest, length = self._prepare(path, chunks, mode)
        self._place(temporary, path)
        return digest, length

    def _prepare(self, path: Path, chunks: Iterable[bytes], mode: int) -> tuple[Path, str, int]:
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
        digest, length = hashlib.sha256(), 0
        try:
            with _reported(path):
                descriptor = self._create(temporary, mode)
                try:
                    for chunk in chunks:
                        self._write(descriptor, chunk, temporary)
                        digest.update(chunk)
                        length += len(chunk)
                    self._fsync(descriptor, temporary)
                finally:
                    os.close(descriptor)
        except SurefootError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return temporary, digest.hexdigest(), length

    def _place(self, temporary: Path, path: Path) -> None:
        with _reported(path):
            self._rename(temporary, path)
        self.sync_directory(path.parent)

    def extend(self, path: Path, chunks: Iterable[bytes], at: int, mode: int = 0o644, room_bytes: int = 0) -> int:
        """Write ``chunks`` into ``path`` from offset ``at`` on, dropping what was there beyond it; fsync at the end.

        For work in progress under a name of its own: what arrived before an interruption stays, and is good to go on
        from, but its last bytes are durable only once this returns. Room for ``room_bytes`` in all is taken from the
        disk first, so that nobody else can; the length says all the same how far it has come.

        Returns:
            The length of the file in bytes.
        """
        existed = path.exists()
        self.step("extend", path)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        except OSError as error:
            raise unable(error, path) from error
        try:
            os.fchmod(descriptor, mode)  # whatever the umask is: it may come to lie in a slot
            os.ftruncate(descriptor, at)
            if room_bytes > at:
                take_room(descriptor, room_bytes)
            os.lseek(descriptor, at, os.SEEK_SET)
            for chunk in chunks:
                self.step("write", path)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(descriptor, view) :]
                at += len(chunk)
            self._fsync_or_remove(descriptor, path)
        except OSError as error:
            raise unable(error, path) from error
        finally:
            os.close(descriptor)
        if not existed:
            self.sync_directory(path.parent)
        return at

    def sync_file(self, path: Path) -> None:
        """Make a file's content durable, whoever wrote it. Where that fails the file is removed."""
        with _reported(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                self._fsync_or_remove(descriptor, path)
            finally:
                os.close(descriptor)

    def _fsync_or_remove(self, descriptor: int, path: Path) -> None:
        """A file that stays after its fsync has failed reads well, is not on the disk, and its next fsync succeeds."""
        try:
            self._fsync(descriptor, path)
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise

    def move_file(self, source: Path, target: Path) -> None:
        """Give a file that was fsynced its final name, durably, in place of what has that name."""
        try:
            self._rename(source, target)
        except OSError as error:
            raise unable(error, target) from error
        self.sync_directory(target.parent)
        if source.parent != target.parent:
            self.sync_directory(source.parent)

    def append(self, path: Path, line: bytes, mode: int = 0o644) -> None:
        """Append one line to a log, durably. A cut may leave part of the line: readers skip what does not parse."""
        with _reported(path):
            existed = path.exists()
            descriptor = self._open_log(path, mode)
            try:
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                self._write(descriptor, (b"\n" if torn else b"") + line.rstrip(b"\n") + b"\n", path)
                self._fsync(descriptor, path)
            finally:
                os.close(descriptor)
        if not existed:
            self.sync_directory(path.parent)

    def remove(self, path: Path) -> None:
        """Remove a file if it is there, durably."""
        if path.exists() or path.is_symlink():
            with _reported(path):
                self._unlink(path)
            self.sync_directory(path.parent)

    # -- directories -----------------------------------------------------------------------------------------------

    def make_directory(self, path: Path, mode: int = 0o755) -> None:
        """Create a directory and its missing parents, durably."""
        missing = [directory for directory in (path, *path.parents) if not directory.exists()]
        for directory in reversed(missing):
            with _reported(directory):
                self._mkdir(directory, mode)
            self.sync_directory(directory.parent)

    def publish_directory(self, filled: Path, target: Path) -> None:
        """Give a filled directory its final name. The target must not exist; the files in it were fsynced when written.

        Both parents are fsynced, since a rename between directories changes both.
        """
        self.sync_directory(filled)
        self._syncfs(filled)
        self.move_directory(filled, target)

    def move_directory(self, source: Path, target: Path) -> None:
        """Rename a directory, durably. A directory in the way that is not empty is an error."""
        with _reported(target):
            self._rename(source, target)
        self.sync_directory(target.parent)
        if source.parent != target.parent:
            self.sync_directory(source.parent)

    def remove_directory(self, path: Path) -> None:
        """Remove a directory and all it holds, if it is there: first its name, so that nobody sees half of it."""
        if not path.exists():
            return
        with _reported(path):
            if not path.name.startswith(TEMPORARY_PREFIX):
                doomed = path.with_name(f"{TEMPORARY_PREFIX}gone-{path.name}")
                self.remove_directory(doomed)
                self._rename(path, doomed)
                self.sync_directory(path.parent)
                path = doomed
            self._empty(path)
        self.sync_directory(path.parent)

    def _empty(self, path: Path) -> None:
        for entry in sorted(path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                self._empty(entry)
            else:
                self._unlink(entry)
        self._rmdir(path)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unable(error, path) from error


def unable(error: OSError, path: Path) -> DeviceUnable:
    """An operating system's refusal as an error that says what to do."""
    hints = {
        "ENOSPC": "free space on the data partition, then run the same command again",
        "EDQUOT": "raise the quota of the data partition, then run the same command again",
        "EROFS": "the file system is read-only: check the kernel log for disk errors, then remount or repair it",
        "EACCES": "run as the user who owns the data directory",
        "EIO": "the disk reports errors: replace it; nothing here tries a failed write again",
    }
    name = _errno_name(error)
    return DeviceUnable(f"cannot write {path}", found=f"{name}: {error.strerror}", hint=hints.get(name, ""))


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "OSError")


def sync_file_system(path: Path) -> None:
    """syncfs(2) on Linux, sync(2) elsewhere."""
    if not sys.platform.startswith("linux"):
        os.sync()
        return
    import ctypes  # a command that fills no slot starts without it

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise unable(OSError(number, os.strerror(number)), path)
    finally:
        os.close(descriptor)


def take_room(descriptor: int, length: int) -> None:
    """Have the file system set blocks aside for a file up to a length, without changing how long it is.

    fallocate(2) with ``FALLOC_FL_KEEP_SIZE``. Where the file system has no such thing, nothing is set aside.

    Raises:
        OSError: there is no room: ENOSPC, EDQUOT.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes  # takes its time, and a status needs none of it

    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while function(descriptor, _KEEP_SIZE, 0, length) != 0:
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.ENOSYS):
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def taken_bytes(path: Path) -> int:
    """How much of the disk a file has for itself, in bytes; 0 where there is none."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return 0
    return max(facts.st_size, facts.st_blocks * 512)


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Read a whole file, refusing one longer than ``most_bytes``."""
    with path.open("rb") as stream:
        data = stream.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise DeviceUnable(
            f"{path} is too long", found=f"more than {most_bytes} bytes", expected=f"at most {most_bytes}"
        )
    return data


def pieces(stream: BinaryIO) -> Iterator[bytes]:
    """What is left of a stream, in pieces of 1 MiB."""
    while chunk := stream.read(1 << 20):
        yield chunk


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 (hex) and length in bytes of a file, read in pieces of 1 MiB."""
    digest, length = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            length += len(chunk)
    return digest.hexdigest(), length


@contextmanager
def locked(path: Path, *, shared: bool = False, wait_s: float | None = None, what: str = "") -> Iterator[int]:
    """Hold flock(2) on ``path`` (created if missing). The file's existence means nothing; only the lock does.

    The descriptor is close-on-exec and, where the file exists, read-only, so that this works on a file system
    that was remounted read-only.

    Args:
        path: the lock file.
        shared: take the lock together with other readers.
        wait_s: give up after so many seconds; ``0`` never waits; ``None`` waits for ever.
        what: what the lock protects, for the error.

    Raises:
        DeviceUnable: somebody else holds it for longer than ``wait_s``.
    """
    with _reported(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        if wait_s is None:
            fcntl.flock(descriptor, kind)
        else:
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise DeviceUnable(
                            f"{what or path.name} is in use by another process",
                            found=f"lock {path} held for longer than {wait_s:g} s",
                            hint="wait for the other operation to end, then run the same command again",
                        ) from None
                    time.sleep(0.01)
        yield descriptor
    finally:
        os.close(descriptor)
