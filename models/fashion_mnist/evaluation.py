"""What an artifact does on real pictures: answers, times and what follows from them."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import numpy as np

from fashion_mnist.calibration import calibration_error, energies
from fashion_mnist.preprocessing import LABELS, ByteArray, FloatArray, IndexArray, RealArray
from fashion_mnist.variants import Session, Variant, session

WARM_UP_RUNS = 50
TOP_CONFUSIONS = 6


@dataclass(frozen=True)
class Answers:
    """Logits for a set of pictures and how long each took.

    Attributes:
        logits: float32 [N, 10].
        times_ms: float64 [N], one call of the runtime each, without preprocessing.
    """

    logits: FloatArray
    times_ms: RealArray


@dataclass(frozen=True)
class Confusion:
    """Pictures of one class that were taken for another."""

    label: str
    taken_for: str
    count: int


@dataclass(frozen=True)
class VariantReport:
    """One artifact's figures. Accuracies and shares are from 0 to 1."""

    name: str
    version: str
    runtime: str
    precision: str
    baseline: str | None
    size_bytes: int
    sha256: str
    images: int
    correct: int
    accuracy: float
    accuracy_per_class: dict[str, float]
    confusions: list[Confusion]
    temperature: float
    calibration_error_before: float
    calibration_error_after: float
    energy_threshold: float
    below_energy_threshold: float
    inverted_accuracy: float
    inverted_below_energy_threshold: float
    mean_ms: float
    p50_ms: float
    p99_ms: float


def answers(loaded: Session, images: FloatArray) -> Answers:
    """Run a loaded artifact over float32 [N, 1, 56, 56], one picture at a time."""
    for image in images[:WARM_UP_RUNS]:
        loaded.logits(image[np.newaxis])
    logits = np.empty((len(images), len(LABELS)), np.float32)
    times_ms = np.empty(len(images))
    for row, image in enumerate(images):
        started_ns = time.perf_counter_ns()
        logits[row] = loaded.logits(image[np.newaxis])
        times_ms[row] = (time.perf_counter_ns() - started_ns) / 1e6
    return Answers(logits, times_ms)


def confusion_matrix(logits: FloatArray, labels: ByteArray) -> IndexArray:
    """Return int64 [10, 10]: row is the true class, column what the model said."""
    matrix = np.zeros((len(LABELS), len(LABELS)), np.int64)
    np.add.at(matrix, (labels, logits.argmax(1)), 1)
    return matrix


def top_confusions(matrix: IndexArray) -> list[Confusion]:
    """Return the most frequent mistakes, most frequent first."""
    wrong = matrix * (1 - np.eye(len(LABELS), dtype=np.int64))
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:TOP_CONFUSIONS]
    return [
        Confusion(LABELS[row], LABELS[column], int(wrong[row, column]))
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
    ]


def evaluated(
    variant: Variant,
    images: FloatArray,
    inverted: FloatArray,
    labels: ByteArray,
    temperature: float,
    energy_threshold: float,
) -> VariantReport:
    """Return one artifact's figures.

    Arguments:
        variant: which artifact.
        images: float32 [N, 1, 56, 56], the test images.
        inverted: float32 [N, 1, 56, 56], the same with black and white exchanged.
        labels: uint8 [N].
        temperature: what the logits are divided by before softmax.
        energy_threshold: above it a picture counts as unlike the training set.
    """
    content = variant.path.read_bytes()
    loaded = session(variant)
    run, run_inverted = answers(loaded, images), answers(loaded, inverted)
    matrix = confusion_matrix(run.logits, labels)
    correct = int(matrix.trace())
    return VariantReport(
        name=variant.name,
        version=variant.version,
        runtime=variant.runtime,
        precision=variant.precision,
        baseline=variant.baseline,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        images=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        accuracy_per_class={label: float(matrix[row, row] / matrix[row].sum()) for row, label in enumerate(LABELS)},
        confusions=top_confusions(matrix),
        temperature=temperature,
        calibration_error_before=calibration_error(run.logits, labels),
        calibration_error_after=calibration_error(run.logits, labels, temperature),
        energy_threshold=energy_threshold,
        below_energy_threshold=share_below(run.logits, temperature, energy_threshold),
        inverted_accuracy=float((run_inverted.logits.argmax(1) == labels).mean()),
        inverted_below_energy_threshold=share_below(run_inverted.logits, temperature, energy_threshold),
        mean_ms=float(run.times_ms.mean()),
        p50_ms=float(np.quantile(run.times_ms, 0.5)),
        p99_ms=float(np.quantile(run.times_ms, 0.99)),
    )


def share_below(logits: FloatArray, temperature: float, threshold: float) -> float:
    """Return the share of pictures, 0 to 1, whose energy is below the threshold."""
    return float((energies(logits, temperature) < threshold).mean())
