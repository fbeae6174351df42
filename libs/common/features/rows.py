"""Raw features of one row from its rings: the same windows as `windows`, one moment at a time.

Pure; a ring of None is an entity without any event. Each function answers every raw feature of its
view; NaN where unknown. A window that reaches behind what a bounded ring still holds is unknown.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from libs.common.features.layout import Past, Ring, code_of, country_code, mcc_code
from libs.common.features.windows import (
    CART,
    DAY_MS,
    HOUR_MS,
    ITEM_HORIZON_MS,
    NULL_CODE,
    PURCHASE,
    SESSION_HORIZON_MS,
    USER_HORIZON_MS,
    VIEW,
    Z_EARLIER_MIN,
)

NAN = math.nan
Values = dict[str, float]

_WINDOWS_MS = (HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
# Up to this amount the squares of a full ring sum exactly in 64 bits.
_SQUARE_SAFE = 2**24


class Events:
    """The events of one ring up to `now_ms`, without the one that carries `tag`."""

    def __init__(self, ring: Ring | None, now_ms: int, tag: int | None = None) -> None:
        self.now_ms = now_ms
        self.past = ring.past if ring else Past()
        records = ring.records if ring else None
        if records is not None and tag is not None and len(records):
            is_current = records["tag"] == tag
            if is_current.any():
                records = records[~is_current]
        self.records = records
        self.times: NDArray[np.int64] = (
            np.ascontiguousarray(records["event_ms"]) if records is not None else _NO_TIMES
        )
        self.end = int(self.times.searchsorted(now_ms, "right"))

    def start(self, window_ms: int) -> int | None:
        """Give the first position inside `(now - window, now]`, None when the ring forgot some."""
        since = self.now_ms - window_ms
        if self.past.n and since < self.past.last_ms:
            return None
        return int(self.times.searchsorted(since, "right"))

    def column(self, name: str) -> NDArray[np.int64]:
        """Give one field of the events up to now."""
        if self.records is None:
            return _NO_TIMES
        values: NDArray[np.int64] = self.records[name][: self.end]
        return values

    def seconds_since_last(self) -> float:
        """Give the age of the newest event, NaN without any."""
        if self.end:
            return (self.now_ms - int(self.times[self.end - 1])) / 1000.0
        return (self.now_ms - self.past.last_ms) / 1000.0 if self.past.n else NAN


_NO_TIMES: NDArray[np.int64] = np.empty(0, dtype=np.int64)


def card_row(events: Events, amount_minor: int, values: Mapping[str, object]) -> Values:
    """Card features of a payment; it is counted once, at `now`, ingested or not."""
    amounts = np.ascontiguousarray(events.column("value"))
    row: Values = {}
    starts = [events.start(window_ms) for window_ms in _WINDOWS_MS]
    for name, start in zip(("1h", "1d", "7d", "30d"), starts, strict=True):
        row[f"card:count_{name}"] = NAN if start is None else events.end - start + 1.0
    for name, start in zip(("1d", "7d", "30d"), starts[1:], strict=True):
        row[f"card:mean_amount_{name}"] = _mean(amounts, start, amount_minor)
    row["card:seconds_since_last"] = events.seconds_since_last()
    row["card:amount_z"] = _z(events, amounts, amount_minor)
    country = country_code(_text(values, "country_code"))
    for name, field, code in (
        ("card:same_mcc_30d", "mcc", mcc_code(_text(values, "mcc_code"))),
        ("card:same_country_30d", "country", country),
        ("card:same_merchant_30d", "merchant", code_of(_text(values, "merchant"))),
        ("card:same_device_30d", "device", code_of(_text(values, "device_id"))),
    ):
        row[name] = _same(events, field, code, starts[3])
    row["card:countries_1d"] = _distinct(events.column("country"), starts[1], country)
    return row


def merchant_row(events: Events, amount_minor: int) -> Values:
    """Merchant features of a payment; it is counted once, at `now`."""
    amounts = np.ascontiguousarray(events.column("value"))
    row: Values = {}
    for days in (1, 7, 30):
        start = events.start(days * DAY_MS)
        row[f"merchant:count_{days}d"] = NAN if start is None else events.end - start + 1.0
        row[f"merchant:mean_amount_{days}d"] = _mean(amounts, start, amount_minor)
    return row


def user_row(events: Events, values: Mapping[str, object]) -> Values:
    """User features at a moment of prediction; empty when no event lies in 90 days."""
    if not _found(events, USER_HORIZON_MS):
        return {}
    kind = events.column("kind")
    row: Values = {}
    for days in (1, 7, 30):
        row[f"user:views_{days}d"] = _same(events, "kind", VIEW, events.start(days * DAY_MS))
    row["user:carts_7d"] = _same(events, "kind", CART, events.start(7 * DAY_MS))
    month = events.start(30 * DAY_MS)
    row["user:purchases_30d"] = _same(events, "kind", PURCHASE, month)
    row["user:mean_price_30d"] = _mean_price(events.column("value"), kind, month)
    category = code_of(_text(values, "item_category"))
    item = code_of(_text(values, "item"))
    row["user:same_category_30d"] = _same(events, "category", category, month)
    row["user:same_item_30d"] = _same(events, "item", item, month)
    row["user:item_purchases_all"] = _purchases(events, item)
    row["user:seconds_since_last"] = events.seconds_since_last()
    return row


def session_row(events: Events) -> Values:
    """Session features; empty when no event lies in a day."""
    if not _found(events, SESSION_HORIZON_MS):
        return {}
    start = events.start(SESSION_HORIZON_MS)
    if start is None:
        return {}
    return {
        "session:events": float(events.end - start),
        "session:seconds": (events.now_ms - int(events.times[start])) / 1000.0,
        "session:carts": _same(events, "kind", CART, start),
    }


def item_row(events: Events) -> Values:
    """Item features; empty when no event lies in 30 days."""
    if not _found(events, ITEM_HORIZON_MS):
        return {}
    return {
        "item:views_1d": _same(events, "kind", VIEW, events.start(DAY_MS)),
        "item:views_7d": _same(events, "kind", VIEW, events.start(7 * DAY_MS)),
        "item:purchases_7d": _same(events, "kind", PURCHASE, events.start(7 * DAY_MS)),
        "item:purchases_30d": _same(events, "kind", PURCHASE, events.start(30 * DAY_MS)),
    }


def _text(values: Mapping[str, object], name: str) -> str | None:
    value = values.get(name)
    return None if value is None else str(value)


def _found(events: Events, horizon_ms: int) -> bool:
    since = events.now_ms - horizon_ms
    return bool(events.end) and int(events.times[events.end - 1]) > since


def _mean(amounts: NDArray[np.int64], start: int | None, current: int) -> float:
    """Mean in major units of the amounts from `start` on and the current one."""
    if start is None:
        return NAN
    inside = amounts[start:]
    return (int(np.add.reduce(inside)) + current) / (len(inside) + 1) / 100.0


def _z(events: Events, amounts: NDArray[np.int64], current: int) -> float:
    """`(n x - s) / sqrt(n q - s^2)` over all earlier amounts, in whole numbers to the end."""
    n = events.past.n + len(amounts)
    if n < Z_EARLIER_MIN:
        return NAN
    total = events.past.sum + int(np.add.reduce(amounts))
    spread = n * (events.past.sum_of_squares + _sum_of_squares(amounts)) - total * total
    return (n * current - total) / math.sqrt(spread) if spread > 0 else NAN


def _sum_of_squares(amounts: NDArray[np.int64]) -> int:
    if len(amounts) and int(np.maximum.reduce(amounts)) >= _SQUARE_SAFE:
        return sum(amount * amount for amount in amounts.tolist())
    return int(amounts.dot(amounts))


def _same(events: Events, field: str, code: int, start: int | None) -> float:
    """Count the events from `start` on whose field has this code."""
    if start is None or code == NULL_CODE:
        return NAN
    return float(np.count_nonzero(events.column(field)[start:] == code))


def _distinct(countries: NDArray[np.int64], start: int | None, current: int) -> float:
    if start is None:
        return NAN
    return float(len({*countries[start:].tolist(), current} - {NULL_CODE}))


def _mean_price(prices: NDArray[np.int64], kind: NDArray[np.int64], start: int | None) -> float:
    if start is None:
        return NAN
    known = prices[start:][(kind[start:] != CART) & (prices[start:] != NULL_CODE)]
    return int(np.add.reduce(known)) / len(known) / 100.0 if len(known) else NAN


def _purchases(events: Events, item: int) -> float:
    start = events.start(USER_HORIZON_MS)
    if start is None:
        return NAN
    bought = (events.column("item")[start:] == item) & (events.column("kind")[start:] == PURCHASE)
    return float(np.count_nonzero(bought))
