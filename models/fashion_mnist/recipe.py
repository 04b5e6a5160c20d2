"""Write `recipe.json`, what a release of this model is made from.

    python -m fashion_mnist.recipe

Fits each artifact's temperature and energy threshold on the 5,000 held-out images, measures
how far its golden probabilities are from the reference, its accuracy, time and memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict

import numpy as np

from fashion_mnist.calibration import (
    calibration_error,
    energy_threshold,
    fitted_temperature,
    probabilities,
)
from fashion_mnist.data import test_images, training_and_validation
from fashion_mnist.evaluation import answers
from fashion_mnist.footprint import footprint
from fashion_mnist.pictures import GOLDEN, labelled_tensors
from fashion_mnist.preprocessing import LABELS, MEAN, SIDE_PX, STD, batch_tensor
from fashion_mnist.variants import FOLDER, REFERENCE, VARIANTS, session

FORMAT = 1
TOLERANCE_FACTOR, TOLERANCE_FLOOR = 2.0, 0.01
"""Twice the difference seen here and a hundredth: another processor rounds differently."""


def tolerance(difference: float) -> float:
    """Return the allowed difference of a golden probability, rounded up to a hundredth."""
    wanted = TOLERANCE_FACTOR * difference + TOLERANCE_FLOOR
    return math.ceil(round(wanted * 100, 2)) / 100


def preprocessing_facts() -> dict[str, object]:
    """Return what a device does to a picture, step by step, for float32 of one channel."""
    return {
        "mode": "L",
        "width_px": SIDE_PX,
        "height_px": SIDE_PX,
        "resample": "bilinear",
        "resample_library": "Pillow",
        "dtype": "float32",
        "divide_by": 255,
        "mean": [MEAN],
        "std": [STD],
    }


def main() -> None:
    """Measure everything and write `recipe.json`."""
    _, held_out = training_and_validation()
    test = test_images()
    held_out_images, images = batch_tensor(held_out.images), batch_tensor(test.images)
    golden, _ = labelled_tensors(GOLDEN)
    expected = probabilities(answers(session(REFERENCE), golden).logits)
    entries = []
    for variant in VARIANTS:
        loaded = session(variant)
        logits = answers(loaded, held_out_images).logits
        temperature = round(fitted_temperature(logits, held_out.labels), 4)
        found = probabilities(answers(loaded, golden).logits)
        difference = float(np.abs(found - expected).max())
        run = answers(loaded, images)
        entry = {
            "name": variant.name,
            "version": variant.version,
            "runtime": variant.runtime,
            "precision": variant.precision,
            "artifact": str(variant.path.relative_to(FOLDER)),
            "size_bytes": variant.path.stat().st_size,
            "sha256": hashlib.sha256(variant.path.read_bytes()).hexdigest(),
            "input": asdict(loaded.input()),
            "output": asdict(loaded.output()),
            "temperature": temperature,
            "energy_threshold": round(energy_threshold(logits, temperature), 4),
            "test_accuracy": float((run.logits.argmax(1) == test.labels).mean()),
            "golden_max_probability_difference": round(difference, 6),
            "probability_tolerance": tolerance(difference),
            "p50_ms": round(float(np.median(run.times_ms)), 3),
            **asdict(footprint(variant)),
        }
        entries.append(entry)
        before = calibration_error(logits, held_out.labels)
        after = calibration_error(logits, held_out.labels, temperature)
        print(
            f"{variant.name}: T {temperature}, validation ECE {before:.2%} before and "
            f"{after:.2%} after, energy threshold {entry['energy_threshold']}, golden "
            f"difference {difference:.4f}, p50 {entry['p50_ms']} ms",
            flush=True,
        )
    recipe = {
        "format": FORMAT,
        "name": "fashion-mnist",
        "stateless": True,
        "labels": list(LABELS),
        "preprocessing": preprocessing_facts(),
        "energy": "-T * log(sum(exp(logits / T)))",
        "golden": "golden/labels.json",
        "reference": REFERENCE.name,
        "card": "card.md",
        "variants": entries,
    }
    (FOLDER / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
