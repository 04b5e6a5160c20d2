"""What this device believes: every root since the first, the metadata last accepted, the time that has surely passed.

In the directory: ``N.root.json`` (all kept, the lowest is pinned), ``N.timestamp.json``, ``N.snapshot.json``,
``N.targets.json`` (the last accepted; names with versions, so that a cut between two of them leaves the earlier set
whole), ``time-floor``. Interrupted anywhere, the same call again is safe.
"""

from __future__ import annotations

import contextlib
import re
from datetime import datetime, timedelta
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Signed, TargetFile, Targets

from surefoot.durable import Disk, locked, read_bounded
from surefoot.errors import DeviceUnable, SurefootError, UntrustedRelease
from surefoot.release import manifest, walk
from surefoot.release.clock import BUILD_TIME, FLOOR_NAME, Clock, Floor, Mode, Reading, judge, read_floor
from surefoot.release.metadata import BEGINNING, MOST_BYTES, Role, issued, online_keys, sha256_of, target_path, text
from surefoot.release.source import Source

MOST_FUTURE = timedelta(days=1)  # how far a publisher's clock may run ahead of a trusted one
LOCK_WAIT_S = 60.0

_STORED = re.compile(r"([1-9]\d{0,9})\.(root|timestamp|snapshot|targets)\.json")


class Trusted:
    """A repository's state that was verified.

    Attributes:
        freshness: ``proven`` where a trusted clock says that nothing of it has expired, else ``unproven``.
        expires: when the first of it expires.
        root_version: of the newest root.
        timestamp_version: of the timestamp; it never goes back.
    """

    def __init__(self, rules: walk.Rules, reading: Reading) -> None:
        signed: tuple[Signed, ...] = (rules.root, rules.timestamp, rules.snapshot, rules.targets)
        self._targets: Targets = rules.targets
        self.expires: datetime = min(each.expires for each in signed)
        self.freshness = "proven" if reading.trusted and reading.reference < self.expires else "unproven"
        self.root_version: int = rules.root.version
        self.timestamp_version: int = rules.timestamp.version

    def names(self) -> list[str]:
        """Names of all models that have a release."""
        return sorted({path.split("/")[0] for path in self._targets.targets})

    def versions(self, name: str) -> list[str]:
        """Versions of a model, oldest first; those that are no versions are left out."""
        found = [path.split("/")[1] for path in self._targets.targets if re.fullmatch(_of(name), path)]
        return sorted(found, key=manifest.version_key)

    def target(self, path: str) -> TargetFile:
        """Length and hashes of a target.

        Raises:
            UntrustedRelease: the signed metadata does not name it.
        """
        try:
            return self._targets.targets[path]
        except KeyError:
            raise UntrustedRelease(
                f"the repository has no {path}",
                found=", ".join(self.versions(path.split("/")[0])) or "no release of that name",
                hint="check name and version; publish the release first",
            ) from None

    def manifest_digest(self, name: str, version: str) -> str:
        """The digest of a release: SHA-256 (hex) of its manifest.

        Raises:
            UntrustedRelease: there is no such release.
        """
        return sha256_of(self.target(target_path(name, version)))


def _of(name: str) -> str:
    return rf"{re.escape(name)}/(0|[1-9]\d{{0,8}})(\.(0|[1-9]\d{{0,8}})){{2}}/{re.escape(manifest.FILE_NAME)}"


