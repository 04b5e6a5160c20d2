"""From logits to probabilities that can be believed.

Temperature scaling and the expected calibration error are those of Guo et al., "On Calibration
of Modern Neural Networks" (arXiv:1706.04599); the energy score is that of Liu et al.,
"Energy-based Out-of-distribution Detection" (arXiv:2010.03759).
"""

from __future__ import annotations

import numpy as np

from fashion_mnist.preprocessing import ByteArray, FloatArray, RealArray

BINS = 15
TEMPERATURE_RANGE = (0.05, 20.0)
SEARCH_STEPS = 60
BELOW_THRESHOLD = 0.95
"""Share of the validation images whose energy is below the threshold."""


def log_sum_exp(logits: FloatArray, temperature: float) -> RealArray:
    """Return float64 [N], log of the sum of exp(logits / temperature) for logits [N, C]."""
    scaled = logits.astype(np.float64) / temperature
    top = scaled.max(1)
    sums: RealArray = top + np.log(np.exp(scaled - top[:, None]).sum(1))
    return sums


def probabilities(logits: FloatArray, temperature: float = 1.0) -> RealArray:
    """Return float64 [N, C], softmax(logits / temperature)."""
    scaled = logits.astype(np.float64) / temperature
    shares: RealArray = np.exp(scaled - log_sum_exp(logits, temperature)[:, None])
    return shares


def negative_log_likelihood(logits: FloatArray, labels: ByteArray, temperature: float) -> float:
    """Return the mean of -log p(label), in nats."""
    own = logits[np.arange(len(labels)), labels].astype(np.float64) / temperature
    return float((log_sum_exp(logits, temperature) - own).mean())


def fitted_temperature(logits: FloatArray, labels: ByteArray) -> float:
    """Return the temperature that makes the labels most likely.

    Golden-section search over its logarithm: the likelihood has one peak there.
    """
    low, high = np.log(TEMPERATURE_RANGE)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(SEARCH_STEPS):
        inner_low, inner_high = high - ratio * (high - low), low + ratio * (high - low)
        if negative_log_likelihood(logits, labels, float(np.exp(inner_low))) < (
            negative_log_likelihood(logits, labels, float(np.exp(inner_high)))
        ):
            high = inner_high
        else:
            low = inner_low
    return float(np.exp((low + high) / 2))


def calibration_error(logits: FloatArray, labels: ByteArray, temperature: float = 1.0) -> float:
    """Return the expected calibration error, 0 to 1, over 15 bins of equal width."""
    shares = probabilities(logits, temperature)
    confidence, correct = shares.max(1), shares.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        abs(float(confidence[bins == b].mean() - correct[bins == b].mean())) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


def energies(logits: FloatArray, temperature: float) -> RealArray:
    """Return float64 [N], -T * log(sum(exp(logits / T))): higher is less like the training set."""
    values: RealArray = -temperature * log_sum_exp(logits, temperature)
    return values


def energy_threshold(logits: FloatArray, temperature: float) -> float:
    """Return the energy that 95 % of these pictures stay below."""
    return float(np.quantile(energies(logits, temperature), BELOW_THRESHOLD))
