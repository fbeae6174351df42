"""Comparisons: coverage of the interval, verdicts, the split check."""

import random

import pytest

from services.analytics.domain.compare import is_split_valid, rate_difference


def test_the_interval_covers_the_true_difference_in_93_to_97_percent_of_runs():
    rng = random.Random(1)
    runs, n, rate_a, rate_b = 1_000, 300, 0.05, 0.08

    def hits(rate: float) -> int:
        return sum(rng.random() < rate for _ in range(n))

    covered = 0
    for _ in range(runs):
        found = rate_difference((hits(rate_a), n), (hits(rate_b), n))
        assert found.interval is not None
        covered += found.interval[0] <= rate_b - rate_a <= found.interval[1]
    assert 0.93 * runs <= covered <= 0.97 * runs


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((10, 1000), (80, 1000), "worse"),
        ((80, 1000), (10, 1000), "better"),
        ((10, 1000), (12, 1000), "no_difference"),
        ((0, 99), (90, 1000), "insufficient_data"),
    ],
)
def test_a_verdict_needs_data_and_an_interval_without_zero(a, b, verdict):
    assert rate_difference(a, b).verdict == verdict


def test_more_looks_give_wider_intervals():
    once, often = (rate_difference((20, 500), (35, 500), looks=looks) for looks in (1, 20))
    assert once.interval is not None
    assert often.interval is not None
    assert often.interval[0] < once.interval[0] < once.interval[1] < often.interval[1]


def test_a_split_that_is_off_is_invalid():
    assert is_split_valid(9_000, 1_000, 0.1)
    assert is_split_valid(8_950, 1_050, 0.1)
    assert not is_split_valid(8_500, 1_500, 0.1)
