"""Comparison of two versions: differences with intervals, never a bare winner.

An interval holds the true difference in 95 of 100 comparisons, if it is looked at once. Who looks
`looks` times gets intervals at `1 - 0.05 / looks` (Bonferroni), so that all of them hold together.
Who wants to look whenever they like takes the confidence sequence of `sequential`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from services.analytics.domain.drift import chi_square_tail
from services.analytics.domain.histogram import RELATIVE_ERROR_MAX, quantiles

# `differs`: neither direction is better, as with a score.
Outcome = Literal["better", "worse", "differs", "no_difference", "insufficient_data"]
Direction = Literal["lower", "higher", "neither"]
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
    a: tuple[int, int], b: tuple[int, int], *, looks: int = 1, better: Direction = "lower"
) -> Difference:
    """Compare two rates by the hybrid score interval (Newcombe 1998, method 10).

    Args:
        a, b: (hits, trials) of the present and of the new version.
        looks: how often the comparison will be looked at.
        better: which direction is better.
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
    return Difference(diff, (low, high), level, method, n_a, n_b, outcome(low, high, better))


def outcome(low: float, high: float, better: Direction) -> Outcome:
    """Read an interval of b minus a: it says something only when it leaves zero out."""
    if low <= 0 <= high:
        return "no_difference"
    if better == "neither":
        return "differs"
    return "better" if (high < 0) == (better == "lower") else "worse"


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares of a measure."""

    n: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """Mean; n at least 1."""
        return self.total / self.n

    @property
    def variance(self) -> float:
        """Sample variance, never below zero although sums of squares cancel; n at least 2."""
        return max(0.0, (self.squares - self.total * self.total / self.n) / (self.n - 1))


def t_quantile(share: float, degrees: float) -> float:
    """Quantile of Student's t by the Cornish-Fisher expansion, within 1e-5 from 99 degrees on.

    Source: Abramowitz and Stegun 26.7.5.
    """
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def mean_difference(a: Moments, b: Moments, *, looks: int, better: Direction) -> Difference:
    """Compare two means by the t interval with unequal variances (Welch 1947).

    Assumes independent values; the minimum sample makes the mean normal enough.
    """
    level, method = 1 - 0.05 / looks, "unequal-variance t interval"
    if min(a.n, b.n) < SAMPLES_MIN:
        return Difference(None, None, level, method, a.n, b.n, "insufficient_data")
    part_a, part_b = a.variance / a.n, b.variance / b.n
    spread = part_a + part_b
    diff = b.mean - a.mean
    half = 0.0
    if spread > 0:
        degrees = spread**2 / (part_a**2 / (a.n - 1) + part_b**2 / (b.n - 1))
        half = t_quantile((1 + level) / 2, degrees) * math.sqrt(spread)
    low, high = diff - half, diff + half
    return Difference(diff, (low, high), level, method, a.n, b.n, outcome(low, high, better))


def quantile_difference(
    a: Mapping[int, int],
    b: Mapping[int, int],
    share: float,
    *,
    looks: int,
    better: Direction,
) -> Difference:
    """Compare one quantile of two log-histograms.

    Per arm the interval lies between two order statistics (binomial ranks), widened by the error
    of the buckets; both are combined by MOVER (Zou and Donner 2008). So it covers at least its
    level: the buckets make it wider by up to 1 % of the quantile at each end.
    """
    n_a, n_b = sum(a.values()), sum(b.values())
    level, method = 1 - 0.05 / looks, "order-statistic interval"
    if min(n_a, n_b) < SAMPLES_MIN:
        return Difference(None, None, level, method, n_a, n_b, "insufficient_data")
    z = NormalDist().inv_cdf((1 + level) / 2)
    (low_a, at_a, high_a), (low_b, at_b, high_b) = (
        _order_interval(one, share, z) for one in (a, b)
    )
    diff = at_b - at_a
    low = diff - math.hypot(at_b - low_b, high_a - at_a)
    high = diff + math.hypot(high_b - at_b, at_a - low_a)
    return Difference(diff, (low, high), level, method, n_a, n_b, outcome(low, high, better))


def _order_interval(
    histogram: Mapping[int, int], share: float, z: float
) -> tuple[float, float, float]:
    n = sum(histogram.values())
    half = z * math.sqrt(n * share * (1 - share))
    # Ranks below the first or above the last order statistic do not exist.
    ranks = [max(1.0, n * share - half), n * share, min(float(n), n * share + half + 1)]
    low, at, high = (value or 0.0 for value in quantiles(histogram, [rank / n for rank in ranks]))
    return low * (1 - RELATIVE_ERROR_MAX), at, high * (1 + RELATIVE_ERROR_MAX)


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
