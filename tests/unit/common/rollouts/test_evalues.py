"""Evidence is fair: its mean is at most one without a difference; counts add up in any order."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.rollouts import Counts, Limits, Mode, Plan, Signal, Stage, evidence, segment_share
from libs.common.rollouts.evalues import (
    BUDGET,
    RATIOS,
    band_shift,
    rate_over_bound,
    rate_over_rate,
)

_WEIGHTS = st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5, 0.9])


@given(_WEIGHTS, st.integers(1, 40))
def test_bad_answers_that_fall_by_weight_give_a_mean_of_one(weight: float, events: int):
    mean = sum(
        math.comb(events, n)
        * weight**n
        * (1 - weight) ** (events - n)
        * math.exp(rate_over_rate(n, events - n, weight))
        for n in range(events + 1)
    )
    assert mean == pytest.approx(1.0, rel=1e-6)


@given(st.sampled_from([0.001, 0.02, 0.1, 0.5]), st.integers(1, 40))
def test_a_rate_at_its_bound_gives_a_mean_of_at_most_one(bound: float, trials: int):
    mean = sum(
        math.comb(trials, n)
        * bound**n
        * (1 - bound) ** (trials - n)
        * math.exp(rate_over_bound(n, trials - n, bound))
        for n in range(trials + 1)
    )
    assert mean == pytest.approx(1.0, rel=1e-6)


@given(_WEIGHTS, st.sampled_from([1.0, 1.25, 2.0]), st.integers(1, 5), st.integers(0, 5))
def test_scores_distributed_alike_give_a_mean_of_at_most_one(
    weight: float, ratio: float, first: int, second: int
):
    mean = 0.0
    for n, k in product(range(first + 1), range(second + 1)):
        chance = math.comb(first, n) * weight**n * (1 - weight) ** (first - n)
        chance *= math.comb(second, k) * weight**k * (1 - weight) ** (second - k)
        mean += chance * math.exp(band_shift([(n, first - n), (k, second - k)], weight, ratio))
    assert mean <= 1 + 1e-9


def test_shares_of_the_bet_and_of_the_segments_sum_to_one():
    assert sum(RATIOS.values()) == pytest.approx(1)
    assert sum(map(segment_share, range(1, 100_000))) == pytest.approx(1, abs=1e-4)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["1/0/seen.c", "1/0/error.c", "1/0/error.s", "2/0/slow.c", "2/0/band.3.s"]
            ),
            st.integers(0, 50),
        ),
        max_size=6,
    )
)
def test_increments_of_replicas_add_up_in_any_order(parts: list[dict[str, int]]):
    forward, backward = Counts(), Counts()
    for part in parts:
        forward.add(part)
    for part in reversed(parts):
        backward.add(part)
    plan = Plan(Mode.CANARY, (Stage(1_000),))
    assert evidence(plan, forward) == evidence(plan, backward)
    assert Counts.of(forward.wire()).wire() == forward.wire()


def test_foreign_keys_in_the_sums_are_ignored():
    assert Counts.of({"nonsense": 5, "x/1/error.c": 1, "1/0/error.c": 2}).wire() == {
        "1/0/error.c": 2
    }


def test_an_ab_test_is_judged_on_harm_only():
    plan = Plan(Mode.AB, (Stage(5_000),))
    assert set(evidence(plan, Counts())) == {Signal.ERRORS, Signal.LATENCY}


def test_shadow_judges_failures_against_the_bound():
    plan = Plan(Mode.SHADOW, (Stage(10_000),), Limits(max_error_rate=0.01))
    counts = Counts.of({"1/0/pair": 5, "1/0/pair_error": 5})
    assert evidence(plan, counts)[Signal.ERRORS] > 7
    assert evidence(plan, Counts.of({"1/0/pair": 500}))[Signal.ERRORS] < 0


def test_the_signals_share_one_budget_and_no_more():
    assert set(BUDGET) == set(Signal)
    assert sum(BUDGET.values()) == pytest.approx(1.0)
    assert min(BUDGET.values()) > 0
