"""An offline kit: one folder for a USB stick, and one signed list of every file in it.

The list is ``kit.json``, a DSSE envelope (https://github.com/secure-systems-lab/dsse) signed by the targets key. DSSE
signs the payload's type too, so a kit's list can never pass for TUF metadata, nor the other way round. It is written
last, after everything it names is on the disk: a folder without it is no kit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from tuf.api.metadata import Root

from surefoot.durable import Disk, hash_file, read_bounded, sync_file_system
from surefoot.errors import BadRequest, SurefootError, UntrustedRelease
from surefoot.release import keyfile, verification, walk
from surefoot.release.keys import Keyring, root_files
from surefoot.release.metadata import BEGINNING, text
from surefoot.release.source import FileSource

FILE_NAME = "kit.json"
REPOSITORY = "repository"  # the one part that each kit has
PAYLOAD_TYPE = "application/vnd.surefoot.kit+json"
MOST_BYTES = 16 << 20
MOST_FILES = 50_000
SHOWN = 10
Progress = Callable[[str, int, int], None]

# What FAT and exFAT hold as well. Two names that differ only in case would be one file there.
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.+~%=@-]{0,198}[\w+~%=@-])?", re.ASCII)
_SECRET = b"PRIVATE KEY-----"  # RFC 7468; the ends of every PEM private key, encrypted or not


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file must be."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    length_bytes: Annotated[int, Meta(ge=0)]


class Kit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The signed list: what the kit is for, and every file but the list itself."""

    format: Literal[1]
    platform: str
    version: str
    created: str
    files: dict[str, File]


class Checked(msgspec.Struct, frozen=True):
    """A kit that is whole, and until when its repository counts as fresh on a clock that is right."""

    kit: Kit
    length_bytes: int
    fresh_until: str
    fresh: bool


def seal(
    folder: Path,
    ring: Keyring,
    *,
    platform: str,
    version: str,
    now: datetime,
    disk: Disk,
    progress: Progress | None = None,
) -> Kit:
    """Check what was gathered in ``folder``, and sign the list of it. Needs the targets key.

    Raises:
        BadRequest: sealed already, a file that must not be there (a private key, a link), or a name that a USB stick's
            file system cannot hold.
        UntrustedRelease: the repository in it is not whole, has expired, or is not of these keys.
    """
    if (folder / FILE_NAME).exists():
        raise BadRequest(f"{folder} is sealed already", found=FILE_NAME, hint="gather the kit again in a new folder")
    signers = ring.signers("targets")
    if not (folder / REPOSITORY).is_dir():
        raise BadRequest(f"{folder} holds no releases", expected=f"a published repository in {REPOSITORY}/")
    first = root_files(ring.directory)[0]
    verification.verify(folder / REPOSITORY, first, now=now, progress=progress).raise_if_bad()
    files: dict[str, File] = {}
    seen: set[str] = set()
    for relative, path in _files(folder):
        _refuse(relative, path, seen)
        seen.add(relative.lower())
        if progress:
            progress("files", len(files), 0)
        files[relative] = File(*hash_file(path))
    kit = Kit(1, platform, version, text(now), dict(sorted(files.items())))
    envelope = Envelope(msgspec.json.encode(kit), PAYLOAD_TYPE, {})
    for signer in signers:
        envelope.sign(signer)
    sync_file_system(folder)
    disk.write(folder / FILE_NAME, _encode(envelope))
    return kit


def verify(folder: Path, root: bytes, *, now: datetime, progress: Progress | None = None) -> Checked:
    """Check a whole kit: who signed its list, every file against it, and that nothing else lies there.

    Args:
        folder: the kit.
        root: a root that is trusted already; the newer ones that the kit brings are followed from it.
        now: what the repository's expiry is compared with. Expiry is told, not refused: what a device does with a
            repository that has expired is the device's to decide.
        progress: told what is being done.

    Raises:
        UntrustedRelease: anything is wrong; the message names each file.
    """
    rules = walk.begin(root, BEGINNING)
    try:
        data = read_bounded(folder / FILE_NAME, MOST_BYTES)
    except OSError as error:
        raise UntrustedRelease(
            f"there is no whole kit in {folder}",
            found=f"no {FILE_NAME} ({error.strerror})",
            hint="it was interrupted while it was made or copied: make or copy it again",
        ) from error
    problems: list[str] = []
    try:
        walk.fetch_all(rules, FileSource(folder / REPOSITORY))
    except SurefootError as error:
        problems.append(f"{REPOSITORY}: {error}")
    kit = open_list(data, rules.root)
    problems += _differences(folder, kit, progress)
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UntrustedRelease(
            f"the kit in {folder} is not whole",
            found="; ".join(problems[:SHOWN]) + more,
            expected=f"exactly the {len(kit.files)} files that were signed",
            hint="copy the kit again from where it was made; use nothing of this one",
        )
    length = sum(file.length_bytes for file in kit.files.values())
    expires = min(each.expires for each in (rules.root, rules.timestamp, rules.snapshot, rules.targets))
    return Checked(kit, length, text(expires), now < expires)


