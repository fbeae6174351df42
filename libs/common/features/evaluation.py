"""Rows of a feature service from rings that are at hand, read from Redis or rebuilt from history.

Pure. Rows of one call that name the same entity share its bytes and their decoding. A ring that
cannot be read makes its features missing and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from libs.common.features.computed import ComputedView
from libs.common.features.contract import FeatureRequest, FeatureRows, FeatureService
from libs.common.features.laid import Arena, LaidRings
from libs.common.features.layout import VIEWS, LayoutError, Ring, tag_of, unpack_ring
from libs.common.features.plans import ABSENT, TTL_MS, Batch, Places, Plan, plan_of
from libs.common.features.readings import Reading
from libs.common.features.shipped import read as read_shipped

BLOB_UNREADABLE = "blob_unreadable"
_NAN = float("nan")
# Up to here one row after the other is faster than columns (benchmarks/feature_reader.py).
SINGLE_ROWS_MAX = 12

Keys = dict[str, list[str | None]]
Blobs = Mapping[str, bytes | None]


def evaluate(
    service: FeatureService,
    requests: list[FeatureRequest],
    keys: Keys,
    blobs: Blobs,
    arena: Arena,
    given: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> FeatureRows:
    """Evaluate rows over rings that are at hand, read from Redis or rebuilt from history.

    Args:
        service: what is read.
        requests: n rows.
        keys: per view, the key of each row's ring in `blobs`, None where the row names no entity.
        blobs: rings by key; None is an entity without events, a key that lacks is unknown.
        arena: memory for many rows.
        given: by shipped view, each row's values where they do not come from its bytes.
    """
    plan = plan_of(service)
    rings = {view: keys[view] for view in plan.views}
    if len(requests) <= SINGLE_ROWS_MAX:
        found = _read_singly(service.raw, plan, requests, rings, blobs)
    else:
        arena.reset()
        found = _read_together(service.raw, plan, requests, rings, blobs, arena)
    for view in plan.shipped:
        places, known = plan.places[view.name], given or {}
        if view.name in known:
            _place_values(places, known[view.name], found.table)
        else:
            _read_shipped(view, places, requests, keys[view.name], blobs, found)
    raw = dict(zip(service.raw, found.table.T, strict=True))
    stale, freshness_s = _freshness(found.event_ms, requests)
    return FeatureRows(
        matrix=service.derive(raw).astype(np.float32),
        missing=_missing(found.table, service.raw),
        stale=stale,
        freshness_s=freshness_s,
        degraded_reasons=sorted(found.reasons),
        read_s=0.0,
        raw=found.table,
        offsets=found.offsets,
    )


@dataclass(slots=True)
class _Found:
    """What the rings gave.

    Attributes:
        table: raw features, shape (n, k), NaN where missing.
        event_ms: per view, the newest event of each row's ring, 0 without one.
        offsets: per view, the log offset of each row's blob, -1 without one.
        reasons: why some of it is missing.
    """

    table: NDArray[np.float64]
    event_ms: dict[str, list[int]]
    offsets: dict[str, list[int]]
    reasons: set[str] = field(default_factory=set)


def _read_singly(
    names: Sequence[str],
    plan: Plan,
    requests: list[FeatureRequest],
    keys: Keys,
    blobs: Blobs,
) -> _Found:
    """Evaluate one row after the other."""
    found = _Found(np.empty(0), {view: [] for view in keys}, {view: [] for view in keys})
    rings: dict[str, Ring | None] = {}
    for view, listed in keys.items():
        for key in listed:
            if key is not None and key in blobs and key not in rings:
                blob = blobs[key]
                try:
                    rings[key] = unpack_ring(VIEWS[view], blob) if blob else None
                except LayoutError:
                    found.reasons.add(BLOB_UNREADABLE)
    evaluated = []
    for index, request in enumerate(requests):
        named = {view: listed[index] for view, listed in keys.items()}
        mine = {view: rings[key] for view, key in named.items() if key in rings}
        for view in keys:
            ring = mine.get(view)
            found.event_ms[view].append(ring.event_ms if ring else 0)
            found.offsets[view].append(ring.offset if ring else -1)
        values = plan.one(request, mine)
        evaluated.append([values.get(name, _NAN) for name in names])
    found.table = np.array(evaluated).reshape(len(requests), len(names))
    return found


def _read_together(
    names: Sequence[str],
    plan: Plan,
    requests: list[FeatureRequest],
    keys: Keys,
    blobs: Blobs,
    arena: Arena,
) -> _Found:
    """Evaluate all rows at once."""
    now_ms = np.array([request.now_ms for request in requests], dtype=np.int64)
    batch = Batch(requests, now_ms, {}, {})
    found = _Found(np.full((len(requests), len(names)), _NAN), {}, {})
    for view, listed in keys.items():
        laid = LaidRings(VIEWS[view], arena)
        numbers: dict[str | None, int] = {}
        for key in dict.fromkeys(listed):
            blob = blobs.get(key) if key else None
            try:
                if key in blobs:
                    numbers[key] = laid.add(blob) if blob else 0
            except LayoutError:
                found.reasons.add(BLOB_UNREADABLE)
        mine = [numbers.get(key, ABSENT) for key in listed]
        found.event_ms[view] = [laid.event_ms[max(number, 0)] for number in mine]
        found.offsets[view] = [laid.offset[max(number, 0)] for number in mine]
        batch.rings[view], batch.numbers[view] = laid, np.array(mine, dtype=np.int64)
    columns = plan.together(batch)
    for column, name in enumerate(names):
        if name in columns:
            found.table[:, column] = columns[name]
    return found


def _read_shipped(
    view: ComputedView,
    places: Places,
    requests: Sequence[FeatureRequest],
    keys: Sequence[str | None],
    blobs: Blobs,
    found: _Found,
) -> None:
    """Evaluate a shipped view for each row; rows of one entity and moment share the work."""
    known: dict[tuple[str, int, str | None], Reading] = {}
    values: list[Sequence[float]] = []
    nothing = Reading(0, -1, [_NAN] * len(view.aggregates))
    found.event_ms[view.name], found.offsets[view.name] = [], []
    for request, key in zip(requests, keys, strict=True):
        reading = nothing
        if key is not None and key in blobs:
            place = (key, request.now_ms, request.event_id)
            if place not in known:
                tag = None if request.event_id is None else tag_of(request.event_id)
                try:
                    known[place] = read_shipped(view, blobs[key], request.now_ms, tag)
                except LayoutError:
                    found.reasons.add(BLOB_UNREADABLE)
                    known[place] = nothing
            reading = known[place]
        values.append(reading.values)
        found.event_ms[view.name].append(reading.event_ms)
        found.offsets[view.name].append(reading.offset)
    _place_values(places, values, found.table)


def _place_values(
    places: Places,
    values: Sequence[Sequence[float]],
    table: NDArray[np.float64],
) -> None:
    """Put a shipped view's values into the columns that the service names."""
    for place, column in places:
        table[:, column] = [row[place] for row in values]


def _missing(table: NDArray[np.float64], names: Sequence[str]) -> list[list[str]]:
    """Name, per row, the raw features without a value."""
    if len(table) <= SINGLE_ROWS_MAX:
        return [
            [name for name, value in zip(names, row, strict=True) if value != value]
            for row in table.tolist()
        ]
    missing: list[list[str]] = [[] for _ in range(len(table))]
    for row, column in np.argwhere(np.isnan(table)).tolist():
        missing[row].append(names[column])
    return missing


def _freshness(
    event_ms: Mapping[str, Sequence[int]], requests: list[FeatureRequest]
) -> tuple[list[list[str]], list[float | None]]:
    """Name the stale views and give the age of the newest event among all, in seconds, per row."""
    stale: list[list[str]] = []
    ages: list[float | None] = []
    for request, *newest in zip(requests, *event_ms.values(), strict=True):
        pairs = [(view, at_ms) for view, at_ms in zip(event_ms, newest, strict=True) if at_ms]
        stale.append([view for view, at in pairs if request.now_ms - at > TTL_MS[view]])
        newest_ms = max(newest, default=0)
        ages.append(max(0, request.now_ms - newest_ms) / 1000.0 if newest_ms else None)
    return stale, ages
