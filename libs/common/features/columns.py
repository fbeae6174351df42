"""Raw features of many rows at once: what `rows` computes for one, column by column.

Pure; one oracle holds both. Each function answers every raw feature of its view, one array of
shape (n,) each, NaN where unknown. A window that reaches behind what a bounded ring still holds
is unknown.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.common.features.contract import FloatArray
from libs.common.features.laid import IntArray, Rows
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

Values = dict[str, FloatArray]

_WEEK, _MONTH = 7 * DAY_MS, 30 * DAY_MS
# Windows that each view asks for; `Rows` is made with them.
WINDOWS: dict[str, tuple[int, ...]] = {
    "card": (HOUR_MS, DAY_MS, _WEEK, _MONTH),
    "merchant": (DAY_MS, _WEEK, _MONTH),
    "user": (DAY_MS, _WEEK, _MONTH, USER_HORIZON_MS),
    "session": (SESSION_HORIZON_MS,),
    "item": (DAY_MS, _WEEK, _MONTH),
}
# Up to this amount the squares of a full ring sum exactly in 64 bits.
_SQUARE_SAFE = 1 << 24
_LIMB_BITS = 20
_CODE_BITS = 32


def card_columns(
    rows: Rows,
    amount_minor: IntArray,
    mcc: IntArray,
    country: IntArray,
    merchant: IntArray,
    device: IntArray,
) -> Values:
    """Card features of payments; each counts once, at its moment, ingested or not."""
    columns = _counts_and_means(rows, "card", amount_minor, (DAY_MS, _WEEK, _MONTH))
    columns["card:count_1h"] = rows.where_known(HOUR_MS, rows.count(HOUR_MS) + 1.0)
    columns["card:seconds_since_last"] = rows.seconds_since_last()
    columns["card:amount_z"] = _z(rows, amount_minor)
    row, position = rows.inside(_MONTH)
    for name, field, code in (
        ("card:same_mcc_30d", "mcc", mcc),
        ("card:same_country_30d", "country", country),
        ("card:same_merchant_30d", "merchant", merchant),
        ("card:same_device_30d", "device", device),
    ):
        is_same = rows.field(field)[position] == code[row]
        columns[name] = _same(rows, _MONTH, code, _tally(rows, row[is_same]))
    in_day = position >= rows.starts[DAY_MS][row]
    columns["card:countries_1d"] = _distinct(
        rows, row[in_day], rows.field("country")[position[in_day]], country
    )
    return columns


def merchant_columns(rows: Rows, amount_minor: IntArray) -> Values:
    """Merchant features of payments; each counts once, at its moment."""
    return _counts_and_means(rows, "merchant", amount_minor, (DAY_MS, _WEEK, _MONTH))


def user_columns(rows: Rows, category: IntArray, item: IntArray) -> Values:
    """User features at moments of prediction; NaN where no event lies in 90 days."""
    kind = rows.field("kind")
    views, carts = rows.sums(kind == VIEW), rows.sums(kind == CART)
    bought = kind == PURCHASE
    columns = {
        f"user:views_{days}d": rows.where_known(days * DAY_MS, views.over(days * DAY_MS))
        for days in (1, 7, 30)
    }
    columns["user:carts_7d"] = rows.where_known(_WEEK, carts.over(_WEEK))
    columns["user:purchases_30d"] = rows.where_known(_MONTH, rows.sums(bought).over(_MONTH))
    priced = (kind != CART) & (rows.values != NULL_CODE)
    prices = rows.sums(priced).over(_MONTH)
    spent = rows.sums(np.where(priced, rows.values, 0)).over(_MONTH)
    mean = np.where(prices > 0, spent / np.maximum(prices, 1) / 100.0, np.nan)
    columns["user:mean_price_30d"] = rows.where_known(_MONTH, mean)
    row, position = rows.inside(_MONTH)
    for name, field, code in (("category", "category", category), ("item", "item", item)):
        is_same = rows.field(field)[position] == code[row]
        columns[f"user:same_{name}_30d"] = _same(rows, _MONTH, code, _tally(rows, row[is_same]))
    row, position = rows.inside(USER_HORIZON_MS)
    is_same = (rows.field("item")[position] == item[row]) & bought[position]
    all_time = rows.where_known(USER_HORIZON_MS, _tally(rows, row[is_same]))
    columns["user:item_purchases_all"] = all_time
    columns["user:seconds_since_last"] = rows.seconds_since_last()
    return _where(rows.is_found(USER_HORIZON_MS), columns)


def session_columns(rows: Rows) -> Values:
    """Session features; NaN where no event lies in a day."""
    start = rows.starts[SESSION_HORIZON_MS]
    carts = rows.sums(rows.field("kind") == CART)
    columns = {
        "session:events": rows.count(SESSION_HORIZON_MS).astype(np.float64),
        "session:seconds": (rows.now_ms - rows.times_at(start)) / 1000.0,
        "session:carts": carts.over(SESSION_HORIZON_MS).astype(np.float64),
    }
    is_known = rows.is_found(SESSION_HORIZON_MS) & rows.known[SESSION_HORIZON_MS]
    return _where(is_known, columns)


def item_columns(rows: Rows) -> Values:
    """Item features; NaN where no event lies in 30 days."""
    kind = rows.field("kind")
    views, bought = rows.sums(kind == VIEW), rows.sums(kind == PURCHASE)
    columns = {
        "item:views_1d": rows.where_known(DAY_MS, views.over(DAY_MS)),
        "item:views_7d": rows.where_known(_WEEK, views.over(_WEEK)),
        "item:purchases_7d": rows.where_known(_WEEK, bought.over(_WEEK)),
        "item:purchases_30d": rows.where_known(_MONTH, bought.over(_MONTH)),
    }
    return _where(rows.is_found(ITEM_HORIZON_MS), columns)


def _where(is_known: NDArray[np.bool_], columns: Values) -> Values:
    return {name: np.where(is_known, values, np.nan) for name, values in columns.items()}


def _counts_and_means(
    rows: Rows, view: str, amount_minor: IntArray, windows_ms: tuple[int, ...]
) -> Values:
    """Counts and means in major units, the current amount included."""
    sums = rows.sums(rows.values)
    columns: Values = {}
    for window_ms in windows_ms:
        name, count = f"{window_ms // DAY_MS}d", rows.count(window_ms) + 1
        mean = (sums.over(window_ms) + amount_minor) / count / 100.0
        columns[f"{view}:count_{name}"] = rows.where_known(window_ms, count)
        columns[f"{view}:mean_amount_{name}"] = rows.where_known(window_ms, mean)
    return columns


def _z(rows: Rows, amount_minor: IntArray) -> FloatArray:
    """`(n x - s) / sqrt(n q - s^2)` over all earlier amounts, in whole numbers to the end."""
    count = (rows.end - rows.begin).tolist()
    total = rows.sums(rows.values).whole().tolist()
    squares = _squares(rows)
    past = rows.past
    found = np.full(len(count), np.nan)
    for index, (ring, current) in enumerate(
        zip(rows.ring.tolist(), amount_minor.tolist(), strict=True)
    ):
        past_n, past_sum, past_squares = past(ring)
        n = past_n + count[index]
        if n < Z_EARLIER_MIN:
            continue
        s = past_sum + total[index]
        spread = n * (past_squares + squares[index]) - s * s
        if spread > 0:
            found[index] = (n * current - s) / math.sqrt(spread)
    return found


def _squares(rows: Rows) -> list[int]:
    """Exact sums of squares of everything each row's ring holds up to now."""
    values = rows.values
    if not len(values) or int(values.max()) < _SQUARE_SAFE:
        return [int(value) for value in rows.sums(values * values).whole()]
    high, low = values >> _LIMB_BITS, values & ((1 << _LIMB_BITS) - 1)
    parts = (rows.sums(product).whole() for product in (high * high, high * low, low * low))
    return [
        (int(hh) << (2 * _LIMB_BITS)) + (int(hl) << (_LIMB_BITS + 1)) + int(ll)
        for hh, hl, ll in zip(*parts, strict=True)
    ]


