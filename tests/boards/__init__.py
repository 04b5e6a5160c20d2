"""Boards that are not here, as the files that stand for them: doubles, written from the vendors' documentation.

One text file a board; ``=== PATH`` begins each of its files. Sources: the kernel's Documentation/ABI and proc(5);
https://www.raspberrypi.com/documentation/computers/ (os.html#get_throttled, raspberry-pi.html); NVIDIA's Jetson Linux
Developer Guide r36.4 (Platform Power and Performance). Nothing here was read from a board.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.board"))


def unpack(name: str, folder: Path) -> Path:
    """Write the board's files below ``folder``, as ``surefoot doctor --facts`` takes them."""
    for part in (HERE / f"{name}.board").read_text().split("\n=== ")[1:]:
        path, _, text = part.partition("\n")
        put(folder, path, text)
    return folder


def put(folder: Path, path: str, text: str) -> None:
    """Write or replace one file. The device tree's end with a NUL, as they do."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text + "\0" if "device-tree" in path else text + "\n")


def change(folder: Path, **values: Any) -> None:
    """Replace values of ``live.json``; a dictionary is merged."""
    path = folder / "live.json"
    live = json.loads(path.read_text())
    for key, value in values.items():
        live[key] = {**live[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(live))
