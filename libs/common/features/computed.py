"""Computed views by definition: windows over events, as a tenant or this release has them. Pure.

One definition is read three ways: here at the moment of a read, by the updater that writes rings or
tiles (`tiles.py`, `layout.py`), and as SQL over history (the features service). What they share is
`readings.finish`: a window's statistics to its value.

Semantics. A ring's window is `(t - w, t]`; tiles round its start down to their length. With a
delay it is `(t - d - w, t - d]`, both ends of tiles rounded down, by the event's own time, and only
labels that are available at t count. Order is (event time, arrival). An empty window counts 0 and
has no mean, minimum, maximum, deviation, last value, age or rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

from libs.common.features.layout import (
    LATENESS_MS,
    RingView,
    code_of,
    tag_of,
)
from libs.common.features.windows import NULL_CODE
from libs.common.redis_keys import tag

Kind = Literal[
    "count", "sum", "mean", "min", "max", "std", "distinct", "last", "time_since", "rate"
]
OF_VALUE = frozenset({"sum", "mean", "min", "max", "std", "last"})
# Kinds of a record: an event, a label that made its event positive, one that took that back.
EVENT, BECAME_POSITIVE, CEASED_POSITIVE = 0, 1, 2
RING_RECORDS_MAX = 8192
_DAY_MS = 86_400_000
# The longest window that each tile length answers: beyond, the next longer tiles.
LADDER: tuple[tuple[int, int], ...] = (
    (300_000, 3_600_000),
    (3_600_000, 2 * _DAY_MS),
    (_DAY_MS, 400 * _DAY_MS),
)


@cache
def _tile_ms(reach_ms: int) -> int:
    return next(tile for tile, most in LADDER if reach_ms <= most)


@dataclass(frozen=True, slots=True)
class Rung:
    """Tiles of one length: how many slots, and the texts whose distinct ones they count."""

    tile_ms: int
    slots: int
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One feature of a computed view.

    Attributes:
        field: the number or the text it is about; None for count, time_since and rate.
        window_ms: length of the window.
        delay_ms: how far the window ends before the moment; labels need it to be known.
    """

    name: str
    kind: Kind
    field: str | None
    window_ms: int
    delay_ms: int = 0

    @property
    def reach_ms(self) -> int:
        """How far back it looks."""
        return self.window_ms + self.delay_ms

    @property
    def tile_ms(self) -> int:
        """Length of the tiles that answer it."""
        return _tile_ms(self.reach_ms)

    def bounds(self, now_ms: int, *, is_tiled: bool) -> tuple[int, int]:
        """Give the first and the last moment inside the window, both inclusive."""
        start, end = now_ms - self.reach_ms, now_ms - self.delay_ms
        if not is_tiled:
            return start + 1, end
        tile = self.tile_ms
        return start // tile * tile, (end // tile * tile - 1 if self.delay_ms else end)


@dataclass(frozen=True)
class ComputedView:
    """One version of a view that is computed from events.

    Attributes:
        schema_id: u16, unique within the tenant; part of the key, so versions never share bytes.
        join_keys: sorted by name.
        event_types: which events count.
        engine: `ring` keeps every event of the horizon, `tiles` sums for entities with very many.
        ttl_ms: age of the newest event after which values are too old.
        label: the label that counts as positive; None without a rate.
        lateness_ms: an event that arrives later after it happened does not count.
    """

    name: str
    version: int
    schema_id: int
    join_keys: tuple[str, ...]
    event_types: tuple[str, ...]
    engine: Literal["ring", "tiles"]
    aggregates: tuple[Aggregate, ...]
    ttl_ms: int
    label: str | None = None
    lateness_ms: int = LATENESS_MS

    def is_late(self, event_ms: int, arrival_ms: int) -> bool:
        """Say whether an event came too late to count, online and in history."""
        return arrival_ms - event_ms > self.lateness_ms

    @property
    def key(self) -> str:
        """Name of this version in the log and in Redis keys."""
        return f"{self.name}@{self.schema_id}"

    @cached_property
    def is_tiled(self) -> bool:
        """Whether windows round down to tiles."""
        return self.engine == "tiles"

    @cached_property
    def value_field(self) -> str | None:
        """The one number that records carry."""
        return next((item.field for item in self.aggregates if item.kind in OF_VALUE), None)

    @cached_property
    def code_fields(self) -> tuple[str, ...]:
        """Texts whose distinct ones are counted, in the order of a record's columns."""
        found = [item.field for item in self.aggregates if item.kind == "distinct"]
        return tuple(dict.fromkeys(str(name) for name in found))

    @cached_property
    def horizon_ms(self) -> int:
        """The longest reach of all features."""
        return max(item.reach_ms for item in self.aggregates)

    @cached_property
    def rungs(self) -> list[Rung]:
        """The rungs of tiles that the view needs, shortest tiles first."""
        reach: dict[int, int] = {}
        fields: dict[int, list[str]] = {}
        for item in self.aggregates:
            reach[item.tile_ms] = max(reach.get(item.tile_ms, 0), item.reach_ms)
            names = fields.setdefault(item.tile_ms, [])
            if item.kind == "distinct" and item.field not in names:
                names.append(str(item.field))
        # One slot for the tile that the start falls into, one for now, one for a clock ahead.
        return [
            Rung(tile, -(-reach[tile] // tile) + 3, tuple(fields[tile])) for tile in sorted(reach)
        ]

    @cached_property
    def layout(self) -> RingView:
        """The record, and the bounds of a ring; columns are kind, codes, a pad where odd."""
        columns = ["kind", *(f"code{index}" for index in range(len(self.code_fields)))]
        if len(columns) % 2:
            columns.append("pad")
        return RingView(
            self.key,
            self.schema_id,
            tuple(columns),
            self.horizon_ms,
            self.ttl_ms,
            self.horizon_ms + LATENESS_MS + self.lateness_ms,
            RING_RECORDS_MAX,
            self.lateness_ms,
        )

    def redis_key(self, tenant: str, entity: str) -> str:
        """Build the key of an entity (its join keys' values, joined)."""
        return f"features:{tag(tenant, 'vector', entity)}:{self.key}"

    def record(self, event_id: str, event_ms: int, fields: Mapping[str, Any]) -> bytes:
        """Pack what the view keeps of an event."""
        value = NULL_CODE
        if self.value_field is not None:
            value = fields.get(self.value_field, NULL_CODE)
        codes = [code_of(fields.get(name)) for name in self.code_fields]
        return self._pack(event_ms, value, tag_of(event_id), EVENT, codes)

    def label_record(
        self, event_id: str, event_ms: int, available_ms: int, *, is_positive: bool
    ) -> bytes:
        """Pack that an event became positive, or ceased to be, at `available_ms`."""
        name = f"label:{event_id}:{available_ms}"
        kind = BECAME_POSITIVE if is_positive else CEASED_POSITIVE
        codes = [NULL_CODE] * len(self.code_fields)
        return self._pack(event_ms, available_ms - event_ms, tag_of(name), kind, codes)

    def _pack(
        self, event_ms: int, value: int, record_tag: int, kind: int, codes: list[int]
    ) -> bytes:
        pad = (0,) if len(codes) % 2 == 0 else ()
        return self.layout.record.pack(event_ms, value, record_tag, kind, *codes, *pad)


def entity_key(values: Sequence[str]) -> str:
    """Join the values of the join keys, in the order of the keys' names, escaped."""
    if len(values) == 1 and values[0].isalnum():
        return values[0]
    return "|".join([value.replace("%", "%25").replace("|", "%7C") for value in values])
