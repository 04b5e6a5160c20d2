"""The publisher's keys: ed25519, one directory, the root that says which key may sign what.

The directory holds ``root-1.pem`` ..., ``targets.pem``, ``snapshot.pem``, ``timestamp.pem`` and every ``N.root.json``.
Root and targets keys belong offline: copy only ``snapshot.pem``, ``timestamp.pem`` and the roots to the machine
that refreshes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Signed

from surefoot.durable import Disk, read_bounded
from surefoot.errors import BadRequest
from surefoot.release import keyfile
from surefoot.release.metadata import ISSUED, MOST_BYTES, MOST_ROOTS, PERIODS, Role, judged, parse, text

Days = Annotated[int, Meta(ge=1, le=36_500)]
_ROOT_NAME = re.compile(r"([1-9]\d{0,5})\.root\.json")


class Periods(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how many days each role's metadata is signed.

    Only the timestamp proves freshness, so it is short and re-signed by cron. Root and targets are signed by hand,
    offline; their expiry stops installs on a whole fleet, so they are long. What was stolen is revoked by rotation,
    not by waiting. An expired root that is not the last one still leads to the next: a device may be offline for years.
    """

    root: Days = 3650
    targets: Days = 1825
    snapshot: Days = 60
    timestamp: Days = 14

    def of(self, role: Role) -> timedelta:
        """The period of a role."""
        return timedelta(days=getattr(self, role))


class Plan(msgspec.Struct, frozen=True):
    """How many keys of each role, how many must sign, for how long, and how dear a guess at the passphrase is."""

    root_keys: int = 2
    root_threshold: int = 2
    periods: Periods = Periods()
    cost: keyfile.Cost = keyfile.Cost()


class Keyring:
    """The keys in one directory, opened when they are needed.

    Args:
        directory: as made by :func:`create`, or a part of it.
        passphrase: opens every key in it.
    """

    def __init__(self, directory: Path, passphrase: str) -> None:
        self.directory = directory
        self._passphrase = passphrase
        self._opened: dict[str, CryptoSigner] = {}

    def roots(self) -> list[bytes]:
        """Every ``N.root.json``, oldest first.

        Raises:
            BadRequest: there is none.
        """
        found = root_files(self.directory)
        if not found:
            raise BadRequest(f"no keys in {self.directory}", expected="1.root.json", hint="surefoot keys init DIR")
        return [read_bounded(path, MOST_BYTES["root"]) for path in found]

    def root(self) -> Metadata[Root]:
        """The newest root."""
        return parse(self.roots()[-1], "root")

    def signers(self, role: Role) -> list[CryptoSigner]:
        """Who signs for a role by the newest root: as many as it asks for.

        Raises:
            BadRequest: fewer keys are here, others can read one, or the passphrase is wrong.
        """
        return self.signers_of(self.root().signed, role)

    def signers_of(self, root: Root, role: Role) -> list[CryptoSigner]:
        """Who signs for a role by some root."""
        wanted = root.roles[role]
        files = sorted(self.directory.glob(f"{role}*.pem"), reverse=True)
        usable: list[CryptoSigner] = []
        for path in files:
            if len(usable) < wanted.threshold and self._signer(path).public_key.keyid in wanted.keyids:
                usable.append(self._signer(path))
        if len(usable) < wanted.threshold:
            raise BadRequest(
                f"too few {role} keys in {self.directory}",
                found=", ".join(path.name for path in files) or "none",
                expected=f"{wanted.threshold} of those in {root.version}.root.json",
                hint=f"name the directory that holds the {role} keys with --keys",
            )
        return usable

    def sign(self, signed: Signed, role: Role, now: datetime, *, before: Root | None = None) -> Metadata[Any]:
        """Sign metadata: sets its issue time and its expiry by the newest root's periods.

        Args:
            signed: what to sign; changed in place.
            role: whose keys.
            now: the issue time.
            before: the root that readers still have. Its keys sign as well, as far as they are here, so that readers
                on either side of a change of keys can verify.
        """
        root = self.root().signed
        stamp(signed, role, periods_of(root), now)
        signers = {signer.public_key.keyid: signer for signer in self.signers_of(root, role)}
        if before is not None and not set(before.roles[role].keyids) & set(signers):
            with contextlib.suppress(BadRequest):  # the old key is gone: readers wait for the new root
                signers.update({signer.public_key.keyid: signer for signer in self.signers_of(before, role)})
        return sign(signed, list(signers.values()))

    def _signer(self, path: Path) -> CryptoSigner:
        if path.name not in self._opened:
            self._opened[path.name] = CryptoSigner(keyfile.read(path, self._passphrase))
        return self._opened[path.name]


