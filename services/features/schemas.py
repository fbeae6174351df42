"""Wire models: events as they are sent, strict, one model per type.

A wrong type is refused, never coerced. Money is whole minor units below 2^40 (`layout.VALUE_MAX`).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from libs.common.features.layout import VALUE_MAX

# Until 2100; a later time is a unit mix-up (microseconds) rather than an event.
EVENT_MS_MAX = 4_102_444_800_000

EntityId = Annotated[str, Field(min_length=1, max_length=128)]
Amount = Annotated[int, Field(ge=0, lt=VALUE_MAX)]
Milliseconds = Annotated[int, Field(gt=0, le=EVENT_MS_MAX)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CardEntities(_Strict):
    """Who takes part in a payment."""

    card_id: EntityId
    merchant_id: EntityId | None = None


class CardValues(_Strict):
    """The payment's numbers."""

    amount_minor: Amount


class CardAttrs(_Strict):
    """The payment's attributes: ISO 18245 category, ISO 3166 country, the device."""

    mcc_code: Annotated[str, Field(pattern=r"^[0-9]{4}$")] | None = None
    country_code: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    device_id: EntityId | None = None


class ItemEntities(_Strict):
    """Who looks at, puts in the cart or buys what."""

    user_id: EntityId
    item_id: EntityId
    session_id: EntityId | None = None


class ItemValues(_Strict):
    """The item's price at that moment."""

    price_minor: Amount | None = None


class ItemAttrs(_Strict):
    """The item's attributes."""

    item_category: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class _Event(_Strict):
    event_id: EntityId
    event_ms: Milliseconds
    # Backfills say when an event became known; live events arrive now.
    arrival_ms: Milliseconds | None = None


class CardTransaction(_Event):
    """A card payment."""

    type: Literal["card_transaction"]
    entities: CardEntities
    values: CardValues
    attrs: CardAttrs = CardAttrs()


class ItemEvent(_Event):
    """A view, a cart event or a purchase."""

    type: Literal["item_view", "item_cart", "item_purchase"]
    entities: ItemEntities
    values: ItemValues = ItemValues()
    attrs: ItemAttrs = ItemAttrs()


WireEvent = Annotated[CardTransaction | ItemEvent, Field(discriminator="type")]
EVENT: TypeAdapter[CardTransaction | ItemEvent] = TypeAdapter(WireEvent)


class RejectedEvent(BaseModel):
    """An event of which nothing was written."""

    index: int
    pointer: str
    reason: str


class IngestAnswer(BaseModel):
    """What became of a batch; sent after the Postgres commit."""

    accepted: int
    duplicates: int
    late: int
    rejected: list[RejectedEvent]
    job_id: str | None = None
