"""Drift: has a distribution moved, by how much, and how sure is that; pure, no scipy.

A fixed limit on PSI means something else at every sample size: without drift PSI is about
`(1/n + 1/m)` times a chi-square with B-1 degrees of freedom. So the test statistic is
`PSI / (1/n + 1/m)`, and the effect is PSI less its expectation under no drift. Both are needed: a
test alone calls every trifle drift at n = 100,000, an effect alone calls noise drift at n = 100.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from services.analytics.domain.histogram import merge

Verdict = Literal["insufficient_data", "none", "minor", "moderate", "major"]
# Below this sample on either side the test is not calibrated (see the simulation test).
SAMPLES_MIN = 200
SIGNIFICANCE = 0.01
MINOR_BELOW, MODERATE_BELOW = 0.1, 0.25
_BINS = 10
_EXPECTED_MIN = 5.0
# Added to each count, so that an empty bin does not give an infinite PSI (phoenix#730).
_SMOOTHING = 0.5
CATEGORIES_MAX = 20
# The Kolmogorov distribution leaves 1e-5 below this, where its series converges slowly.
_KS_CERTAIN_BELOW, _KS_TERM_MIN = 0.3, 1e-18


@dataclass(frozen=True, slots=True)
class Drift:
    """What is known about one distribution.

    Attributes:
        psi: population stability index, nats.
        effect: PSI less its expectation under no drift, at least 0.
        p: chance of a PSI this large without drift; corrected once `judge_all` has run.
        ks: Kolmogorov-Smirnov distance, None for categories.
        ks_p: chance of a distance this large without drift, corrected like `p`; None for
            categories and small samples.
        n, m: samples now and in the reference.
    """

    psi: float
    effect: float
    p: float
    ks: float | None
    ks_p: float | None
    n: int
    m: int
    verdict: Verdict


def chi_square_tail(x: float, degrees: int) -> float:
    """Give P(chi-square > x) in closed form: erfc for odd, a Poisson sum for even degrees."""
    if x <= 0 or degrees <= 0:
        return 1.0
    half = x / 2
    if degrees % 2 == 0:
        term = total = 1.0
        for i in range(1, degrees // 2):
            term *= half / i
            total += term
        return min(1.0, math.exp(-half) * total)
    term, total = math.sqrt(half) * 2 / math.sqrt(math.pi), 0.0
    for i in range(1, (degrees - 1) // 2 + 1):
        total += term
        term *= half / (i + 0.5)
    return min(1.0, math.erfc(math.sqrt(half)) + math.exp(-half) * total)


def ks_tail(distance: float, n: int, m: int) -> float:
    """Give the chance of a Kolmogorov-Smirnov distance at least this large without drift.

    The asymptotic series with Stephens' (1970) correction for samples of n and m. A distance at the
    resolution of bins is a lower bound of the exact one, so the chance is at most overstated.
    """
    root = math.sqrt(n * m / (n + m))
    x = (root + 0.12 + 0.11 / root) * distance
    if x < _KS_CERTAIN_BELOW:
        return 1.0
    total = 0.0
    for k in range(1, 101):
        term = math.exp(-2 * (k * x) ** 2)
        total += term if k % 2 else -term
        if term < _KS_TERM_MIN:
            break
    return min(1.0, 2 * total)


def psi_of(actual: Sequence[int], expected: Sequence[int]) -> float:
    """Population stability index of two count vectors, each count raised by 0.5.

    Source: sum of `(a - e) ln(a / e)` over shares. Assumes bins chosen without looking at `actual`.
    """
    size = len(actual) * _SMOOTHING
    total_a, total_e = sum(actual) + size, sum(expected) + size
    result = 0.0
    for count_a, count_e in zip(actual, expected, strict=True):
        a, e = (count_a + _SMOOTHING) / total_a, (count_e + _SMOOTHING) / total_e
        result += (a - e) * math.log(a / e)
    return result


def _compare(actual: Sequence[int], expected: Sequence[int], ks: float | None) -> Drift:
    n, m = sum(actual), sum(expected)
    if n < SAMPLES_MIN or m < SAMPLES_MIN or len(actual) < 2:
        psi = psi_of(actual, expected) if n and m and len(actual) > 1 else 0.0
        enough = min(n, m) >= SAMPLES_MIN
        ks_p = ks_tail(ks, n, m) if enough and ks is not None else None
        return Drift(psi, 0.0, 1.0, ks, ks_p, n, m, "none" if enough else "insufficient_data")
    psi, spread = psi_of(actual, expected), 1 / n + 1 / m
    effect = max(0.0, psi - (len(actual) - 1) * spread)
    p = chi_square_tail(psi / spread, len(actual) - 1)
    ks_p = None if ks is None else ks_tail(ks, n, m)
    return Drift(psi, effect, p, ks, ks_p, n, m, verdict_of(p, effect))


def verdict_of(p: float, effect: float) -> Verdict:
    """Say it in a word: chance first, then size."""
    if p >= SIGNIFICANCE:
        return "none"
    if effect < MINOR_BELOW:
        return "minor"
    return "moderate" if effect < MODERATE_BELOW else "major"


def numeric_drift(current: Mapping[int, int], reference: Mapping[int, int]) -> Drift:
    """Compare two log-histograms of a number.

    Bins are the reference's deciles mapped onto its buckets; bins that expect fewer than 5 of
    either sample are merged with the next one.
    """
    actual, expected = _binned(current, reference)
    return _compare(actual, expected, ks_distance(current, reference))


def _binned(
    current: Mapping[int, int], reference: Mapping[int, int]
) -> tuple[list[int], list[int]]:
    total, n = sum(reference.values()), sum(current.values())
    buckets = sorted(merge((current, reference)))
    actual, expected = [0], [0]
    seen = 0
    for bucket in buckets:
        actual[-1] += current.get(bucket, 0)
        expected[-1] += reference.get(bucket, 0)
        seen += reference.get(bucket, 0)
        share = expected[-1] / total if total else 0.0
        is_full = seen * _BINS >= total * len(expected) and share * min(n, total) >= _EXPECTED_MIN
        if is_full and seen < total:
            actual.append(0)
            expected.append(0)
    # What lies beyond the last decile belongs to the last bin; a thin last bin joins its neighbour.
    last_share = expected[-1] / total if total else 0.0
    if len(expected) > 1 and last_share * min(n, total) < _EXPECTED_MIN:
        actual[-2] += actual.pop()
        expected[-2] += expected.pop()
    return actual, expected


def ks_distance(current: Mapping[int, int], reference: Mapping[int, int]) -> float | None:
    """Give the largest distance of the two distribution functions, None when one is empty.

    Resolution is that of the buckets (1 %), so it is a lower bound of the exact distance.
    """
    n, m = sum(current.values()), sum(reference.values())
    if not n or not m:
        return None
    largest = below_n = below_m = 0.0
    for bucket in sorted(merge((current, reference))):
        below_n += current.get(bucket, 0) / n
        below_m += reference.get(bucket, 0) / m
        largest = max(largest, abs(below_n - below_m))
    return largest


def category_drift(current: Mapping[str, int], reference: Mapping[str, int]) -> Drift:
    """Compare counts per category: the reference's 20 largest, all others together."""
    total, n = sum(reference.values()), sum(current.values())
    kept = sorted(reference, key=lambda name: (-reference[name], name))[:CATEGORIES_MAX]
    scale = min(1.0, n / total) if total else 0.0
    kept = [name for name in kept if reference[name] * scale >= _EXPECTED_MIN]
    actual = [current.get(name, 0) for name in kept]
    expected = [reference[name] for name in kept]
    rest = (n - sum(actual), total - sum(expected))
    if any(rest):
        actual.append(rest[0])
        expected.append(rest[1])
    return _compare(actual, expected, None)


def corrected(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for how many were looked at (Benjamini-Hochberg step-up)."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at], reverse=True)
    adjusted, smallest = [0.0] * len(p_values), 1.0
    for step, at in enumerate(order):
        smallest = min(smallest, p_values[at] * len(p_values) / (len(p_values) - step))
        adjusted[at] = smallest
    return adjusted


def judge_all(found: Mapping[str, Drift]) -> dict[str, Drift]:
    """Give the verdicts of several distributions with p corrected over those that were tested."""
    judged = dict(found)
    tested = [name for name, one in found.items() if one.verdict != "insufficient_data"]
    p_values = corrected([found[name].p for name in tested])
    for name, p in zip(tested, p_values, strict=True):
        judged[name] = replace(found[name], p=p, verdict=verdict_of(p, found[name].effect))
    distances = {name: judged[name].ks_p for name in tested}
    known = {name: p for name, p in distances.items() if p is not None}
    for name, p in zip(known, corrected(list(known.values())), strict=True):
        judged[name] = replace(judged[name], ks_p=p)
    return judged
