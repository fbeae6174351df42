"""The packed layout of a ring: what one Redis STRING holds per (tenant, view, entity).

Little-endian, in this order (the Lua script in `services/features/adapters/ring.lua` writes it):

    header  48 B  magic u16 | schema_id u16 | flags u32 | event_ms u64 | written_ms u64 |
                  epoch u64 | partition u32 | pad u32 | offset u64
    past    40 B  n u64 | sum i64 | sq_hi u64 | sq_lo u64 | last_ms u64
    records       event_ms u64 | value i64 | tag u64 | attrs i32 x (even number)

Records ascend by (event_ms, arrival). `header.event_ms` is the newest event; `past` holds what left
the ring: how many, their sum, their squares as `sq_hi * 2^32 + sq_lo`, the newest time among them.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from libs.common.features.windows import (
    DAY_MS,
    ITEM_HORIZON_MS,
    NULL_CODE,
    SESSION_HORIZON_MS,
    USER_HORIZON_MS,
)
from libs.common.redis_keys import ESCAPES, tag

MAGIC = 0x4647
HEADER = struct.Struct("<HHIQQQIIQ")
PAST = struct.Struct("<QqQQQ")
PREFIX_BYTES = HEADER.size + PAST.size
RECORD_FIELDS = struct.Struct("<QqQ")

# Of the built-in views, and of definitions that do not say otherwise: later arrivals are logged and
# counted, applied nowhere, online or offline.
LATENESS_MS = DAY_MS
# An event further ahead is refused at ingestion: it would trim the ring.
AHEAD_MS = 5 * 60_000
# A value stays below this, so that sums and squares are exact in Lua's doubles.
VALUE_MAX = 2**40
# Present while the store holds what the log says; absent after Redis came back empty.
SERVING_KEY = "features:serving"


class LayoutError(ValueError):
    """The bytes are no ring of the expected view."""


@dataclass(frozen=True)
class RingView:
    """One kind of ring.

    Attributes:
        name: `card`, `merchant`, `user`, `item` or `session`; the entity has the same name.
        schema_id: u16 in the header.
        attrs: i32 columns of a record, an even number, `pad` where unused. A card's `device` is 0
            where the payment names none.
        horizon_ms: longest window that is answered.
        ttl_ms: age of the newest event after which the view counts as stale.
        expire_ms: the key vanishes this long after the last write.
        records_max: older records are folded into `past` beyond it; windows that reach further
            back are then unknown rather than wrong.
        lateness_ms: an event that arrives later after it happened is not written.
    """

    name: str
    schema_id: int
    attrs: tuple[str, ...]
    horizon_ms: int
    ttl_ms: int
    expire_ms: int
    records_max: int
    lateness_ms: int = LATENESS_MS

    @property
    def keep_ms(self) -> int:
        """How far behind its newest event a ring keeps records."""
        return self.horizon_ms + self.lateness_ms + AHEAD_MS

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The record as a numpy type."""
        fields = [("event_ms", "<i8"), ("value", "<i8"), ("tag", "<u8")]
        return np.dtype([*fields, *((name, "<i4") for name in self.attrs)])

    @cached_property
    def record(self) -> struct.Struct:
        """The record as a struct: event_ms, value, tag, attrs."""
        return struct.Struct(f"{RECORD_FIELDS.format}{len(self.attrs)}i")

    def key(self, tenant: str, entity: str) -> str:
        """Build the Redis key; tenant and entity share the hash tag."""
        return f"features:{tag(tenant, self.name, entity)}:ring"

    def keys(self, tenant: str, entities: Sequence[str | None]) -> list[str | None]:
        """Build the keys of many entities, None where there is none."""
        start, end = self.key(tenant, "").split("}")
        return [
            f"{start}{entity.translate(ESCAPES)}}}{end}" if entity else None for entity in entities
        ]


