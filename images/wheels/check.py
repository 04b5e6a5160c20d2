"""Whether the wheels in a folder are all for one target, complete, and the ones that the lock names.

    python images/wheels/check.py --platform macosx_14_0_arm64 --python 3.11 FOLDER

Nothing of a wheel is executed: its file name, its metadata and the first bytes of its native files are read. The same
rules hold for every platform; the image builds and the macOS bundle share them.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import struct
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from itertools import chain
from pathlib import Path

from packaging import tags
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

MOST_METADATA_BYTES = 4 << 20
MOST_FAT_ARCHITECTURES = 16
# ELF header, e_machine; Mach-O header, cputype.
ELF_MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7l", 243: "riscv64"}
MACHO_MACHINES = {0x0100000C: "arm64", 0x01000007: "x86_64"}
# PEP 513, 571, 599: the old names of three glibc versions.
MANYLINUX_NAMES = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}


class Refused(Exception):
    """One or more reasons, each a whole sentence with what was found and what to do."""

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("\n".join(self.reasons))


@dataclass(frozen=True)
class Target:
    """What the wheels are to run on: platform tags as pip's ``--platform`` takes them, and CPython (3, minor)."""

    platforms: tuple[str, ...]
    python: tuple[int, int]

    @classmethod
    def of(cls, platforms: Iterable[str], python: str) -> Target:
        """From the words of a command line. Raises Refused for a platform or a Python that no wheel can name."""
        if not re.fullmatch(r"3\.\d{1,2}", python):
            raise Refused([f"{python!r} is not a Python: expected a minor version such as 3.11"])
        target = cls(tuple(platforms), (3, int(python[2:])))
        _ = target.tags, target.environment
        return target

    @property
    def tags(self) -> frozenset[Tag]:
        """Every tag that this target takes."""
        platforms = self.expanded
        interpreter = f"cp{self.python[0]}{self.python[1]}"
        return frozenset(
            [
                *tags.cpython_tags(self.python, [interpreter], platforms),
                *tags.compatible_tags(self.python, interpreter, platforms),
            ]
        )

    @property
    def expanded(self) -> list[str]:
        """The platforms, and the older ones whose wheels they run; pip adds those itself for macOS only."""
        return list(dict.fromkeys(chain.from_iterable(map(_expand, self.platforms))))

    @property
    def machine(self) -> str:
        """``arm64``, ``aarch64``, ``x86_64``: as ``uname -m`` says there."""
        return re.sub(r"^.*?_(?=arm64|aarch64|x86_64|armv7l|riscv64)", "", self.platforms[0])

    @property
    def environment(self) -> dict[str, str]:
        """The values of PEP 508 markers there, as far as they can be known here."""
        mac = self.platforms[0].startswith("macosx_")
        version = f"{self.python[0]}.{self.python[1]}"
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{version}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Darwin" if mac else "Linux",
            "platform_version": "",
            "python_full_version": f"{version}.0",
            "python_version": version,
            "sys_platform": "darwin" if mac else "linux",
        }

    def __str__(self) -> str:
        return f"{' or '.join(self.platforms)}, CPython {self.python[0]}.{self.python[1]}"


def _expand(platform: str) -> Iterator[str]:
    """The platform itself and the older ones whose wheels it runs."""
    if found := re.fullmatch(r"macosx_(\d+)_(\d+)_(arm64|x86_64)", platform):
        yield from tags.mac_platforms((int(found[1]), int(found[2])), found[3])
    elif found := re.fullmatch(r"manylinux_2_(\d+)_(aarch64|x86_64|armv7l|riscv64)", platform):
        for minor in range(int(found[1]), (5 if found[2] == "x86_64" else 17) - 1, -1):
            yield f"manylinux_2_{minor}_{found[2]}"
            if old := MANYLINUX_NAMES.get((2, minor)):
                yield f"{old}_{found[2]}"
        yield f"linux_{found[2]}"
    elif re.fullmatch(r"(manylinux2014|linux)_(aarch64|x86_64|armv7l|riscv64)", platform):
        yield platform
    else:
        raise Refused([f"{platform!r} is no platform known here: expected for example macosx_14_0_arm64"])


