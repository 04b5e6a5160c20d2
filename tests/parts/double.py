"""A device that stands for a board that is not here: a recorded board and doubles of its commands, as one archive.

``python -m tests.parts.double BOARD ARCHIVE FOLDER…``: the board's files (tests/boards) go below ``/double``, the files
of each FOLDER where they are in it, over those before. ``-`` for BOARD: none is recorded.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from pathlib import Path

from tests import boards

BELOW = "double"


def pack(board: str, archive: Path, *folders: Path) -> None:
    """Write the archive. It has files only, so that unpacking it touches no folder that is there."""
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(archive, "w") as tar:
        recorded = Path(scratch) / BELOW
        if board != "-":
            boards.unpack(board, recorded)
        found = {path.relative_to(scratch): path for path in sorted(recorded.rglob("*")) if path.is_file()}
        for folder in folders:
            found |= {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
        for name, path in found.items():
            # Git keeps no NUL: the strings of a device tree get theirs here.
            data = path.read_bytes()
            if "device-tree" in name.parts and not data.endswith(b"\0"):
                path = Path(scratch) / "string"
                path.write_bytes(data.rstrip(b"\n") + b"\0")
            member = tar.gettarinfo(path, str(name))
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            with path.open("rb") as stream:
                tar.addfile(member, stream)


if __name__ == "__main__":
    pack(sys.argv[1], *map(Path, sys.argv[2:]))