# The card's ring has folded history (z score, time since the last payment): kept 400 days.
_MONTH = 30 * DAY_MS
VIEWS: dict[str, RingView] = {
    view.name: view
    for view in (
        RingView(
            "card",
            1,
            ("mcc", "country", "merchant", "device"),
            _MONTH,
            _MONTH,
            400 * DAY_MS,
            8192,
        ),
        RingView("merchant", 2, (), _MONTH, _MONTH, _MONTH + 2 * DAY_MS, 8192),
        RingView(
            "user",
            3,
            ("kind", "category", "item", "pad"),
            USER_HORIZON_MS,
            _MONTH,
            USER_HORIZON_MS + 2 * DAY_MS,
            8192,
        ),
        RingView(
            "item",
            4,
            ("kind", "pad"),
            ITEM_HORIZON_MS,
            7 * DAY_MS,
            ITEM_HORIZON_MS + 2 * DAY_MS,
            8192,
        ),
        RingView(
            "session",
            5,
            ("kind", "pad"),
            SESSION_HORIZON_MS,
            SESSION_HORIZON_MS,
            SESSION_HORIZON_MS + 2 * DAY_MS,
            2048,
        ),
    )
}


class Past(NamedTuple):
    """What left the ring; all zero while nothing did."""

    n: int = 0
    sum: int = 0
    sum_of_squares: int = 0
    last_ms: int = 0


class Ring(NamedTuple):
    """One decoded blob.

    Attributes:
        event_ms: time of the newest event.
        written_ms: wall clock of the last write.
        offset: highest log offset applied.
        past: what left the ring.
        records: structured array of `view.dtype`, ascending; a read-only view of the bytes.
    """

    event_ms: int
    written_ms: int
    offset: int
    past: Past
    records: NDArray[np.void]


def unpack_ring(view: RingView, blob: bytes) -> Ring:
    """Decode a blob without copying the records.

    Raises:
        LayoutError: wrong magic, schema or length.
    """
    if len(blob) < PREFIX_BYTES or (len(blob) - PREFIX_BYTES) % view.dtype.itemsize:
        raise LayoutError(f"{view.name}: wrong length")
    magic, schema_id, _, event_ms, written_ms, _, _, _, offset = HEADER.unpack_from(blob)
    if magic != MAGIC or schema_id != view.schema_id:
        raise LayoutError(f"{view.name}: wrong magic or schema")
    n, total, sq_hi, sq_lo, last_ms = PAST.unpack_from(blob, HEADER.size)
    past = Past(n, total, (sq_hi << 32) + sq_lo, last_ms)
    records = np.frombuffer(blob, view.dtype, offset=PREFIX_BYTES)
    return Ring(event_ms, written_ms, offset, past, records)


def pack_ring(
    view: RingView,
    records: Sequence[tuple[int, ...]],
    *,
    past: Past | None = None,
    event_ms: int | None = None,
    written_ms: int = 0,
    epoch: int = 0,
    partition: int = 0,
    offset: int = 0,
) -> bytes:
    """Encode a ring; `records` are (event_ms, value, tag, *attrs), ascending."""
    newest = event_ms if event_ms is not None else max((row[0] for row in records), default=0)
    header = HEADER.pack(MAGIC, view.schema_id, 0, newest, written_ms, epoch, partition, 0, offset)
    folded = past or Past()
    squares = divmod(folded.sum_of_squares, 1 << 32)
    body = b"".join(view.record.pack(*row) for row in records)
    return header + PAST.pack(folded.n, folded.sum, *squares, folded.last_ms) + body


@lru_cache(maxsize=8192)
def tag_of(event_id: str) -> int:
    """Give the 8-byte tag under which an event is known in a ring."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=65_536)
def code_of(text: str | None) -> int:
    """Give the 31-bit code of a free text attribute, `NULL_CODE` for none."""
    if text is None:
        return NULL_CODE
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little") >> 1


def mcc_code(text: str | None) -> int:
    """Give a category (four digits) as a number, `NULL_CODE` for none."""
    return NULL_CODE if text is None else int(text)


def country_code(text: str | None) -> int:
    """Give a country (ISO 3166 alpha-2) as a number, `NULL_CODE` for none."""
    return NULL_CODE if text is None else ord(text[0]) * 256 + ord(text[1])
