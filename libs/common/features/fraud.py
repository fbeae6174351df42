"""Feature services `fraud_v1` and `fraud_v2`: what fraud models read about a card payment.

`fraud_v2` adds the device and what turned out to be fraud at the shop, seven days late and more.

Amounts are major units here (minor units / 100). Windows are (t - w, t] and include the current
payment, except where the label says "earlier". NaN means unknown; models are trained with NaN.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

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


# Inputs that are raw columns as they stand, by name; the others are computed.
_COPIED = {
    "amount": "request:amount",
    "hour": "request:hour",
    **{f"card_{name}": f"card:{name}" for name in _CARD},
    **{f"merchant_{name}": f"merchant:{name}" for name in _MERCHANT},
}
# Inputs that divide the amount by a raw column.
_RATIOS = {
    "amount_over_card_mean_1d": "card:mean_amount_1d",
    "amount_over_card_mean_7d": "card:mean_amount_7d",
    "amount_over_card_mean_30d": "card:mean_amount_30d",
    "amount_over_merchant_mean_30d": "merchant:mean_amount_30d",
}
_PLACE = {feature.name: place for place, feature in enumerate(FEATURES)}


def _places(names: Iterable[str]) -> NDArray[np.intp]:
    return np.array([_PLACE[name] for name in names])


_COPIES = {name: raw for name, raw in _COPIED.items() if name in _PLACE}
_COPY_PLACES, _RATIO_PLACES = _places(_COPIES), _places([*_RATIOS, "card_country_share_30d"])
_JUDGED_PLACES = _places(("is_night", "is_weekend", "mcc_group", "mcc_is_cash"))


def derive(raw: Columns) -> FloatArray:
    """Turn raw columns into the model's matrix.

    Args:
        raw: one array of shape (n,) per name in `RAW`, NaN where missing.

    Returns:
        shape (n, len(FEATURES)), float64.
    """
    return _matrix(raw, len(FEATURES))


def _matrix(raw: Columns, width: int) -> FloatArray:
    """Fill the columns of `FEATURES`, block by block; what `width` leaves behind them is NaN."""
    amount, hour = raw["request:amount"], raw["request:hour"]
    weekday, mcc = raw["request:weekday"], raw["request:mcc"]
    matrix = np.empty((len(amount), width))
    matrix.fill(np.nan)
    matrix[:, _COPY_PLACES] = np.array([raw[name] for name in _COPIES.values()]).T
    whole = np.array([*(raw[name] for name in _RATIOS.values()), raw["card:count_30d"] - 1.0])
    part = np.array([amount] * len(_RATIOS) + [raw["card:same_country_30d"]])
    ratios = np.empty(whole.shape)
    ratios.fill(np.nan)
    np.divide(part, whole, out=ratios, where=whole > 0)
    matrix[:, _RATIO_PLACES] = ratios.T
    judged = np.array(
        [
            hour <= 6,
            weekday >= 5,
            _MCC_BOUNDS.searchsorted(mcc),
            np.logical_or.reduce(mcc[:, None] == _MCC_CASH, axis=1),
        ],
        dtype=np.float64,
    )
    # Comparisons with NaN are false; what depends on an unknown value stays NaN.
    judged[np.isnan(np.array([hour, weekday, mcc, mcc]))] = np.nan
    matrix[:, _JUDGED_PLACES] = judged.T
    return matrix


FRAUD_V1 = FeatureService("fraud_v1", RAW, FEATURES, derive)

_DELAYED = "merchant_risk"
RAW_V2: tuple[str, ...] = (
    *RAW,
    "card:same_device_30d",  # earlier payments in 30 days from this device
    f"{_DELAYED}:labelled_count_30d",
    f"{_DELAYED}:fraud_rate_7d",
    f"{_DELAYED}:fraud_rate_30d",
)
_FURTHER: tuple[tuple[Feature, str], ...] = (
    (
        Feature(
            "card_same_device_30d", "card", "device_pattern", "earlier payments from this device"
        ),
        "card:same_device_30d",
    ),
    (
        Feature(
            "merchant_labelled_30d",
            _DELAYED,
            "merchant_history",
            "payments at the shop in 30 days, a week ago",
        ),
        f"{_DELAYED}:labelled_count_30d",
    ),
    (
        Feature(
            "merchant_fraud_rate_7d",
            _DELAYED,
            "merchant_history",
            "share of fraud at the shop in 7 days, a week ago",
        ),
        f"{_DELAYED}:fraud_rate_7d",
    ),
    (
        Feature(
            "merchant_fraud_rate_30d",
            _DELAYED,
            "merchant_history",
            "share of fraud at the shop in 30 days, a week ago",
        ),
        f"{_DELAYED}:fraud_rate_30d",
    ),
)
FEATURES_V2: tuple[Feature, ...] = (*FEATURES, *(feature for feature, _ in _FURTHER))


def derive_v2(raw: Columns) -> FloatArray:
    """Turn raw columns of `RAW_V2` into the matrix, shape (n, len(FEATURES_V2))."""
    matrix = _matrix(raw, len(FEATURES_V2))
    for place, (_, name) in enumerate(_FURTHER, len(FEATURES)):
        matrix[:, place] = raw[name]
    return matrix


FRAUD_V2 = FeatureService("fraud_v2", RAW_V2, FEATURES_V2, derive_v2)
