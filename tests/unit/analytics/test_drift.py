"""Drift statistics against scipy, and against simulated null and seeded data."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no stubs

from services.analytics.domain.drift import (
    Drift,
    category_drift,
    chi_square_tail,
    corrected,
    judge_all,
    ks_distance,
    ks_tail,
    numeric_drift,
)
from services.analytics.domain.histogram import bucket_of

NULL_RUNS = 1_000


def sample(rng: random.Random, n: int, mean: float = 3.0) -> Counter[int]:
    return Counter(bucket_of(rng.lognormvariate(mean, 0.8)) for _ in range(n))


@given(st.floats(0.01, 200), st.integers(1, 25))
def test_the_chi_square_tail_agrees_with_scipy(x, degrees):
    assert chi_square_tail(x, degrees) == pytest.approx(stats.chi2.sf(x, degrees), abs=1e-12)


@given(st.floats(0, 1), st.integers(200, 5_000), st.integers(200, 5_000))
def test_the_chance_of_a_distance_agrees_with_scipy(distance, n, m):
    root = (n * m / (n + m)) ** 0.5
    stephens = (root + 0.12 + 0.11 / root) * distance
    assert ks_tail(distance, n, m) == pytest.approx(stats.kstwobign.sf(stephens), abs=2e-5)


def test_the_chance_of_a_distance_is_close_to_the_exact_one():
    for distance in (0.05, 0.08, 0.1, 0.15):
        assert ks_tail(distance, 400, 300) == pytest.approx(
            stats.distributions.kstwo.sf(distance, round(400 * 300 / 700)), rel=0.15, abs=0.02
        )


@pytest.mark.parametrize("n", [200, 500])
def test_distances_raise_false_alarms_in_two_percent_at_most_of_a_thousand_null_runs(n):
    rng = random.Random(n + 1)
    found = (numeric_drift(sample(rng, n), sample(rng, n)).ks_p for _ in range(NULL_RUNS))
    assert sum(p is not None and p < 0.01 for p in found) <= 0.02 * NULL_RUNS


def test_a_moved_distribution_has_a_distance_beyond_chance():
    rng = random.Random(9)
    moved = numeric_drift(sample(rng, 400, 3.4), sample(rng, 400))
    assert moved.ks_p is not None
    assert moved.ks_p < 1e-6


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_correction_agrees_with_scipy(p_values):
    expected = list(stats.false_discovery_control(p_values, method="bh"))
    assert corrected(p_values) == pytest.approx(expected)


@pytest.mark.parametrize("n", [200, 500])
def test_numeric_false_alarms_stay_at_two_percent_over_a_thousand_null_runs(n):
    rng = random.Random(n)
    alarms = sum(
        numeric_drift(sample(rng, n), sample(rng, n)).verdict != "none" for _ in range(NULL_RUNS)
    )
    assert alarms <= 0.02 * NULL_RUNS


def test_category_false_alarms_stay_at_two_percent_over_a_thousand_null_runs():
    rng = random.Random(3)
    names, weights = ["a", "b", "c", "rare"], [60, 30, 9, 1]

    def draw() -> Counter[str]:
        return Counter(rng.choices(names, weights, k=200))

    alarms = sum(category_drift(draw(), draw()).verdict != "none" for _ in range(NULL_RUNS))
    assert alarms <= 0.02 * NULL_RUNS


def test_a_moved_distribution_is_found_and_a_trifle_at_great_n_is_only_minor():
    rng = random.Random(5)
    moved = numeric_drift(sample(rng, 500, mean=3.8), sample(rng, 500))
    assert moved.verdict == "major"
    trifle = numeric_drift(sample(rng, 100_000, mean=3.03), sample(rng, 100_000))
    assert trifle.verdict == "minor"
    labels = category_drift({"a": 100, "b": 400}, {"a": 400, "b": 100})
    assert labels.verdict == "major"


@pytest.mark.parametrize("n", [0, 1, 199])
def test_small_samples_are_insufficient_however_large_the_shift(n):
    rng = random.Random(n)
    assert numeric_drift(sample(rng, n, 9.0), sample(rng, 1000)).verdict == "insufficient_data"
    assert category_drift({"a": n}, {"b": 1000}).verdict == "insufficient_data"
    assert category_drift({}, {}).verdict == "insufficient_data"
    # The first window of an installation has none before it.
    assert category_drift({"a": 300}, {}).verdict == "insufficient_data"
    assert category_drift({}, {"a": 300}).verdict == "insufficient_data"


def test_the_distance_is_that_of_scipy_within_the_width_of_a_bucket():
    rng = random.Random(11)
    left = [rng.lognormvariate(3, 0.8) for _ in range(400)]
    right = [rng.lognormvariate(3.3, 0.8) for _ in range(300)]
    ours = ks_distance(Counter(map(bucket_of, left)), Counter(map(bucket_of, right)))
    assert ours is not None
    assert ours == pytest.approx(stats.ks_2samp(left, right).statistic, abs=0.02)


def test_many_looks_are_corrected_for():
    weak = Drift(0.2, 0.15, 0.008, None, None, 500, 500, "moderate")
    noise = Drift(0.01, 0.0, 0.6, None, None, 500, 500, "none")
    found = judge_all({"score": weak, **{f"f{at}": noise for at in range(9)}})
    assert found["score"].p == pytest.approx(0.08)
    assert found["score"].verdict == "none"
