"""Histograms against sorting the values."""

import math

from hypothesis import given
from hypothesis import strategies as st

from services.analytics.domain.histogram import (
    RELATIVE_ERROR_MAX,
    ZERO_BUCKET,
    bucket_of,
    estimate_of,
    merge,
    quantiles,
)

positive = st.floats(min_value=1e-6, max_value=1e9, allow_nan=False)


def histogram_of(values: list[float]) -> dict[int, int]:
    return merge({bucket_of(value): 1} for value in values)


@given(positive)
def test_every_value_is_within_one_percent_of_its_bucket(value):
    assert abs(estimate_of(bucket_of(value)) - value) <= value * RELATIVE_ERROR_MAX * (1 + 1e-9)


@given(st.lists(positive, min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_one_percent_of_the_sorted_value(values, share):
    exact = sorted(values)[max(1, math.ceil(share * len(values) - 1e-9)) - 1]
    (found,) = quantiles(histogram_of(values), (share,))
    assert found is not None
    assert abs(found - exact) <= exact * RELATIVE_ERROR_MAX * (1 + 1e-9)


@given(st.lists(positive, max_size=50), st.lists(positive, max_size=50))
def test_merging_equals_counting_together(left, right):
    assert merge((histogram_of(left), histogram_of(right))) == histogram_of(left + right)


def test_values_of_zero_and_below_share_the_lowest_bucket():
    assert bucket_of(0) == bucket_of(-3.5) == ZERO_BUCKET
    assert quantiles({ZERO_BUCKET: 9, bucket_of(5.0): 1}, (0.5,)) == [0.0]


def test_an_empty_histogram_has_no_quantiles():
    assert quantiles({}, (0.5, 0.99)) == [None, None]