@dataclass(frozen=True)
class Wheel:
    """One wheel, read and not executed."""

    path: Path
    name: NormalizedName
    version: Version
    tags: frozenset[Tag]
    inner_tags: frozenset[Tag]
    requires: tuple[Requirement, ...]
    requires_python: SpecifierSet
    machines: frozenset[str]
    unpacked_bytes: int

    def digest(self) -> str:
        """SHA-256 of the file, hex."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def read_wheel(path: Path) -> Wheel:
    """Read one wheel. Raises Refused where it is not one."""
    if path.suffix != ".whl":
        raise Refused([f"{path.name} is not a wheel: nothing is built for a target here, only wheels are taken"])
    try:
        name, version, _, named = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            folder = f"{'-'.join(path.name.split('-')[:2])}.dist-info"
            about = HeaderParser().parsestr(_member(archive, f"{folder}/WHEEL"))
            metadata = HeaderParser().parsestr(_member(archive, f"{folder}/METADATA"))
            machines = frozenset(chain.from_iterable(_machines(archive, entry) for entry in archive.infolist()))
            size = sum(entry.file_size for entry in archive.infolist())
        return Wheel(
            path=path,
            name=name,
            version=version,
            tags=named,
            inner_tags=frozenset(chain.from_iterable(tags.parse_tag(tag) for tag in about.get_all("Tag", []))),
            requires=tuple(Requirement(line) for line in metadata.get_all("Requires-Dist", [])),
            requires_python=SpecifierSet(metadata.get("Requires-Python", "")),
            machines=machines,
            unpacked_bytes=size,
        )
    except (InvalidWheelFilename, zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise Refused([f"{path.name} is not a wheel that can be read: {error}; fetch it again"]) from error


def _member(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as stream:
        data = stream.read(MOST_METADATA_BYTES + 1)
    if len(data) > MOST_METADATA_BYTES:
        raise ValueError(f"{name} is longer than {MOST_METADATA_BYTES} bytes")
    return data.decode(errors="replace")


def _machines(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[str]:
    """The machines that a member holds native code for; none where it holds none."""
    if not re.search(r"\.(so|dylib)(\.|$)", entry.filename):
        return
    with archive.open(entry) as stream:
        head = stream.read(8 + 20 * MOST_FAT_ARCHITECTURES)
    if head[:4] == b"\x7fELF" and len(head) >= 20:
        number = struct.unpack_from("<H", head, 18)[0]
        yield f"Linux {ELF_MACHINES.get(number, number)}"
    elif head[:4] == b"\xcf\xfa\xed\xfe" and len(head) >= 8:
        number = struct.unpack_from("<I", head, 4)[0]
        yield f"macOS {MACHO_MACHINES.get(number, number)}"
    elif head[:4] == b"\xca\xfe\xba\xbe" and len(head) >= 8:
        # One of several machines fits if the target's is among them: named together.
        count = min(struct.unpack_from(">I", head, 4)[0], MOST_FAT_ARCHITECTURES)
        found = [struct.unpack_from(">I", head, 8 + 20 * i)[0] for i in range(count) if len(head) >= 12 + 20 * i]
        yield "macOS " + "+".join(sorted(str(MACHO_MACHINES.get(number, number)) for number in found))


@dataclass(frozen=True)
class Pin:
    """One line of a lock that applies to the target."""

    name: NormalizedName
    version: Version
    hashes: frozenset[str]

    def __str__(self) -> str:
        hashes = "".join(f" \\\n    --hash=sha256:{each}" for each in sorted(self.hashes))
        return f"{self.name}=={self.version}{hashes}\n"


def read_lock(text: str, target: Target) -> dict[NormalizedName, Pin]:
    """The pins of a requirements file that hold on the target.

    pip itself reads the markers with the Python it runs under, so for another platform they are read here.

    Raises:
        Refused: a line that is not pinned by ``==``, has no SHA-256, or cannot be read.
    """
    pins: dict[NormalizedName, Pin] = {}
    wrong: list[str] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.split(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        said, *options = line.split(" --hash=")
        try:
            requirement = Requirement(said.strip())
        except InvalidRequirement as error:
            wrong.append(f"the lock has a line that cannot be read: {line!r} ({str(error).splitlines()[0]}); make lock")
            continue
        if requirement.marker and not requirement.marker.evaluate(target.environment):
            continue
        exact = [each for each in requirement.specifier if each.operator == "==" and "*" not in each.version]
        hashes = frozenset(each.removeprefix("sha256:").strip() for each in options if each.startswith("sha256:"))
        if len(exact) != 1 or len(requirement.specifier) != 1:
            wrong.append(f"{requirement.name} is not pinned: found {said.strip()!r}, expected NAME==VERSION; make lock")
        elif not hashes:
            wrong.append(f"{requirement.name} has no hash: found {line!r}, expected --hash=sha256:…; make lock")
        else:
            name = canonicalize_name(requirement.name)
            pins[name] = Pin(name, Version(exact[0].version), hashes)
    if wrong:
        raise Refused(wrong)
    return pins


def read_folder(folders: Iterable[Path]) -> list[Wheel]:
    """Every wheel in the folders, by name. Raises Refused for anything else that lies there."""
    wheels: list[Wheel] = []
    wrong: list[str] = []
    for path in sorted(chain.from_iterable(folder.iterdir() for folder in folders)):
        try:
            wheels.append(read_wheel(path))
        except Refused as error:
            wrong += error.reasons
    if not wheels and not wrong:
        wrong.append(f"no wheel in {', '.join(map(str, folders))}")
    if wrong:
        raise Refused(wrong)
    return wheels


def check(
    wheels: Iterable[Wheel],
    target: Target,
    pins: Mapping[NormalizedName, Pin] | None = None,
    wanted: Iterable[Requirement] = (),
) -> None:
    """Refuse a set of wheels that is not whole, not of the lock, or not for the target.

    Args:
        wheels: all that will be installed.
        target: where.
        pins: the lock; without it, hashes are not compared.
        wanted: what is asked for by name, extras included; these are not looked for in the lock.

    Raises:
        Refused: with every reason found.
    """
    wanted = list(wanted)
    asked = {canonicalize_name(requirement.name) for requirement in wanted}
    by_name: dict[NormalizedName, Wheel] = {}
    wrong: list[str] = []
    for wheel in wheels:
        if wheel.name in by_name:
            wrong.append(f"{wheel.name} is there twice: {by_name[wheel.name].path.name}, {wheel.path.name}; remove one")
        by_name[wheel.name] = wheel
        wrong += _unfit(wheel, target)
        if pins is not None and wheel.name not in asked:
            wrong += _unlocked(wheel, pins)
    for name in (pins or {}).keys() - by_name.keys():
        wrong.append(f"the lock names {name} for {target}, and no wheel of it is there; fetch again")
    wrong += _missing(by_name, wanted, target)
    if wrong:
        raise Refused(wrong)


def _unfit(wheel: Wheel, target: Target) -> Iterator[str]:
    found = {"file name": wheel.tags, "WHEEL file": wheel.inner_tags}
    for where, named in found.items():
        if not named & target.tags:
            said = ", ".join(sorted(map(str, named))) or "no tag"
            yield f"{wheel.path.name} is not for {target}: its {where} says {said}"
            return
    if wheel.requires_python and not wheel.requires_python.contains(target.environment["python_full_version"]):
        yield f"{wheel.path.name} asks for Python {wheel.requires_python}, which is not {target}"
    system = "macOS" if target.environment["sys_platform"] == "darwin" else "Linux"
    for machine in sorted(wheel.machines):
        if not machine.startswith(system) or target.machine not in re.split(r"[ +]", machine):
            yield f"{wheel.path.name} carries native code for {machine}, expected {system} {target.machine}"


def _unlocked(wheel: Wheel, pins: Mapping[NormalizedName, Pin]) -> Iterator[str]:
    pin = pins.get(wheel.name)
    if pin is None:
        yield f"{wheel.path.name} is not in the lock: remove it, or name it in requirements/*.in and make lock"
    elif pin.version != wheel.version:
        yield f"{wheel.path.name} is another version than the lock's {pin.version}: fetch again"
    elif (digest := wheel.digest()) not in pin.hashes:
        yield f"{wheel.path.name} is not the file that the lock names: its SHA-256 is {digest}; remove it, fetch again"


def _missing(wheels: Mapping[NormalizedName, Wheel], wanted: list[Requirement], target: Target) -> Iterator[str]:
    """What the wheels ask for, and is not there or is there in a version that they do not take."""
    todo: list[tuple[Wheel | None, Requirement]] = [(None, requirement) for requirement in wanted]
    todo += [(wheel, each) for wheel in wheels.values() for each in wheel.requires if _applies(each, target, "")]
    seen: set[tuple[str, str]] = set()
    while todo:
        asker, requirement = todo.pop()
        who = f"{asker.name} {asker.version}" if asker else "this build"
        if (who, str(requirement)) in seen:
            continue
        seen.add((who, str(requirement)))
        found = wheels.get(canonicalize_name(requirement.name))
        if found is None:
            yield f"{who} asks for {requirement}, and it is not there: the lock is out of date; make lock"
            continue
        if not requirement.specifier.contains(found.version, prereleases=True):
            yield f"{who} asks for {requirement}, there is {found.version}: the lock is out of date; make lock"
        for extra in requirement.extras:
            todo += [(found, each) for each in found.requires if _applies(each, target, extra)]


def _applies(requirement: Requirement, target: Target, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**target.environment, "extra": extra})


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, or 2 after printing each reason on a line of its own."""
    parser = argparse.ArgumentParser(description="Check that every wheel in a folder is for one target.")
    parser.add_argument("--platform", action="append", required=True, help="platform tag, as pip takes it; repeatable")
    parser.add_argument("--python", required=True, help="CPython's minor version, such as 3.11")
    parser.add_argument("--lock", type=Path, help="requirements file with hashes that the wheels must be of")
    parser.add_argument("--require", action="append", default=[], help="what must be there, such as surefoot[tflite]")
    parser.add_argument("folder", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    try:
        target = Target.of(given.platform, given.python)
        pins = read_lock(given.lock.read_text(), target) if given.lock else None
        wheels = read_folder(given.folder)
        check(wheels, target, pins, map(Requirement, given.require))
    except (Refused, InvalidRequirement, OSError) as error:
        for reason in error.reasons if isinstance(error, Refused) else [str(error)]:
            print(f"surefoot: {reason}", file=sys.stderr)
        return 2
    print(f"surefoot: {len(wheels)} wheels, all for {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
