"""Engagement, segment and signals: documented rules over the features that the models read; pure.

They are rules, not models: `relevance_score` and `conversion_probability` are what the models say.
"""

import math
from collections.abc import Mapping

# Half-way points of the saturating terms: a session of 5 events, a week of 15 views, 2 carts.
_SESSION_EVENTS, _VIEWS_7D, _CARTS_7D = 5.0, 15.0, 2.0
_ENGAGED, _BROWSING = 0.5, 0.2
_HIGH_VALUE_PURCHASES_30D, _MEDIUM_VALUE_PURCHASES_30D = 5, 1

Values = Mapping[str, float]


def _known(values: Values, name: str) -> float:
    """Give a value, 0 where it is missing."""
    value = values[name]
    return 0.0 if math.isnan(value) else value


def engagement_score(values: Values) -> float:
    """Weigh session (0.5), week (0.3) and carts (0.2), each `x / (x + half)`; 0 to 1."""
    session = _known(values, "session_events")
    week = _known(values, "user_views_7d")
    carts = _known(values, "user_carts_7d") + _known(values, "session_carts")
    return (
        0.5 * session / (session + _SESSION_EVENTS)
        + 0.3 * week / (week + _VIEWS_7D)
        + 0.2 * carts / (carts + _CARTS_7D)
    )


def user_segment(values: Values, engagement: float) -> str:
    """Name the segment `<value>_value_<activity>`; `unknown_user` without any history.

    Value by purchases in 30 days (high from 5, medium from 1); activity by engagement (engaged from
    0.5, browsing from 0.2, else passive).
    """
    if math.isnan(values["user_views_30d"]) and math.isnan(values["user_purchases_30d"]):
        return "unknown_user"
    purchases = _known(values, "user_purchases_30d")
    if purchases >= _HIGH_VALUE_PURCHASES_30D:
        value = "high"
    else:
        value = "medium" if purchases >= _MEDIUM_VALUE_PURCHASES_30D else "low"
    activity = "engaged" if engagement >= _ENGAGED else "browsing"
    if engagement < _BROWSING:
        activity = "passive"
    return f"{value}_value_{activity}"


def behavioral_signals(values: Values) -> list[str]:
    """List the signals that hold, in a fixed order; missing values never hold."""
    rules = (
        ("high_engagement_session", values["session_events"] >= 8),
        ("multi_page_session", values["session_events"] >= 3),
        ("cart_activity", values["session_carts"] >= 1 or values["user_carts_7d"] >= 1),
        ("repeat_item_interest", values["user_same_item_30d"] >= 2),
        ("repeat_buyer_of_item", values["user_item_purchases_all"] >= 1),
        ("category_affinity", values["user_category_share_30d"] >= 0.3),
        ("price_above_usual", values["price_over_user_mean"] >= 1.5),
        ("popular_item", values["item_purchases_30d"] >= 10),
    )
    return [name for name, holds in rules if holds]
