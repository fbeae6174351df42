"""From events to the records of rings."""

import pytest

from libs.common.features.layout import AHEAD_MS, LATENESS_MS, VIEWS, code_of, country_code, tag_of
from services.features.domain.definitions import documents
from services.features.domain.events import (
    PARTITIONS,
    Accepted,
    is_ahead,
    is_late,
    partition_of,
)


def _payment(*, late: bool = False, merchant: str | None = "m") -> Accepted:
    entities = {"card_id": "c"} if merchant is None else {"card_id": "c", "merchant_id": merchant}
    body = {"entities": entities, "values": {"amount_minor": 5}, "attrs": {"country_code": "GB"}}
    return Accepted("e1", "card_transaction", 1000, 1000, body, late)


def test_a_payment_touches_its_card_and_its_merchant() -> None:
    card, merchant = _payment().touches
    assert (card.view, card.entity, merchant.view, merchant.entity) == (
        "card",
        "c",
        "merchant",
        "m",
    )
    fields = VIEWS["card"].record.unpack(card.record)
    assert fields == (1000, 5, tag_of("e1"), -1, country_code("GB"), code_of("m"), 0)
    assert VIEWS["merchant"].record.unpack(merchant.record) == (1000, 5, tag_of("e1"))


def test_a_payment_without_merchant_touches_its_card_only() -> None:
    assert [touch.view for touch in _payment(merchant=None).touches] == ["card"]


def test_a_late_event_leaves_rows_for_erasure_and_writes_nothing() -> None:
    touches = _payment(late=True).touches
    assert [touch.view for touch in touches] == ["card", "merchant"]
    assert all(touch.record == b"" for touch in touches)


def test_an_item_event_without_price_or_session_keeps_both_unknown() -> None:
    event = Accepted("e", "item_cart", 7, 7, {"entities": {"user_id": "u", "item_id": "i"}}, False)
    user, item = event.touches
    assert VIEWS["user"].record.unpack(user.record) == (7, -1, tag_of("e"), 1, -1, code_of("i"), 0)
    assert VIEWS["item"].record.unpack(item.record) == (7, -1, tag_of("e"), 1, 0)


def test_partitions_are_stable_and_all_used() -> None:
    assert partition_of("default", "card", "card_00000001") == 12
    used = {partition_of("t", "card", f"card_{number}") for number in range(500)}
    assert used == set(range(PARTITIONS))


@pytest.mark.parametrize(("delay_ms", "expected"), [(LATENESS_MS, False), (LATENESS_MS + 1, True)])
def test_the_lateness_bound_itself_is_in_time(delay_ms: int, expected: bool) -> None:
    assert is_late(1_000, 1_000 + delay_ms) is expected


@pytest.mark.parametrize(("lead_ms", "expected"), [(AHEAD_MS, False), (AHEAD_MS + 1, True)])
def test_an_event_may_lead_its_arrival_by_five_minutes(lead_ms: int, expected: bool) -> None:
    assert is_ahead(1_000 + lead_ms, 1_000) is expected


def test_definitions_have_unique_names_and_fingerprints() -> None:
    listed = documents()
    assert len({(item["kind"], item["name"]) for item in listed}) == len(listed)
    assert all(len(item["fingerprint"]) == 16 for item in listed)
    assert documents() == listed
