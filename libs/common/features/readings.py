"""What a window's events say, and how a ring of a computed view is read. Pure.

`finish` turns a window's statistics into a feature's value, whoever gathered them: a ring, tiles,
or SQL over history.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libs.common.features.computed import (
    BECAME_POSITIVE,
    CEASED_POSITIVE,
    EVENT,
    OF_VALUE,
    Aggregate,
    ComputedView,
)
from libs.common.features.layout import unpack_ring
from libs.common.features.windows import NULL_CODE


@dataclass(slots=True)
class Statistics:
    """What a window's events say; which members count depends on the aggregate."""

    count: int = 0
    values: int = 0
    total: int = 0
    squares: int = 0
    least: int | None = None
    most: int | None = None
    last: int | None = None
    newest_ms: int | None = None
    distinct: float = 0.0
    positives: int = 0


def finish(kind: str, found: Statistics, now_ms: int) -> float:
    """Give a feature's value, NaN where an empty window has none."""
    if kind == "count":
        return float(found.count)
    if kind == "distinct":
        return found.distinct
    if kind == "sum":
        return float(found.total)
    if kind == "rate":
        return found.positives / found.count if found.count else math.nan
    if kind == "time_since":
        return math.nan if found.newest_ms is None else (now_ms - found.newest_ms) / 1000.0
    if kind in {"min", "max", "last"}:
        value = {"min": found.least, "max": found.most, "last": found.last}[kind]
        return math.nan if value is None else float(value)
    if not found.values:
        return math.nan
    if kind == "mean":
        return found.total / found.values
    spread = found.values * found.squares - found.total**2
    return math.sqrt(spread) / found.values


@dataclass(frozen=True, slots=True)
class Reading:
    """What one entity's bytes say at a moment.

    Attributes:
        event_ms: time of the newest event, 0 without any.
        values: one per aggregate, NaN where there is none.
    """

    event_ms: int
    offset: int
    values: list[float]


def read_ring(view: ComputedView, blob: bytes, now_ms: int, skip: int | None = None) -> Reading:
    """Evaluate a ring; `skip` is the tag of an event that must not count.

    Raises:
        LayoutError: these are no bytes of this view.
    """
    ring = unpack_ring(view.layout, blob)
    records = ring.records
    if skip is not None:
        records = records[records["tag"] != skip]
    is_event = records["kind"] == EVENT
    events, labels = records[is_event], records[~is_event]
    times = np.ascontiguousarray(events["event_ms"])
    values = []
    for item in view.aggregates:
        if ring.past.n and now_ms - item.reach_ms < ring.past.last_ms:
            values.append(math.nan)  # the ring forgot part of the window
            continue
        first, last = item.bounds(now_ms, is_tiled=False)
        inside = events[times.searchsorted(first) : times.searchsorted(last, "right")]
        found = statistics_of(view, item, inside)
        if item.kind == "rate":
            found.positives = positives(labels, first, last, now_ms)
        values.append(finish(item.kind, found, now_ms))
    return Reading(ring.event_ms, ring.offset, values)


def statistics_of(view: ComputedView, item: Aggregate, inside: NDArray[np.void]) -> Statistics:
    """Gather what `item` needs from the records inside its window, in order."""
    found = Statistics(count=len(inside))
    if not len(inside):
        return found
    found.newest_ms = int(inside["event_ms"][-1])
    if item.kind == "distinct":
        codes = inside[f"code{view.code_fields.index(str(item.field))}"]
        found.distinct = float(len(np.unique(codes[codes != NULL_CODE])))
    elif item.kind in OF_VALUE:
        numbers = inside["value"][inside["value"] != NULL_CODE].tolist()
        add_values(found, numbers)
    return found


def add_values(found: Statistics, numbers: Sequence[int]) -> None:
    """Add values in order of time."""
    if not numbers:
        return
    found.values += len(numbers)
    found.total += sum(numbers)
    found.squares += sum(number * number for number in numbers)
    least, most = min(numbers), max(numbers)
    found.least = least if found.least is None else min(found.least, least)
    found.most = most if found.most is None else max(found.most, most)
    found.last = numbers[-1]


def positives(labels: NDArray[np.void], first: int, last: int, now_ms: int) -> int:
    """Count the events in `[first, last]` that labels known by `now_ms` make positive."""
    times = labels["event_ms"]
    known = (times >= first) & (times <= last) & (times + labels["value"] <= now_ms)
    kinds = labels["kind"][known]
    return int(np.count_nonzero(kinds == BECAME_POSITIVE)) - int(
        np.count_nonzero(kinds == CEASED_POSITIVE)
    )
