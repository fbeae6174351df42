"""Who meets the candidate: fair shares, sticky subjects, monotone weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.rollouts import BUCKETS, Arm, arm_of, bucket_of, choose

_TEXT = st.text(max_size=30)


def test_hundred_thousand_assignments_keep_each_weight_within_one_percent():
    for weight_bp in (100, 500, 2_500, 5_000):
        hits = sum(
            arm_of(bucket_of("rollout-1", "default", f"card_{n:08d}"), weight_bp) is Arm.CANDIDATE
            for n in range(100_000)
        )
        assert abs(hits / 100_000 - weight_bp / BUCKETS) < 0.01


@given(_TEXT, _TEXT)
def test_a_subject_always_has_the_same_bucket(tenant: str, subject: str):
    assert bucket_of("salt", tenant, subject) == bucket_of("salt", tenant, subject)
    assert 0 <= bucket_of("salt", tenant, subject) < BUCKETS


@given(st.integers(0, BUCKETS - 1), st.integers(0, BUCKETS), st.integers(0, BUCKETS))
def test_a_higher_weight_only_adds_subjects(bucket: int, one: int, other: int):
    low, high = sorted((one, other))
    if arm_of(bucket, low) is Arm.CANDIDATE:
        assert arm_of(bucket, high) is Arm.CANDIDATE


def test_tenant_and_subject_do_not_run_together():
    assert (
        len({bucket_of("s", "a", "bc"), bucket_of("s", "ab", "c"), bucket_of("s", "", "abc")}) > 1
    )


def test_two_rollouts_assign_independently():
    both = sum(
        bucket_of("one", "t", str(n)) < 5_000 and bucket_of("two", "t", str(n)) < 5_000
        for n in range(20_000)
    )
    assert abs(both / 20_000 - 0.25) < 0.015


def test_several_versions_share_by_their_weights():
    weights = {"1": 5_000, "2": 3_000, "3": 2_000}
    found = [choose(bucket_of("salt", "t", str(n)), weights) for n in range(20_000)]
    for version, weight in weights.items():
        assert abs(found.count(version) / 20_000 - weight / BUCKETS) < 0.015


def test_weights_that_do_not_sum_to_the_whole_are_refused():
    with pytest.raises(ValueError, match="sum"):
        choose(5, {"1": 5_000, "2": 4_999})
