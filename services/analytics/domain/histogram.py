"""Mergeable log-histograms: quantiles within 1 % of the exact value, by adding integers.

Bucket `i` holds the values in `(g^(i-1), g^i]` with `g = (1 + a) / (1 - a)`; its estimate
`2 g^i / (g + 1)` is within the share `a` of every value in it (the DDSketch mapping).
"""

import math
from collections.abc import Iterable, Mapping

RELATIVE_ERROR_MAX = 0.01
_GROWTH = (1 + RELATIVE_ERROR_MAX) / (1 - RELATIVE_ERROR_MAX)
_LN_GROWTH = math.log(_GROWTH)
# Values of zero and below have no logarithm; they share this bucket, below every other one.
ZERO_BUCKET = -1_000_000


def bucket_of(value: float) -> int:
    """Give the bucket index of a finite value."""
    if value <= 0:
        return ZERO_BUCKET
    return math.ceil(math.log(value) / _LN_GROWTH - 1e-12)


def estimate_of(bucket: int) -> float:
    """Give the value that stands for a bucket, within 1 % of each value in it; reserved: 0."""
    if bucket == ZERO_BUCKET:
        return 0.0
    return 2 * _GROWTH**bucket / (_GROWTH + 1)


def merge(histograms: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Add histograms bucket by bucket."""
    merged: dict[int, int] = {}
    for histogram in histograms:
        for bucket, count in histogram.items():
            merged[bucket] = merged.get(bucket, 0) + count
    return merged


def quantiles(histogram: Mapping[int, int], shares: Iterable[float]) -> list[float | None]:
    """Estimate quantiles, nearest rank (`ceil(q n)`), each within 1 % of the exact value.

    Args:
        histogram: bucket -> count.
        shares: quantiles in (0, 1], ascending or not.

    Returns:
        One value per share; None when the histogram is empty.
    """
    wanted = list(shares)
    total = sum(histogram.values())
    if total == 0:
        return [None] * len(wanted)
    ranks = sorted((max(1, math.ceil(share * total - 1e-9)), at) for at, share in enumerate(wanted))
    found: list[float | None] = [None] * len(wanted)
    seen, position = 0, 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        while position < len(ranks) and ranks[position][0] <= seen:
            found[ranks[position][1]] = estimate_of(bucket)
            position += 1
    return found
