"""Every byte of a repository checked: what a device would check, and then all that lies there besides.

Metadata is compared with its own canonical form as well as with its signatures, since a changed byte outside the
signed part (a space, the case of a hex digit) would leave every signature good.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets

from surefoot.durable import read_bounded
from surefoot.errors import SurefootError, UntrustedRelease
from surefoot.release import manifest, packed, walk
from surefoot.release.golden import MOST_GOLDEN_BYTES
from surefoot.release.metadata import (
    MOST_BYTES,
    Role,
    metadata_path,
    parse,
    sha256_of,
    split_target_path,
    stored_path,
    target_path,
)
from surefoot.release.source import FileSource

MOST_FILES = 1_000_000
SHOWN = 10
Progress = Callable[[str, int, int], None]

_METADATA_NAME = re.compile(r"([1-9]\d{0,9})\.(root|snapshot|targets)\.json|timestamp\.json")


class Verification(msgspec.Struct, frozen=True):
    """What was checked, and every problem in words."""

    files: int
    releases: int
    problems: tuple[str, ...]

    def raise_if_bad(self) -> None:
        """Make an error of the problems.

        Raises:
            UntrustedRelease: there are some.
        """
        if self.problems:
            more = f"; and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
            raise UntrustedRelease(
                "the repository is not whole",
                found="; ".join(self.problems[:SHOWN]) + more,
                expected="every file named, hashed and signed",
                hint="restore the files from where they were published, or publish the release again",
            )


class Inspector:
    """One verification. Collects problems instead of stopping at the first."""

    def __init__(self, repository: Path, now: datetime) -> None:
        self.repository = repository
        self.now = now
        self.problems: list[str] = []
        self.named: set[str] = set()
        self.roots: list[Root] = []
        self.releases: set[tuple[str, str]] = set()
        self.targets: dict[str, TargetFile] = {}

    def problem(self, error: SurefootError | str) -> None:
        """Note a problem."""
        self.problems.append(str(error))

    def check_as_device(self, root: Path | None) -> None:
        """What a device that pinned ``root`` and has a right clock would check."""
        try:
            pinned = read_bounded(root or self.repository / metadata_path("root", 1), MOST_BYTES["root"])
            walk.fetch_all(walk.begin(pinned, self.now), FileSource(self.repository))
        except (SurefootError, OSError) as error:
            self.problem(
                error if isinstance(error, SurefootError) else f"the first root cannot be read: {error.strerror}"
            )

    def check_metadata(self) -> None:
        """Every version of every role: canonical bytes, every signature, chains without gaps, links between roles."""
        self._check_roots()
        snapshots = [each for _, each in self._chain("snapshot") if isinstance(each, Snapshot)]
        targets = {number: each for number, each in self._chain("targets") if isinstance(each, Targets)}
        timestamp = self._load("timestamp", metadata_path("timestamp"))
        newest = timestamp.signed.snapshot_meta.version if timestamp else 0
        for snapshot in snapshots:
            self._check_link(snapshot)
            if snapshot.version > newest:
                self.problem(f"snapshot {snapshot.version} is newer than the timestamp: a publication was interrupted")
        linked = {each.meta["targets.json"].version for each in snapshots if "targets.json" in each.meta}
        for number in sorted(set(targets) - linked):
            self.problem(f"no snapshot names targets {number}: a publication was interrupted")
        everything: dict[str, TargetFile] = {}
        for number, each in sorted(targets.items()):
            for path, target in each.targets.items():
                if everything.setdefault(path, target) != target:
                    self.problem(f"targets {number} gives {path} another content than an earlier version did")
        self.targets = everything

    def check_targets(self, progress: Progress | None) -> None:
        """Every target file, every manifest, every golden file."""
        parts: dict[str, tuple[str, str, str]] = {}
        for number, path in enumerate(sorted(self.targets)):
            if progress:
                progress("files", number, len(self.targets))
            try:
                parts[path] = split_target_path(path)
                stored = stored_path(self.targets[path])
                self.named.add(stored)
                self._check_target(self.targets[path], stored)
            except SurefootError as error:
                self.problem(error)
        for name, version, file in parts.values():
            if file == manifest.FILE_NAME:
                self.releases.add((name, version))
                try:
                    self._check_release(name, version)
                except SurefootError as error:
                    self.problem(error)
        for path, (name, version, _) in parts.items():
            if (name, version) not in self.releases:
                self.problem(f"{path} belongs to no release: there is no manifest beside it")

    def check_strangers(self) -> int:
        """Nothing else in the folder. Returns how many files there are."""
        count = 0
        for path in walk_files(self.repository):
            count += 1
            if count > MOST_FILES:
                self.problem(f"more than {MOST_FILES} files")
                break
            relative = path.relative_to(self.repository).as_posix()
            if path.is_symlink() or not path.is_file():
                self.problem(f"{relative} is not a plain file")
            elif relative not in self.named:
                self.problem(f"{relative} is named by no metadata: remove it, or publish its release again")
        return count

    # -- metadata ----------------------------------------------------------------------------------------------------

    def _check_roots(self) -> None:
        previous: Root | None = None
        for number in self._numbers("root"):
            metadata = self._load("root", metadata_path("root", number), verify=False)
            if metadata is None:
                previous = None
                continue
            root: Root = metadata.signed
            if root.version != number or number != len(self.roots) + 1:
                self.problem(f"{number}.root.json is version {root.version}, {len(self.roots) + 1} was expected")
            self.roots.append(root)
            known = {**(previous.keys if previous else {}), **root.keys}
            for delegator in filter(None, (previous, root)):
                result = delegator.get_verification_result("root", metadata.signed_bytes, metadata.signatures)
                if not result.verified:
                    self.problem(f"{number}.root.json lacks {result.missing} signatures by root {delegator.version}")
            self._check_every_signature(f"{number}.root.json", metadata, known)
            previous = root
        if not self.roots:
            self.problem("there is no root")

    def _chain(self, role: Role) -> Iterator[tuple[int, Signed]]:
        numbers = self._numbers(role)
        if numbers != list(range(1, len(numbers) + 1)):
            self.problem(f"versions of {role}.json are missing: found {numbers[:20]}")
        for number in numbers:
            metadata = self._load(role, metadata_path(role, number))
            if metadata is None:
                continue
            if metadata.signed.version != number:
                self.problem(f"{number}.{role}.json says that it is version {metadata.signed.version}")
            yield number, metadata.signed

    def _load(self, role: Role, relative: str, verify: bool = True) -> Metadata[Any] | None:
        self.named.add(relative)
        try:
            data = FileSource(self.repository).read(relative, MOST_BYTES[role])
            metadata = parse(data, role)
            if metadata.to_bytes() != data or metadata.unrecognized_fields:
                self.problem(f"{relative} is not written as it was signed: a byte outside the signed part changed")
            if verify and not self._signed_by_a_root(role, metadata):
                self.problem(f"{relative} is not signed by enough keys of any one root")
            if verify:
                self._check_every_signature(
                    relative, metadata, {k: v for root in self.roots for k, v in root.keys.items()}
                )
        except SurefootError as error:
            self.problem(f"{relative}: {error}")
            return None
        return metadata

    def _signed_by_a_root(self, role: Role, metadata: Metadata[Any]) -> bool:
        signed, signatures = metadata.signed_bytes, metadata.signatures
        return any(root.get_verification_result(role, signed, signatures).verified for root in self.roots)

    def _check_every_signature(self, what: str, metadata: Metadata[Any], keys: dict[str, Any]) -> None:
        """No signature may be bad, not even one beyond the threshold; hex in lower case, so that it has one form."""
        for keyid, signature in metadata.signatures.items():
            key = keys.get(keyid)
            if key is None:
                self.problem(f"{what} has a signature by a key that no root names: {keyid[:16]}")
                continue
            try:
                if not re.fullmatch(r"[0-9a-f]+", signature.signature):
                    raise ValueError("not lower-case hex")
                key.verify_signature(signature, metadata.signed_bytes)
            except Exception as error:  # securesystemslib raises several families; any of them is a bad signature
                self.problem(f"{what} has a bad signature by key {keyid[:16]}: {error}")

    def _check_link(self, snapshot: Snapshot) -> None:
        named = snapshot.meta.get("targets.json")
        if named is None or set(snapshot.meta) != {"targets.json"}:
            self.problem(f"snapshot {snapshot.version} names {sorted(snapshot.meta)}, not just targets.json")
            return
        try:
            relative = metadata_path("targets", named.version)
            named.verify_length_and_hashes(FileSource(self.repository).read(relative, MOST_BYTES["targets"]))
        except (RepositoryError, SurefootError) as error:
            self.problem(f"snapshot {snapshot.version} and targets {named.version} do not agree: {error}")

    def _numbers(self, role: Role) -> list[int]:
        found = []
        for path in (self.repository / "metadata").glob(f"*.{role}.json"):
            match = _METADATA_NAME.fullmatch(path.name)
            if match and match[1]:
                found.append(int(match[1]))
        return sorted(found)

    # -- targets -----------------------------------------------------------------------------------------------------

    def _check_target(self, target: TargetFile, stored: str) -> None:
        digest, length = hashlib.sha256(), 0
        for piece in FileSource(self.repository).stream(stored):
            digest.update(piece.data)
            length += len(piece.data)
        if (digest.hexdigest(), length) != (sha256_of(target), target.length):
            raise UntrustedRelease(
                f"{stored} is not what was signed",
                found=f"{length} bytes, sha256 {digest.hexdigest()}",
                expected=f"{target.length} bytes, sha256 {sha256_of(target)}",
            )

    def _check_release(self, name: str, version: str) -> None:
        """The manifest says the same as the metadata, and its golden cases are worth something."""
        head = self.targets[target_path(name, version)]
        release = manifest.decode(self._read(head, manifest.MOST_MANIFEST_BYTES))
        if (release.name, release.version) != (name, version):
            raise UntrustedRelease(
                f"the manifest of {name} {version} is of another release", found=f"{release.name} {release.version}"
            )
        for file in release.files():
            target = self.targets.get(target_path(name, version, file.name))
            if target is None or (sha256_of(target), target.length) != (file.sha256, file.length_bytes):
                raise UntrustedRelease(f"the metadata and the manifest of {name} {version} disagree on {file.name}")
        packed.check_golden(release, self._read(self._golden(release), MOST_GOLDEN_BYTES))

    def _golden(self, release: manifest.Manifest) -> TargetFile:
        return self.targets[target_path(release.name, release.version, release.golden.file.name)]

    def _read(self, target: TargetFile, most_bytes: int) -> bytes:
        return FileSource(self.repository).read(stored_path(target), most_bytes)


def verify(repository: Path, root: Path | None, *, now: datetime, progress: Progress | None = None) -> Verification:
    """Check a whole repository.

    Args:
        repository: its folder.
        root: the root that devices pinned; ``None`` takes the repository's own first, which proves that the
            repository is whole but not whose it is.
        now: what expiries are compared with.
        progress: told what is being done.
    """
    inspector = Inspector(repository, now)
    inspector.check_as_device(root)
    inspector.check_metadata()
    inspector.check_targets(progress)
    files = inspector.check_strangers()
    return Verification(files, len(inspector.releases), tuple(dict.fromkeys(inspector.problems)))


def walk_files(folder: Path) -> Iterator[Path]:
    """Everything under a folder but directories; symbolic links are given, not followed."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from walk_files(path)
        else:
            yield path
