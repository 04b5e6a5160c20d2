"""Measure the committed artifacts on all 10,000 test images.

    python -m fashion_mnist.report            from the folder models
    python models/fashion_mnist/report.py     from anywhere

Needs numpy, Pillow, onnxruntime, ai-edge-litert and the data set; not PyTorch. Exit status 1
means that a bar was missed, 2 that something needed is not here.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
if __name__ == "__main__":
    # An import that fails would end with status 1, which means something else here.
    absent = [module for module in ("numpy", "PIL", "onnxruntime") if find_spec(module) is None]
    if absent:
        print(
            f"no report: {sys.executable} lacks {', '.join(absent)}: set PYTHON to one that has them", file=sys.stderr
        )
        sys.exit(2)

import argparse
import json
import platform
from dataclasses import asdict
from importlib import metadata

from fashion_mnist import data
from fashion_mnist.card import card_tables
from fashion_mnist.evaluation import evaluated
from fashion_mnist.preprocessing import LABELS, batch_tensor
from fashion_mnist.results import Report, drop, missed_bars, report_from
from fashion_mnist.variants import FOLDER, VARIANTS

RUNTIME_PACKAGES = ("onnxruntime", "ai-edge-litert", "tflite-runtime", "numpy", "pillow")


def measured() -> Report:
    """Evaluate all four artifacts with the temperatures and thresholds of `recipe.json`.

    Raises:
        data.DatasetError: there are no test images.
        FileNotFoundError: an artifact or `recipe.json` is missing.
    """
    recipe = json.loads((FOLDER / "recipe.json").read_text("utf-8"))
    facts = {entry["name"]: entry for entry in recipe["variants"]}
    test = data.test_images()
    images, inverted = batch_tensor(test.images), batch_tensor(255 - test.images)
    reports = [
        evaluated(
            variant,
            images,
            inverted,
            test.labels,
            facts[variant.name]["temperature"],
            facts[variant.name]["energy_threshold"],
        )
        for variant in VARIANTS
    ]
    return Report(machine_name(), platform.python_version(), installed_packages(), reports)


def machine_name() -> str:
    """Return the processor's architecture and, where Linux knows it, its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()}, {names[0]}" if names else platform.machine()


def installed_packages() -> dict[str, str]:
    """Return the versions of those packages that the figures depend on."""
    found = {}
    for name in RUNTIME_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def table(report: Report) -> str:
    """Return the report as text for a terminal, one column a variant."""
    variants = report.variants
    rows: list[tuple[str, list[str]]] = [
        ("", [v.name for v in variants]),
        ("accuracy", [f"{v.accuracy:.2%}" for v in variants]),
        ("points from FP32", [f"{0 - 100 * drop(v, variants):+.2f}" for v in variants]),
        ("size, bytes", [str(v.size_bytes) for v in variants]),
        ("temperature", [f"{v.temperature:.3f}" for v in variants]),
        ("ECE at T = 1", [f"{v.calibration_error_before:.2%}" for v in variants]),
        ("ECE calibrated", [f"{v.calibration_error_after:.2%}" for v in variants]),
        ("below energy threshold", [f"{v.below_energy_threshold:.1%}" for v in variants]),
        ("inverted: accuracy", [f"{v.inverted_accuracy:.1%}" for v in variants]),
        (
            "inverted: below threshold",
            [f"{v.inverted_below_energy_threshold:.1%}" for v in variants],
        ),
        ("mean ms, one thread", [f"{v.mean_ms:.3f}" for v in variants]),
        ("p50 ms", [f"{v.p50_ms:.3f}" for v in variants]),
        ("p99 ms", [f"{v.p99_ms:.3f}" for v in variants]),
        *((name, [f"{v.accuracy_per_class[name]:.1%}" for v in variants]) for name in LABELS),
    ]
    lines = [f"{name:<26}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in rows]
    lines.append("")
    for variant in variants:
        pairs = (f"{c.label} as {c.taken_for} {c.count}" for c in variant.confusions)
        lines.append(f"{variant.name} took {', '.join(pairs)}")
    versions = ", ".join(f"{name} {version}" for name, version in report.packages.items())
    lines.append(f"\n{report.machine}; Python {report.python}, {versions}")
    return "\n".join(lines)


def main() -> int:
    """Print the report; return the exit status."""
    parser = argparse.ArgumentParser(description="Measure the committed artifacts.")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON instead of the table")
    output.add_argument("--card", action="store_true", help="print the model card's tables")
    parser.add_argument("--read", type=Path, help="take an earlier report, measure nothing")
    parser.add_argument("--write", type=Path, help="write the report as JSON to this file")
    arguments = parser.parse_args()
    try:
        report = report_from(arguments.read) if arguments.read else measured()
    except (data.DatasetError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"no report: {error}", file=sys.stderr)
        return 2
    text = json.dumps(asdict(report), indent=2) + "\n"
    if arguments.write:
        arguments.write.write_text(text, "utf-8")
    if arguments.json:
        print(text, end="")
    else:
        print(card_tables(report) if arguments.card else table(report))
    missed = missed_bars(report.variants)
    for sentence in missed:
        print(f"BAR MISSED: {sentence}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
