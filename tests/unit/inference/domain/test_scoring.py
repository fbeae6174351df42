"""Bands, actions, factors and the analyst's sentence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.features.fraud import FRAUD_V1
from services.inference.domain.scoring import (
    RiskBands,
    action_for,
    confidence_of,
    group_contributions,
    grouping_of,
    sentence,
    top_factors,
)

BANDS = RiskBands(0.3, 0.6, 0.9)
_ORDER = ("low", "medium", "high", "critical")


@pytest.mark.parametrize(
    ("probability", "level", "action"),
    [
        (0.0, "low", "approve"),
        (0.2999, "low", "approve"),
        (0.3, "medium", "review"),
        (0.6, "high", "challenge"),
        (0.9, "critical", "decline"),
        (1.0, "critical", "decline"),
    ],
)
def test_each_band_has_its_action(probability: float, level: str, action: str):
    found = BANDS.level(probability)
    assert found == level
    assert action_for(found, 10, is_blind=False, review_amount=200) == action


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_score_never_has_a_lower_risk(one: float, other: float):
    low, high = sorted((one, other))
    assert _ORDER.index(BANDS.level(low)) <= _ORDER.index(BANDS.level(high))
    assert 0.5 <= confidence_of(one) <= 1


def test_a_blind_score_reviews_large_amounts_and_softens_nothing():
    assert action_for("low", 200, is_blind=True, review_amount=200) == "review"
    assert action_for("low", 199, is_blind=True, review_amount=200) == "approve"
    assert action_for("critical", 900, is_blind=True, review_amount=200) == "decline"


@pytest.mark.parametrize(
    "thresholds",
    [
        {},
        {"review": 0.3, "challenge": 0.6},
        {"review": 0.6, "challenge": 0.3, "decline": 0.9},
        {"review": 0.0, "challenge": 0.3, "decline": 0.9},
        {"review": 0.1, "challenge": 0.3, "decline": 1.1},
        {"review": float("nan"), "challenge": 0.3, "decline": 0.9},
    ],
)
def test_thresholds_that_do_not_rise_are_refused(thresholds: dict[str, float]):
    with pytest.raises(ValueError, match="thresholds"):
        RiskBands.from_manifest(thresholds)


def test_factors_are_groups_that_raise_and_the_sentence_names_their_strongest_feature():
    row = np.arange(len(FRAUD_V1.features), dtype=np.float32)
    contributions = np.zeros(len(row))
    names = FRAUD_V1.names
    contributions[names.index("card_count_1h")] = 0.2
    contributions[names.index("card_count_1d")] = 0.9
    contributions[names.index("amount")] = -0.5
    groups = group_contributions(grouping_of(FRAUD_V1), row, contributions)
    assert top_factors(groups) == ["velocity_check"]
    text = sentence("high", 0.712, groups, missing=["merchant:count_1d"], is_blind=False)
    assert text == (
        "High risk, fraud probability 71.2 %. Raised by velocity check (payments of the card in "
        "1 day: 2). Lowered by amount pattern (amount of the payment: 0). Some values are unknown "
        "for: merchant."
    )


def test_a_blind_sentence_says_that_nothing_stored_was_read():
    text = sentence("low", 0.0001, [], missing=["card:count_1d"], is_blind=True)
    assert text.endswith("the score rests on the request alone.")
    assert "below 0.1 %" in text