def open_list(data: bytes, root: Root) -> Kit:
    """The list, once its signatures are good. Its bytes must be those that were written, to the last space.

    Raises:
        UntrustedRelease: they are not, or too few of the root's targets keys signed it.
    """
    role = root.roles["targets"]
    keys = [root.keys[keyid] for keyid in role.keyids]
    try:
        envelope = Envelope.from_dict(json.loads(data))
        if envelope.payload_type != PAYLOAD_TYPE or _encode(envelope) != data:
            raise ValueError("not written so by `surefoot kit seal`")
        # Every signature must be good, not only as many as are asked for.
        envelope.verify(keys, max(role.threshold, len(envelope.signatures)))
        return msgspec.json.decode(envelope.payload, type=Kit)
    except VerificationError as error:
        raise UntrustedRelease(
            f"{FILE_NAME} is not signed by the targets key",
            found=str(error),
            expected=f"{role.threshold} of the targets keys of root {root.version}",
            hint="somebody changed it, or it belongs to another publisher: compare the roots",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UntrustedRelease(f"{FILE_NAME} is damaged", found=str(error), hint="copy the kit again") from error


def _differences(folder: Path, kit: Kit, progress: Progress | None) -> Iterator[str]:
    missing = set(kit.files)
    for count, (relative, path) in enumerate(_files(folder)):
        if count > MOST_FILES:
            yield f"more than {MOST_FILES} files"
            return
        wanted = kit.files.get(relative)
        missing.discard(relative)
        if wanted is None:
            yield f"{relative} is not of this kit"
        elif path.is_symlink() or not path.is_file():
            yield f"{relative} is no plain file"
        elif (length := path.stat().st_size) != wanted.length_bytes:
            yield f"{relative} has {length} bytes, not {wanted.length_bytes}"
        else:
            if progress:
                progress("files", count, len(kit.files))
            try:
                changed = hash_file(path)[0] != wanted.sha256
            except OSError as error:
                yield f"{relative} cannot be read: {error.strerror}"
                continue
            if changed:
                yield f"{relative} was changed"
    yield from (f"{relative} is missing" for relative in sorted(missing))


def _refuse(relative: str, path: Path, seen: set[str]) -> None:
    if path.is_symlink() or not path.is_file():
        raise BadRequest(f"{relative} is no plain file", hint="a kit holds files and folders only")
    if not all(map(_NAME.fullmatch, relative.split("/"))):
        raise BadRequest(
            f"{relative!r} is a name that a USB stick may not hold", expected="letters, digits and ._+~%=@-"
        )
    if len(seen) >= MOST_FILES:
        raise BadRequest(f"more than {MOST_FILES} files for one kit")
    if relative.lower() in seen:
        raise BadRequest(
            f"{relative} differs from another file only in case", hint="a USB stick would keep one of them"
        )
    if path.stat().st_size <= keyfile.MOST_KEY_BYTES and _SECRET in read_bounded(path, keyfile.MOST_KEY_BYTES):
        raise BadRequest(f"{relative} holds a private key", hint="keys never travel in a kit: take it out")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Everything in a kit but folders and its list; links are given, not followed."""
    for path in verification.walk_files(folder):
        relative = path.relative_to(folder).as_posix()
        if relative != FILE_NAME:
            yield relative, path


def _encode(envelope: Envelope) -> bytes:
    return json.dumps(envelope.to_dict(), indent=1, sort_keys=True).encode() + b"\n"
