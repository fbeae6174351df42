"""What one view contributes to a read: values, statuses and times of its rows. Pure.

Order of the statuses: no value NOT_FOUND; bytes that cannot be read INVALID; older than the ttl
OUTSIDE_MAX_AGE; null NULL_VALUE; else PRESENT. All features of a view share statuses and times but
for nulls, so these are rendered once.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import orjson

from libs.common.features import columns as ring_columns
from libs.common.features.computed import ComputedView
from libs.common.features.laid import Arena, LaidRings, Rows
from libs.common.features.layout import VIEWS, LayoutError
from libs.common.features.shipped import read as read_defined
from services.features.adapters.definitions import Catalog
from services.features.domain.pushed import PushedView
from services.features.domain.vectors import Stamp
from services.features.feast.wire import EPOCH, rfc3339


@dataclass(slots=True)
class Shown:
    """One view's rows.

    Attributes:
        states: per row, before nulls.
        stamps: per row, the time of the newest event.
        values: by feature, per row; None where nothing is shown.
        oldest_ms: the oldest of the times, None without any.
        is_numbers: values are numbers or missing.
    """

    states: list[str]
    stamps: list[str]
    values: dict[str, list[Any]]
    oldest_ms: int | None = None
    is_numbers: bool = False
    _tail: bytes = b""
    _stamps: bytes = b""
    _columns: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def nothing(cls, rows: int, features: Sequence[str]) -> "Shown":
        """Give rows that nobody has written."""
        values = {name: [None] * rows for name in features}
        return cls(["NOT_FOUND"] * rows, [EPOCH] * rows, values)

    def saw(self, row: int, event_ms: int, stamp: str) -> None:
        """Note the time of a row."""
        self.stamps[row] = stamp
        if self.oldest_ms is None or event_ms < self.oldest_ms:
            self.oldest_ms = event_ms

    def render(self, name: str) -> bytes:
        """Give one feature's results object."""
        if not self._tail:
            self._stamps = b',"event_timestamps":' + orjson.dumps(self.stamps) + b"}"
            self._tail = b',"statuses":' + orjson.dumps(self.states) + self._stamps
            # One call for all columns: numbers have no bracket of their own to split at.
            text = orjson.dumps(list(self.values.values())) if self.is_numbers else b"null"
            if b"null" not in text:
                self._columns = dict(zip(self.values, text[2:-2].split(b"],["), strict=True))
        if self._columns:
            return b'{"values":[' + self._columns[name] + b"]" + self._tail
        values = self.values[name]
        if None not in values:
            return b'{"values":' + orjson.dumps(values) + self._tail
        told = [
            "NULL_VALUE" if value is None and state == "PRESENT" else state
            for value, state in zip(values, self.states, strict=True)
        ]
        return b'{"values":%b,"statuses":%b%b' % (
            orjson.dumps(values),
            orjson.dumps(told),
            self._stamps,
        )


Heads = Sequence[tuple[int, int, int]]


def show_pushed(
    view: PushedView,
    features: Sequence[str],
    catalog: Catalog,
    blobs: Sequence[bytes | None],
    heads: Heads,
) -> Shown:
    """Show pushed vectors, each read by the version that wrote it.

    Args:
        view: the version that was asked for.
        features: the asked ones.
        catalog: knows the other versions.
        blobs: n rows.
        heads: schema id, time and microseconds of those that are there.
    """
    now_ms = time.time_ns() // 1_000_000
    if len(heads) == len(blobs):
        usual = _show_usual(view, features, cast(Sequence[bytes], blobs), heads, now_ms)
        if usual is not None:
            return usual
    shown = Shown.nothing(len(blobs), features)
    by_schema: dict[int, list[int]] = {}
    rendered: dict[tuple[int, int], str] = {}
    held = [(row, blob) for row, blob in enumerate(blobs) if blob is not None]
    for (row, _), (schema_id, event_ms, sub_us) in zip(held, heads, strict=True):
        written = catalog.by_schema.get(schema_id)
        if written is None or written.name != view.name:
            shown.states[row] = "INVALID"
            continue
        stamp = rendered.get((event_ms, sub_us))
        if stamp is None:
            stamp = rendered[event_ms, sub_us] = rfc3339(Stamp(event_ms, sub_us))
        shown.saw(row, event_ms, stamp)
        if now_ms - event_ms > view.ttl_ms:
            shown.states[row] = "OUTSIDE_MAX_AGE"
            continue
        shown.states[row] = "PRESENT"
        by_schema.setdefault(schema_id, []).append(row)
    for schema_id, rows in by_schema.items():
        _show_version(shown, view, catalog.by_schema[schema_id], features, rows, blobs)
    return shown


