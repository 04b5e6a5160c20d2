"""The locked Debian packages: what they are, and how this machine's apt brings exactly those."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
PACKAGES = FOLDER / "packages"
LOCK = FOLDER / "debian.lock"
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))


class Problem(Exception):
    """What the person who builds must mend; the message says how."""


class Section(NamedTuple):
    """A purpose in ``packages``. ``alone``: without what the names depend on."""

    name: str
    architectures: tuple[str, ...]
    alone: bool
    names: tuple[str, ...]
    left_out: frozenset[str]


class Package(NamedTuple):
    """One line of the lock."""

    section: str
    architecture: str
    name: str
    version: str
    sha256: str
    path: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return Path(self.path).name


def read_sections(text: str | None = None) -> list[Section]:
    """``packages``, parsed."""
    sections: list[Section] = []
    for raw in (PACKAGES.read_text() if text is None else text).splitlines():
        line = raw.partition("#")[0].strip()
        if line.startswith("["):
            name, *rest = line.strip("[]").split()
            sections.append(Section(name, tuple(w for w in rest if w != "alone"), "alone" in rest, (), frozenset()))
        elif line.startswith("-"):
            sections[-1] = sections[-1]._replace(left_out=sections[-1].left_out | {line[1:]})
        elif line:
            sections[-1] = sections[-1]._replace(names=(*sections[-1].names, line))
    return sections


def read_lock(path: Path = LOCK) -> list[Package]:
    """Every package of the lock.

    Raises:
        Problem: ``packages`` was changed since; the lock must be written again.
    """
    first, *lines = path.read_text().splitlines()
    if first != _heading():
        raise Problem(f"lock out of date: {PACKAGES.name} was changed after {path.name}; run make lock-base")
    return [Package(*line.split()) for line in lines]


def write_lock(packages: Iterable[Package], path: Path = LOCK) -> None:
    """Write the lock; its first line names the list it was made from."""
    path.write_text("\n".join([_heading(), *(" ".join(package) for package in packages)]) + "\n")


def _heading() -> str:
    meaning = repr([(*section[:4], sorted(section.left_out)) for section in read_sections()])
    return f"# written by make lock-base from packages {hashlib.sha256(meaning.encode()).hexdigest()[:16]}"


class Apt:
    """This machine's apt, with a state of its own and for any architecture; the machine's packages are not touched."""

    def __init__(self, architecture: str, folder: Path) -> None:
        self.architecture = architecture
        self.folder = folder
        source = next((path for path in SOURCES if path.exists()), None)
        if source is None:
            raise Problem(f"no Debian sources for apt here: {' or '.join(map(str, SOURCES))} must exist")
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "parts" / source.name).with_suffix(source.suffix or ".list").write_text(source.read_text())
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Dir::Cache": f"{folder}/cache",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": f"{folder}/parts",
            "Dir::State": f"{folder}",
            "Dir::State::status": f"{folder}/status",
        }
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def __call__(self, *arguments: str, command: str = "apt-get", cwd: Path | None = None) -> str:
        """Run it. Returns what it printed."""
        line = [command, *self._options, *arguments]
        return subprocess.run(line, check=True, capture_output=True, text=True, cwd=cwd).stdout


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(packages: Iterable[Package], folder: Path) -> None:
    """Bring the files of ``packages`` into ``folder``; what is there already is only checked.

    Raises:
        Problem: a version is no longer offered, or a file is not the one that was locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing: dict[str, list[Package]] = {}
    for package in dict.fromkeys(package._replace(section="") for package in packages):
        if not (folder / package.file).exists():
            missing.setdefault(package.architecture, []).append(package)
    for architecture, wanted in missing.items():
        with tempfile.TemporaryDirectory() as scratch:
            apt = Apt(architecture, Path(scratch))
            try:
                apt("update", "--quiet")
                apt("download", *(f"{package.name}={package.version}" for package in wanted), cwd=Path(scratch))
            except subprocess.CalledProcessError as error:
                gone = [line for line in error.stderr.splitlines() if line.startswith("E:")]
                raise Problem("\n".join(["lock out of date, or no network: run make lock-base", *gone])) from error
            for package in wanted:
                # apt writes an epoch's colon as %3a; the archive's own name leaves the epoch out.
                version = package.version.replace(":", "%3a")
                got = next(Path(scratch).glob(f"{package.name}_{version}_*.deb"))
                (folder / package.file).write_bytes(got.read_bytes())
    for package in packages:
        if digest(folder / package.file) != package.sha256:
            raise Problem(f"{folder / package.file} is not the file that {LOCK.name} names; remove it and build again")
