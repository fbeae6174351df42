"""Offline twin of the shipped view `merchant_risk`: what had turned out to be fraud at a shop.

Tiles are UTC days, windows `[day(t) - 7 - w, day(t) - 7)`; a fraud counts from the moment its
report is known. Serving reads the same from the feature store.
"""

import numpy as np
from numpy.typing import NDArray

from libs.common.features.contract import FloatArray
from training.generators.payments import DAY_MS
from training.generators.transactions import NEVER_MS, Transactions

DELAY_DAYS = 7
_WINDOW_DAYS = (1, 7, 30)


def merchant_risk_columns(
    payments: Transactions, is_hidden: NDArray[np.bool_]
) -> dict[str, FloatArray]:
    """Compute the raw columns at each payment.

    Args:
        payments: the whole history, in order of time.
        is_hidden: shape (n,), requests that name no shop.

    Returns:
        `merchant_risk:labelled_count_{1,7,30}d` and `merchant_risk:fraud_rate_{1,7,30}d`, shape
        (n,) each; the rate of an empty window is NaN.
    """
    shops, number = np.unique(payments.merchant, return_inverse=True)
    first_day = int(payments.event_ms[0]) // DAY_MS
    time = payments.event_ms - first_day * DAY_MS
    # Wider than the period and everything that is added to or taken off a time below.
    stride = int(time[-1]) + (DELAY_DAYS + max(_WINDOW_DAYS) + 2) * DAY_MS
    order = np.lexsort((time, number))
    keys = number[order] * stride + time[order]
    day = time[order] // DAY_MS
    base = number[order] * stride
    found: dict[str, FloatArray] = {}
    for window in _WINDOW_DAYS:
        last = np.maximum((day - DELAY_DAYS) * DAY_MS, 0)
        first = np.maximum((day - DELAY_DAYS - window) * DAY_MS, 0)
        counts = np.searchsorted(keys, base + last) - np.searchsorted(keys, base + first)
        hits = _known_frauds(payments, number, keys, stride, first_day, window)
        rate = np.where(counts > 0, hits / np.maximum(counts, 1), np.nan)
        for name, values in (("labelled_count", counts.astype(np.float64)), ("fraud_rate", rate)):
            column = np.empty(len(order))
            column[order] = values
            found[f"merchant_risk:{name}_{window}d"] = np.where(is_hidden, np.nan, column)
    assert len(shops) * stride < 2**62, "the keys of all shops must fit 64 bits"
    return found


def _known_frauds(
    payments: Transactions,
    number: NDArray[np.intp],
    keys: NDArray[np.int64],
    stride: int,
    first_day: int,
    window: int,
) -> NDArray[np.int64]:
    """Count, at each laid-out payment, the reported frauds of its shop in the window."""
    is_reported = payments.is_fraud & (payments.label_available_ms < NEVER_MS)
    fraud_day = payments.event_ms[is_reported] // DAY_MS - first_day
    known_ms = payments.label_available_ms[is_reported] - first_day * DAY_MS
    # A fraud of day f counts at times from the start of day f + 8 to the end of day f + 7 + w,
    # and from its report on.
    begin = np.maximum((fraud_day + DELAY_DAYS + 1) * DAY_MS, known_ms)
    end = (fraud_day + DELAY_DAYS + window + 1) * DAY_MS
    shop = number[is_reported] * stride
    longest = stride - 1
    start = np.searchsorted(keys, shop + np.minimum(begin, longest))
    stop = np.searchsorted(keys, shop + np.minimum(end, longest))
    change = np.zeros(len(keys) + 1, dtype=np.int64)
    counted = stop > start
    np.add.at(change, start[counted], 1)
    np.add.at(change, stop[counted], -1)
    return np.cumsum(change[:-1])
