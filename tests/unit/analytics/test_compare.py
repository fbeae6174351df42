"""Comparisons: agreement with scipy, coverage of the intervals, verdicts, the split check."""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no stubs

from services.analytics.domain.compare import (
    Moments,
    is_split_valid,
    mean_difference,
    quantile_difference,
    rate_difference,
    t_quantile,
)
from services.analytics.domain.histogram import bucket_of


def moments(values: Sequence[float]) -> Moments:
    return Moments(len(values), sum(values), sum(value * value for value in values))


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


@given(st.floats(0.9, 0.9999), st.floats(99, 100_000))
def test_the_t_quantile_agrees_with_scipy(share, degrees):
    assert t_quantile(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), abs=1e-5)


def test_the_interval_of_means_is_that_of_scipys_welch_test():
    rng = random.Random(2)
    a = [rng.lognormvariate(3, 0.5) for _ in range(150)]
    b = [rng.lognormvariate(3.2, 0.9) for _ in range(400)]
    found = mean_difference(moments(a), moments(b), looks=1, better="lower")
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert found.verdict == "worse"


def test_the_interval_of_means_covers_in_93_to_97_percent_of_runs():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1_000):
        a, b = rng.lognormal(3, 0.5, 400), rng.lognormal(3, 0.7, 200)
        found = mean_difference(moments(list(a)), moments(list(b)), looks=1, better="lower")
        assert found.interval is not None
        true = np.exp(3 + 0.7**2 / 2) - np.exp(3 + 0.5**2 / 2)
        covered += bool(found.interval[0] <= true <= found.interval[1])
    assert 930 <= covered <= 970


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_interval_of_a_quantile_covers_at_least_its_level(share):
    rng = np.random.default_rng(4)
    true = np.exp(0.5 * stats.norm.ppf(share)) * (np.exp(3.1) - np.exp(3))
    covered = 0
    for _ in range(400):
        arms = [Counter(map(bucket_of, rng.lognormal(mean, 0.5, 400))) for mean in (3, 3.1)]
        found = quantile_difference(arms[0], arms[1], share, looks=1, better="lower")
        assert found.interval is not None
        covered += bool(found.interval[0] <= true <= found.interval[1])
    assert covered >= 0.94 * 400


def test_equal_values_and_a_figure_without_a_better_direction():
    flat = Moments(200, 200 * 0.5, 200 * 0.25)
    same = mean_difference(flat, flat, looks=1, better="lower")
    assert (same.interval, same.verdict) == ((0.0, 0.0), "no_difference")
    moved = mean_difference(flat, Moments(200, 200 * 0.6, 200 * 0.36), looks=1, better="neither")
    assert moved.verdict == "differs"
    few = quantile_difference({1: 99}, {1: 500}, 0.5, looks=1, better="lower")
    assert (few.diff, few.verdict) == (None, "insufficient_data")
