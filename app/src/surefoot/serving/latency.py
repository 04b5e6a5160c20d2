"""Latencies in buckets of 5 %, so that quantiles of several workers can be merged and memory is bounded.

Averages hide the tail, and percentiles of percentiles are wrong; counts in the same buckets simply add up.
"""

from __future__ import annotations

import math

LEAST_MS = 0.01
GROWTH = 1.05
BUCKETS = 340  # 0.01 ms times 1.05^340 is more than two minutes
_SCALE = 1 / math.log(GROWTH)


class Latencies:
    """How often each latency was seen. A quantile is right to half a bucket, 2.5 %."""

    def __init__(self) -> None:
        self.count = 0
        self._counts = [0] * BUCKETS

    def record(self, latency_ms: float) -> None:
        """Count one."""
        bucket = int(math.log(latency_ms / LEAST_MS) * _SCALE) if latency_ms > LEAST_MS else 0
        self._counts[min(bucket, BUCKETS - 1)] += 1
        self.count += 1

    def merge(self, other: Latencies) -> None:
        """Add what another has counted."""
        self.count += other.count
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]

    def quantile_ms(self, share: float) -> float | None:
        """The latency that ``share`` of all do not exceed; ``None`` when nothing was counted."""
        if not self.count:
            return None
        left = max(1, math.ceil(share * self.count))
        for bucket, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return float(LEAST_MS * GROWTH ** (bucket + 0.5))
        return None