class TrustStore:
    """The device's trust in one publisher.

    Args:
        directory: made when first needed.
        disk: the durable writer.
        clock: the machine's clock.
    """

    def __init__(self, directory: Path, disk: Disk, clock: Clock | None = None) -> None:
        self.directory = directory
        self._disk = disk
        self._clock = clock or Clock()

    def initialise(self, root_json: bytes) -> None:
        """Pin the first root. The same again, or any root that was walked to since, changes nothing.

        Raises:
            UntrustedRelease: no root, not signed by its own keys, or this device trusts another publisher.
        """
        rules = walk.begin(root_json, BEGINNING)
        self._disk.make_directory(self.directory, 0o755)
        with self._locked():
            kept = self._stored("root")
            if not kept:
                self._write("root", rules.root.version, root_json)
                return
            known = kept.get(rules.root.version)
            if known is None or read_bounded(known, MOST_BYTES["root"]) != root_json:
                raise UntrustedRelease(
                    "this device trusts another root",
                    found=f"root {rules.root.version} given",
                    expected=f"one of the roots {', '.join(map(str, kept))} in {self.directory}",
                    hint="to change the publisher on purpose, remove that directory first",
                )

    def refresh(self, source: Source, clock: Mode = "auto") -> Trusted:
        """Ask the source for the newest state, verify it, keep it.

        Args:
            source: a repository.
            clock: whether to believe this machine's clock. On one that is not believed, versions still never go
                back, and what expired before the time floor is refused; the rest is taken as ``unproven``.

        Raises:
            UntrustedRelease: it must not be believed: signature, version, hash, length, freshness.
            TransportFailed: it did not arrive. NotFound: the source holds no repository.
            DeviceUnable: no root was pinned, or the disk cannot be written.
        """
        with self._locked():
            now, synchronised = self._clock.now(), self._clock.synchronised()  # once, for the whole walk
            rules = self._kept_roots(BEGINNING)

            def reading() -> Reading:
                return judge(clock, now, synchronised, self._kept_floor().by(online_keys(rules.root)))

            def accept(role: Role, signed: Signed, data: bytes) -> None:
                self.check_issued(role, signed, reading())
                self._write(role, signed.version, data)

            walk.fetch_roots(rules, source, accept)
            rules.reference_time = reading().reference  # no root's expiry was asked for until here
            self._prime_timestamp(rules)
            walk.fetch_timestamp(rules, source, accept)
            self._prime_snapshot(rules)
            walk.fetch_snapshot(rules, source, accept)
            self._prime_targets(rules)
            walk.fetch_targets(rules, source, accept)
            judged = reading()
            self._raise_floor(rules)
            self._prune(rules)
            return Trusted(rules, judged)

    def current(self, clock: Mode = "auto") -> Trusted | None:
        """What was accepted last, from the disk alone; ``None`` where nothing whole is there. Expiry is no obstacle.

        A new root may be kept already while a cut came before the metadata that its keys sign: what was accepted
        under the root before it still stands.
        """
        for root in sorted(self._stored("root"), reverse=True):
            for version in sorted(self._stored("timestamp"), reverse=True):
                with contextlib.suppress(SurefootError, RepositoryError, OSError, ValueError, KeyError):
                    rules = self._kept_roots(BEGINNING, root)
                    rules.update_timestamp(self._read("timestamp", version))
                    rules.update_snapshot(self._read("snapshot", rules.timestamp.snapshot_meta.version))
                    rules.update_targets(self._read("targets", rules.snapshot.meta["targets.json"].version))
                    return Trusted(rules, self.reading(clock))
        return None

    def reading(self, clock: Mode) -> Reading:
        """What time it is, and whether that is believed."""
        return judge(clock, self._clock.now(), self._clock.synchronised(), self.floor())

    def floor(self) -> datetime:
        """A moment that has surely passed: the newest of build time and the signed issue time of what was accepted."""
        return self._kept_floor().newest

    def check_issued(self, role: Role, signed: Signed, reading: Reading) -> None:
        """Refuse what was signed in the future: accepted, it would lift the floor above the present for good.

        Raises:
            UntrustedRelease: signed more than :data:`MOST_FUTURE` after a trusted now.
        """
        moment = issued(signed)
        if moment and reading.trusted and moment > reading.reference + MOST_FUTURE:
            raise UntrustedRelease(
                f"{role}.json was signed in the future",
                found=text(moment),
                expected=f"before {text(reading.reference + MOST_FUTURE)}",
                hint="correct the publisher's clock and sign again, or this device's",
            )

    # -- the directory -----------------------------------------------------------------------------------------------

    def _locked(self) -> contextlib.AbstractContextManager[int]:
        if not self.directory.is_dir():
            raise self._no_root()
        return locked(self.directory, wait_s=LOCK_WAIT_S, what="the trust store")

    def _no_root(self) -> DeviceUnable:
        return DeviceUnable(
            "this device trusts no publisher yet",
            found=f"no root in {self.directory}",
            hint="give it the publisher's 1.root.json once, with --root",
        )

    def _stored(self, role: Role) -> dict[int, Path]:
        found = [
            (match, path) for path in self.directory.glob(f"*.{role}.json") if (match := _STORED.fullmatch(path.name))
        ]
        return {int(match[1]): path for match, path in sorted(found, key=lambda pair: int(pair[0][1]))}

    def _read(self, role: Role, version: int) -> bytes:
        return read_bounded(self.directory / f"{version}.{role}.json", MOST_BYTES[role])

    def _write(self, role: Role, version: int, data: bytes) -> None:
        self._disk.write(self.directory / f"{version}.{role}.json", data)

    def _kept_roots(self, reference: datetime, last: int | None = None) -> walk.Rules:
        """Walk the kept roots, to ``last`` or the newest. A damaged one ends the walk: the source has it again."""
        kept = self._stored("root")
        if not kept:
            raise self._no_root()
        first, *later = kept
        try:
            rules = walk.begin(self._read("root", first), reference)
        except UntrustedRelease as error:
            raise DeviceUnable(
                f"the pinned root {kept[first]} is damaged",
                found=error.what,
                hint="check the disk; then remove the trust directory and give the publisher's root again",
            ) from error
        for version in (each for each in later if last is None or each <= last):
            try:
                rules.update_root(self._read("root", version))
            except (RepositoryError, ValueError, KeyError, DeviceUnable):
                break
        return rules

    def _prime_timestamp(self, rules: walk.Rules) -> None:
        """Load the newest kept timestamp that the present root accepts, so that no older one is taken."""
        for version in sorted(self._stored("timestamp"), reverse=True):
            with contextlib.suppress(RepositoryError, ValueError, KeyError, DeviceUnable):
                rules.update_timestamp(self._read("timestamp", version))
            if "timestamp" in rules:
                return

    def _prime_snapshot(self, rules: walk.Rules) -> None:
        for version in sorted(self._stored("snapshot"), reverse=True):
            with contextlib.suppress(RepositoryError, ValueError, KeyError, DeviceUnable):
                rules.update_snapshot(self._read("snapshot", version), trusted=True)
            if "snapshot" in rules:
                return

    def _prime_targets(self, rules: walk.Rules) -> None:
        named = rules.snapshot.meta.get("targets.json")
        if named is not None and named.version in self._stored("targets"):
            with contextlib.suppress(RepositoryError, ValueError, KeyError, DeviceUnable):
                rules.update_targets(self._read("targets", named.version))

    def _kept_floor(self) -> Floor:
        return read_floor(self.directory / FLOOR_NAME)

    def _raise_floor(self, rules: walk.Rules) -> None:
        """What online keys signed counts while they are the root's: a stolen one cannot stop time for good."""

        def newest(*signed: Signed) -> datetime:
            return max([moment for each in signed if (moment := issued(each))], default=BUILD_TIME)

        kept = self._kept_floor()
        lasting, online = newest(rules.root, rules.targets), newest(rules.timestamp, rules.snapshot)
        raised = kept.raised(lasting, online, online_keys(rules.root))
        if raised != kept:
            self._disk.write(self.directory / FLOOR_NAME, raised.encode())

    def _prune(self, rules: walk.Rules) -> None:
        keep = {
            "timestamp": rules.timestamp.version,
            "snapshot": rules.snapshot.version,
            "targets": rules.targets.version,
        }
        roles: tuple[Role, ...] = ("targets", "snapshot", "timestamp")
        for role in roles:
            for version, path in self._stored(role).items():
                if version != keep[role]:
                    self._disk.remove(path)
