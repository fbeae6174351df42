"""Comparison of two versions: differences with intervals, never a bare winner.

An interval holds the true difference in 95 of 100 comparisons, if it is looked at once. Who looks
`looks` times gets intervals at `1 - 0.05 / looks` (Bonferroni), so that all of them hold together.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from services.analytics.domain.drift import chi_square_tail

Outcome = Literal["better", "worse", "no_difference", "insufficient_data"]
SAMPLES_MIN = 100
_SPLIT_P_MIN = 0.001


@dataclass(frozen=True, slots=True)
class Difference:
    """b minus a, with its interval."""

    diff: float | None
    interval: tuple[float, float] | None
    level: float
    method: str
    n_a: int
    n_b: int
    verdict: Outcome


def wilson(hits: int, n: int, z: float) -> tuple[float, float]:
    """Score interval of a rate (Wilson 1927); n at least 1."""
    share, z2 = hits / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def rate_difference(
    a: tuple[int, int], b: tuple[int, int], *, looks: int = 1, lower_is_better: bool = True
) -> Difference:
    """Compare two rates by the hybrid score interval (Newcombe 1998, method 10).

    Args:
        a, b: (hits, trials) of the present and of the new version.
        looks: how often the comparison will be looked at.
        lower_is_better: true for error rates.
    """
    (hits_a, n_a), (hits_b, n_b) = a, b
    level = 1 - 0.05 / looks
    method = "hybrid score interval"
    if min(n_a, n_b) < SAMPLES_MIN:
        return Difference(None, None, level, method, n_a, n_b, "insufficient_data")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share_a, share_b = hits_a / n_a, hits_b / n_b
    (low_a, high_a), (low_b, high_b) = wilson(hits_a, n_a, z), wilson(hits_b, n_b, z)
    diff = share_b - share_a
    low = diff - math.hypot(share_b - low_b, high_a - share_a)
    high = diff + math.hypot(high_b - share_b, share_a - low_a)
    return Difference(
        diff, (low, high), level, method, n_a, n_b, _outcome(low, high, lower_is_better)
    )


def _outcome(low: float, high: float, lower_is_better: bool) -> Outcome:
    if low <= 0 <= high:
        return "no_difference"
    return "better" if (high < 0) == lower_is_better else "worse"


def is_split_valid(n_a: int, n_b: int, share_b: float) -> bool:
    """Say whether the traffic split is what was planned (chi-square, p < 0.001 refutes it).

    A split that is off means that requests were lost or sent elsewhere: nothing else may be read
    from such a comparison.
    """
    n = n_a + n_b
    expected_a, expected_b = n * (1 - share_b), n * share_b
    if min(expected_a, expected_b) < 5:
        return True
    x = (n_a - expected_a) ** 2 / expected_a + (n_b - expected_b) ** 2 / expected_b
    return chi_square_tail(x, 1) >= _SPLIT_P_MIN
