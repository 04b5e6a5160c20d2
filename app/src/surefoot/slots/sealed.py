"""Small records with a checksum: what was written is read back whole, or not believed.

A record is one JSON object ``{"format", "sha256", "body"}``; the checksum covers the format and the body's bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec

from surefoot.durable import read_bounded
from surefoot.errors import DeviceUnable

FORMAT = 1
T = TypeVar("T")


class UnreadableError(Exception):
    """The record is damaged or is none. Never leaves this package."""


class NewerFormat(DeviceUnable):
    """A newer app wrote this. Nothing is written, so that the newer app finds all as it left it."""


def newer(name: str, found: str, expected: str) -> NewerFormat:
    """What a newer app wrote, by its name, with what was found and what this one reads."""
    return NewerFormat(
        f"{name} was written by a newer version",
        found=found,
        expected=expected,
        hint="start the newer app again; nothing was changed",
    )


class _Envelope(msgspec.Struct):
    format: int
    sha256: str
    body: msgspec.Raw


def seal(value: object) -> bytes:
    """A value as the bytes of a record."""
    body = msgspec.json.encode(value)
    sealed = _Envelope(format=FORMAT, sha256=_checksum(FORMAT, body), body=msgspec.Raw(body))
    return msgspec.json.encode(sealed) + b"\n"


def unseal(data: bytes, kind: type[T], name: str) -> T:
    """The value of a record.

    Args:
        data: the record's bytes.
        kind: what it holds.
        name: what it is, for the error.

    Raises:
        UnreadableError: the checksum does not match.
        NewerFormat: it is whole, and of a format, or holds something, that this version does not know. A field too many
            is passed over.
    """
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        body = bytes(envelope.body)
        if envelope.sha256 != _checksum(envelope.format, body):
            raise UnreadableError(f"{name}: the checksum does not match")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{name}: {error}") from error
    if envelope.format > FORMAT:
        raise newer(name, f"format {envelope.format}", f"format {FORMAT} at most")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # not damaged: the checksum is right
        raise newer(name, str(error), f"what format {FORMAT} holds") from error


def read_sealed(path: Path, kind: type[T], most_bytes: int) -> T | None:
    """The value of a record on disk; ``None`` where there is no file.

    Raises:
        UnreadableError: as :func:`unseal`, or the disk cannot read it.
        NewerFormat: as :func:`unseal`.
    """
    try:
        data = read_bounded(path, most_bytes)
    except FileNotFoundError:
        return None
    except (OSError, DeviceUnable) as error:
        raise UnreadableError(f"{path}: {error}") from error
    return unseal(data, kind, str(path))


def _checksum(format_: int, body: bytes) -> str:
    return hashlib.sha256(b"%d\n" % format_ + body).hexdigest()
