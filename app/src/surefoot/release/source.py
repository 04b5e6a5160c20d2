"""Where a repository is read from: what any such place offers, and a folder as one. Bytes only; what they are worth is
judged elsewhere. ``web`` has the other kind.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from surefoot.errors import TransportFailed, UntrustedRelease

CHUNK_BYTES = 64 * 1024

_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]{0,200}"')
_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


class NotFound(TransportFailed):
    """The source answers, but has no such file."""


class Piece(NamedTuple):
    """Some bytes of a file.

    Attributes:
        offset: where in the file they belong. Zero where more was there already: what was there is void.
        data: at most 64 KiB.
        tag: the strong validator (RFC 9110, ETag) of the file that they are of, or "".
    """

    offset: int
    data: bytes
    tag: str = ""

    @property
    def end(self) -> int:
        """The offset behind them."""
        return self.offset + len(self.data)


class Source(Protocol):
    """Something that a repository can be read from, by paths relative to its top."""

    def read(self, relative: str, most_bytes: int) -> bytes:
        """A whole small file.

        Raises:
            NotFound: it is not there.
            TransportFailed: it did not arrive.
            UntrustedRelease: it is longer than ``most_bytes``.
        """

    def stream(self, relative: str, offset: int = 0, tag: str = "", length: int | None = None) -> Iterator[Piece]:
        """A file from ``offset`` (bytes) on, in pieces. Endless where the other side is: the caller counts.

        Each piece begins where the one before it ended, or at zero: then the file is another than the one that the
        bytes so far are of, or could not be had from ``offset``.

        Args:
            relative: the file.
            offset: how much of it is here already.
            tag: the validator of what is here, where a piece told one.
            length: how much there should be; ending before it is a failure to try again, if such can help.

        Raises:
            NotFound: it is not there.
            TransportFailed: it broke off; what was given so far is good to go on from.
            BadRequest, DeviceUnable: the proxy or the certificates that are configured cannot be used.
        """


def check_relative(relative: str) -> None:
    """Refuse a path that could lead out of the repository.

    Raises:
        UntrustedRelease: such a path; only metadata can have named it.
    """
    parts = relative.split("/")
    if len(parts) > 8 or not all(_COMPONENT.fullmatch(part) for part in parts):
        raise UntrustedRelease("a path leads out of the repository", found=repr(relative))


def strong(tag: str) -> str:
    """``tag``, if it is a strong validator (RFC 9110, 8.8.3) of ordinary length; otherwise ""."""
    return tag if _STRONG_TAG.fullmatch(tag) else ""


class FileSource:
    """A repository in a folder: a local disk, a mounted share, a USB stick."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, relative: str, most_bytes: int) -> bytes:
        """See :class:`Source`."""
        return whole(self.stream(relative), relative, most_bytes)

    def stream(self, relative: str, offset: int = 0, tag: str = "", length: int | None = None) -> Iterator[Piece]:
        """See :class:`Source`."""
        check_relative(relative)
        path = self.folder / relative
        try:
            if not path.resolve(strict=True).is_relative_to(self.folder.resolve()):
                raise UntrustedRelease(f"{path} leads out of the repository", found=str(path.resolve()))
            # O_NONBLOCK: a pipe planted in the folder must not stop us for ever
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"{path} is not there", hint="check the repository's location") from error
        except OSError as error:
            raise TransportFailed(f"cannot read {path}", found=str(error.strerror)) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UntrustedRelease(f"{path} is not a plain file", hint="look who writes to that folder")
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            try:
                stream.seek(offset)
                while chunk := stream.read(CHUNK_BYTES):
                    yield Piece(offset, chunk)
                    offset += len(chunk)
            except OSError as error:
                raise TransportFailed(f"cannot read {path}", found=str(error.strerror)) from error


def whole(pieces: Iterator[Piece], relative: str, most_bytes: int) -> bytes:
    """All of a small file.

    Raises:
        UntrustedRelease: it is longer than ``most_bytes``.
    """
    data = bytearray()
    for piece in pieces:
        data[piece.offset :] = piece.data
        if len(data) > most_bytes:
            raise UntrustedRelease(
                f"{relative} is longer than it can be",
                found=f"more than {most_bytes} bytes",
                hint="look who answers there",
            )
    return bytes(data)
