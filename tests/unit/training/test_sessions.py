"""The session generator: reproducible, ordered, and purchases follow views."""

import numpy as np

from libs.common.features.windows import CART, PURCHASE, VIEW
from training.generators.sessions import generate, item_id, recent_history

START_MS = 1_735_689_600_000


def test_the_same_seed_gives_the_same_events_and_a_subset_of_users_is_stable():
    many = generate(3, 60, 20, START_MS)
    again = generate(3, 60, 20, START_MS)
    assert np.array_equal(many.event_ms, again.event_ms)
    assert np.array_equal(many.item, again.item)
    few = generate(3, np.array([7, 9]), 20, START_MS)
    chosen = many.select(np.isin(many.user, [7, 9]))
    assert len(few) > 0
    assert np.array_equal(few.session, chosen.session)
    assert np.array_equal(few.item, chosen.item)
    assert np.array_equal(few.event_ms, chosen.event_ms)


def test_every_purchase_follows_a_cart_and_a_view_of_the_item_in_its_session():
    events = generate(3, 200, 20, START_MS)
    assert np.all(np.diff(events.event_ms) >= 0)
    seen: dict[tuple[int, int], set[int]] = {}
    for session, item, kind in zip(events.session, events.item, events.kind, strict=True):
        before = seen.setdefault((int(session), int(item)), set())
        if kind == CART:
            assert VIEW in before
        if kind == PURCHASE:
            assert {VIEW, CART} <= before
        before.add(int(kind))
    shares = np.bincount(events.kind, minlength=3) / len(events)
    assert shares[VIEW] > 0.7
    assert shares[PURCHASE] > 0.01


def test_events_carry_the_names_of_the_mission():
    history = recent_history(START_MS + 5_000_000_000)
    event = next(history.select(history.user == 5678).events())
    assert event["user_id"] == "user_00005678"
    assert event["event_type"] in {"view", "cart", "purchase"}
    assert item_id(0) == "item_electronics_001"
    ids = [e["event_id"] for e in history.events()]
    assert len(set(ids)) == len(ids)
