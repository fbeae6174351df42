"""The offline twin of the online reader: raw columns for a whole history, vectorised.

One oracle holds both (`tests/unit/common/features`). Windows are `(t - w, t]`; order is time, then
position in the arrays. Money is integer minor units, so sums are exact whatever their order.
Codes are integers; `NULL_CODE` says that the event does not carry the attribute.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libs.common.features.contract import FloatArray

IntArray = NDArray[np.int64]

NULL_CODE = -1
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
# A z score against fewer earlier amounts says nothing.
Z_EARLIER_MIN = 4
# How long a user's events stay readable; `user:item_purchases_all` counts within it.
USER_HORIZON_MS = 90 * DAY_MS
ITEM_HORIZON_MS = 30 * DAY_MS
SESSION_HORIZON_MS = DAY_MS

VIEW, CART, PURCHASE = 0, 1, 2


@dataclass(frozen=True)
class CardEvents:
    """Card payments sorted by time (ties in arrival order); each array of shape (n,), int64.

    Attributes:
        event_ms: Unix milliseconds, ascending.
        card: any integer code of the card.
        merchant: any integer code, `NULL_CODE` unknown.
        amount_minor: minor units, at least 0.
        mcc: ISO 18245 as a number, `NULL_CODE` unknown.
        country: any integer code, `NULL_CODE` unknown.
        device: likewise; None where no payment names one.
    """

    event_ms: IntArray
    card: IntArray
    merchant: IntArray
    amount_minor: IntArray
    mcc: IntArray
    country: IntArray
    device: IntArray | None = None


def fraud_columns(
    events: CardEvents,
    *,
    shown_merchant: IntArray | None = None,
    shown_mcc: IntArray | None = None,
    shown_country: IntArray | None = None,
    shown_device: IntArray | None = None,
) -> dict[str, FloatArray]:
    """Compute the raw columns of `fraud_v1` as serving would at each payment.

    Args:
        events: the whole history.
        shown_merchant: what the score request carried where it left the merchant out although the
            ingested payment has it: the same codes with `NULL_CODE` blanks; default as ingested.
        shown_mcc: likewise for the category.
        shown_country: likewise for the country.
        shown_device: likewise for the device.

    Returns:
        One array of shape (n,) per name of `fraud.RAW`, and `card:same_device_30d`, rows in the
        order of `events`.
    """
    merchant = events.merchant if shown_merchant is None else shown_merchant
    mcc = events.mcc if shown_mcc is None else shown_mcc
    country = events.country if shown_country is None else shown_country
    unknown = np.full(len(events.card), NULL_CODE, dtype=np.int64)
    known_device = unknown if events.device is None else events.device
    device = known_device if shown_device is None else shown_device
    columns = _card_columns(events)
    for name, key, shown in (
        ("card:same_mcc_30d", events.mcc, mcc),
        ("card:same_country_30d", events.country, country),
        ("card:same_merchant_30d", events.merchant, merchant),
        ("card:same_device_30d", known_device, device),
    ):
        group = _Groups.of(_pair(events.card, key), events.event_ms)
        earlier = group.scatter(group.counts(30 * DAY_MS) - 1).astype(np.float64)
        columns[name] = np.where(shown == NULL_CODE, np.nan, earlier)
    columns["card:countries_1d"] = _countries_1d(events, is_hidden=country == NULL_CODE)
    columns |= _merchant_columns(events, is_hidden=merchant == NULL_CODE)
    columns["request:amount"] = events.amount_minor / 100.0
    columns["request:hour"], columns["request:weekday"] = hour_and_weekday(events.event_ms)
    columns["request:mcc"] = np.where(mcc == NULL_CODE, np.nan, mcc.astype(np.float64))
    return columns


def hour_and_weekday(at_ms: IntArray) -> tuple[FloatArray, FloatArray]:
    """Give the UTC hour (0-23) and weekday (Monday 0) of Unix milliseconds, shape (n,) each."""
    hour = (at_ms // HOUR_MS) % 24
    weekday = (at_ms // DAY_MS + 3) % 7  # 1970-01-01 was a Thursday
    return hour.astype(np.float64), weekday.astype(np.float64)


@dataclass(frozen=True)
class _Groups:
    """Events laid out group by group, in time order within each.

    Attributes:
        order: shape (n,), original position of each laid-out event.
        key: shape (n,), ascending: group number times `stride` plus time since the first event.
        stride: larger than any time span plus any window, so that windows stay in their group.
        first: shape (n,), laid-out position of the group's first event.
    """

    order: IntArray
    key: IntArray
    stride: int
    first: IntArray

    @classmethod
    def of(cls, group: IntArray, event_ms: IntArray) -> "_Groups":
        order = np.argsort(group, kind="stable")
        arranged = group[order]
        is_first = np.ones(len(group), dtype=bool)
        is_first[1:] = arranged[1:] != arranged[:-1]
        number = np.cumsum(is_first) - 1
        time = event_ms - (event_ms[0] if len(event_ms) else 0)
        stride = int(time[-1] if len(time) else 0) + USER_HORIZON_MS + 1
        positions = np.arange(len(group))
        first = np.maximum.accumulate(np.where(is_first, positions, 0))
        return cls(order, number * stride + time[order], stride, first)

    def starts(self, window_ms: int) -> IntArray:
        """Give the position of the first event inside `(t - window, t]` of each event."""
        found = np.searchsorted(self.key, self.key - window_ms, side="right")
        return np.maximum(found, self.first).astype(np.int64)

    def counts(self, window_ms: int) -> IntArray:
        """Count the events in the window of each event, itself and earlier ones."""
        return np.arange(len(self.order)) - self.starts(window_ms) + 1

    def means(self, values: IntArray, window_ms: int) -> FloatArray:
        """Mean of laid-out `values` over the window of each event, in hundredths."""
        total = np.concatenate(([0], np.cumsum(values)))
        sums = total[1:] - total[self.starts(window_ms)]
        return sums / self.counts(window_ms) / 100.0

    def scatter(self, laid_out: NDArray[np.generic]) -> NDArray[np.generic]:
        """Bring laid-out values back to the original order."""
        back = np.empty_like(laid_out)
        back[self.order] = laid_out
        return back


def _pair(left: IntArray, right: IntArray) -> IntArray:
    """Number the distinct pairs of two code columns, shape (n,)."""
    _, left_number = np.unique(left, return_inverse=True)
    right_codes, right_number = np.unique(right, return_inverse=True)
    return (left_number * max(1, len(right_codes)) + right_number).astype(np.int64)


def _card_columns(events: CardEvents) -> dict[str, FloatArray]:
    group = _Groups.of(events.card, events.event_ms)
    amount = events.amount_minor[group.order]
    laid_out: dict[str, FloatArray] = {}
    for name, window_ms in (("1h", HOUR_MS), ("1d", DAY_MS), ("7d", 7 * DAY_MS)):
        laid_out[f"count_{name}"] = group.counts(window_ms).astype(np.float64)
    laid_out["count_30d"] = group.counts(30 * DAY_MS).astype(np.float64)
    for days in (1, 7, 30):
        laid_out[f"mean_amount_{days}d"] = group.means(amount, days * DAY_MS)
    positions = np.arange(len(amount))
    gap = np.diff(group.key, prepend=0) / 1000.0
    laid_out["seconds_since_last"] = np.where(positions > group.first, gap, np.nan)
    laid_out["amount_z"] = _z_against_earlier(group, amount)
    return {f"card:{name}": _floats(group.scatter(values)) for name, values in laid_out.items()}


def _z_against_earlier(group: _Groups, amount: IntArray) -> FloatArray:
    """Deviation of each amount from all earlier ones of its group, in population sigmas.

    `(n x - s) / sqrt(n q - s^2)` with count n, sum s and sum of squares q; NaN with three or fewer
    earlier amounts or without spread. Amounts are taken relative to their group's first one: it
    changes nothing in the formula, keeps the squares small, and equal amounts give exactly 0.
    """
    n = np.arange(len(amount)) - group.first
    if not len(amount):
        return np.empty(0)
    relative = amount - amount[group.first]
    s = _earlier_sum(relative, group.first)
    q = _earlier_sum(relative * relative, group.first)
    spread = n.astype(np.float64) * q - s.astype(np.float64) ** 2
    is_known = (n >= Z_EARLIER_MIN) & (spread > 0)
    safe = np.where(is_known, spread, 1.0)
    return np.where(is_known, (n * relative - s) / np.sqrt(safe), np.nan)


def _earlier_sum(values: IntArray, first: IntArray) -> IntArray:
    total = np.concatenate(([0], np.cumsum(values)))
    return (total[:-1] - total[first]).astype(np.int64)


def _countries_1d(events: CardEvents, is_hidden: NDArray[np.bool_]) -> FloatArray:
    """Distinct known countries of the card in a day; the current one counts unless hidden.

    An event is the last of its country in a window when the card's next event there lies beyond
    the window's end. The loop runs over the distance to the current event: as often as the
    busiest card has payments in a day.
    """
    group = _Groups.of(events.card, events.event_ms)
    country = events.country[group.order]
    pair = _pair(events.card, events.country)[group.order]
    following = _next_position(pair)
    counts = group.counts(DAY_MS)
    hidden = is_hidden[group.order]
    found = (~hidden & (country != NULL_CODE)).astype(np.float64)
    rows = np.flatnonzero(counts > 1)
    distance = 1
    while len(rows):
        other = rows - distance
        beyond = np.where(hidden[rows], rows - 1, rows)
        found[rows] += (country[other] != NULL_CODE) & (following[other] > beyond)
        distance += 1
        rows = rows[counts[rows] > distance]
    return _floats(group.scatter(found))


def _next_position(code: IntArray) -> IntArray:
    """Give the next position with the same code, or one past the end, shape (n,)."""
    order = np.argsort(code, kind="stable")
    following = np.full(len(code), len(code), dtype=np.int64)
    is_same = code[order][1:] == code[order][:-1]
    following[order[:-1][is_same]] = order[1:][is_same]
    return following


def _merchant_columns(events: CardEvents, is_hidden: NDArray[np.bool_]) -> dict[str, FloatArray]:
    group = _Groups.of(events.merchant, events.event_ms)
    amount = events.amount_minor[group.order]
    columns: dict[str, FloatArray] = {}
    for days in (1, 7, 30):
        count = group.scatter(group.counts(days * DAY_MS).astype(np.float64))
        mean = group.scatter(group.means(amount, days * DAY_MS))
        columns[f"merchant:count_{days}d"] = np.where(is_hidden, np.nan, count)
        columns[f"merchant:mean_amount_{days}d"] = np.where(is_hidden, np.nan, mean)
    return columns


def _floats(values: NDArray[np.generic]) -> FloatArray:
    return values.astype(np.float64, copy=False)
