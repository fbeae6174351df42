"""An adaptive concurrency limit (Gradient2): how many calls one upstream gets at once.

    g = clamp(1.5 * long / short, 0.5, 1);  L = 0.8 * L + 0.2 * (L * g + queue)

`short` is the present time to the first byte, `long` its slow average. The limit grows only while
it is used (in flight >= L / 2) and shrinks by a tenth on a timeout or drop. Source: Netflix
concurrency-limits, Gradient2Limit.
"""

import math

TOLERANCE = 1.5
SMOOTHING = 0.2
BACKOFF = 0.9
_LONG_WEIGHT = 1 / 600
_SHORT_WEIGHT = 1 / 10


class Gradient:
    """Holds the limit; `sample` and `dropped` move it."""

    def __init__(self, *, initial: int = 256, smallest: int = 64, largest: int = 1_024) -> None:
        self._smallest = smallest
        self._largest = largest
        self._limit = float(initial)
        self._short_s = 0.0
        self._long_s = 0.0

    @property
    def limit(self) -> int:
        """Calls that may be in flight."""
        return int(self._limit)

    def sample(self, seconds: float, in_flight: int) -> None:
        """Take the time to the first byte of a success, with the calls then in flight."""
        if self._long_s == 0.0:
            self._long_s = self._short_s = seconds
        self._short_s += (seconds - self._short_s) * _SHORT_WEIGHT
        self._long_s += (seconds - self._long_s) * _LONG_WEIGHT
        if self._long_s > 2 * self._short_s:
            # After a slow time the average must not stay high for minutes.
            self._long_s *= 0.95
        gradient = max(0.5, min(1.0, TOLERANCE * self._long_s / max(self._short_s, 1e-9)))
        target = self._limit * gradient + math.sqrt(self._limit)
        if in_flight < self._limit / 2:
            target = min(target, self._limit)  # an unused limit may shrink, never grow
        self._set(self._limit * (1 - SMOOTHING) + target * SMOOTHING)

    def dropped(self) -> None:
        """Take a timeout or a broken call."""
        self._set(self._limit * BACKOFF)

    def _set(self, limit: float) -> None:
        self._limit = max(float(self._smallest), min(float(self._largest), limit))
