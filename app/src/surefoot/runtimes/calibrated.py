"""Logits to probabilities. A softmax at temperature 1 is no confidence: each variant carries its own temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def softmax(logits: npt.NDArray[Any], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities over the last axis, stable for large logits.

    Args:
        logits: any real dtype, [..., classes].
        temperature: above 1 makes the answer less sure, below 1 more (Guo et al., https://arxiv.org/abs/1706.04599).

    Returns:
        float64 of the same shape; each row adds up to 1, or is all NaN where a logit was not finite.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    with np.errstate(invalid="ignore", over="ignore"):
        raised = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        probabilities = raised / raised.sum(axis=-1, keepdims=True)
    probabilities[~np.isfinite(scaled).all(axis=-1)] = np.nan
    return np.asarray(probabilities, np.float64)
