"""What all code about TUF metadata shares: names, bounds, and tuf's exceptions as errors of ours.

Terms and file names as in https://theupdateframework.github.io/specification/latest/.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Literal

from tuf.api.exceptions import (
    BadVersionNumberError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from surefoot.errors import UntrustedRelease
from surefoot.release import manifest

Role = Literal["root", "timestamp", "snapshot", "targets"]
ROLES: tuple[Role, ...] = ("root", "timestamp", "snapshot", "targets")
TYPES: dict[Role, type[Signed]] = {"root": Root, "timestamp": Timestamp, "snapshot": Snapshot, "targets": Targets}
# Bytes of one metadata file; the values of tuf.ngclient.UpdaterConfig. 5 MB hold about 15,000 targets.
MOST_BYTES: dict[Role, int] = {"root": 512_000, "timestamp": 16_384, "snapshot": 2_000_000, "targets": 5_000_000}
MOST_ROOTS = 256  # new roots taken in one refresh
ISSUED = "x-surefoot-issued"  # signed field: when this was signed, UTC, RFC 3339
PERIODS = "x-surefoot-expiry-days"  # signed field of the root: for how long each role is signed
CUSTOM = "surefoot"
BEGINNING = datetime(1970, 1, 1, tzinfo=timezone.utc)  # nothing has expired by then

_TARGET_PATH = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9-]{0,62})/(?P<version>[0-9.]{5,29})/(?P<file>[A-Za-z0-9][\w.-]{0,126})"
)
_SIGNATURE = re.compile(r"[0-9a-f]{2,20000}")
_HINTS: dict[Role, str] = {
    "root": "the publisher renews it with `surefoot keys renew`, then `surefoot release refresh`",
    "targets": "the publisher renews it with `surefoot release sign` of the newest release, then `publish`",
    "snapshot": "the publisher runs `surefoot release refresh`; then try again",
    "timestamp": "the publisher runs `surefoot release refresh`; then try again",
}


def metadata_path(role: Role, version: int | None = None) -> str:
    """Where a metadata file lies in a repository: ``metadata/3.targets.json``, ``metadata/timestamp.json``."""
    return f"metadata/{role}.json" if role == "timestamp" else f"metadata/{version}.{role}.json"


def target_path(name: str, version: str, file: str = manifest.FILE_NAME) -> str:
    """The name of a target in the metadata: ``fashion-mnist/1.0.0/manifest.json``."""
    return f"{name}/{version}/{file}"


def split_target_path(path: str) -> tuple[str, str, str]:
    """Name, version and file name of a target.

    Raises:
        UntrustedRelease: no path of ours; it may try to leave the folder.
    """
    match = _TARGET_PATH.fullmatch(path)
    if match is None:
        raise UntrustedRelease("the metadata names a target that cannot be", found=path, expected="NAME/VERSION/FILE")
    manifest.version_key(match["version"])
    return match["name"], match["version"], match["file"]


def stored_path(target: TargetFile) -> str:
    """Where a target's bytes lie in a repository: ``targets/NAME/VERSION/SHA256.FILE``.

    Raises:
        UntrustedRelease: a path that cannot be, or no SHA-256.
    """
    name, version, file = split_target_path(target.path)
    return f"targets/{name}/{version}/{sha256_of(target)}.{file}"


def sha256_of(target: TargetFile) -> str:
    """The SHA-256 (hex) that the metadata gives for a target.

    Raises:
        UntrustedRelease: it gives none.
    """
    digest = target.hashes.get("sha256", "")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise UntrustedRelease(f"the metadata gives no SHA-256 for {target.path}", found=", ".join(target.hashes))
    return digest


def issued(signed: Signed) -> datetime | None:
    """When metadata says that it was signed; ``None`` where it does not say or is not understood."""
    value: Any = signed.unrecognized_fields.get(ISSUED)
    try:
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except (TypeError, ValueError):
        return None


def online_keys(root: Root) -> str:
    """Which keys a root lets sign timestamp and snapshot: SHA-256 (hex) over their identifiers."""
    identifiers = sorted({each for role in ("timestamp", "snapshot") for each in root.roles[role].keyids})
    return hashlib.sha256(" ".join(identifiers).encode()).hexdigest()


def text(moment: datetime) -> str:
    """A moment as RFC 3339, UTC, whole seconds."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(data: bytes, role: Role) -> Metadata[Any]:
    """Read metadata without believing it.

    Raises:
        UntrustedRelease: it is no metadata of that role.
    """
    with judged(role, data):
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    if metadata.signed.type != role:
        raise UntrustedRelease(f"{role}.json is something else", found=metadata.signed.type, expected=role)
    return metadata


def check_form(role: Role, data: bytes) -> None:
    """Refuse signatures that are not written in lower-case hex.

    Upper case means the same number, so a bit flipped there would go unseen in the two roles whose bytes no other
    metadata hashes: root and timestamp.

    Raises:
        UntrustedRelease: such a signature, or no metadata of that role.
    """
    for signature in parse(data, role).signatures.values():
        if not _SIGNATURE.fullmatch(signature.signature):
            raise UntrustedRelease(f"{role}.json has a signature that was not written so", found=signature.signature)


@contextmanager
def judged(role: Role, data: bytes = b"") -> Iterator[None]:
    """Turn what tuf raises about a role's metadata into an error that says what to do.

    Raises:
        UntrustedRelease: in place of every exception of tuf.
    """
    try:
        yield
    except ExpiredMetadataError as error:
        raise expired(role, data, str(error)) from error
    except UnsignedMetadataError as error:
        raise UntrustedRelease(
            f"{role}.json is not signed by enough of the trusted keys",
            found=str(error),
            hint="somebody changed it, or it belongs to another publisher: compare the roots",
        ) from error
    except BadVersionNumberError as error:
        raise UntrustedRelease(
            f"{role}.json has a version that must not be",
            found=str(error),
            expected="no version ever goes back",
            hint="the repository or a cache before it serves old or mixed metadata: publish again, or look who answers",
        ) from error
    except LengthOrHashMismatchError as error:
        raise UntrustedRelease(
            f"{role}.json is not what the signed metadata names",
            found=str(error),
            hint="the repository was changed or mixed from two states: check it with `surefoot release verify`",
        ) from error
    except DeserializationError as error:
        raise UntrustedRelease(f"{role}.json is not valid metadata", found=str(error.__cause__ or error)) from error
    except (RepositoryError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UntrustedRelease(f"{role}.json is not acceptable", found=str(error)) from error


def expired(role: Role, data: bytes, detail: str) -> UntrustedRelease:
    """Expired metadata as an error: which, when, and what to do. tuf names the role whose expiry it met."""
    if detail.startswith("Final root"):
        return UntrustedRelease("root.json has expired", found=detail, hint=_HINTS["root"])
    named = next((each for each in ROLES if detail.startswith(f"{each}.json")), role)
    until = f"valid until {text(Metadata.from_bytes(data).signed.expires)}" if data and named == role else detail
    return UntrustedRelease(f"{named}.json has expired, so it may hide newer releases", found=until, hint=_HINTS[named])
