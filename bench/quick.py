"""``make bench-quick``: one inference by the runtime directly, and the same through the gateway, in one run.

Blocks are interleaved, so that a machine that slows down slows all of them down. The ratio is the median of the
blocks' own ratios.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import tritonclient.http as oip

from demo import releases
from demo.place import MODEL, surefoot
from surefoot.release import manifest as manifests
from surefoot.runtimes import Options, load_runtime

BLOCKS = 20
CALLS_PER_BLOCK = 50
Call = Callable[[], object]


def main() -> int:
    """Measure both runtimes, print a table, and leave the figures as JSON where ``--json PATH`` says."""
    with tempfile.TemporaryDirectory(prefix="surefoot-bench-") as folder:
        work = Path(folder)
        releases.publish_reference_model(work, work / "repository", ("release-v1.toml",))
        results = {
            runtime: _measure_runtime(work / runtime, work / "repository", runtime)
            for runtime in ("onnxruntime", "tflite")
        }
    _print(results)
    if "--json" in sys.argv:
        Path(sys.argv[sys.argv.index("--json") + 1]).write_text(
            json.dumps({"machine": machine(), "results": results}, indent=1)
        )
    return 0


def _measure_runtime(device: Path, repository: Path, runtime: str) -> dict[str, dict[str, float]]:
    device.mkdir()
    config = device / "surefoot.toml"
    config.write_text(
        f'data_dir = "."\nrun_dir = "run"\nruntimes = ["{runtime}"]\n'
        "[gateway]\nport = 0\n[trial]\nmin_seconds = 0.0\nmin_inferences = 1\n"
    )

    def command(*arguments: str) -> str:
        return surefoot("--config", str(config), *arguments)

    root = repository / "metadata" / "1.root.json"
    command("serve", "--detach")
    try:
        command("model", "install", MODEL, "--version", "1.0.0", "--repository", str(repository), "--root", str(root))
        active = json.loads(command("model", "activate", MODEL, "--json"))
        url = json.loads(command("status", "--json"))["url"]
        slot = device / "models" / MODEL / active["slot"]
        return _measure(url.removeprefix("http://"), slot, runtime)
    finally:
        command("stop")


def _measure(address: str, slot: Path, runtime: str) -> dict[str, dict[str, float]]:
    manifest = manifests.decode((slot / manifests.FILE_NAME).read_bytes())
    variant = next(variant for variant in manifest.variants if variant.runtime == runtime)
    tensor = variant.inputs[0]
    shape = [1 if size == -1 else size for size in tensor.shape]
    data = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    direct = load_runtime(runtime)
    direct.load(slot / variant.artifact.name, Options(threads=1))
    client = oip.InferenceServerClient(address)
    calls: dict[str, Call] = {"direct": lambda: direct.infer({tensor.name: data})}
    for name, binary in (("gateway, binary", True), ("gateway, JSON", False)):
        given = oip.InferInput(tensor.name, shape, "FP32")
        given.set_data_from_numpy(data, binary_data=binary)
        wanted = [oip.InferRequestedOutput(output.name, binary_data=binary) for output in variant.outputs]
        calls[name] = _through(client, given, wanted)
    calls["direct again"] = calls["direct"]
    return _interleaved(calls)


def _through(client: oip.InferenceServerClient, given: oip.InferInput, wanted: list[oip.InferRequestedOutput]) -> Call:
    return lambda: client.infer(MODEL, [given], outputs=wanted)


def _interleaved(calls: dict[str, Call]) -> dict[str, dict[str, float]]:
    for call in calls.values():
        _block(call)
    blocks: dict[str, list[list[float]]] = {name: [] for name in calls}
    for _ in range(BLOCKS):
        for name, call in calls.items():
            blocks[name].append(_block(call))
    direct = [statistics.median(block) for block in blocks["direct"]]
    return {
        name: {
            "p50_ms": statistics.median(chain.from_iterable(measured)),
            "p99_ms": statistics.quantiles(chain.from_iterable(measured), n=100)[98],
            "ratio": statistics.median(
                statistics.median(block) / base for block, base in zip(measured, direct, strict=True)
            ),
        }
        for name, measured in blocks.items()
    }


def _block(call: Call) -> list[float]:
    measured = []
    for _ in range(CALLS_PER_BLOCK):
        begun = time.perf_counter()
        call()
        measured.append((time.perf_counter() - begun) * 1e3)
    return measured


def machine() -> str:
    """What it was measured on, in words."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {model or 'unknown CPU'}"
    return f"{system}, Python {platform.python_version()}"


def _print(results: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"{machine()}; v1 (FP32), one thread, one client; {BLOCKS} interleaved blocks of {CALLS_PER_BLOCK} calls")
    for runtime, rows in results.items():
        print(f"\n{runtime:<18}{'p50 ms':>9}{'p99 ms':>9}{'ratio of p50':>14}")
        for name, row in rows.items():
            print(f"  {name:<16}{row['p50_ms']:>9.3f}{row['p99_ms']:>9.3f}{row['ratio']:>14.2f}")
        if abs(rows["direct again"]["ratio"] - 1) > 0.05:
            print("  void: the direct call against itself is more than 5 % off; run it again on a quieter machine")


if __name__ == "__main__":
    sys.exit(main())
