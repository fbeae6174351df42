"""Feature service `personalization_v1`: what the relevance and conversion models read.

Events are `item_view`, `item_cart` and `item_purchase` of a user with an item, its category, its
price and the session. Windows are (t - w, t] over earlier events; the request itself is no event.
"""

import numpy as np

from libs.common.features.contract import Columns, Feature, FeatureService, FloatArray

RAW: tuple[str, ...] = (
    "user:views_1d",
    "user:views_7d",
    "user:views_30d",
    "user:carts_7d",
    "user:purchases_30d",
    "user:mean_price_30d",  # of purchased and viewed items
    "user:same_category_30d",  # events in the category of the requested item
    "user:same_item_30d",  # events with the requested item
    "user:item_purchases_all",  # purchases of the requested item that the ring still holds
    "user:seconds_since_last",
    "session:events",
    "session:seconds",
    "session:carts",
    "item:views_1d",
    "item:views_7d",
    "item:purchases_7d",
    "item:purchases_30d",
    "request:price",
    "request:hour",
    "request:weekday",
)

FEATURES: tuple[Feature, ...] = (
    Feature("user_views_1d", "user", "activity", "items viewed in 1 day"),
    Feature("user_views_7d", "user", "activity", "items viewed in 7 days"),
    Feature("user_views_30d", "user", "activity", "items viewed in 30 days"),
    Feature("user_carts_7d", "user", "intent", "items put in the cart in 7 days"),
    Feature("user_purchases_30d", "user", "value", "purchases in 30 days"),
    Feature("user_same_category_30d", "user", "affinity", "events in this category in 30 days"),
    Feature("user_same_item_30d", "user", "affinity", "events with this item in 30 days"),
    Feature("user_item_purchases_all", "user", "affinity", "purchases of this item"),
    Feature("user_category_share_30d", "derived", "affinity", "share of events in this category"),
    Feature("user_seconds_since_last", "user", "activity", "seconds since the last event"),
    Feature("session_events", "session", "session", "events in the session"),
    Feature("session_seconds", "session", "session", "length of the session"),
    Feature("session_carts", "session", "intent", "cart events in the session"),
    Feature("item_views_7d", "item", "popularity", "views of the item in 7 days"),
    Feature("item_purchases_30d", "item", "popularity", "purchases of the item in 30 days"),
    Feature("item_conversion_7d", "derived", "popularity", "purchases per view in 7 days"),
    Feature("price", "request", "price", "price of the item"),
    Feature("price_over_user_mean", "derived", "price", "price over the user's usual price"),
    Feature("hour", "request", "time", "hour of the day (UTC)"),
    Feature("is_weekend", "derived", "time", "Saturday or Sunday (UTC)"),
)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    safe = np.where(denominator > 0, denominator, np.nan)
    return numerator / safe


def derive(raw: Columns) -> FloatArray:
    """Turn raw columns into the matrix of shape (n, len(FEATURES)), float64."""
    views_30d, purchases_30d = raw["user:views_30d"], raw["user:purchases_30d"]
    weekday = raw["request:weekday"]
    columns = {
        "user_views_1d": raw["user:views_1d"],
        "user_views_7d": raw["user:views_7d"],
        "user_views_30d": views_30d,
        "user_carts_7d": raw["user:carts_7d"],
        "user_purchases_30d": purchases_30d,
        "user_same_category_30d": raw["user:same_category_30d"],
        "user_same_item_30d": raw["user:same_item_30d"],
        "user_item_purchases_all": raw["user:item_purchases_all"],
        "user_category_share_30d": _ratio(raw["user:same_category_30d"], views_30d + purchases_30d),
        "user_seconds_since_last": raw["user:seconds_since_last"],
        "session_events": raw["session:events"],
        "session_seconds": raw["session:seconds"],
        "session_carts": raw["session:carts"],
        "item_views_7d": raw["item:views_7d"],
        "item_purchases_30d": raw["item:purchases_30d"],
        "item_conversion_7d": _ratio(raw["item:purchases_7d"], raw["item:views_7d"]),
        "price": raw["request:price"],
        "price_over_user_mean": _ratio(raw["request:price"], raw["user:mean_price_30d"]),
        "hour": raw["request:hour"],
        "is_weekend": np.where(np.isnan(weekday), np.nan, (weekday >= 5).astype(np.float64)),
    }
    return np.column_stack([columns[feature.name] for feature in FEATURES])


PERSONALIZATION_V1 = FeatureService("personalization_v1", RAW, FEATURES, derive)
