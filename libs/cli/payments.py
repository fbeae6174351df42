"""A day of payments to replay: generated, or taken from a parquet file of recorded ones."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DAY_MS = 86_400_000
# A month whose last day holds some fraud; cards that the runner's own seed does not use.
_SEED = 11
_FIRST_CARD = 5_000
_CARDS = 200
_MERCHANTS = 20_000
_DAYS = 31
_START_MS = 1_767_571_200_000  # 2026-01-05


class DataError(Exception):
    """The file cannot be replayed; the text says why and what helps."""


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment of the day; `is_fraud` is the truth, which no service is told."""

    transaction_id: str
    event_ms: int
    card_id: str
    merchant_id: str
    amount_minor: int
    mcc_code: str | None
    country_code: str | None
    is_fraud: bool
    device_id: str | None = None

    def score_body(self) -> dict[str, Any]:
        """Give the body for `POST /score/fraud`."""
        body: dict[str, Any] = {
            "card_id": self.card_id,
            "transaction_amount": self.amount_minor / 100,
            "merchant_id": self.merchant_id,
            "transaction_id": self.transaction_id,
        }
        if self.mcc_code:
            body |= {"mcc_code": self.mcc_code, "country_code": self.country_code}
        if self.device_id:
            body["device_id"] = self.device_id
        return body

    def event(self) -> dict[str, Any]:
        """Give the event for `POST /features/events`; the same id, so that it counts once."""
        attrs = {
            "mcc_code": self.mcc_code,
            "country_code": self.country_code,
            "device_id": self.device_id,
        }
        return {
            "event_id": self.transaction_id,
            "type": "card_transaction",
            "event_ms": self.event_ms,
            "entities": {"card_id": self.card_id, "merchant_id": self.merchant_id},
            "values": {"amount_minor": self.amount_minor},
            "attrs": attrs if self.mcc_code else {},
        }


def generated_day(now_ms: int, limit: int) -> tuple[list[Payment], list[Payment]]:
    """Generate a month and shift it so that its newest payment is now.

    Returns:
        the history of the cards before the last day, and the payments of the last day.
    """
    import numpy as np

    from training.generators.transactions import generate

    cards = np.arange(_FIRST_CARD, _FIRST_CARD + _CARDS)
    drawn = generate(_SEED, cards, _MERCHANTS, days=_DAYS, start_ms=_START_MS)
    payments = [_from_generator(row) for row in drawn.events()]
    return _history_and_day(payments, payments[-1].event_ms - DAY_MS, now_ms, limit)


def _history_and_day(
    payments: list[Payment], day_starts_ms: int, now_ms: int, limit: int
) -> tuple[list[Payment], list[Payment]]:
    day = [payment for payment in payments if payment.event_ms > day_starts_ms][:limit]
    if not day:
        raise DataError("There is no payment on that day.")
    # Each replay has cards and payments of its own, so that the same day gives the same decisions
    # however often it is replayed.
    run = now_ms // 1000 % 100_000
    cards = {
        card_id: f"card_{run:05d}{number:03d}"
        for number, card_id in enumerate(sorted({payment.card_id for payment in day}))
    }
    shift = now_ms - day[-1].event_ms

    def renamed(payment: Payment) -> Payment:
        return replace(
            payment,
            event_ms=payment.event_ms + shift,
            card_id=cards[payment.card_id],
            transaction_id=f"{payment.transaction_id}-{run}",
        )

    before = (p for p in payments if p.event_ms <= day_starts_ms and p.card_id in cards)
    return [renamed(payment) for payment in before], [renamed(payment) for payment in day]


def _from_generator(row: dict[str, Any]) -> Payment:
    return Payment(
        transaction_id=row["transaction_id"],
        event_ms=row["event_ms"],
        card_id=row["card_id"],
        merchant_id=row["merchant_id"],
        amount_minor=row["amount_minor"],
        mcc_code=row["mcc_code"],
        country_code=row["country_code"],
        is_fraud=row["is_fraud"],
        device_id=row["device_id"],
    )


def recorded_day(
    path: Path, day: int, now_ms: int, limit: int
) -> tuple[list[Payment], list[Payment]]:
    """Take one day, and the month before it, of a file with the fraud handbook's columns.

    Columns: transaction_id, tx_time_seconds, customer_id, terminal_id, amount_cents,
    fraud_scenario.

    Raises:
        DataError: pyarrow is not installed, or the file is not such a file.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise DataError("Reading parquet needs pyarrow: run `make install` first.") from None
    file = path / "transactions.parquet" if path.is_dir() else path
    window = [
        ("tx_time_seconds", ">=", (day - _DAYS + 1) * DAY_MS // 1000),
        ("tx_time_seconds", "<", (day + 1) * DAY_MS // 1000),
    ]
    try:
        rows = read_table(file, filters=window).sort_by("tx_time_seconds").to_pylist()
        payments = [_from_handbook(row) for row in rows]
    except (OSError, KeyError, ArrowException) as error:
        raise DataError(f"{file} cannot be replayed: {error}") from error
    return _history_and_day(payments, day * DAY_MS - 1, now_ms, limit)


def _from_handbook(row: dict[str, Any]) -> Payment:
    return Payment(
        transaction_id=f"fh-{row['transaction_id']}",
        event_ms=row["tx_time_seconds"] * 1000,
        card_id=f"card_{row['customer_id']:08d}",
        merchant_id=f"merchant_{row['terminal_id']:05d}",
        amount_minor=row["amount_cents"],
        mcc_code=None,
        country_code=None,
        is_fraud=row["fraud_scenario"] > 0,
    )
