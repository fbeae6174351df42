"""Brute force over plain Python objects: what each window means, with no cleverness at all."""

import math
import statistics
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

DAY = 86_400_000
HOUR = 3_600_000
NAN = math.nan


@dataclass(frozen=True)
class Payment:
    event_ms: int
    card: int
    merchant: int
    amount_minor: int
    mcc: int
    country: int
    device: int = -1


@dataclass(frozen=True)
class Interaction:
    event_ms: int
    user: int
    item: int
    kind: int
    session: int
    category: int
    price_minor: int


def _window(events: list[Any], t: int, w: int) -> list[Any]:
    return [event for event in events if t - w < event.event_ms <= t]


def _mean_major(events: list[Payment]) -> float:
    return float(Fraction(sum(event.amount_minor for event in events), 100 * len(events)))


def same_device(earlier: list[Payment], now: Payment) -> float:
    """Earlier payments of the card in 30 days with this device, NaN for none named."""
    card = [event for event in earlier if event.card == now.card]
    same = [e for e in _window(card, now.event_ms, 30 * DAY) if e.device == now.device]
    return NAN if now.device == -1 else len(same)


def fraud_row(earlier: list[Payment], now: Payment) -> dict[str, float]:
    """`earlier`: every payment before `now` in (time, arrival) order; -1 means unknown."""
    t = now.event_ms
    card = [event for event in earlier if event.card == now.card]
    row: dict[str, float] = {}
    for name, w in (("1h", HOUR), ("1d", DAY), ("7d", 7 * DAY), ("30d", 30 * DAY)):
        row[f"card:count_{name}"] = len(_window([*card, now], t, w))
    for d in (1, 7, 30):
        row[f"card:mean_amount_{d}d"] = _mean_major(_window([*card, now], t, d * DAY))
    row["card:seconds_since_last"] = (t - card[-1].event_ms) / 1000 if card else NAN
    amounts = [event.amount_minor for event in card]
    sigma = statistics.pstdev(amounts) if len(amounts) > 3 else 0.0
    row["card:amount_z"] = (now.amount_minor - statistics.mean(amounts)) / sigma if sigma else NAN
    month = _window(card, t, 30 * DAY)
    for name in ("mcc", "country", "merchant"):
        code = getattr(now, name)
        same = sum(getattr(event, name) == code for event in month)
        row[f"card:same_{name}_30d"] = NAN if code == -1 else same
    day = {event.country for event in _window([*card, now], t, DAY)}
    row["card:countries_1d"] = len(day - {-1})
    shop = [event for event in earlier if event.merchant == now.merchant]
    for d in (1, 7, 30):
        inside = _window([*shop, now], t, d * DAY)
        is_known = now.merchant != -1
        row[f"merchant:count_{d}d"] = len(inside) if is_known else NAN
        row[f"merchant:mean_amount_{d}d"] = _mean_major(inside) if is_known else NAN
    row["request:amount"] = now.amount_minor / 100
    row["request:mcc"] = now.mcc if now.mcc != -1 else NAN
    row["request:hour"] = t // HOUR % 24
    row["request:weekday"] = (t // DAY + 3) % 7
    return row


def personalization_row(events: list[Interaction], now: Interaction) -> dict[str, float]:
    """`now.kind` is ignored; the request is no event."""
    t = now.event_ms
    user = _window([event for event in events if event.user == now.user], t, 90 * DAY)
    row: dict[str, float] = {}

    def count(chosen: list[Interaction], w: int) -> int:
        return len(_window(chosen, t, w))

    views = [event for event in user if event.kind == 0]
    for d in (1, 7, 30):
        row[f"user:views_{d}d"] = count(views, d * DAY)
    row["user:carts_7d"] = count([event for event in user if event.kind == 1], 7 * DAY)
    row["user:purchases_30d"] = count([event for event in user if event.kind == 2], 30 * DAY)
    priced = [
        event.price_minor
        for event in _window(user, t, 30 * DAY)
        if event.kind != 1 and event.price_minor != -1
    ]
    row["user:mean_price_30d"] = float(Fraction(sum(priced), 100 * len(priced))) if priced else NAN
    row["user:same_category_30d"] = (
        NAN
        if now.category == -1
        else count([event for event in user if event.category == now.category], 30 * DAY)
    )
    row["user:same_item_30d"] = count([e for e in user if e.item == now.item], 30 * DAY)
    row["user:item_purchases_all"] = sum(e.item == now.item and e.kind == 2 for e in user)
    row["user:seconds_since_last"] = (t - user[-1].event_ms) / 1000 if user else NAN
    if not user:
        row = dict.fromkeys(row, NAN)
    session = _window([e for e in events if e.session == now.session != -1], t, DAY)
    row["session:events"] = len(session) if session else NAN
    row["session:seconds"] = (t - session[0].event_ms) / 1000 if session else NAN
    row["session:carts"] = sum(e.kind == 1 for e in session) if session else NAN
    item = [event for event in events if event.item == now.item]
    for name, kind, d in (
        ("views_1d", 0, 1),
        ("views_7d", 0, 7),
        ("purchases_7d", 2, 7),
        ("purchases_30d", 2, 30),
    ):
        is_found = count(item, 30 * DAY) > 0
        chosen = [event for event in item if event.kind == kind]
        row[f"item:{name}"] = count(chosen, d * DAY) if is_found else NAN
    row["request:price"] = now.price_minor / 100 if now.price_minor != -1 else NAN
    row["request:hour"] = t // HOUR % 24
    row["request:weekday"] = (t // DAY + 3) % 7
    return row
