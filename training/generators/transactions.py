"""Card payments with labelled fraud, as arrays: `generate` a period or `recent_history` up to now.

Fields follow the event that the features service ingests. `scenario` says what truly happened and
is never a feature; `is_fraud` is what was reported, wrong for about one report in fifty.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from training.generators import draws
from training.generators.frauds import SCENARIOS, fraudulent
from training.generators.payments import DAY_MS, NO_DEVICE, genuine, join
from training.generators.world import (
    COUNTRIES,
    DEMO_CARD,
    DEMO_MERCHANT,
    MCC,
    Ints,
    make_cards,
    make_merchants,
)

GENERATOR_VERSION = "2"
# A report that never arrives.
NEVER_MS = 2**63 - 1
_LABEL_DELAY_DAYS_MAX = 60.0
_DISPUTE_WINDOW_DAYS = 30


@dataclass(frozen=True)
class Transactions:
    """Payments in order of (time, key), arrays of shape (n,); text fields are built on demand.

    Attributes:
        key: unique number, the hexadecimal part of `transaction_id`.
        event_ms: milliseconds since 1970 UTC.
        card: entity number.
        merchant: entity number.
        mcc: ISO 18245 code as a number.
        country: index into `COUNTRIES`.
        amount_minor: minor units, positive.
        is_fraud: what was (or would have been) reported.
        label_available_ms: when the label is known, `NEVER_MS` if never.
        scenario: index into `SCENARIOS`.
        device: number of the phone or browser, `payments.NO_DEVICE` for a card at a till.
    """

    key: draws.Keys
    event_ms: Ints
    card: Ints
    merchant: Ints
    mcc: Ints
    country: Ints
    amount_minor: Ints
    is_fraud: NDArray[np.bool_]
    label_available_ms: Ints
    scenario: NDArray[np.int8]
    device: Ints

    def __len__(self) -> int:
        return len(self.key)

    def select(self, mask: NDArray[np.bool_]) -> "Transactions":
        """Keep the rows where `mask` holds."""
        return Transactions(*(getattr(self, item.name)[mask] for item in fields(self)))

    @property
    def country_code(self) -> NDArray[np.str_]:
        """ISO 3166 alpha-2 codes."""
        return np.array(COUNTRIES)[self.country]

    def events(self) -> Iterator[dict[str, object]]:
        """Give each payment with the field names of the data contract, Python values."""
        for row in range(len(self)):
            yield {
                "transaction_id": f"tx_{int(self.key[row]):016x}",
                "event_ms": int(self.event_ms[row]),
                "card_id": f"card_{int(self.card[row]):08d}",
                "merchant_id": f"merchant_{int(self.merchant[row]):05d}",
                "mcc_code": f"{int(self.mcc[row]):04d}",
                "country_code": COUNTRIES[int(self.country[row])],
                "amount_minor": int(self.amount_minor[row]),
                "device_id": device_id(int(self.device[row])),
                "is_fraud": bool(self.is_fraud[row]),
                "label_available_ms": int(self.label_available_ms[row]),
                "scenario": SCENARIOS[int(self.scenario[row])],
            }


def generate(
    seed: int, cards: int | Ints, merchants: int | Ints, days: int, start_ms: int
) -> Transactions:
    """Generate all payments of a period.

    Args:
        seed: same seed, same payments.
        cards: how many (numbers 0 to n - 1), or the entity numbers themselves.
        merchants: likewise.
        days: length of the period, >= 1.
        start_ms: rounded down to midnight UTC.

    Returns:
        payments in order of time; days, trips and fraud are drawn by calendar day, so overlapping
        periods of the same length share their payments.
    """
    start_day = start_ms // DAY_MS
    world = make_cards(seed, _numbers(cards), days)
    shops = make_merchants(seed, _numbers(merchants))
    honest = genuine(seed, world, shops, start_day, days)
    drafts = join([honest, fraudulent(seed, world, shops, honest, start_day, days)])

    is_inside = drafts.event_ms < (start_day + days) * DAY_MS
    order = np.lexsort((drafts.key, drafts.event_ms))
    order = order[is_inside[order]]
    key, event_ms, scenario = drafts.key[order], drafts.event_ms[order], drafts.scenario[order]
    merchant = drafts.merchant[order]
    is_fraud, label_available_ms = _labels(key, event_ms, scenario)
    return Transactions(
        key=key,
        event_ms=event_ms,
        card=world.ids[drafts.card[order]],
        merchant=shops.ids[merchant],
        mcc=MCC[shops.category[merchant]],
        country=shops.country[merchant],
        amount_minor=np.maximum(50, np.rint(100.0 * drafts.amount[order])).astype(np.int64),
        is_fraud=is_fraud,
        label_available_ms=label_available_ms,
        scenario=scenario,
        device=drafts.device[order],
    )


def recent_history(
    now_ms: int, *, seed: int = 7, cards: int = 60, merchants: int = 20_000, days: int = 31
) -> Transactions:
    """Generate the payments of the last days up to `now_ms`, a few thousand by default.

    `card_00001234` and `merchant_12345` are always among them, and that card is a regular of that
    merchant, so that the first request of the README meets real features.
    """
    card_ids = np.unique(np.append(np.arange(cards - 1), DEMO_CARD))
    merchant_ids = np.unique(np.append(np.arange(merchants), DEMO_MERCHANT))
    start_ms = (now_ms // DAY_MS - days + 1) * DAY_MS
    history = generate(seed, card_ids, merchant_ids, days, start_ms)
    return history.select(history.event_ms <= now_ms)


def device_id(number: int) -> str | None:
    """Give the id of a device, None where a payment has none."""
    return None if number == NO_DEVICE else f"device_{number:010x}"


def _numbers(entities: int | Ints) -> Ints:
    if isinstance(entities, int):
        return np.arange(entities, dtype=np.int64)
    return np.asarray(entities, dtype=np.int64)


def _labels(
    key: draws.Keys, event_ms: Ints, scenario: NDArray[np.int8]
) -> tuple[NDArray[np.bool_], Ints]:
    """Reported label and when it is known: median 7 days, 5 % of frauds never, some wrong."""
    is_misuse = scenario > 0
    is_wrong = draws.uniform(key, 70) < np.where(is_misuse, 0.02, 0.0001)
    is_fraud = is_misuse ^ is_wrong
    delay_days = np.minimum(7.0 * np.exp(0.7 * draws.normal(key, 71)), _LABEL_DELAY_DAYS_MAX)
    delay_days = np.where(is_fraud, delay_days, _DISPUTE_WINDOW_DAYS)
    available = event_ms + (delay_days * DAY_MS).astype(np.int64)
    is_unreported = is_fraud & (draws.uniform(key, 72) < 0.05)
    return is_fraud, np.where(is_unreported, NEVER_MS, available)