def create(directory: Path, passphrase: str, plan: Plan, *, now: datetime, disk: Disk) -> Metadata[Root]:
    """Make all keys and the first root, in a directory that is not there yet or is empty.

    Returns:
        The root, also in ``1.root.json``: give it to every device.

    Raises:
        BadRequest: an empty passphrase, a threshold that cannot be met, or something in the directory.
    """
    if not 1 <= plan.root_threshold <= plan.root_keys <= 16:
        raise BadRequest(
            "the root's threshold cannot be met",
            found=f"{plan.root_threshold} of {plan.root_keys} keys",
            expected="1 <= threshold <= keys <= 16",
        )
    if directory.exists() and any(directory.iterdir()):
        raise BadRequest(f"{directory} is not empty", hint="keys are never overwritten; choose another directory")
    directory = directory.absolute()
    made = directory.with_name(f".tmp-{directory.name}")
    disk.remove_directory(made)
    disk.make_directory(made, keyfile.DIRECTORY_MODE)
    root = Root(consistent_snapshot=True)
    for role, count in (("root", plan.root_keys), ("targets", 1), ("snapshot", 1), ("timestamp", 1)):
        for number in range(1, count + 1):
            name = f"{role}-{number}.pem" if role == "root" else f"{role}.pem"
            key = Ed25519PrivateKey.generate()
            keyfile.write(made / name, key, passphrase, disk, plan.cost)
            root.add_key(CryptoSigner(key).public_key, role)
    root.roles["root"].threshold = plan.root_threshold
    root.unrecognized_fields[PERIODS] = msgspec.to_builtins(plan.periods)
    stamp(root, "root", plan.periods, now)
    ring = Keyring(made, passphrase)
    metadata = sign(root, ring.signers_of(root, "root"))
    disk.write(made / "1.root.json", metadata.to_bytes())
    disk.publish_directory(made, directory)
    return metadata


def renew(
    ring: Keyring, replace: Iterable[Role], passphrase: str, *, cost: keyfile.Cost, now: datetime, disk: Disk
) -> Path:
    """Write the next root: a new expiry, and new keys for the roles to ``replace``.

    Signed by the keys of the root before and by its own. Old key files stay: the root says which of them count.

    Returns:
        The new ``N.root.json``; `release refresh` puts it into the repository.

    Raises:
        BadRequest: the keys of the present root are not all here.
    """
    before = ring.root().signed
    signers = {signer.public_key.keyid: signer for signer in ring.signers_of(before, "root")}
    root: Root = parse(ring.roots()[-1], "root").signed
    root.version += 1
    for role in replace:
        keyids = list(root.roles[role].keyids)
        for keyid in keyids:
            root.revoke_key(keyid, role)
        for number in range(1, len(keyids) + 1):
            key = Ed25519PrivateKey.generate()
            disk.remove(path := ring.directory / f"{role}-{root.version}-{number}.pem")  # of a renewal cut short
            keyfile.write(path, key, passphrase, disk, cost)
            signer = CryptoSigner(key)
            root.add_key(signer.public_key, role)
            if role == "root":
                signers[signer.public_key.keyid] = signer
    stamp(root, "root", periods_of(before), now)
    metadata = sign(root, list(signers.values()))
    with judged("root"):
        for delegator in (before, root):
            delegator.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    written = ring.directory / f"{root.version}.root.json"
    disk.write(written, metadata.to_bytes())
    return written


def root_files(directory: Path) -> list[Path]:
    """The ``N.root.json`` in a directory, by number, at most :data:`MOST_ROOTS` times 4."""
    numbered = [
        (int(match[1]), path) for path in directory.glob("*.root.json") if (match := _ROOT_NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered)][-MOST_ROOTS * 4 :]


def periods_of(root: Root) -> Periods:
    """The periods a root asks for; the defaults where it does not say."""
    return msgspec.convert(root.unrecognized_fields.get(PERIODS, {}), Periods)


def stamp(signed: Signed, role: Role, periods: Periods, now: datetime) -> None:
    """Set issue time and expiry."""
    now = now.astimezone(timezone.utc).replace(microsecond=0)
    signed.expires = now + periods.of(role)
    signed.unrecognized_fields[ISSUED] = text(now)


def sign(signed: Signed, signers: list[CryptoSigner]) -> Metadata[Any]:
    """Sign metadata by all of the signers."""
    metadata: Metadata[Any] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata
