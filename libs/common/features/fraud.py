"""Feature service `fraud_v1`: what the fraud model reads about a card payment.

Amounts are major units here (minor units / 100). Windows are (t - w, t] and include the current
payment, except where the label says "earlier". NaN means unknown; models are trained with NaN.
"""

import numpy as np

from libs.common.features.contract import Columns, Feature, FeatureService, FloatArray

_CARD = (
    "count_1h",
    "count_1d",
    "count_7d",
    "count_30d",
    "mean_amount_1d",
    "mean_amount_7d",
    "mean_amount_30d",
    "seconds_since_last",  # earlier payment; NaN without any
    "amount_z",  # against all earlier amounts; NaN with three or fewer
    "same_mcc_30d",  # earlier payments in 30 days with this mcc
    "same_country_30d",  # earlier payments in 30 days in this country
    "same_merchant_30d",  # earlier payments in 30 days at this merchant
    "countries_1d",  # distinct countries in a day, current included
)
_MERCHANT = (
    "count_1d",
    "count_7d",
    "count_30d",
    "mean_amount_1d",
    "mean_amount_7d",
    "mean_amount_30d",
)
_REQUEST = ("amount", "hour", "weekday", "mcc")

RAW: tuple[str, ...] = (
    *(f"card:{name}" for name in _CARD),
    *(f"merchant:{name}" for name in _MERCHANT),
    *(f"request:{name}" for name in _REQUEST),
)

FEATURES: tuple[Feature, ...] = (
    Feature("amount", "request", "amount_pattern", "amount of the payment"),
    Feature("card_count_1h", "card", "velocity_check", "payments of the card in 1 hour"),
    Feature("card_count_1d", "card", "velocity_check", "payments of the card in 1 day"),
    Feature("card_count_7d", "card", "velocity_check", "payments of the card in 7 days"),
    Feature("card_count_30d", "card", "velocity_check", "payments of the card in 30 days"),
    Feature("card_seconds_since_last", "card", "velocity_check", "seconds since the last payment"),
    Feature("card_mean_amount_1d", "card", "spending_habit", "mean amount of the card in 1 day"),
    Feature("card_mean_amount_7d", "card", "spending_habit", "mean amount of the card in 7 days"),
    Feature("card_mean_amount_30d", "card", "spending_habit", "mean amount of the card in 30 days"),
    Feature("amount_over_card_mean_1d", "derived", "amount_pattern", "amount over the day's mean"),
    Feature("amount_over_card_mean_7d", "derived", "amount_pattern", "amount over the week's mean"),
    Feature(
        "amount_over_card_mean_30d", "derived", "amount_pattern", "amount over the month's mean"
    ),
    Feature("card_amount_z", "card", "amount_pattern", "deviation from the card's earlier amounts"),
    Feature("card_same_mcc_30d", "card", "merchant_pattern", "earlier payments in this category"),
    Feature("card_same_merchant_30d", "card", "merchant_pattern", "earlier payments at this shop"),
    Feature("card_same_country_30d", "card", "geo_pattern", "earlier payments in this country"),
    Feature(
        "card_country_share_30d", "derived", "geo_pattern", "share of payments in this country"
    ),
    Feature("card_countries_1d", "card", "geo_pattern", "countries of the card in 1 day"),
    Feature("merchant_count_1d", "merchant", "merchant_pattern", "payments at the shop in 1 day"),
    Feature("merchant_count_7d", "merchant", "merchant_pattern", "payments at the shop in 7 days"),
    Feature(
        "merchant_count_30d", "merchant", "merchant_pattern", "payments at the shop in 30 days"
    ),
    Feature("merchant_mean_amount_30d", "merchant", "merchant_pattern", "mean amount at the shop"),
    Feature(
        "amount_over_merchant_mean_30d", "derived", "amount_pattern", "amount over the shop's mean"
    ),
    Feature("hour", "request", "time_pattern", "hour of the day (UTC)"),
    Feature("is_night", "derived", "time_pattern", "between midnight and six (UTC)"),
    Feature("is_weekend", "derived", "time_pattern", "Saturday or Sunday (UTC)"),
    Feature("mcc_group", "derived", "merchant_category", "kind of shop"),
    Feature("mcc_is_cash", "derived", "merchant_category", "cash, transfer or gambling category"),
)

