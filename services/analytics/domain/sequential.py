"""Comparison at any number of looks: a confidence sequence and its e-value.

The estimated difference of two means, times its information (one over its variance), moves like a
Brownian motion with drift however the traffic is split (the canonical joint distribution of
Jennison and Turnbull 1997). Mixing over the drift with a normal law gives the boundary of Robbins
(1970): with information `i`, prior information `r` and estimate `d`,

    |d - true| <= sqrt((i + r) ln((i + r) / (r alpha^2))) / i      at all looks at once, 1 - alpha
    e = sqrt(r / (i + r)) exp((d i)^2 / (2 (i + r)))               against a difference of zero

Valid for large samples (variances are estimated, as in Waudby-Smith et al. 2021), hence the
minimum sample; the simulation table in docs/analytics.md shows how it holds for rare errors. The
data must be all that came since a fixed start: a sliding window is not a sequence.
"""

import math
from dataclasses import dataclass
from typing import Literal

from services.analytics.domain.compare import (
    SAMPLES_MIN,
    Direction,
    Moments,
    Outcome,
    outcome,
)

ALPHA = 0.05
METHOD: Literal["normal-mixture confidence sequence"] = "normal-mixture confidence sequence"
# The sequence is narrowest near this many observations per arm. It must not depend on the data.
TIGHTEST_AT = 5_000
_PRIOR = TIGHTEST_AT / (2 * math.log(1 / ALPHA) + math.log(1 + 2 * math.log(1 / ALPHA)))


@dataclass(frozen=True, slots=True)
class Sequential:
    """What is known of a difference at this look, valid together with all other looks.

    Attributes:
        interval: of b minus a.
        e_value: evidence against no difference; 20 and more is evidence at 5 %.
    """

    interval: tuple[float, float]
    e_value: float
    verdict: Outcome


def sequential_difference(a: Moments, b: Moments, *, better: Direction) -> Sequential | None:
    """Compare two means at any time; None below the minimum sample or without any spread."""
    if min(a.n, b.n) < SAMPLES_MIN:
        return None
    unit = a.variance + b.variance
    spread = a.variance / a.n + b.variance / b.n
    if spread <= 0:
        return None
    # In units of a difference of one observation each: information is an effective sample size.
    size = unit / spread
    diff = b.mean - a.mean
    half = (
        math.sqrt(unit * (size + _PRIOR) * math.log((size + _PRIOR) / (_PRIOR * ALPHA**2))) / size
    )
    exponent = diff * diff * size * size / (unit * 2 * (size + _PRIOR))
    e_value = math.sqrt(_PRIOR / (size + _PRIOR)) * math.exp(min(exponent, 700.0))
    low, high = diff - half, diff + half
    return Sequential((low, high), e_value, outcome(low, high, better))


def smoothed(hits: int, n: int) -> Moments:
    """Give the moments of a rate with one hit and one miss added.

    Before the first errors the estimated variance would be zero and any interval a point.
    """
    return Moments(n + 2, hits + 1.0, hits + 1.0)
