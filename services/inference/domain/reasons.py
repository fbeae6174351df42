"""Reason codes: why a payment scored as it did, in words that a program can switch on; pure.

Two kinds stand in one list. Codes of the score come from the groups that raised it, by exact
contributions: the feature that moved its group most names the code. Codes of the circumstances
say what the score could not rest on. `docs/scoring.md` holds the table; a test compares the two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.inference.domain.scoring import GroupContribution

# A group counts as a reason from this contribution on, as in `top_factors`.
_NOTABLE_MARGIN = 0.01
_SCORE_REASONS_MAX = 3

_BY_FEATURE: Mapping[str, str] = {
    "amount": "amount_level",
    "amount_over_card_mean_1d": "amount_unlike_card",
    "amount_over_card_mean_7d": "amount_unlike_card",
    "amount_over_card_mean_30d": "amount_unlike_card",
    "card_amount_z": "amount_unlike_card",
    "amount_over_merchant_mean_30d": "amount_unlike_merchant",
    "card_count_1h": "payments_in_quick_succession",
    "card_count_1d": "payments_in_quick_succession",
    "card_count_7d": "payment_frequency",
    "card_count_30d": "payment_frequency",
    "card_seconds_since_last": "time_since_last_payment",
    "card_mean_amount_1d": "card_spending_level",
    "card_mean_amount_7d": "card_spending_level",
    "card_mean_amount_30d": "card_spending_level",
    "card_same_mcc_30d": "category_unusual_for_card",
    "card_same_merchant_30d": "merchant_unusual_for_card",
    "card_same_country_30d": "country_unusual_for_card",
    "card_country_share_30d": "country_unusual_for_card",
    "card_countries_1d": "several_countries_in_a_day",
    "card_same_device_30d": "device_unusual_for_card",
    "merchant_count_1d": "merchant_activity",
    "merchant_count_7d": "merchant_activity",
    "merchant_count_30d": "merchant_activity",
    "merchant_mean_amount_30d": "merchant_price_level",
    "merchant_fraud_rate_7d": "merchant_with_recent_fraud",
    "merchant_fraud_rate_30d": "merchant_with_recent_fraud",
    "merchant_labelled_30d": "merchant_with_recent_fraud",
    "hour": "time_of_day",
    "is_night": "time_of_day",
    "is_weekend": "time_of_day",
    "mcc_group": "category_at_risk",
    "mcc_is_cash": "category_at_risk",
}

MEANINGS: Mapping[str, str] = {
    "amount_level": "The amount itself is typical of fraud, high or testingly small.",
    "amount_unlike_card": "The amount is unlike what the card usually pays.",
    "amount_unlike_merchant": "The amount is unlike what is usually paid at the shop.",
    "payments_in_quick_succession": "The card paid often within an hour or a day.",
    "payment_frequency": "How often the card paid in a week or a month.",
    "time_since_last_payment": "The time since the card's last payment.",
    "card_spending_level": "The card's recent mean amount.",
    "category_unusual_for_card": "The card seldom or never pays in this category.",
    "merchant_unusual_for_card": "The card seldom or never paid at this shop.",
    "country_unusual_for_card": "The card seldom or never pays in this country.",
    "several_countries_in_a_day": "The card paid in several countries within a day.",
    "device_unusual_for_card": "The card seldom or never paid from this device.",
    "merchant_activity": "How many payments the shop had lately.",
    "merchant_price_level": "The shop's mean amount.",
    "merchant_with_recent_fraud": "Frauds were reported of payments at this shop.",
    "time_of_day": "The hour or the day of the week (UTC).",
    "category_at_risk": "The kind of shop: cash, transfers and gambling are misused most.",
    "value_unknown": "That a value is unknown raised the score.",
    "card_without_history": "The card never paid before, as far as this installation knows.",
    "merchant_without_history": "The shop had no payment in 30 days before this one.",
    "merchant_not_named": "The request names no shop.",
    "features_unavailable": "Stored features could not be read; the score knows the request only.",
    "features_stale": "Stored features are older than they should be.",
    "amount_converted": "The amount was converted to the base currency.",
}


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known about an answer besides its score.

    Attributes:
        missing: raw features without a value, as `view:name`.
        values: what the model read, by feature.
        is_blind: nothing stored could be read.
        is_stale: a view's newest event is older than its bound.
        is_merchant_named: the request names a shop.
        is_converted: the amount came in another currency than the base.
    """

    missing: Sequence[str]
    values: Mapping[str, float]
    is_blind: bool
    is_stale: bool
    is_merchant_named: bool
    is_converted: bool


def reason_codes(groups: Sequence[GroupContribution], about: Circumstances) -> list[str]:
    """List the codes of a score, strongest first, then those of the circumstances; none twice.

    Args:
        groups: contributions, largest rise first; empty when the score is not explained.
        about: circumstances of the answer.
    """
    raised = [group for group in groups if group.contribution > _NOTABLE_MARGIN]
    found = [_code_of(group) for group in raised[:_SCORE_REASONS_MAX]]
    return list(dict.fromkeys([*found, *_of_circumstances(about)]))


def _code_of(group: GroupContribution) -> str:
    feature, value = group.strongest
    if math.isnan(value):
        return "value_unknown"
    return _BY_FEATURE.get(feature.name, group.group)


def _of_circumstances(about: Circumstances) -> list[str]:
    found = []
    if about.is_blind:
        found.append("features_unavailable")
    else:
        is_new = "card:seconds_since_last" in about.missing
        if is_new and "card:count_30d" not in about.missing:
            found.append("card_without_history")
        if about.values.get("merchant_count_30d") == 1.0:
            found.append("merchant_without_history")
    if not about.is_merchant_named:
        found.append("merchant_not_named")
    if about.is_stale:
        found.append("features_stale")
    if about.is_converted:
        found.append("amount_converted")
    return found