# Upper bounds of ISO 18245 ranges; the group is the index of the first bound not exceeded.
_MCC_BOUNDS = np.array(
    [
        1499,
        2999,
        3299,
        3499,
        3999,
        4799,
        4999,
        5299,
        5499,
        5599,
        5699,
        5799,
        5999,
        6999,
        7299,
        7799,
        7999,
        8999,
        9999,
    ],
    dtype=np.float64,
)
# Cash advances, money orders, wire transfers, quasi-cash, gambling.
_MCC_CASH = np.array([4829, 6010, 6011, 6012, 6051, 6211, 6538, 6540, 7995], dtype=np.float64)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, NaN where the denominator is missing or not positive."""
    safe = np.where(denominator > 0, denominator, np.nan)
    return numerator / safe


def derive(raw: Columns) -> FloatArray:
    """Turn raw columns into the model's matrix.

    Args:
        raw: one array of shape (n,) per name in `RAW`, NaN where missing.

    Returns:
        shape (n, len(FEATURES)), float64.
    """
    amount = raw["request:amount"]
    hour, weekday, mcc = raw["request:hour"], raw["request:weekday"], raw["request:mcc"]
    count_30d = raw["card:count_30d"]
    earlier_30d = count_30d - 1.0
    known_mcc = ~np.isnan(mcc)
    group = np.where(known_mcc, np.searchsorted(_MCC_BOUNDS, np.nan_to_num(mcc)), np.nan)
    is_cash = np.where(known_mcc, np.isin(mcc, _MCC_CASH).astype(np.float64), np.nan)
    columns = {
        "amount": amount,
        "card_count_1h": raw["card:count_1h"],
        "card_count_1d": raw["card:count_1d"],
        "card_count_7d": raw["card:count_7d"],
        "card_count_30d": count_30d,
        "card_seconds_since_last": raw["card:seconds_since_last"],
        "card_mean_amount_1d": raw["card:mean_amount_1d"],
        "card_mean_amount_7d": raw["card:mean_amount_7d"],
        "card_mean_amount_30d": raw["card:mean_amount_30d"],
        "amount_over_card_mean_1d": _ratio(amount, raw["card:mean_amount_1d"]),
        "amount_over_card_mean_7d": _ratio(amount, raw["card:mean_amount_7d"]),
        "amount_over_card_mean_30d": _ratio(amount, raw["card:mean_amount_30d"]),
        "card_amount_z": raw["card:amount_z"],
        "card_same_mcc_30d": raw["card:same_mcc_30d"],
        "card_same_merchant_30d": raw["card:same_merchant_30d"],
        "card_same_country_30d": raw["card:same_country_30d"],
        "card_country_share_30d": _ratio(raw["card:same_country_30d"], earlier_30d),
        "card_countries_1d": raw["card:countries_1d"],
        "merchant_count_1d": raw["merchant:count_1d"],
        "merchant_count_7d": raw["merchant:count_7d"],
        "merchant_count_30d": raw["merchant:count_30d"],
        "merchant_mean_amount_30d": raw["merchant:mean_amount_30d"],
        "amount_over_merchant_mean_30d": _ratio(amount, raw["merchant:mean_amount_30d"]),
        "hour": hour,
        "is_night": np.where(np.isnan(hour), np.nan, (hour <= 6).astype(np.float64)),
        "is_weekend": np.where(np.isnan(weekday), np.nan, (weekday >= 5).astype(np.float64)),
        "mcc_group": group,
        "mcc_is_cash": is_cash,
    }
    return np.column_stack([columns[feature.name] for feature in FEATURES])


FRAUD_V1 = FeatureService("fraud_v1", RAW, FEATURES, derive)
