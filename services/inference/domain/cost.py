"""What a batch costs: `t = (c0 + c1 * n * L) * correction(bucket)`, fitted at warm-up, kept honest.

n items padded to L tokens. The correction is an exponentially weighted mean of actual over
predicted per length bucket, so that odd behaviour on long inputs is learnt while serving.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

# Bounds of the length buckets, in tokens; longer ones share the last.
LENGTH_BUCKETS = (16, 32, 64, 128, 256, 512)
# Weight of one observation: half of a change is learnt within 7 batches.
_EWMA_WEIGHT = 0.1
# One odd batch (a page fault, a preempted core) must not throw the prediction off.
_RATIO_MIN, _RATIO_MAX = 0.1, 10.0
# Batch sizes within 3 % of the best rate count as equally good; the smallest answers soonest.
_AS_GOOD_AS = 0.97

_NumberT = TypeVar("_NumberT", int, float)


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed batch of the warm-up."""

    items: int
    length: int
    seconds: float


@dataclass(slots=True)
class CostModel:
    """Predicts seconds per batch for one model version on one device.

    Attributes:
        fixed_s: c0, what a batch costs whatever is in it.
        token_s: c1, what one padded token adds.
    """

    fixed_s: float
    token_s: float
    _correction: dict[int, float] = field(default_factory=dict)
    _best_items: dict[int, int] = field(default_factory=dict)
    _gain: dict[int, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, samples: Sequence[Sample]) -> "CostModel":
        """Make a model from samples; see `refit`."""
        model = cls(0.0, 0.0)
        model.refit(samples)
        return model

    def refit(self, samples: Sequence[Sample]) -> None:
        """Fit by least squares and forget corrections; neither constant is ever negative.

        Args:
            samples: at least one, best over n 1..32 and L 16..512.
        """
        if not samples:
            raise ValueError("no samples to fit")
        tokens = np.array([sample.items * sample.length for sample in samples], float)
        seconds = np.array([sample.seconds for sample in samples], float)
        spread = tokens - tokens.mean()
        variance = float(spread @ spread)
        slope = float(spread @ seconds) / variance if variance > 0 else 0.0
        self.token_s = max(0.0, slope)
        self.fixed_s = max(0.0, float(seconds.mean() - self.token_s * tokens.mean()))
        self._correction.clear()
        by_bucket: dict[int, dict[int, float]] = {}
        for sample in samples:
            rates = by_bucket.setdefault(bucket_of(sample.length), {})
            rate = sample.items / max(sample.seconds, 1e-9)
            rates[sample.items] = max(rates.get(sample.items, 0.0), rate)
        for bucket, rates in by_bucket.items():
            best = max(rates.values())
            self._best_items[bucket] = min(
                items for items, rate in rates.items() if rate >= best * _AS_GOOD_AS
            )
            self._gain[bucket] = best / rates[min(rates)]

    def predict_s(self, items: int, length: int) -> float:
        """Predict the seconds of one batch of `items` padded to `length`."""
        correction = self._correction.get(bucket_of(length), 1.0)
        return (self.fixed_s + self.token_s * items * length) * correction

    def observe(self, items: int, length: int, seconds: float) -> None:
        """Learn from a finished batch."""
        base = self.fixed_s + self.token_s * items * length
        if base <= 0 or seconds <= 0:
            return
        ratio = min(_RATIO_MAX, max(_RATIO_MIN, seconds / base))
        bucket = bucket_of(length)
        before = self._correction.get(bucket, 1.0)
        self._correction[bucket] = before + _EWMA_WEIGHT * (ratio - before)

    def best_items(self, length: int, at_most: int) -> int:
        """Give the smallest batch size with about the best items per second; on a CPU maybe 1."""
        return min(at_most, self._nearest(self._best_items, length, at_most))

    def waste_max(self, length: int, at_most: float) -> float:
        """Give the padding that batching pays for: never more than what it gains over size 1."""
        return min(at_most, max(1.0, self._nearest(self._gain, length, at_most)))

    @staticmethod
    def _nearest(table: dict[int, _NumberT], length: int, default: _NumberT) -> _NumberT:
        """Look up the nearest length bucket that was measured."""
        if not table:
            return default
        bucket = bucket_of(length)
        return table[min(table, key=lambda known: (abs(known - bucket), known))]


def bucket_of(length: int) -> int:
    """Number the length bucket."""
    for number, bound in enumerate(LENGTH_BUCKETS):
        if length <= bound:
            return number
    return len(LENGTH_BUCKETS) - 1
