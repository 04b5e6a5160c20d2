"""Small wheels for tests: real zip files with real metadata, and as native code only the first bytes of some."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from pathlib import Path

# The first bytes of libraries, from <mach-o/loader.h>, <mach-o/fat.h> and <elf.h>.
MACH_ARM64 = b"\xcf\xfa\xed\xfe" + struct.pack("<I", 0x0100000C) + bytes(24)
MACH_X86_64 = b"\xcf\xfa\xed\xfe" + struct.pack("<I", 0x01000007) + bytes(24)
MACH_BOTH = b"\xca\xfe\xba\xbe" + struct.pack(">I", 2) + b"".join(
    struct.pack(">IIIII", machine, 0, 4096, 32, 12) for machine in (0x01000007, 0x0100000C)
)  # fmt: skip
ELF_AARCH64 = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 183) + bytes(44)


def make(
    folder: Path,
    name: str,
    tag: str = "py3-none-any",
    *,
    version: str = "1.0",
    inner_tag: str | None = None,
    requires: tuple[str, ...] = (),
    requires_python: str = ">=3.10",
    native: bytes | None = None,
) -> Path:
    """A wheel; ``inner_tag`` is what its WHEEL file says, ``native`` the content of a library in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        about = f"{name}-{version}.dist-info"
        archive.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nTag: {inner_tag or tag}\n")
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: {requires_python}"]
        archive.writestr(f"{about}/METADATA", "\n".join([*lines, *(f"Requires-Dist: {each}" for each in requires), ""]))
        if native is not None:
            archive.writestr(f"{name}/core.so", native)
    return path


def pin(path: Path) -> str:
    """A line of a lock for a wheel."""
    name, version = path.name.split("-")[:2]
    return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