def _tally(rows: Rows, row: IntArray) -> NDArray[Any]:
    return np.bincount(row, minlength=len(rows.ring))


def _same(rows: Rows, window_ms: int, code: IntArray, count: NDArray[Any]) -> FloatArray:
    return np.where(code == NULL_CODE, np.nan, rows.where_known(window_ms, count))


def _distinct(
    rows: Rows, row: IntArray, countries: NDArray[np.int32], current: IntArray
) -> FloatArray:
    """Distinct known countries in a day, the current one included."""
    pair = np.concatenate(
        (
            (row << _CODE_BITS) + countries,
            (np.arange(len(current)) << _CODE_BITS) + current,
        )
    )
    known = np.concatenate((countries, current)) != NULL_CODE
    row_of_pair = np.unique(pair[known]) >> _CODE_BITS
    return rows.where_known(DAY_MS, _tally(rows, row_of_pair))


def stored_columns(view: str, rows: Rows) -> Values:
    """Give what the stored events alone say at a moment: no current event, no request.

    The features of a view that depend on a request are not among them. An empty window counts 0
    and has no mean.
    """
    nothing = np.full(len(rows.ring), NULL_CODE, dtype=np.int64)
    if view in {"card", "merchant"}:
        return _stored_payments(view, rows, nothing)
    if view == "user":
        found = user_columns(rows, nothing, nothing)
        return {name: values for name, values in found.items() if name in STORED}
    return session_columns(rows) if view == "session" else item_columns(rows)


def _stored_payments(view: str, rows: Rows, nothing: IntArray) -> Values:
    sums = rows.sums(rows.values)
    columns: Values = {}
    for window_ms in WINDOWS[view]:
        name = f"{window_ms // DAY_MS}d" if window_ms >= DAY_MS else "1h"
        count = rows.count(window_ms)
        columns[f"{view}:count_{name}"] = rows.where_known(window_ms, count)
        if window_ms >= DAY_MS:
            mean = np.where(count > 0, sums.over(window_ms) / np.maximum(count, 1) / 100.0, np.nan)
            columns[f"{view}:mean_amount_{name}"] = rows.where_known(window_ms, mean)
    if view == "card":
        columns["card:seconds_since_last"] = rows.seconds_since_last()
        row, position = rows.inside(DAY_MS)
        countries = rows.field("country")[position]
        columns["card:countries_1d"] = _distinct(rows, row, countries, nothing)
    return columns


# Raw features that need no request, per view in the order of the contract.
STORED: tuple[str, ...] = (
    *(f"card:count_{name}" for name in ("1h", "1d", "7d", "30d")),
    *(f"card:mean_amount_{name}" for name in ("1d", "7d", "30d")),
    "card:seconds_since_last",
    "card:countries_1d",
    *(f"merchant:count_{name}" for name in ("1d", "7d", "30d")),
    *(f"merchant:mean_amount_{name}" for name in ("1d", "7d", "30d")),
    *(f"user:views_{name}" for name in ("1d", "7d", "30d")),
    "user:carts_7d",
    "user:purchases_30d",
    "user:mean_price_30d",
    "user:seconds_since_last",
    "session:events",
    "session:seconds",
    "session:carts",
    "item:views_1d",
    "item:views_7d",
    "item:purchases_7d",
    "item:purchases_30d",
)
