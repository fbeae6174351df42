"""How tiles of a computed view are read at a moment: whole tiles, then the head's events. Pure."""

import numpy as np
from numpy.typing import NDArray

from libs.common.features import hll
from libs.common.features.computed import (
    EVENT,
    OF_VALUE,
    Aggregate,
    ComputedView,
)
from libs.common.features.readings import Reading, Statistics, add_values, finish, positives
from libs.common.features.tiles import Tiles
from libs.common.features.windows import NULL_CODE

_OF_EVENTS = frozenset({"count", "rate"})


def read_tiles(view: ComputedView, blob: bytes, now_ms: int, skip: int | None = None) -> Reading:
    """Evaluate an entity at a moment; `skip` is the tag of an event that must not count.

    Raises:
        LayoutError: these are no bytes of this view.
    """
    state = Tiles.decode(view, blob, is_writable=False)
    is_event = state.head["kind"] == EVENT
    labels = state.head[~is_event]
    head = state.head[is_event] if len(labels) else state.head
    if skip is not None:
        head = head[head["tag"] != skip]
    numbers = [rung.tile_ms for rung in state.rungs]
    values = []
    # Counts and rates of one window share its sums.
    shared: dict[tuple[int, int], Statistics] = {}
    for item in view.aggregates:
        place = numbers.index(item.tile_ms)
        if item.kind in _OF_EVENTS:
            window = (item.window_ms, item.delay_ms)
            if window not in shared:
                shared[window] = _events_of(item, state.slots[place], head, labels, now_ms)
            found = shared[window]
        else:
            found = _window(view, item, state, place, head, now_ms)
        values.append(finish(item.kind, found, now_ms))
    return Reading(state.event_ms, state.offset, values)


def _events_of(
    item: Aggregate,
    slots: NDArray[np.void],
    head: NDArray[np.void],
    labels: NDArray[np.void],
    now_ms: int,
) -> Statistics:
    """Count the events of a window, and those that are positive by labels known by now."""
    first, last = item.bounds(now_ms, is_tiled=True)
    bucket = slots["bucket"]
    is_inside = (bucket >= first // item.tile_ms) & (bucket <= last // item.tile_ms)
    found = Statistics(count=int(slots["count"].dot(is_inside)))
    found.positives = int(slots["positives"].dot(is_inside))
    if len(head):
        times = head["event_ms"]
        found.count += int(np.count_nonzero((times >= first) & (times <= last)))
    if len(labels):
        found.positives += positives(labels, first, last, now_ms)
    return found


def _window(
    view: ComputedView,
    item: Aggregate,
    state: Tiles,
    place: int,
    head: NDArray[np.void],
    now_ms: int,
) -> Statistics:
    """Add up the tiles of a window, then the head's events inside it."""
    first, last = item.bounds(now_ms, is_tiled=True)
    slots = state.slots[place]
    is_inside = (slots["bucket"] >= first // item.tile_ms) & (
        slots["bucket"] <= last // item.tile_ms
    )
    chosen = slots[is_inside]
    times = head["event_ms"]
    recent = head[(times >= first) & (times <= last)]
    found = Statistics(count=int(chosen["count"].sum()) + len(recent))
    if item.kind == "time_since":
        newest = [int(chosen["newest_ms"].max(initial=0)), *recent["event_ms"][-1:].tolist()]
        found.newest_ms = max(newest) or None
    elif item.kind == "distinct":
        name = state.rungs[place].fields.index(str(item.field))
        registers = state.registers[place][name][is_inside].max(axis=0, initial=0)
        codes = recent[f"code{view.code_fields.index(str(item.field))}"].astype(np.int64)
        hll.add(registers, codes[codes != NULL_CODE])
        found.distinct = hll.estimate(registers)
    elif item.kind in OF_VALUE:
        _values(found, chosen[chosen["values"] > 0], recent)
    return found


def _values(found: Statistics, chosen: NDArray[np.void], recent: NDArray[np.void]) -> None:
    if len(chosen):
        found.values = int(chosen["values"].sum())
        found.total = int(chosen["sum"].sum())
        found.squares = (sum(chosen["sq_hi"].tolist()) << 32) + sum(chosen["sq_lo"].tolist())
        found.least, found.most = int(chosen["min"].min()), int(chosen["max"].max())
        newest = int(np.argmax(chosen["last_ms"]))
        found.last, last_ms = int(chosen["last"][newest]), int(chosen["last_ms"][newest])
    else:
        last_ms = 0
    recent = recent[recent["value"] != NULL_CODE]
    sealed = found.last
    add_values(found, recent["value"].tolist())
    # A full head seals early; an event that comes late then lies behind what is sealed.
    if sealed is not None and len(recent) and int(recent["event_ms"][-1]) < last_ms:
        found.last = sealed
