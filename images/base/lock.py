"""Resolves ``packages`` into ``debian.lock`` by apt, with the Debian sources of this machine: ``make lock-base``."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from images.base.debian import LOCK, Apt, Package, Section, read_sections, write_lock


def resolve(apt: Apt, section: Section) -> Iterator[Package]:
    """The exact packages of one section, for the architecture that ``apt`` is set to."""
    if section.alone:
        wanted = list(section.names)
    else:
        planned = apt("install", "--yes", "--simulate", *section.names)
        wanted = [name for name in re.findall(r"^Inst (\S+)", planned, re.MULTILINE) if name not in section.left_out]
    shown = apt("show", "--no-all-versions", *wanted, command="apt-cache")
    found = {}
    for paragraph in shown.strip().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", paragraph, re.MULTILINE))
        found[fields["Package"]] = Package(
            section.name, apt.architecture, fields["Package"], fields["Version"], fields["SHA256"], fields["Filename"]
        )
    yield from (found[name] for name in sorted(wanted))


def main() -> int:
    """Write the lock."""
    packages: list[Package] = []
    sections = read_sections()
    for architecture in sorted({architecture for section in sections for architecture in section.architectures}):
        with tempfile.TemporaryDirectory() as folder:
            apt = Apt(architecture, Path(folder))
            apt("update", "--quiet")
            for section in sections:
                if architecture in section.architectures:
                    packages += resolve(apt, section)
    write_lock(packages)
    print(f"{LOCK.name}: {len(packages)} packages")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"surefoot: apt could not resolve the packages\n{error.stderr}")
