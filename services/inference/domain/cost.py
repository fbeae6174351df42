"""What a batch costs: `t = (c0 + c1 * n * L) * correction(bucket)`, fitted at warm-up, kept honest.

n items padded to L tokens. The correction is an exponentially weighted mean of actual over
predicted per length bucket, so that odd behaviour on long inputs is learnt while serving.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# Bounds of the length buckets, in tokens; longer ones share the last.
LENGTH_BUCKETS = (16, 32, 64, 128, 256, 512)
# Weight of one observation: half of a change is learnt within 7 batches.
_EWMA_WEIGHT = 0.1
# One odd batch (a page fault, a preempted core) must not throw the prediction off.
_RATIO_MIN, _RATIO_MAX = 0.1, 10.0


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

    @classmethod
    def fit(cls, samples: Sequence[Sample]) -> "CostModel":
        """Fit by least squares; neither constant is ever negative.

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
        token_s = max(0.0, slope)
        fixed_s = max(0.0, float(seconds.mean() - token_s * tokens.mean()))
        model = cls(fixed_s, token_s)
        best: dict[int, tuple[float, int]] = {}
        for sample in samples:
            rate = sample.items / max(sample.seconds, 1e-9)
            bucket = bucket_of(sample.length)
            best[bucket] = max(best.get(bucket, (0.0, 1)), (rate, sample.items))
        model._best_items = {bucket: items for bucket, (_, items) in best.items()}
        return model

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
        """Give the batch size with the best measured items per second; on a CPU it may be 1."""
        return min(at_most, self._best_items.get(bucket_of(length), at_most))


def bucket_of(length: int) -> int:
    """Number the length bucket."""
    for number, bound in enumerate(LENGTH_BUCKETS):
        if length <= bound:
            return number
    return len(LENGTH_BUCKETS) - 1
