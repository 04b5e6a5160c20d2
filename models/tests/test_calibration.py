from __future__ import annotations

import numpy as np

from fashion_mnist import calibration

SEED = 11


def overconfident_logits(factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are `factor` times too large for labels drawn from their softmax."""
    generator = np.random.default_rng(SEED)
    true = generator.normal(0, 2, (20_000, 10)).astype(np.float32)
    shares = calibration.probabilities(true)
    labels = (shares.cumsum(1) < generator.random((len(true), 1))).sum(1).astype(np.uint8)
    return (factor * true).astype(np.float32), labels


def test_the_temperature_undoes_a_known_overconfidence() -> None:
    logits, labels = overconfident_logits(2.5)
    temperature = calibration.fitted_temperature(logits, labels)
    assert abs(temperature - 2.5) < 0.1, f"seed {SEED}"
    before = calibration.calibration_error(logits, labels)
    after = calibration.calibration_error(logits, labels, temperature)
    assert after < 0.02 < before, f"seed {SEED}"


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[1000.0, 0.0], [-1000.0, -999.0]], np.float32)
    shares = calibration.probabilities(logits)
    assert np.isfinite(shares).all()
    assert np.allclose(shares.sum(1), 1)


def test_the_threshold_leaves_one_picture_in_twenty_above_it() -> None:
    logits, _ = overconfident_logits(1.0)
    threshold = calibration.energy_threshold(logits, 1.3)
    below = (calibration.energies(logits, 1.3) < threshold).mean()
    assert abs(below - 0.95) < 0.001, f"seed {SEED}"


def test_energy_is_higher_where_no_logit_stands_out() -> None:
    sure, unsure = np.eye(10, dtype=np.float32)[:1] * 12, np.zeros((1, 10), np.float32)
    assert calibration.energies(unsure, 1.0) > calibration.energies(sure, 1.0)
