"""Small worlds for computed views: events, labels, definitions, and brute force over them."""

import math
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from libs.common.features.computed import LADDER, Aggregate, ComputedView
from libs.common.features.hll import estimate_codes
from libs.common.features.layout import AHEAD_MS, code_of
from services.features.domain.computed import label_touch, touch_of

HOUR, DAY = 3_600_000, 86_400_000
START_MS = 1_750_000_000_123
_STEP = st.sampled_from(
    [0, 0, 1, 999, 60_000, 299_999, 300_000, 300_001, HOUR - 1, HOUR, HOUR + 1, DAY, 2 * DAY]
)
_BEHIND = st.sampled_from(
    [0, 0, 0, 0, 1, 60_000, HOUR, 5 * HOUR, DAY, DAY + 1, 3 * DAY + 1, -AHEAD_MS]
)
_WINDOW = st.sampled_from([1000, 60_000, HOUR - 1000, HOUR, HOUR + 1000, DAY, 3 * DAY, 7 * DAY])


@dataclass(frozen=True)
class Event:
    """A payment as ingested."""

    event_id: str
    event_ms: int
    arrival_ms: int
    entity: str
    amount: int
    country: str | None

    @property
    def body(self) -> dict[str, Any]:
        attrs = {"country_code": self.country} if self.country else {}
        entities = {"card_id": self.entity, "merchant_id": "m"}
        return {"entities": entities, "values": {"amount_minor": self.amount}, "attrs": attrs}


@dataclass(frozen=True)
class Known:
    """A label with the time at which it became available."""

    event_id: str
    label: str
    available_ms: int


@dataclass(frozen=True)
class World:
    view: ComputedView
    events: list[Event]
    labels: list[Known]
    moments: list[int]

    def is_late(self, event: Event) -> bool:
        return event.arrival_ms > event.event_ms + self.view.lateness_ms


@st.composite
def views(draw: Any, engine: Any) -> ComputedView:
    """One feature of every kind, windows and delays drawn."""
    kinds: list[Any] = [
        "count",
        "sum",
        "mean",
        "min",
        "max",
        "std",
        "distinct",
        "last",
        "time_since",
        "rate",
    ]
    fields = {"distinct": "country_code", "count": None, "time_since": None, "rate": None}
    aggregates = []
    for kind in kinds:
        delay = draw(st.sampled_from([0, HOUR, DAY])) if kind in {"count", "rate"} else 0
        field = fields.get(kind, "amount_minor")
        aggregates.append(Aggregate(f"f_{kind}", kind, field, draw(_WINDOW), delay))
    facts = ("v", 1, 1000, ("card_id",), ("card_transaction",), engine, tuple(aggregates), DAY)
    lateness_ms = draw(st.sampled_from([DAY, 60_000, 3 * DAY]))
    return ComputedView(*facts, label="fraud", lateness_ms=lateness_ms)


@st.composite
def worlds(draw: Any, engine: Any, size_max: int = 25) -> World:
    """Events in arrival order, some behind or ahead of their arrival; labels of some."""
    now, events, labels = START_MS, [], []
    for number in range(draw(st.integers(0, size_max))):
        now += draw(_STEP)
        events.append(
            Event(
                f"e{number}",
                now - draw(_BEHIND),
                now,
                draw(st.sampled_from(["a", "b"])),
                draw(st.integers(0, 2**40 - 1)),
                draw(st.sampled_from([None, "GB", "US", "FR"])),
            )
        )
    for event in events:
        at_ms = event.arrival_ms
        for label in draw(st.lists(st.sampled_from(["fraud", "ok"]), max_size=3)):
            at_ms += 1 + draw(_STEP)
            labels.append(Known(event.event_id, label, at_ms))
    end = max([now, *(label.available_ms for label in labels)])
    moments = [event.arrival_ms for event in events]
    moments += [end + draw(_STEP), START_MS + draw(_STEP) * 3]
    return World(draw(views(engine)), events, labels, sorted(set(moments)))


def log_of(world: World, entity: str, at_ms: int) -> list[bytes]:
    """Give the records that the log has of an entity by a moment, in arrival order."""
    rows: list[tuple[int, int, bytes]] = []
    by_id = {event.event_id: event for event in world.events}
    for event in world.events:
        touch = touch_of(world.view, event.event_id, "card_transaction", event.event_ms, event.body)
        if touch and touch.entity == entity and not world.is_late(event):
            rows.append((event.arrival_ms, 0, touch.record))
    before: dict[str, str] = {}
    for known in sorted(world.labels, key=lambda known: known.available_ms):
        event = by_id[known.event_id]
        touch = label_touch(
            world.view,
            (event.event_id, "card_transaction", event.event_ms, event.body),
            known.available_ms,
            before=before.get(event.event_id),
            after=known.label,
        )
        before[event.event_id] = known.label
        if touch and touch.entity == entity and not world.is_late(event):
            rows.append((known.available_ms, 1, touch.record))
    return [
        record for arrival_ms, _, record in sorted(rows, key=lambda r: r[:2]) if arrival_ms <= at_ms
    ]


def brute_force(world: World, entity: str, now_ms: int) -> dict[str, float]:
    """Say what each feature is, event by event, from the definition's words alone."""
    seen = [
        event
        for event in world.events
        if event.entity == entity
        and not world.is_late(event)
        and event.arrival_ms <= now_ms
        and event.event_ms <= now_ms
    ]
    seen.sort(key=lambda event: event.event_ms)
    return {item.name: _one(world, item, seen, now_ms) for item in world.view.aggregates}


def _one(world: World, item: Aggregate, seen: list[Event], now_ms: int) -> float:
    start, end = now_ms - item.delay_ms - item.window_ms, now_ms - item.delay_ms
    if world.view.engine == "tiles":
        tile = next(t for t, most in LADDER if item.window_ms + item.delay_ms <= most)
        start -= start % tile
        inside = [e for e in seen if e.event_ms >= start]
        if item.delay_ms:
            inside = [e for e in inside if e.event_ms < end - end % tile]
    else:
        inside = [e for e in seen if start < e.event_ms <= end]
    amounts = [event.amount for event in inside]
    countries = {event.country for event in inside if event.country}
    if item.kind == "count":
        return float(len(inside))
    if item.kind == "sum":
        return float(sum(amounts))
    if item.kind == "distinct":
        if world.view.engine == "tiles":
            return estimate_codes(code_of(country) for country in countries)
        return float(len(countries))
    if not inside:
        return math.nan
    if item.kind == "rate":
        return sum(_is_fraud(world, event, now_ms) for event in inside) / len(inside)
    if item.kind == "std":
        mean = sum(amounts) / len(amounts)
        return math.sqrt(sum((a - mean) ** 2 for a in amounts) / len(amounts))
    return {
        "mean": sum(amounts) / len(amounts),
        "min": float(min(amounts)),
        "max": float(max(amounts)),
        "last": float(amounts[-1]),
        "time_since": (now_ms - inside[-1].event_ms) / 1000,
    }[item.kind]


def _is_fraud(world: World, event: Event, now_ms: int) -> bool:
    known = [
        label
        for label in world.labels
        if label.event_id == event.event_id and label.available_ms <= now_ms
    ]
    return bool(known) and max(known, key=lambda label: label.available_ms).label == "fraud"


def same(left: float, right: float) -> bool:
    """Compare values; deviations of huge numbers lose digits in the oracle's own sums."""
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-3)
