"""Reason codes against their documented table, and amounts in other currencies."""

import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.features.fraud import FRAUD_V1
from services.inference.domain.currency import BUILT_IN, CurrencyRates, RatesError
from services.inference.domain.reasons import MEANINGS, Circumstances, reason_codes
from services.inference.domain.scoring import group_contributions, grouping_of

DOCS = Path(__file__).parents[4] / "docs" / "scoring.md"
NAMES = FRAUD_V1.names
CALM: dict[str, Any] = {
    "missing": [],
    "values": {},
    "is_blind": False,
    "is_stale": False,
    "is_merchant_named": True,
    "is_converted": False,
}


def _codes(contributions: dict[str, float], read: dict[str, float], **about: Any) -> list[str]:
    row = np.array([read.get(name, 1.0) for name in NAMES], np.float32)
    added = np.array([contributions.get(name, 0.0) for name in NAMES])
    groups = group_contributions(grouping_of(FRAUD_V1), row, added)
    return reason_codes(groups, Circumstances(**{**CALM, **about}))


def test_the_strongest_feature_of_each_raised_group_names_the_code():
    found = _codes({"card_count_1h": 1.2, "card_count_30d": 0.1, "hour": 0.4, "amount": -2.0}, {})
    assert found == ["payments_in_quick_succession", "time_of_day"]


def test_a_missing_value_that_raises_is_called_unknown():
    assert _codes({"card_amount_z": 0.5}, {"card_amount_z": float("nan")}) == ["value_unknown"]


@pytest.mark.parametrize(
    ("about", "code"),
    [
        ({"missing": ["card:seconds_since_last"]}, "card_without_history"),
        ({"values": {"merchant_count_30d": 1.0}}, "merchant_without_history"),
        ({"is_merchant_named": False}, "merchant_not_named"),
        ({"is_blind": True}, "features_unavailable"),
        ({"is_stale": True}, "features_stale"),
        ({"is_converted": True}, "amount_converted"),
    ],
)
def test_circumstances_have_codes_of_their_own(about: dict[str, Any], code: str):
    assert _codes({}, {}, **about) == [code]


def test_a_blind_answer_does_not_call_the_card_new():
    found = _codes({}, {}, missing=["card:seconds_since_last", "card:count_30d"], is_blind=True)
    assert found == ["features_unavailable"]


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(-3, 3), max_size=8))
def test_every_code_has_a_documented_meaning_and_stands_once(contributions: dict[str, float]):
    found = _codes(contributions, {})
    assert set(found) <= set(MEANINGS)
    assert len(found) == len(set(found))


def test_the_table_of_the_page_is_the_table_of_the_code():
    listed = dict(re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", DOCS.read_text(), re.MULTILINE))
    assert {code: listed.get(code) for code in MEANINGS} == dict(MEANINGS)


def test_an_amount_is_turned_into_the_base_by_its_rate():
    rates = CurrencyRates("USD", date(2026, 1, 1), {"EUR": 1.25})
    euros = rates.convert(80.0, "EUR")
    assert euros is not None
    assert (euros.amount, euros.rate, euros.currency) == (100.0, 1.25, "EUR")
    for code in (None, "USD"):
        plain = rates.convert(80.0, code)
        assert plain is not None
        assert (plain.amount, plain.rate) == (80.0, 1.0)
    assert rates.convert(80.0, "XTS") is None


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.sampled_from([None, *BUILT_IN.rates]))
def test_a_larger_amount_never_becomes_the_smaller_one(a: float, b: float, code: str | None):
    low, high = (BUILT_IN.convert(amount, code) for amount in sorted((a, b)))
    assert low is not None
    assert high is not None
    assert low.amount <= high.amount


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"base": "USD", "as_of": "yesterday", "rates": {}},
        {"base": "usd", "as_of": "2026-01-01", "rates": {}},
        {"base": "USD", "as_of": "2026-01-01", "rates": {"EURO": 1.1}},
        {"base": "USD", "as_of": "2026-01-01", "rates": {"EUR": 0}},
        {"base": "USD", "as_of": "2026-01-01", "rates": {"EUR": float("nan")}},
        {"base": "USD", "as_of": "2026-01-01", "rates": {"EUR": "1.1"}},
        {"base": "USD", "as_of": "2026-01-01", "rates": {"EUR": True}},
    ],
)
def test_a_table_that_is_none_is_refused(document: dict[str, Any]):
    with pytest.raises(RatesError):
        CurrencyRates.from_json(document)
