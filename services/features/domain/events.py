"""From an event to the ring records it leaves: which entities, which partition, which bytes."""

from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

from libs.common.features.layout import (
    AHEAD_MS,
    LATENESS_MS,
    VIEWS,
    code_of,
    country_code,
    mcc_code,
    tag_of,
)
from libs.common.features.windows import CART, NULL_CODE, PURCHASE, VIEW

PARTITIONS = 16
_KINDS = {"item_view": VIEW, "item_cart": CART, "item_purchase": PURCHASE}


@dataclass(frozen=True, slots=True)
class Touch:
    """What an event writes online: view, entity, and a packed record or a packed vector."""

    view: str
    entity: str
    record: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """A validated event, ready to be written.

    Attributes:
        body: entities, values and attrs as sent.
        is_late: logged and counted, applied nowhere.
        pushed: of a pushed vector, what it writes online (empty: kept as history only); None for
            an event that feeds windows.
    """

    event_id: str
    type: str
    event_ms: int
    arrival_ms: int
    body: dict[str, Any]
    is_late: bool
    pushed: tuple[Touch, ...] | None = None

    @property
    def touches(self) -> list[Touch]:
        """What this event changes online; nothing when it is late."""
        if self.pushed is not None:
            return list(self.pushed)
        touches = _touches(self)
        if self.is_late:
            # Rows without a record are applied nowhere; erasure finds the event by them.
            return [Touch(touch.view, touch.entity, b"") for touch in touches]
        return touches


class LogRow(NamedTuple):
    """One row of a partition's log.

    Attributes:
        offset: gap-free within the partition, from 1.
        arrival_ms: when the event became known.
    """

    partition: int
    offset: int
    tenant: str
    view: str
    entity: str
    record: bytes
    arrival_ms: int


def partition_of(tenant: str, view: str, entity: str) -> int:
    """Give the partition of an entity; stable for ever, the log depends on it."""
    return crc32("\0".join((tenant, view, entity)).encode()) % PARTITIONS


def is_ahead(event_ms: int, arrival_ms: int) -> bool:
    """Say whether an event lies too far in the future: it would trim its ring."""
    return event_ms > arrival_ms + AHEAD_MS


def is_late(event_ms: int, arrival_ms: int) -> bool:
    """Say whether an event arrived after the lateness bound."""
    return arrival_ms - event_ms > LATENESS_MS


def _touches(event: Accepted) -> list[Touch]:
    entities, attrs = event.body["entities"], event.body.get("attrs", {})
    values, tag = event.body.get("values", {}), tag_of(event.event_id)

    def touch(view: str, entity: str, value: int, *codes: int) -> Touch:
        record = VIEWS[view].record.pack(event.event_ms, value, tag, *codes)
        return Touch(view, entity, record)

    if event.type == "card_transaction":
        amount, merchant = values["amount_minor"], entities.get("merchant_id")
        mcc, country = mcc_code(attrs.get("mcc_code")), country_code(attrs.get("country_code"))
        device = attrs.get("device_id")
        codes = (mcc, country, code_of(merchant), 0 if device is None else code_of(device))
        touches = [touch("card", entities["card_id"], amount, *codes)]
        if merchant is not None:
            touches.append(touch("merchant", merchant, amount))
        return touches
    kind, price = _KINDS[event.type], values.get("price_minor", NULL_CODE)
    item, category = entities["item_id"], code_of(attrs.get("item_category"))
    touches = [
        touch("user", entities["user_id"], price, kind, category, code_of(item), 0),
        touch("item", item, price, kind, 0),
    ]
    if "session_id" in entities:
        touches.append(touch("session", entities["session_id"], price, kind, 0))
    return touches
