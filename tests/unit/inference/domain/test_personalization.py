"""Engagement, segment and signals from feature values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.features.personalization import PERSONALIZATION_V1
from services.inference.domain.personalization import (
    behavioral_signals,
    engagement_score,
    user_segment,
)

UNKNOWN = dict.fromkeys(PERSONALIZATION_V1.names, math.nan)
values = st.fixed_dictionaries(
    {name: st.one_of(st.just(math.nan), st.floats(0, 1e6)) for name in PERSONALIZATION_V1.names}
)


@given(values, st.floats(0, 100))
def test_engagement_lies_between_0_and_1_and_more_events_never_lower_it(
    read: dict[str, float], more: float
):
    score = engagement_score(read)
    assert 0 <= score <= 1
    before = 0.0 if math.isnan(read["session_events"]) else read["session_events"]
    assert engagement_score({**read, "session_events": before + more}) >= score


def test_an_unknown_user_is_called_that():
    assert user_segment(UNKNOWN, 0.0) == "unknown_user"
    assert behavioral_signals(UNKNOWN) == []
    assert engagement_score(UNKNOWN) == 0.0


@pytest.mark.parametrize(
    ("purchases", "engagement", "segment"),
    [
        (7, 0.8, "high_value_engaged"),
        (1, 0.3, "medium_value_browsing"),
        (0, 0.1, "low_value_passive"),
    ],
)
def test_segments_join_value_and_activity(purchases: float, engagement: float, segment: str):
    assert user_segment({**UNKNOWN, "user_purchases_30d": purchases}, engagement) == segment


def test_signals_hold_only_for_known_values():
    read = {**UNKNOWN, "session_events": 9.0, "session_carts": 1.0}
    assert behavioral_signals(read) == [
        "high_engagement_session",
        "multi_page_session",
        "cart_activity",
    ]
