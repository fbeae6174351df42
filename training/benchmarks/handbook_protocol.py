"""The Fraud Detection Handbook's protocol, written from its description: features, folds, measures.

Reference: Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible machine learning for credit card
fraud detection", 2022. Windows come from our own engine (`libs/common/features`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libs.common.features.contract import Columns
from libs.common.features.delayed import DelayedLabels
from libs.common.features.windows import DAY_MS, NULL_CODE, CardEvents, fraud_columns
from training import quality

# 2018-04-01T00:00:00Z; times are naive and read as UTC.
FIRST_DAY_MS = 1_522_540_800_000
TRAIN_DAYS, DELAY_DAYS, TEST_DAYS = 7, 7, 7
# Days from the start to 2018-07-25, 08-01, 08-08, 08-15.
FOLD_STARTS = (115, 122, 129, 136)
_DELAY_MS = 7 * DAY_MS
_WINDOW_DAYS = (1, 7, 30)
# What the six further features say where there is nothing to say.
_NO_EARLIER_S = 1_000_000.0
_HIGH_Z, _HIGH_Z_WINDOW_MS = 2.5, 14 * DAY_MS


@dataclass(frozen=True)
class Payments:
    """Payments in order of time, arrays of shape (n,), int64; `is_fraud` bool."""

    seconds: NDArray[np.int64]
    card: NDArray[np.int64]
    terminal: NDArray[np.int64]
    amount_minor: NDArray[np.int64]
    is_fraud: NDArray[np.bool_]

    @property
    def day(self) -> NDArray[np.int64]:
        """Days since the start."""
        return self.seconds // 86_400


@dataclass(frozen=True, slots=True)
class Measures:
    """AUC ROC, average precision, card precision@100 of one test."""

    auc: float
    ap: float
    cp: float

    def text(self, digits: int = 3) -> str:
        """Show as `.871/.606/.291`."""
        return "/".join(f"{v:.{digits}f}".lstrip("0") for v in (self.auc, self.ap, self.cp))


def mean_measures(folds: Sequence[Measures]) -> Measures:
    """Average over folds."""
    return Measures(
        float(np.mean([fold.auc for fold in folds])),
        float(np.mean([fold.ap for fold in folds])),
        float(np.mean([fold.cp for fold in folds])),
    )


def window_columns(payments: Payments) -> Columns:
    """Raw card columns by the window engine, at each payment."""
    unknown = np.full(len(payments.seconds), NULL_CODE, dtype=np.int64)
    return fraud_columns(
        CardEvents(
            event_ms=FIRST_DAY_MS + payments.seconds * 1000,
            card=payments.card,
            merchant=payments.terminal,
            amount_minor=payments.amount_minor,
            mcc=unknown,
            country=unknown,
        )
    )


def published_features(payments: Payments, columns: Columns) -> NDArray[np.float64]:
    """The publisher's 15 features, shape (n, 15): amount, weekend, night, customer, terminal."""
    features = [
        columns["request:amount"],
        (columns["request:weekday"] >= 5).astype(np.float64),
        (columns["request:hour"] <= 6).astype(np.float64),
    ]
    for days in _WINDOW_DAYS:
        features += [columns[f"card:count_{days}d"], columns[f"card:mean_amount_{days}d"]]
    labels = DelayedLabels(
        FIRST_DAY_MS + payments.seconds * 1000, payments.terminal, payments.is_fraud
    )
    for count, rate in labels.windows(_DELAY_MS, tuple(days * DAY_MS for days in _WINDOW_DAYS)):
        features += [count, rate]
    return np.column_stack(features)


def further_features(payments: Payments, columns: Columns) -> NDArray[np.float64]:
    """Our six, shape (n, 6): amount over means, z, seconds since last, earlier high z."""
    amount = columns["request:amount"]
    ratios = [
        amount / np.maximum(columns[f"card:mean_amount_{days}d"], 0.01) for days in _WINDOW_DAYS
    ]
    z = np.nan_to_num(columns["card:amount_z"], nan=0.0)
    since = np.nan_to_num(columns["card:seconds_since_last"], nan=_NO_EARLIER_S)
    # A delay of one millisecond makes the window end before the current payment.
    flags = DelayedLabels(FIRST_DAY_MS + payments.seconds * 1000, payments.card, z > _HIGH_Z)
    [(count, share)] = flags.windows(1, (_HIGH_Z_WINDOW_MS,))
    return np.column_stack([*ratios, z, since, np.rint(count * share)])


def fold(payments: Payments, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of train and test of the fold that starts on day `start`.

    Cards known as compromised leave the test: those with a fraud in train and, for each test day
    d, those with a fraud up to day d - 8, which is when a label of 7 days is out.
    """
    day = payments.day
    train = (day >= start) & (day < start + TRAIN_DAYS)
    known = set(payments.card[train & payments.is_fraud].tolist())
    parts: list[NDArray[np.int64]] = []
    for step in range(TEST_DAYS):
        today = start + TRAIN_DAYS + DELAY_DAYS + step
        reported = (day == today - DELAY_DAYS - 1) & payments.is_fraud
        known |= set(payments.card[reported].tolist())
        is_known = np.isin(payments.card, np.array(sorted(known), dtype=np.int64))
        parts.append(np.flatnonzero((day == today) & ~is_known))
    return np.flatnonzero(train), np.concatenate(parts)


def measure(payments: Payments, test: NDArray[np.int64], scores: NDArray[np.float64]) -> Measures:
    """Compute the three measures on the test rows."""
    labels = payments.is_fraud[test]
    found = quality.ranking(labels, scores)
    precision = quality.card_precision(labels, scores, payments.day[test], payments.card[test])
    return Measures(found["auc_roc"], found["average_precision"], precision)