def _show_version(
    shown: Shown,
    view: PushedView,
    written: PushedView,
    features: Sequence[str],
    rows: list[int],
    blobs: Sequence[bytes | None],
) -> None:
    """Show the rows that one version wrote."""
    try:
        decoded = written.layout.unpack([blobs[row] or b"" for row in rows])
    except (LayoutError, UnicodeDecodeError):
        for row in rows:
            shown.states[row] = "INVALID"
        return
    for name in features:
        # A feature that the older version lacks, or kept as another type, is null.
        if written is view or written.layout.kinds.get(name) == view.layout.kinds[name]:
            _place(shown.values, name, rows, decoded[name])


def _show_usual(
    view: PushedView,
    features: Sequence[str],
    blobs: Sequence[bytes],
    heads: Heads,
    now_ms: int,
) -> Shown | None:
    """Show rows that are all there, of the asked version and young enough; None: they are not."""
    schema_id = view.layout.schema_id
    times = [event_ms for found, event_ms, _ in heads if found == schema_id]
    if len(times) < len(heads) or now_ms - min(times) > view.ttl_ms:
        return None
    try:
        decoded = view.layout.unpack(blobs)
    except (LayoutError, UnicodeDecodeError):
        return None
    rendered = {head: rfc3339(Stamp(head[1], head[2])) for head in set(heads)}
    return Shown(
        ["PRESENT"] * len(blobs),
        [rendered[head] for head in heads],
        {name: decoded[name] for name in features},
        min(times),
        view.layout.is_uniform,
    )


def _place(target: dict[str, list[Any]], name: str, rows: list[int], values: list[Any]) -> None:
    if len(rows) == len(target[name]):
        target[name] = values
        return
    for row, value in zip(rows, values, strict=True):
        target[name][row] = value


def show_defined(
    view: ComputedView, features: Sequence[str], blobs: Sequence[bytes | None]
) -> Shown:
    """Show a view by its definition, at this moment."""
    now_ms = time.time_ns() // 1_000_000
    shown = Shown.nothing(len(blobs), features)
    order = [item.name for item in view.aggregates]
    places = [(name, order.index(name)) for name in features]
    for row, blob in enumerate(blobs):
        if blob is None:
            continue
        try:
            reading = read_defined(view, blob, now_ms)
        except LayoutError:
            shown.states[row] = "INVALID"
            continue
        if now_ms - reading.event_ms >= view.horizon_ms:
            continue
        shown.saw(row, reading.event_ms, rfc3339(Stamp(reading.event_ms)))
        if now_ms - reading.event_ms > view.ttl_ms:
            shown.states[row] = "OUTSIDE_MAX_AGE"
            continue
        shown.states[row] = "PRESENT"
        for name, place in places:
            value = reading.values[place]
            shown.values[name][row] = value if value == value else None
    return shown


def show_built_in(name: str, features: Sequence[str], blobs: Sequence[bytes | None]) -> Shown:
    """Show a built-in view's windows, at this moment."""
    view, now_ms = VIEWS[name], time.time_ns() // 1_000_000
    laid, numbers = LaidRings(view, Arena()), []
    shown = Shown.nothing(len(blobs), features)
    for row, blob in enumerate(blobs):
        try:
            numbers.append(laid.add(blob) if blob else 0)
        except LayoutError:
            shown.states[row] = "INVALID"
            numbers.append(0)
    times = np.full(len(blobs), now_ms, dtype=np.int64)
    rows = Rows(laid, np.array(numbers), times, ring_columns.WINDOWS[name])
    found = ring_columns.stored_columns(name, rows)
    for row, is_found in enumerate(rows.is_found(view.horizon_ms).tolist()):
        if is_found:
            event_ms = laid.event_ms[numbers[row]]
            shown.saw(row, event_ms, rfc3339(Stamp(event_ms)))
            is_old = now_ms - event_ms > view.ttl_ms
            shown.states[row] = "OUTSIDE_MAX_AGE" if is_old else "PRESENT"
    for feature in features:
        shown.values[feature] = [
            value if state == "PRESENT" and value == value else None
            for value, state in zip(found[f"{name}:{feature}"].tolist(), shown.states, strict=True)
        ]
    return shown
