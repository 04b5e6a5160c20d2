"""How much memory an artifact takes once it runs.

    python -m fashion_mnist.footprint v1-onnx

Each artifact is measured in a process of its own: memory that one runtime has taken is not
given back for the next.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fashion_mnist.preprocessing import SIDE_PX
from fashion_mnist.variants import VARIANTS, Variant, session

RUNS = 200
TIMEOUT_S = 120


@dataclass(frozen=True)
class Footprint:
    """Resident memory after 200 inferences.

    Attributes:
        resident_bytes: the whole process: Python, numpy, Pillow, the runtime, the artifact.
        added_bytes: what loading the runtime and the artifact and running it added.
    """

    resident_bytes: int
    added_bytes: int


def resident_bytes() -> int:
    """Return this process's resident memory, from Linux's /proc/self/status."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS")


def measured_here(variant: Variant) -> Footprint:
    """Load and run the artifact in this process."""
    before = resident_bytes()
    loaded = session(variant)
    image = np.zeros((1, 1, SIDE_PX, SIDE_PX), np.float32)
    for _ in range(RUNS):
        loaded.logits(image)
    after = resident_bytes()
    return Footprint(after, after - before)


def footprint(variant: Variant) -> Footprint:
    """Return what one artifact takes in a fresh process."""
    result = subprocess.run(
        [sys.executable, "-m", "fashion_mnist.footprint", variant.name],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    return Footprint(**json.loads(result.stdout))


if __name__ == "__main__":
    (wanted,) = (variant for variant in VARIANTS if variant.name == sys.argv[1])
    print(json.dumps(asdict(measured_here(wanted))))
