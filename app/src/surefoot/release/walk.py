"""The TUF client's walk over a repository: root, timestamp, snapshot, targets; each is judged before the next is read.

The rules are python-tuf's (``TrustedMetadataSet``: rules without IO). Reading is a :class:`Source`'s, keeping is the
caller's. Clauses: https://theupdateframework.github.io/specification/latest/#detailed-client-workflow.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from tuf.api.exceptions import EqualVersionNumberError
from tuf.api.metadata import Signed
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from surefoot.errors import UntrustedRelease
from surefoot.release.metadata import MOST_BYTES, MOST_ROOTS, Role, check_form, judged, metadata_path
from surefoot.release.source import NotFound, Source

# The one place that names a part of tuf which its authors call internal: rules without IO are not offered otherwise.
Rules = TrustedMetadataSet

# Called with each piece of metadata after it was verified and before the next is fetched. May refuse by raising.
Accept = Callable[[Role, Signed, bytes], None]


def ignore(role: Role, signed: Signed, data: bytes) -> None:
    """Keeps nothing."""


def begin(root: bytes, reference: datetime) -> Rules:
    """Start from a root that is trusted already.

    Args:
        root: its bytes.
        reference: the time that expiries are compared with.

    Raises:
        UntrustedRelease: it is no root, or not signed by its own keys.
    """
    check_form("root", root)
    with judged("root", root):
        rules = Rules(root, EnvelopeType.METADATA)
    rules.reference_time = reference
    return rules


def fetch_all(rules: Rules, source: Source, accept: Accept = ignore) -> None:
    """All four steps.

    Raises:
        UntrustedRelease: any of the metadata must not be believed.
        TransportFailed: the source does not answer; NotFound where it holds no repository.
    """
    fetch_roots(rules, source, accept)
    fetch_timestamp(rules, source, accept)
    fetch_snapshot(rules, source, accept)
    fetch_targets(rules, source, accept)


def fetch_roots(rules: Rules, source: Source, accept: Accept = ignore) -> None:
    """Clause 5.3: from the trusted root to the newest, one by one, each signed by the one before and by itself."""
    for _ in range(MOST_ROOTS):
        version = rules.root.version + 1
        try:
            data = source.read(metadata_path("root", version), MOST_BYTES["root"])
        except NotFound:
            return
        check_form("root", data)
        with judged("root", data):
            rules.update_root(data)
        accept("root", rules.root, data)
    raise UntrustedRelease(
        "the repository has more new roots than can be", found=f"over {MOST_ROOTS}", hint="look at its metadata folder"
    )


def fetch_timestamp(rules: Rules, source: Source, accept: Accept = ignore) -> None:
    """Clause 5.4. The version known already is not taken again."""
    data = source.read(metadata_path("timestamp"), MOST_BYTES["timestamp"])
    check_form("timestamp", data)
    with judged("timestamp", data):
        try:
            rules.update_timestamp(data)
        except EqualVersionNumberError:
            return
    accept("timestamp", rules.timestamp, data)


def fetch_snapshot(rules: Rules, source: Source, accept: Accept = ignore) -> None:
    """Clause 5.5, unless the snapshot loaded before is the one that the timestamp names."""
    named = rules.timestamp.snapshot_meta
    if "snapshot" in rules and rules.snapshot.version == named.version:
        return
    most = min(named.length or MOST_BYTES["snapshot"], MOST_BYTES["snapshot"])
    data = source.read(metadata_path("snapshot", named.version), most)
    with judged("snapshot", data):
        rules.update_snapshot(data)
    accept("snapshot", rules.snapshot, data)


def fetch_targets(rules: Rules, source: Source, accept: Accept = ignore) -> None:
    """Clause 5.6, unless the targets loaded before are those that the snapshot names."""
    if "targets" in rules:
        return
    named = rules.snapshot.meta.get("targets.json")
    if named is None:
        raise UntrustedRelease("snapshot.json does not name targets.json", hint="publish the release again")
    most = min(named.length or MOST_BYTES["targets"], MOST_BYTES["targets"])
    data = source.read(metadata_path("targets", named.version), most)
    with judged("targets", data):
        rules.update_targets(data)
    accept("targets", rules.targets, data)
