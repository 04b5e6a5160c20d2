"""Builds a bundle: the app and its wheels for one target, with their checksums, in one archive.

``make bundle-macos`` and ``make bundle-linux`` run it on any machine with Python; nothing of the target is executed.
The same commit gives the same bytes: names sorted, times those of the commit, owners fixed. A bundle for macOS carries
its installer; one for Linux is installed by the role ``inference_app``.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName

from images.wheels.check import Pin, Refused, Target, Wheel, check, read_folder, read_lock, read_wheel

IMAGES = Path(__file__).resolve().parent
ROOT = IMAGES.parent
# What lies in it beside the wheels.
INSIDE = {"Darwin": IMAGES / "macos" / "inside", "Linux": IMAGES / "linux" / "inside"}
# The newest platform that a wheel may ask for: Debian 12 has glibc 2.36, Ubuntu 22.04 has 2.35.
TARGETS = {
    "macos-arm64": "macosx_14_0_arm64",
    "linux-amd64": "manylinux_2_28_x86_64",
    "linux-arm64": "manylinux_2_28_aarch64",
}
APP = "surefoot[onnxruntime,tflite]"
LEAST_ARM64_MACOS = (11, 0)
# Beside the unpacked wheels: bytecode, the environment itself, and something to spare.
DISK_FACTOR, DISK_MARGIN_BYTES = 1.4, 128 << 20
INTERPRETER_FACTOR = 6  # of a packed interpreter's size, when unpacked


def fetch(pins: Mapping[NormalizedName, Pin], target: Target, cache: Path) -> None:
    """Bring the wheels that the lock names for the target into ``cache``, which holds nothing else after that.

    pip reads its own configuration (index, mirror, CA), and is not asked where all of them lie there already.

    Raises:
        Refused: a wheel exists for no such target, or could not be fetched.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for path in cache.iterdir():
        if not _wanted(path, pins, target):
            path.unlink()
    if len(list(cache.iterdir())) == len(pins):
        return
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as lock:
        lock.writelines(map(str, pins.values()))
        lock.flush()
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
                   "--only-binary=:all:", "--require-hashes", "--implementation", "cp",
                   "--python-version", f"{target.python[0]}.{target.python[1]}", "--abi", "abi3", "--abi", "none",
                   "--abi", f"cp{target.python[0]}{target.python[1]}",
                   "--requirement", lock.name, "--dest", str(cache)]  # fmt: skip
        for platform in target.expanded:
            command += ["--platform", platform]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        missing = re.findall(r"No matching distribution found for (\S+)", done.stderr)
        if missing:
            raise Refused([f"{name.split('(')[0]} has no wheel for {target}: take another version of it, or another "
                           "target (wheels are never built here)" for name in missing])  # fmt: skip
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise Refused([f"pip could not fetch the wheels: {' '.join(said)[:2000]}"])


def _wanted(path: Path, pins: Mapping[NormalizedName, Pin], target: Target) -> bool:
    try:
        wheel = read_wheel(path)
    except Refused:
        return False
    pin = pins.get(wheel.name)
    return pin is not None and bool(wheel.tags & target.tags) and wheel.digest() in pin.hashes


