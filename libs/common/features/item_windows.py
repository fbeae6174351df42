"""The offline twin of the online reader for views, carts and purchases: raw columns, vectorised.

As `windows` for payments; one oracle holds both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.common.features.contract import FloatArray
from libs.common.features.windows import (
    CART,
    DAY_MS,
    ITEM_HORIZON_MS,
    NULL_CODE,
    PURCHASE,
    SESSION_HORIZON_MS,
    USER_HORIZON_MS,
    VIEW,
    IntArray,
    hour_and_weekday,
)


@dataclass(frozen=True)
class ItemEvents:
    """Views, carts and purchases sorted by time; each array of shape (n,), int64.

    Attributes:
        event_ms: Unix milliseconds, ascending.
        user: any integer code.
        item: any integer code.
        kind: `VIEW`, `CART` or `PURCHASE`.
        session: any integer code, `NULL_CODE` unknown.
        category: any integer code, `NULL_CODE` unknown.
        price_minor: minor units, `NULL_CODE` unknown.
    """

    event_ms: IntArray
    user: IntArray
    item: IntArray
    kind: IntArray
    session: IntArray
    category: IntArray
    price_minor: IntArray


@dataclass(frozen=True)
class ItemRequests:
    """Moments of prediction, in any order; each array of shape (m,), int64, codes as in events.

    A request sees the events up to and including `request_ms`; to keep an event that happens at
    the moment of prediction out of its own features, ask one millisecond earlier.
    """

    request_ms: IntArray
    user: IntArray
    item: IntArray
    session: IntArray
    category: IntArray
    price_minor: IntArray


class _Lookup:
    """Counts and sums of a subset of events per group, asked at arbitrary times."""

    def __init__(self, group: IntArray, event_ms: IntArray, values: IntArray) -> None:
        """Arrange events; `group` holds dense numbers, `event_ms` is ascending."""
        order = np.argsort(group, kind="stable")
        self._first_ms = int(event_ms[0]) if len(event_ms) else 0
        self._span = (int(event_ms[-1]) - self._first_ms if len(event_ms) else 0) + 1
        # Times are clipped to [-1, span], so neighbouring groups never touch.
        self._stride = self._span + 2
        self._key = group[order] * self._stride + (event_ms[order] - self._first_ms)
        self._total = np.concatenate(([0], np.cumsum(values[order])))

    def _position(self, group: IntArray, at_ms: IntArray) -> IntArray:
        time = np.clip(at_ms - self._first_ms, -1, self._span)
        return np.searchsorted(self._key, group * self._stride + time, side="right").astype(
            np.int64
        )

    def count(self, group: IntArray, at_ms: IntArray, window_ms: int) -> IntArray:
        """Count events in `(t - window, t]`; a group of -1 has none."""
        return self._position(group, at_ms) - self._position(group, at_ms - window_ms)

    def total(self, group: IntArray, at_ms: IntArray, window_ms: int) -> IntArray:
        """Sum the values in `(t - window, t]`."""
        end, start = self._position(group, at_ms), self._position(group, at_ms - window_ms)
        return (self._total[end] - self._total[start]).astype(np.int64)

    def time(self, group: IntArray, at_ms: IntArray, window_ms: int, *, is_last: bool) -> IntArray:
        """Time of the last (or first) event in the window; meaningless where it is empty."""
        if not len(self._key):
            return np.zeros(len(group), dtype=np.int64)
        end, start = self._position(group, at_ms), self._position(group, at_ms - window_ms)
        position = np.clip(end - 1 if is_last else start, 0, len(self._key) - 1)
        return (self._key[position] % self._stride + self._first_ms).astype(np.int64)


def _numbers(known: IntArray, asked: IntArray) -> tuple[IntArray, IntArray]:
    """Number the codes of events densely; requests get the same numbers, -1 where unknown."""
    codes, number = np.unique(known, return_inverse=True)
    if not len(codes):
        return number.astype(np.int64), np.full(len(asked), -1, dtype=np.int64)
    place = np.clip(np.searchsorted(codes, asked), 0, len(codes) - 1)
    is_known = (codes[place] == asked) & (asked != NULL_CODE)
    return number.astype(np.int64), np.where(is_known, place, -1).astype(np.int64)


def _pair_numbers(
    group: IntArray, asked_group: IntArray, known: IntArray, asked: IntArray
) -> tuple[IntArray, IntArray]:
    """Number the pairs of a dense group and a code; -1 where a request names an unknown one."""
    number, asked_number = _numbers(known, asked)
    width = int(number.max(initial=0)) + 1
    is_known = (asked_group >= 0) & (asked_number >= 0)
    pairs = np.where(is_known, asked_group * width + asked_number, -1)
    return _numbers(group * width + number, pairs)


def personalization_columns(events: ItemEvents, requests: ItemRequests) -> dict[str, FloatArray]:
    """Compute the raw columns of `personalization_v1` at moments of prediction.

    A view without any event inside its horizon (user 90 d, item 30 d, session 1 d) is not found:
    all its columns are NaN there, exactly as in serving.

    Args:
        events: the whole history, ascending.
        requests: m moments.

    Returns:
        One array of shape (m,) per name of `personalization.RAW`.
    """
    columns = _user_columns(events, requests)
    columns |= _session_columns(events, requests)
    columns |= _item_columns(events, requests)
    price = requests.price_minor
    columns["request:price"] = np.where(price == NULL_CODE, np.nan, price / 100.0)
    columns["request:hour"], columns["request:weekday"] = hour_and_weekday(requests.request_ms)
    return columns


def _subset(
    events: ItemEvents, group: IntArray, keep: NDArray[np.bool_], values: IntArray | None = None
) -> _Lookup:
    chosen = events.price_minor if values is None else values
    return _Lookup(group[keep], events.event_ms[keep], chosen[keep])


def _user_columns(events: ItemEvents, requests: ItemRequests) -> dict[str, FloatArray]:
    at, horizon = requests.request_ms, USER_HORIZON_MS
    user, asked = _numbers(events.user, requests.user)
    every = _subset(events, user, np.ones(len(user), dtype=bool))
    kinds = {kind: _subset(events, user, events.kind == kind) for kind in (VIEW, CART, PURCHASE)}
    priced = _subset(events, user, (events.kind != CART) & (events.price_minor != NULL_CODE))
    prices = priced.count(asked, at, 30 * DAY_MS)
    mean = priced.total(asked, at, 30 * DAY_MS) / np.where(prices > 0, prices, 1) / 100.0
    item, asked_item = _pair_numbers(user, asked, events.item, requests.item)
    category, asked_category = _pair_numbers(user, asked, events.category, requests.category)
    in_category = _subset(events, category, events.category != NULL_CODE)
    same_category = in_category.count(asked_category, at, 30 * DAY_MS).astype(np.float64)
    with_item = _subset(events, item, np.ones(len(item), dtype=bool))
    bought = _subset(events, item, events.kind == PURCHASE)
    last = every.time(asked, at, horizon, is_last=True)
    columns = {
        "views_1d": kinds[VIEW].count(asked, at, DAY_MS),
        "views_7d": kinds[VIEW].count(asked, at, 7 * DAY_MS),
        "views_30d": kinds[VIEW].count(asked, at, 30 * DAY_MS),
        "carts_7d": kinds[CART].count(asked, at, 7 * DAY_MS),
        "purchases_30d": kinds[PURCHASE].count(asked, at, 30 * DAY_MS),
        "mean_price_30d": np.where(prices > 0, mean, np.nan),
        "same_category_30d": np.where(requests.category == NULL_CODE, np.nan, same_category),
        "same_item_30d": with_item.count(asked_item, at, 30 * DAY_MS),
        "item_purchases_all": bought.count(asked_item, at, horizon),
        "seconds_since_last": (at - last) / 1000.0,
    }
    return _where_found("user", columns, every.count(asked, at, horizon))


def _session_columns(events: ItemEvents, requests: ItemRequests) -> dict[str, FloatArray]:
    at, horizon = requests.request_ms, SESSION_HORIZON_MS
    session, asked = _numbers(events.session, requests.session)
    every = _subset(events, session, np.ones(len(session), dtype=bool))
    carts = _subset(events, session, events.kind == CART)
    first = every.time(asked, at, horizon, is_last=False)
    count = every.count(asked, at, horizon)
    columns = {
        "events": count,
        "seconds": (at - first) / 1000.0,
        "carts": carts.count(asked, at, horizon),
    }
    return _where_found("session", columns, count)


def _item_columns(events: ItemEvents, requests: ItemRequests) -> dict[str, FloatArray]:
    at = requests.request_ms
    item, asked = _numbers(events.item, requests.item)
    every = _subset(events, item, np.ones(len(item), dtype=bool))
    views = _subset(events, item, events.kind == VIEW)
    purchases = _subset(events, item, events.kind == PURCHASE)
    columns = {
        "views_1d": views.count(asked, at, DAY_MS),
        "views_7d": views.count(asked, at, 7 * DAY_MS),
        "purchases_7d": purchases.count(asked, at, 7 * DAY_MS),
        "purchases_30d": purchases.count(asked, at, 30 * DAY_MS),
    }
    return _where_found("item", columns, every.count(asked, at, ITEM_HORIZON_MS))


def _where_found(
    view: str, columns: Mapping[str, NDArray[Any]], in_horizon: IntArray
) -> dict[str, FloatArray]:
    return {
        f"{view}:{name}": np.where(in_horizon > 0, values.astype(np.float64), np.nan)
        for name, values in columns.items()
    }
