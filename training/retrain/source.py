"""Labelled payments with the features that serving would have read, out of the feature store.

A row's features are evaluated as of its own moment by the reader that serves, over the log as it
had arrived by then, so training sees what the model saw. A label counts if it was known by
`known_by_ms`; a payment without one counts as genuine once it is older than the dispute window,
and is left out before that.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from libs.common.features.contract import FeatureRequest, FeatureService
from libs.common.postgres import Postgres
from services.features.adapters.history import History
from training.packaging import Matrix
from training.quality import Bools, Ints

DAY_MS = 86_400_000
# What people write into feedback; anything else is counted and left out.
FRAUD_WORDS = frozenset({"fraud", "true", "1", "yes", "chargeback", "confirmed_fraud"})
GENUINE_WORDS = frozenset({"genuine", "false", "0", "no", "legit", "legitimate", "not_fraud"})
_CHUNK = 1_000
_PAYMENTS = """
SELECT e.event_id, e.event_ms, e.body::text, l.label
FROM events e LEFT JOIN LATERAL (
    SELECT label FROM labels
    WHERE tenant = e.tenant AND kind = 'transaction' AND subject_id = e.event_id
        AND available_ms <= $4
    ORDER BY available_ms DESC LIMIT 1
) l ON true
WHERE e.tenant = $1 AND e.type = 'card_transaction' AND NOT e.is_late
    AND e.event_ms >= $2 AND e.event_ms < $3
ORDER BY e.event_ms, e.event_id
"""
_OTHER_LABELS = "SELECT count(*) FROM labels WHERE tenant = $1 AND kind = 'prediction'"
_SPAN = """
SELECT min(event_ms), max(event_ms) FROM events
WHERE tenant = $1 AND type = 'card_transaction' AND NOT is_late
"""


class NoDataError(Exception):
    """There is nothing to train on; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which payments are taken.

    Attributes:
        tenant: whose.
        days: up to this many before the newest payment.
        warm_up_days: left out at the beginning of the log, while windows fill.
        maturity_days: dispute window; younger payments without a label are left out.
        known_by_ms: labels that came later are not seen.
    """

    tenant: str
    days: int
    warm_up_days: float
    maturity_days: float
    known_by_ms: int


@dataclass(frozen=True)
class Dataset:
    """Labelled payments in order of time; rows of all arrays belong together.

    Attributes:
        rows: the service's matrix, shape (n, k), float32.
        event_ms / card: shape (n,), time and the card's number.
        mcc / country: shape (n,), text, empty where the payment carries none.
        is_fraud: shape (n,).
        counts: what was taken and what was left out, by reason.
    """

    service: FeatureService
    rows: Matrix
    event_ms: Ints
    card: Ints
    mcc: NDArray[np.str_]
    country: NDArray[np.str_]
    is_fraud: Bools
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.event_ms)

    def select(self, mask: Bools) -> "Dataset":
        """Keep the rows where `mask` holds."""
        return Dataset(
            self.service,
            self.rows[mask],
            self.event_ms[mask],
            self.card[mask],
            self.mcc[mask],
            self.country[mask],
            self.is_fraud[mask],
            self.counts,
        )


@dataclass(frozen=True, slots=True)
class _Payment:
    request: FeatureRequest
    is_fraud: bool


async def load(
    postgres: Postgres,
    service: FeatureService,
    window: Window,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Read payments, labels and point-in-time features.

    Args:
        postgres: pool over the schema `features`.
        service: what the model reads.
        window: which payments.
        advance: told how many of how many rows have their features.

    Raises:
        NoDataError: no payment is left.
    """
    span = await postgres.fetchrow(_SPAN, window.tenant)
    if span is None or span[0] is None:
        raise NoDataError(f"the feature store holds no payment of the tenant {window.tenant}")
    until_ms = span[1] + 1
    since_ms = max(span[0] + int(window.warm_up_days * DAY_MS), until_ms - window.days * DAY_MS)
    found = await postgres.fetch(_PAYMENTS, window.tenant, since_ms, until_ms, window.known_by_ms)
    counts: Counter[str] = Counter()
    payments = list(_labelled(found, window, counts))
    counts["labels by prediction id, which name no payment here"] = int(
        await postgres.fetchval(_OTHER_LABELS, window.tenant) or 0
    )
    if not payments:
        raise NoDataError("no payment is labelled or old enough to count as genuine")
    history, parts = History(postgres), []
    for first in range(0, len(payments), _CHUNK):
        chunk = [payment.request for payment in payments[first : first + _CHUNK]]
        parts.append((await history.read(service, window.tenant, chunk)).matrix)
        advance(first + len(chunk), len(payments))
    return _dataset(service, payments, np.concatenate(parts), dict(counts))


def _labelled(found: Sequence[Any], window: Window, counts: Counter[str]) -> Iterator[_Payment]:
    """Judge each payment's label; counts say what became of it."""
    mature_ms = window.known_by_ms - int(window.maturity_days * DAY_MS)
    for event_id, event_ms, body, label in found:
        word = None if label is None else label.strip().lower()
        if word is None and event_ms > mature_ms:
            counts["without a label and too young to count as genuine"] += 1
        elif word is None or word in GENUINE_WORDS:
            counts["genuine, by label" if word else "genuine, not disputed in time"] += 1
            yield _Payment(_request(event_id, event_ms, orjson.loads(body)), is_fraud=False)
        elif word in FRAUD_WORDS:
            counts["fraud, by label"] += 1
            yield _Payment(_request(event_id, event_ms, orjson.loads(body)), is_fraud=True)
        else:
            counts["with a label that is neither fraud nor genuine"] += 1


def _request(event_id: str, event_ms: int, body: dict[str, Any]) -> FeatureRequest:
    entities = {
        name.removesuffix("_id"): str(value)
        for name, value in body["entities"].items()
        if value is not None
    }
    values = {**body.get("values", {}), **body.get("attrs", {})}
    present = {name: value for name, value in values.items() if value is not None}
    return FeatureRequest(entities, present, event_ms, event_id)


def _dataset(
    service: FeatureService, payments: Sequence[_Payment], rows: Matrix, counts: dict[str, int]
) -> Dataset:
    requests = [payment.request for payment in payments]
    cards = np.array([request.entities.get("card", "") for request in requests])
    return Dataset(
        service=service,
        rows=rows,
        event_ms=np.array([request.now_ms for request in requests], dtype=np.int64),
        card=np.unique(cards, return_inverse=True)[1].astype(np.int64),
        mcc=np.array([str(request.values.get("mcc_code", "")) for request in requests]),
        country=np.array([str(request.values.get("country_code", "")) for request in requests]),
        is_fraud=np.array([payment.is_fraud for payment in payments], dtype=bool),
        counts=counts,
    )