def build_app(out: Path, epoch: int) -> Wheel:
    """The app's own wheel, the same bytes for the same sources."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps",
               "--no-index", "--no-build-isolation", "--wheel-dir", str(out), str(ROOT / "app")]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"})
    return read_wheel(next(out.glob("surefoot-*.whl")))


def least_macos(wheels: Iterable[Wheel], target: Target) -> str:
    """The oldest macOS that all wheels run on, by their tags; empty where the target is not a Mac."""
    needs: list[tuple[int, int]] = []
    for wheel in wheels:
        taken = [tag.platform for tag in wheel.tags & target.tags]
        versions = [(int(m[1]), int(m[2])) for m in (re.match(r"macosx_(\d+)_(\d+)_", each) for each in taken) if m]
        needs += [min(versions)] if versions and "any" not in taken else []
    if target.environment["sys_platform"] != "darwin":
        return ""
    return "{}.{}".format(*max([LEAST_ARM64_MACOS, *needs]))


def facts(wheels: Iterable[Wheel], target: Target, interpreter: Path | None, version: str) -> dict[str, str]:
    """What the installer has to know, as it stands in bundle.conf."""
    unpacked = int(sum(wheel.unpacked_bytes for wheel in wheels) * DISK_FACTOR) + DISK_MARGIN_BYTES
    unpacked += interpreter.stat().st_size * INTERPRETER_FACTOR if interpreter else 0
    return {
        "version": version,
        "system": target.environment["platform_system"],
        "machine": target.machine,
        "least_macos": least_macos(wheels, target),
        "python_version": target.environment["python_version"],
        "needed_kb": str(unpacked // 1024),
        "interpreter": f"interpreter/{interpreter.name}" if interpreter else "",
    }


def assemble(
    folder: Path, wheels: Iterable[Wheel], interpreter: Path | None, about: dict[str, str], inside: Path | None = None
) -> None:
    """Fill the bundle's folder, the list of checksums last. ``inside``: other than what a bundle of its system has."""
    shutil.copytree(inside or INSIDE[about["system"]], folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", folder)
    (folder / "wheels").mkdir()
    lines: list[str] = []
    for wheel in wheels:
        shutil.copy(wheel.path, folder / "wheels")
        lines.append(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.digest()}\n")
    (folder / "requirements.lock").write_text("".join(sorted(lines)))
    if interpreter:
        (folder / "interpreter").mkdir()
        shutil.copy(interpreter, folder / "interpreter")
    identity = hashlib.sha256(sums(folder).encode()).hexdigest()[:12]
    settings = {**about, "id": f"{about['version']}-{identity}"}
    (folder / "bundle.conf").write_text(
        "# Written by the builder; what installs the bundle reads it.\n"
        + "".join(f"bundle_{name}='{value}'\n" for name, value in sorted(settings.items()))
    )
    (folder / "SHA256SUMS").write_text(sums(folder))


def sums(folder: Path) -> str:
    """One line a file, as ``shasum -a 256 -c`` reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n" for p in files)


def pack(folder: Path, archive: Path, epoch: int) -> None:
    """One archive of a folder, the same bytes for the same content."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = epoch
        entry.mode = 0o755 if entry.isdir() or entry.name.endswith(".sh") else 0o644
        return entry

    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.part")
    with (
        part.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=epoch, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in (folder, *sorted(folder.rglob("*"))):
            tar.add(path, path.relative_to(folder.parent).as_posix(), recursive=False, filter=plain)
    part.replace(archive)


def commit_time() -> int:
    """``SOURCE_DATE_EPOCH``, or the time of the commit that is checked out."""
    if said := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(said)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def build(
    target: Target,
    lock: Path,
    cache: Path,
    out: Path,
    interpreter: Path | None = None,
    app: str = APP,
    inside: Path | None = None,
) -> tuple[Path, str]:
    """Build one bundle into ``out``, with the runtimes that ``app`` names as extras.

    Args:
        target: what it is for.
        lock: what is resolved.
        cache: the wheels, fetched where they are missing. Holds those of this target alone.
        out: where the archive goes.
        interpreter: an archive with an interpreter, put into the bundle.
        app: the requirement that the wheels have to fulfil.
        inside: what lies beside the wheels, other than what a bundle of this system has.

    Returns:
        The archive, and the least macOS version it needs (empty for Linux).

    Raises:
        Refused: the lock or a wheel is not fit for the target.
    """
    pins = read_lock(lock.read_text(), target)
    fetch(pins, target, cache)
    epoch = commit_time()
    with tempfile.TemporaryDirectory() as scratch:
        own = build_app(Path(scratch) / "app", epoch)
        wheels = [*read_folder([cache]), own]
        check(wheels, target, pins, [Requirement(app)])
        about = facts(wheels, target, interpreter, str(own.version))
        system = "macos" if about["least_macos"] else "linux"
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(target.machine, target.machine)  # as images are called
        name = f"surefoot-{own.version}-{system}-{machine}"
        assemble(Path(scratch) / name, wheels, interpreter, about, inside)
        archive = out / f"{name}.tar.gz"
        pack(Path(scratch) / name, archive, epoch)
    return archive, about["least_macos"]


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, or 2 after printing each reason."""
    parser = argparse.ArgumentParser(prog="images.bundle", description="Build the bundle of one target.")
    parser.add_argument("target", choices=TARGETS, help="what it is for")
    parser.add_argument("--platform", action="append", help="platform tag instead of the target's own")
    parser.add_argument("--python", default="3.11", help="CPython's minor version; default: 3.11")
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements" / "device.lock")
    parser.add_argument("--cache", type=Path, help="wheels; default: build/wheels/bundle-TARGET-PYTHON")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--interpreter", type=Path, help="tar.gz with python/bin/python3.x, put into the bundle")
    parser.add_argument("--interpreter-sha256", default="", help="its SHA-256, from where you trust it")
    given = parser.parse_args(arguments)
    try:
        interpreter = given.interpreter
        if interpreter:
            found = hashlib.sha256(interpreter.read_bytes()).hexdigest()
            if found != given.interpreter_sha256.lower():
                raise Refused([f"{interpreter.name} is not the interpreter that was named: found SHA-256 {found}, "
                               f"expected {given.interpreter_sha256 or 'one by --interpreter-sha256'}"])  # fmt: skip
            if not re.fullmatch(r"[A-Za-z0-9._+-]+", interpreter.name):
                raise Refused([f"{interpreter.name!r} is no name for a bundle: letters, digits and ._+- only"])
        target = Target.of(given.platform or [TARGETS[given.target]], given.python)
        cache = given.cache or ROOT / "build" / "wheels" / f"bundle-{given.target}-{given.python}"
        archive, least = build(target, given.lock, cache, given.out, interpreter)
    except (Refused, OSError) as error:
        for reason in error.reasons if isinstance(error, Refused) else [str(error)]:
            print(f"surefoot: {reason}", file=sys.stderr)
        return 2
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    print(f"{archive}  {archive.stat().st_size / 1e6:.1f} MB  sha256 {digest}")
    if least:
        print(f"needs macOS {least} or newer on Apple silicon, Python {given.python}; not verified on a Mac")
    else:
        print(f"needs Python {given.python} on {target.machine}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
