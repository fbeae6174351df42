"""What charts draw: how finely a window is cut, and histograms in bins wide enough to see."""

import math
from collections.abc import Mapping, Sequence

from services.analytics.domain.histogram import estimate_of

# (longest window, step), both in minutes. From half a day on the hourly roll-ups are read.
_STEPS = ((120, 1), (360, 5), (719, 10))
HOUR_STEP = 60
BINS = 20
SHARES = frozenset({"score", "confidence"})


def step_minutes(window_minutes: int) -> int:
    """Choose the distance of two points, so that a chart has at most 120."""
    return next((step for longest, step in _STEPS if window_minutes <= longest), HOUR_STEP)


def edges_of(metric: str, histograms: Sequence[Mapping[int, int]]) -> list[float]:
    """Give bin edges: [0, 1] in equal parts for shares, else equal ratios over what was seen."""
    if metric in SHARES:
        return [at / BINS for at in range(BINS + 1)]
    seen = [estimate_of(bucket) for one in histograms for bucket in one]
    positive = [value for value in seen if value > 0]
    if not positive:
        return [0.0, 1.0]
    # A little room, so that the extremes lie inside and a single value still has a width.
    low, high = math.log(min(positive) * 0.98), math.log(max(positive) * 1.02)
    return [math.exp(low + (high - low) * at / BINS) for at in range(BINS + 1)]


def binned(histogram: Mapping[int, int], edges: Sequence[float]) -> list[float]:
    """Give the share of each bin; values outside fall into the first or last. Sums to 1, or 0."""
    counts = [0] * (len(edges) - 1)
    for bucket, n in histogram.items():
        value = estimate_of(bucket)
        at = sum(edge <= value for edge in edges) - 1
        counts[min(max(at, 0), len(counts) - 1)] += n
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]
