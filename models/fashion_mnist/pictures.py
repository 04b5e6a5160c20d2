"""Choose the golden cases and the samples: `python -m fashion_mnist.pictures`.

Both are real test images. A picture qualifies where all four artifacts give the true label
with a clear margin: a golden case must fail a broken artifact, not a merely different one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from fashion_mnist.calibration import probabilities
from fashion_mnist.data import LabelledImages, test_images
from fashion_mnist.evaluation import answers
from fashion_mnist.preprocessing import (
    LABELS,
    ByteArray,
    FloatArray,
    IndexArray,
    RealArray,
    batch_tensor,
    image_tensor,
)
from fashion_mnist.variants import FOLDER, VARIANTS, session

GOLDEN, SAMPLES = FOLDER / "golden", FOLDER / "samples"
GOLDEN_PER_CLASS, SAMPLES_PER_CLASS = 3, 1
CHOICE_SEED = 1708
MIN_MARGIN = 0.5
"""Least difference between the two largest probabilities at T = 1, in every artifact."""
JPEG_QUALITY = 95
JPEG_LABEL = "sneaker"


def margins(logits: FloatArray, labels: ByteArray) -> RealArray:
    """Return float64 [N], the true label's probability less the largest other one."""
    shares = probabilities(logits)
    rows = np.arange(len(labels))
    own = shares[rows, labels]
    shares[rows, labels] = -1
    result: RealArray = own - shares.max(1)
    return result


def chosen_rows(test: LabelledImages) -> tuple[list[int], list[int]]:
    """Return the rows of the golden cases and of the samples, by class."""
    images = batch_tensor(test.images)
    least = np.min([margins(answers(session(v), images).logits, test.labels) for v in VARIANTS], axis=0)
    qualified = np.random.default_rng(CHOICE_SEED).permutation(np.flatnonzero(least >= MIN_MARGIN))
    golden: list[int] = []
    samples: list[int] = []
    for label in range(len(LABELS)):
        rows = [int(row) for row in qualified if test.labels[row] == label]
        golden += sorted(rows[:GOLDEN_PER_CLASS])
        samples += rows[GOLDEN_PER_CLASS : GOLDEN_PER_CLASS + SAMPLES_PER_CLASS]
    return golden, samples


def write_pictures(test: LabelledImages, rows: list[int], folder: Path, jpeg: str | None) -> None:
    """Write 28x28 grey PNG files and `labels.json`; the class `jpeg` also as JPEG."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    entries: list[dict[str, object]] = []
    for number, row in enumerate(rows):
        label = int(test.labels[row])
        stem = f"{number:02d}-{LABELS[label]}-{row:04d}"
        picture = Image.fromarray(test.images[row])
        picture.save(folder / f"{stem}.png", optimize=True)
        files = [f"{stem}.png"]
        if LABELS[label] == jpeg:
            picture.save(folder / f"{stem}.jpg", quality=JPEG_QUALITY)
            files.append(f"{stem}.jpg")
        for file in files:
            entries.append({"file": file, "label_index": label, "label": LABELS[label], "test_index": row})
    (folder / "labels.json").write_text(json.dumps(entries, indent=2) + "\n", "utf-8")


def labelled_tensors(folder: Path) -> tuple[FloatArray, IndexArray]:
    """Return float32 [N, 1, 56, 56] and int64 [N] for the pictures that a folder lists."""
    entries = json.loads((folder / "labels.json").read_text("utf-8"))
    tensors = []
    for entry in entries:
        with Image.open(folder / entry["file"]) as picture:
            tensors.append(image_tensor(picture))
    return np.concatenate(tensors), np.array([entry["label_index"] for entry in entries])


def check_pictures() -> None:
    """Run every artifact over the files as written.

    Raises:
        ValueError: an artifact does not give a file's label.
    """
    for folder in (GOLDEN, SAMPLES):
        images, labels = labelled_tensors(folder)
        for variant in VARIANTS:
            wrong = answers(session(variant), images).logits.argmax(1) != labels
            if wrong.any():
                raise ValueError(f"{variant.name} mistakes {wrong.sum()} files of {folder.name}")


def main() -> None:
    """Choose, write and check the pictures."""
    test = test_images()
    golden, samples = chosen_rows(test)
    write_pictures(test, golden, GOLDEN, jpeg=None)
    write_pictures(test, samples, SAMPLES, jpeg=JPEG_LABEL)
    check_pictures()
    print(f"{len(golden)} golden cases and {len(samples)} samples, seed {CHOICE_SEED}")


if __name__ == "__main__":
    main()
