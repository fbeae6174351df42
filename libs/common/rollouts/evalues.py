"""Evidence that the candidate is worse: e-values that stay valid at any stopping time.

Each test starts at 1, cannot grow on average while the candidate is no worse, and so exceeds 1/a
ever with probability at most a (Ville's inequality), whenever and however often one looks.

- Rates of two arms (failures, slow answers, wrong decisions). Given that a bad answer happened, its
  arm is the candidate's with probability p, the weight, if the candidate is no worse; with
  `q = rp/(rp+1-p)` if its rate is r times stable's. The e-value is the mean over r of
  `(q/p)^n ((1-q)/(1-p))^m`, n bad answers of the candidate, m of stable. (The mean is weighted.)
- Rates against a bound b (flips; failures where no stable traffic runs beside): a hit multiplies by
  `q/b`, a miss by `(1-q)/(1-b)`, `q = min(0.99, r b)`.
- Score distributions. Given its band, a score is the candidate's with probability p if both arms
  are distributed alike. Numerator: per band a Beta mixture over that probability. Denominator: the
  most likely explanation in which no band's ratio exceeds the tolerance (universal inference,
  Wasserman, Ramdas and Balakrishnan 2020).

All are functions of counts alone, so replicas add their counts up and judge the total.
"""

import math
from collections.abc import Iterable
from enum import StrEnum

from libs.common.rollouts.assignment import BUCKETS
from libs.common.rollouts.counts import Counts, Segment
from libs.common.rollouts.plan import Mode, Plan

# Ratios that a failing candidate may have, from a slight rise to one that fails always, and their
# share of the bet. Any shares that sum to 1 are valid; these favour what is met most.
RATIOS: dict[float, float] = {
    1.5: 0.04, 2.0: 0.08, 3.0: 0.27, 6.0: 0.16, 10.0: 0.30, 30.0: 0.05, 100.0: 0.05, 1000.0: 0.05
}  # fmt: skip
_RATE_MAX = 0.99
# Pseudo-observations of the candidate per band in the Beta mixture.
_BAND_PRIOR = 3.0


class Signal(StrEnum):
    """What the judge looks at; `BUDGET` says what share of the false alarms each may cause."""

    ERRORS = "errors"
    LATENCY = "latency"
    SCORES = "scores"
    DISAGREEMENT = "disagreement"
    QUALITY = "quality"


# Shares of the false-alarm budget; they sum to 1, so all signals together keep within it. Failures
# hurt callers at once and have the largest; a later or a softer signal can wait longer.
BUDGET: dict[Signal, float] = {
    Signal.ERRORS: 0.45,
    Signal.LATENCY: 0.27,
    Signal.SCORES: 0.12,
    Signal.DISAGREEMENT: 0.08,
    Signal.QUALITY: 0.08,
}
# An A/B test is stopped for harm only: differing scores and decisions are what it compares.
_AB_SIGNALS = frozenset({Signal.ERRORS, Signal.LATENCY})


def signals_of(plan: Plan) -> tuple[Signal, ...]:
    """Give the signals that can end a rollout of this mode."""
    return tuple(s for s in Signal if plan.mode is not Mode.AB or s in _AB_SIGNALS)


def segment_share(number: int) -> float:
    """Give the share of a signal's budget that segment `number` (from 1) has; they sum to 1."""
    return 6.0 / (math.pi * number) ** 2


def evidence(plan: Plan, counts: Counts) -> dict[Signal, float]:
    """Give ln E per signal: the largest over segments, weighted by their shares of the budget.

    Signals are weighted by `BUDGET` as well, in proportion to an even split, so that one threshold
    holds for all of them.
    """
    return {
        signal: max(
            (
                segment_evidence(plan, segment, signal)
                + math.log(segment_share(segment.number) * BUDGET[signal] * len(Signal))
                for segment in counts.segments.values()
            ),
            default=0.0,
        )
        for signal in signals_of(plan)
    }


def segment_evidence(plan: Plan, segment: Segment, signal: Signal) -> float:
    """Give ln E of one signal in one segment, 0 while nothing was counted."""
    get, limits = segment.get, plan.limits
    weight = plan.stages[segment.stage].weight_bp / BUCKETS
    is_alone = plan.mode is Mode.SHADOW or weight >= 1.0
    if signal is Signal.DISAGREEMENT:
        return rate_over_bound(get("flip"), get("pair") - get("flip"), limits.max_flip_rate)
    if signal is Signal.QUALITY:
        # Where no stable answers run beside, both versions decided on the same requests.
        return rate_over_rate(get("wrong.c"), get("wrong.s"), 0.5 if is_alone else weight)
    if signal is Signal.ERRORS:
        if not is_alone:
            return rate_over_rate(get("error.c"), get("error.s"), weight)
        failed = get("pair_error") + get("error.c")
        return rate_over_bound(failed, segment.candidates - failed, limits.max_error_rate)
    if signal is Signal.LATENCY:
        if plan.mode is Mode.SHADOW:
            return rate_over_rate(get("pair_slow.c"), get("pair_slow.s"), 0.5)
        if is_alone:
            slow = get("slow.c")
            return rate_over_bound(slow, get("seen.c") - slow, limits.max_slow_rate)
        return rate_over_rate(get("slow.c"), get("slow.s"), weight)
    if is_alone:
        return 0.0
    bands = [(get(f"band.{k}.c"), get(f"band.{k}.s")) for k in range(plan.bands)]
    return band_shift(bands, weight, limits.max_score_ratio)


def rate_over_rate(candidate: int, stable: int, weight: float) -> float:
    """Give ln E that the candidate's rate of bad answers exceeds stable's.

    Args:
        candidate: bad answers of the candidate.
        stable: bad answers of stable.
        weight: the candidate's share of the answers, 0 < weight < 1.
    """
    shares = [ratio * weight / (ratio * weight + 1 - weight) for ratio in RATIOS]
    return _mixture(
        candidate * math.log(q / weight) + stable * math.log((1 - q) / (1 - weight)) for q in shares
    )


def rate_over_bound(hits: int, misses: int, bound: float) -> float:
    """Give ln E that a rate exceeds a bound, 0 < bound <= 0.5."""
    rates = [min(_RATE_MAX, ratio * bound) for ratio in RATIOS]
    return _mixture(
        hits * math.log(q / bound) + misses * math.log((1 - q) / (1 - bound)) for q in rates
    )


def band_shift(bands: Iterable[tuple[int, int]], weight: float, ratio: float) -> float:
    """Give ln E that scores are distributed differently by more than the tolerance.

    Args:
        bands: (candidate, stable) counts by band.
        weight: the candidate's share of the answers, 0 < weight < 1.
        ratio: tolerated ratio of the two arms' shares of a band, >= 1.
    """
    a, b = _BAND_PRIOR, _BAND_PRIOR * (1 - weight) / weight
    prior = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    lowest = weight / (weight + (1 - weight) * ratio)
    highest = weight * ratio / (weight * ratio + 1 - weight)
    total = 0.0
    for n, m in bands:
        if not n + m:
            continue
        mixture = math.lgamma(a + n) + math.lgamma(b + m) - math.lgamma(a + b + n + m) - prior
        likely = min(max(n / (n + m), lowest), highest)
        total += mixture - n * math.log(likely) - m * math.log(1 - likely)
    return total


def _mixture(logs: Iterable[float]) -> float:
    """Give the logarithm of the mean of exponentials, weighted by the shares of `RATIOS`."""
    values = list(logs)
    top = max(values)
    shares = RATIOS.values()
    return top + math.log(
        sum(share * math.exp(value - top) for share, value in zip(shares, values, strict=True))
    )
