"""A whole report, and the bars that it must clear."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_mnist.evaluation import Confusion, VariantReport

FP32_MIN_ACCURACY = 0.915
INT8_MAX_DROP = 0.005
ROUNDING = 1e-9
"""Accuracies are counts over 10,000: a difference below this is how floats are, not a miss."""


@dataclass(frozen=True)
class Report:
    """Everything one run of `report` found, and on what."""

    machine: str
    python: str
    packages: dict[str, str]
    variants: list[VariantReport]


def report_from(path: Path) -> Report:
    """Return a report that `report --write` has written."""
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    variants = [
        VariantReport(**{**entry, "confusions": [Confusion(**c) for c in entry["confusions"]]})
        for entry in content["variants"]
    ]
    return Report(content["machine"], content["python"], content["packages"], variants)


def drop(variant: VariantReport, variants: list[VariantReport]) -> float:
    """Return how far the accuracy is below that of its FP32 variant; 0 for that itself."""
    accuracies = {other.name: other.accuracy for other in variants}
    return 0.0 if variant.baseline is None else accuracies[variant.baseline] - variant.accuracy


def missed_bars(variants: list[VariantReport]) -> list[str]:
    """Return one sentence for each bar that is missed."""
    missed = []
    for variant in variants:
        # `not >=` rather than `<`: an accuracy that is not a number must not pass.
        if variant.baseline is None and not variant.accuracy >= FP32_MIN_ACCURACY - ROUNDING:
            missed.append(
                f"{variant.name} reaches {variant.accuracy:.2%}, the bar is {FP32_MIN_ACCURACY:.1%}: train again"
            )
        lost = drop(variant, variants)
        if not lost <= INT8_MAX_DROP + ROUNDING:
            missed.append(
                f"{variant.name} is {100 * lost:.2f} points below {variant.baseline}, "
                f"allowed are {100 * INT8_MAX_DROP:.1f}: quantize again"
            )
    return missed
