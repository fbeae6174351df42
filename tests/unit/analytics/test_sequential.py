"""Confidence sequences: false alarms at every look, power, and what a plain interval would do."""

import numpy as np
import pytest

from services.analytics.domain.compare import Moments, rate_difference
from services.analytics.domain.sequential import (
    ALPHA,
    Sequential,
    sequential_difference,
    smoothed,
)

RUNS, LOOKS, PER_LOOK = 400, 80, 125


def rate_runs(rng: np.random.Generator, rate_a: float, rate_b: float) -> list[tuple[bool, bool]]:
    """Watch both arms at each look; say per run whether the sequence and the plain test fired."""
    hits = rng.binomial(PER_LOOK, [rate_a, rate_b], size=(RUNS, LOOKS, 2)).cumsum(axis=1)
    fired = []
    for run in hits:
        is_plain = is_sequence = False
        for look, (hits_a, hits_b) in enumerate(run.tolist(), 1):
            n = look * PER_LOOK
            found = sequential_difference(smoothed(hits_a, n), smoothed(hits_b, n), better="lower")
            is_sequence |= found is not None and found.verdict != "no_difference"
            plain = rate_difference((hits_a, n), (hits_b, n))
            is_plain |= plain.verdict in {"better", "worse"}
        fired.append((is_sequence, is_plain))
    return fired


@pytest.mark.parametrize("rate", [0.005, 0.05, 0.5])
def test_eighty_looks_without_a_difference_alarm_in_five_percent_of_runs_at_most(rate):
    fired = rate_runs(np.random.default_rng(int(rate * 1000)), rate, rate)
    assert sum(sequence for sequence, _ in fired) <= ALPHA * RUNS
    # The plain interval, looked at as often, is wrong several times as often.
    assert sum(plain for _, plain in fired) > 3 * ALPHA * RUNS


def test_a_doubled_error_rate_is_found():
    fired = rate_runs(np.random.default_rng(7), 0.02, 0.04)
    assert sum(sequence for sequence, _ in fired) >= 0.95 * RUNS


def test_the_interval_leaves_zero_out_exactly_when_the_evidence_reaches_twenty():
    rng = np.random.default_rng(8)
    for _ in range(300):
        n_a, n_b = (int(n) for n in rng.integers(100, 5_000, 2))
        a, b = (rng.lognormal(0, 1, n) for n in (n_a, n_b))
        shift = float(rng.uniform(-0.2, 0.2))
        found = sequential_difference(_moments(a), _moments(b + shift), better="lower")
        assert found is not None
        assert (found.e_value >= 1 / ALPHA) == (found.verdict != "no_difference")


def _moments(values: np.ndarray) -> Moments:
    return Moments(len(values), float(values.sum()), float((values**2).sum()))


def test_skewed_latencies_with_an_unequal_split_alarm_in_five_percent_of_runs_at_most():
    rng = np.random.default_rng(9)
    alarms = 0
    for _ in range(300):
        a, b = rng.lognormal(3, 0.8, (60, 180)), rng.lognormal(3, 0.8, (60, 20))
        for look in range(10, 61):
            found = sequential_difference(
                _moments(a[:look].ravel()), _moments(b[:look].ravel()), better="lower"
            )
            if found is not None and found.verdict != "no_difference":
                alarms += 1
                break
    assert alarms <= ALPHA * 300


def test_small_samples_and_constants_give_no_sequence():
    assert sequential_difference(smoothed(5, 90), smoothed(5, 500), better="lower") is None
    flat = Moments(200, 100.0, 50.0)
    assert sequential_difference(flat, flat, better="lower") is None
    certain = sequential_difference(smoothed(0, 10**6), smoothed(10**6, 10**6), better="lower")
    assert isinstance(certain, Sequential)
    assert certain.verdict == "worse"
