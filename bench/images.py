"""`make bench-images`: how long an arm64 image takes, and a change of the app alone, against their bars.

From a clean build cache (the engine's is emptied, all of it), with wheels and .debs already downloaded. The change is a
comment in one module, undone after.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from images import build
from images.base.debian import Problem

TARGET = "rpi"
CLEAN_BAR_S, CHANGE_BAR_S = 60.0, 10.0
CHANGED = build.ROOT / "app" / "src" / "surefoot" / "errors.py"


def timed(into: Path) -> float:
    """Seconds of one build, its archive written."""
    start = time.monotonic()
    build.build([TARGET], into)
    return time.monotonic() - start


def main() -> int:
    """Measure, print, and say where a bar was missed."""
    source = CHANGED.read_text()
    with tempfile.TemporaryDirectory(prefix="surefoot-bench-") as folder:
        into = Path(folder)
        try:
            build.build([TARGET], into)  # so that everything is downloaded
            subprocess.run(["docker", "buildx", "prune", "--all", "--force"], check=True, capture_output=True)
            clean_s = timed(into)
            CHANGED.write_text(source + "# changed\n")
            change_s = timed(into)
        except Problem as problem:
            print(f"surefoot: {problem}", file=sys.stderr)
            return 1
        finally:
            CHANGED.write_text(source)
    busy = os.getloadavg()[0]
    print(f"{TARGET}, on {platform.node()}: {os.cpu_count()} cores, load {busy:.1f}, {platform.platform()}")
    print(f"  from a clean build cache  {clean_s:6.1f} s  (at most {CLEAN_BAR_S:.0f})")
    print(f"  a change of the app       {change_s:6.1f} s  (at most {CHANGE_BAR_S:.0f})")
    if "--json" in sys.argv:
        figures = {"clean_s": clean_s, "change_s": change_s, "cores": os.cpu_count(), "load": busy}
        Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps(figures))
    return 0 if clean_s <= CLEAN_BAR_S and change_s <= CHANGE_BAR_S else 1


if __name__ == "__main__":
    sys.exit(main())
