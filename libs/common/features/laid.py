"""Rings of one view laid end to end, and windows over them for many rows at once.

Pure. Ring 0 is the one without any event, so an entity that nobody has seen needs no branch. Times
are found with one binary search over `(ring << 43) + event_ms`; sums are differences of prefix sums
in 64 bits, exact even where the running total wraps.
"""

import struct
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from libs.common.features.contract import FloatArray
from libs.common.features.layout import (
    HEADER,
    MAGIC,
    PAST,
    PREFIX_BYTES,
    LayoutError,
    RingView,
)

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Milliseconds until the year 2248; a ring's number stands above them in the search key.
_TIME_BITS = 43
_TIME_MAX = (1 << _TIME_BITS) - 1
_PREFIX = struct.Struct(HEADER.format + PAST.format.lstrip("<"))
_TAG_AT, _TAG_END = 16, 24


class Arena:
    """Memory for the arrays of one call, used again by the next.

    Fresh megabytes cost more in page faults than the windows cost in arithmetic. What `take` gave
    is valid until `reset`.
    """

    _KEEP_MAX = 4 << 20  # numbers; 32 MiB

    def __init__(self) -> None:
        self._buffer = np.empty(1 << 16, dtype=np.int64)
        self._used = 0

    def reset(self) -> None:
        """Forget what was taken; a larger buffer follows a call that did not fit."""
        if len(self._buffer) < self._used <= self._KEEP_MAX:
            self._buffer = np.empty(self._used, dtype=np.int64)
        self._used = 0

    def take(self, count: int) -> IntArray:
        """Give an array of `count` numbers, not initialised."""
        start, self._used = self._used, self._used + count
        if self._used > len(self._buffer):
            return np.empty(count, dtype=np.int64)
        return self._buffer[start : self._used]


class LaidRings:
    """Collects rings of one view; `Rows` then answers windows over them."""

    def __init__(self, view: RingView, arena: Arena) -> None:
        self.view, self.arena = view, arena
        self._bodies: list[bytes | memoryview] = [b""]
        self.event_ms = [0]
        self.offset = [-1]
        self.past_n = [0]
        self.past_sum = [0]
        self.past_squares = [0]
        self.past_last_ms = [0]

    def add(self, blob: bytes) -> int:
        """Take one blob and give its ring's number.

        Raises:
            LayoutError: wrong magic, schema or length.
        """
        if len(blob) < PREFIX_BYTES or (len(blob) - PREFIX_BYTES) % self.view.dtype.itemsize:
            raise LayoutError(f"{self.view.name}: wrong length")
        magic, schema, _, event_ms, _, _, _, _, offset, n, total, sq_hi, sq_lo, last_ms = (
            _PREFIX.unpack_from(blob)
        )
        if magic != MAGIC or schema != self.view.schema_id:
            raise LayoutError(f"{self.view.name}: wrong magic or schema")
        self.event_ms.append(event_ms)
        self.offset.append(offset)
        self.past_n.append(n)
        self.past_sum.append(total)
        self.past_squares.append((sq_hi << 32) + sq_lo)
        self.past_last_ms.append(last_ms)
        self._bodies.append(memoryview(blob)[PREFIX_BYTES:])
        return len(self._bodies) - 1

    def without(self, ring: int, tag: int) -> int:
        """Give the number of the same ring without the record that carries `tag`."""
        body, size = bytes(self._bodies[ring]), self.view.dtype.itemsize
        wanted = tag.to_bytes(8, "little")
        place = body.find(wanted, _TAG_AT)
        while place >= 0 and place % size != _TAG_AT:
            place = body.find(wanted, place + 1)
        if place < 0:
            return ring
        start = place - _TAG_AT
        for column in (
            self.event_ms,
            self.offset,
            self.past_n,
            self.past_sum,
            self.past_squares,
            self.past_last_ms,
        ):
            column.append(column[ring])
        self._bodies.append(body[:start] + body[start + size :])
        return len(self._bodies) - 1

    @cached_property
    def records(self) -> NDArray[np.void]:
        """Every record, ring after ring; call it after the last `add`."""
        return np.frombuffer(b"".join(self._bodies), self.view.dtype)

    @cached_property
    def begins(self) -> IntArray:
        """Position of each ring's first record, and one past the last ring's last."""
        size = self.view.dtype.itemsize
        lengths = [0, *(len(body) // size for body in self._bodies)]
        return np.cumsum(np.array(lengths, dtype=np.int64))

    @cached_property
    def _columns(self) -> tuple[IntArray, IntArray]:
        """Keys and values, copied ring by ring."""
        count = int(self.begins[-1])
        keys, values = self.arena.take(count), self.arena.take(count)
        start = 0
        for number, body in enumerate(self._bodies):
            if not body:
                continue
            records = np.frombuffer(body, self.view.dtype)
            end = start + len(records)
            np.add(records["event_ms"], number << _TIME_BITS, out=keys[start:end])
            values[start:end] = records["value"]
            start = end
        return keys, values

    @property
    def keys(self) -> IntArray:
        """Ring number and time of every record, ascending."""
        return self._columns[0]

    @property
    def values(self) -> IntArray:
        """Value of every record."""
        return self._columns[1]


class Rows:
    """Windows of n rows, each over one ring and up to a moment of its own.

    Attributes:
        ring: shape (n,), ring of each row.
        now_ms: shape (n,), end of its windows, inclusive.
        begin / end: shape (n,), positions of its ring's first record and one past the newest that
            is not after `now_ms`.
        starts: per window, the first position inside `(now - w, now]`.
        known: per window, False where a bounded ring forgot records that lie inside it.
    """

    def __init__(
        self, laid: LaidRings, ring: IntArray, now_ms: IntArray, windows_ms: Sequence[int]
    ) -> None:
        self._laid = laid
        self.ring, self.now_ms = ring, now_ms
        self.begin = laid.begins[ring]
        since = np.stack([now_ms, *(now_ms - window for window in windows_ms)])
        asked = (ring << _TIME_BITS) + np.clip(since, 0, _TIME_MAX)
        found = laid.keys.searchsorted(asked, "right")
        self.end: IntArray = found[0]
        self.past_n = np.array(laid.past_n)[ring]
        self.past_last_ms = np.array(laid.past_last_ms)[ring]
        known = (self.past_n == 0) | (since[1:] >= self.past_last_ms)
        self.starts: dict[int, IntArray] = dict(zip(windows_ms, found[1:], strict=True))
        self.known: dict[int, BoolArray] = dict(zip(windows_ms, known, strict=True))

    def count(self, window_ms: int) -> IntArray:
        """Count the events in the window."""
        counted: IntArray = self.end - self.starts[window_ms]
        return counted

    def sums(self, values: NDArray[np.generic]) -> "Sums":
        """Prepare sums over the windows; `values` has one entry per record."""
        return Sums(self, values)

    def where_known(self, window_ms: int, values: NDArray[np.generic]) -> FloatArray:
        """Give `values`, NaN where the ring forgot part of the window."""
        return np.where(self.known[window_ms], values, np.nan)

    def seconds_since_last(self) -> FloatArray:
        """Age of the newest event, NaN without any."""
        last = self._last_ms()
        has_any = (self.end > self.begin) | (self.past_n > 0)
        return np.where(has_any, (self.now_ms - last) / 1000.0, np.nan)

    def is_found(self, horizon_ms: int) -> BoolArray:
        """Say which rows have an event in `(now - horizon, now]` among their ring's records."""
        found: BoolArray = (self.end > self.begin) & (self._last_ms() > self.now_ms - horizon_ms)
        return found

    def times_at(self, position: IntArray) -> IntArray:
        """Times of the records at `position`; meaningless where a window is empty."""
        keys = self._laid.keys
        if not len(keys):
            return np.zeros(len(position), dtype=np.int64)
        times: IntArray = keys[np.minimum(position, len(keys) - 1)] & _TIME_MAX
        return times

    def _last_ms(self) -> IntArray:
        last = self.times_at(np.maximum(self.end - 1, 0))
        return np.where(self.end > self.begin, last, self.past_last_ms)

    def inside(self, window_ms: int) -> tuple[IntArray, IntArray]:
        """List the records in the window of every row: (row, position) of each, row after row."""
        start = self.starts[window_ms]
        lengths = self.end - start
        first = np.cumsum(lengths) - lengths
        row = np.repeat(np.arange(len(start)), lengths)
        position = np.arange(len(row)) + (start - first)[row]
        return row, position

    def field(self, name: str) -> NDArray[np.int32]:
        """Give one attribute of every record."""
        column: NDArray[np.int32] = self._laid.records[name]
        return column

    @property
    def values(self) -> IntArray:
        """Give the value of every record."""
        return self._laid.values

    @property
    def arena(self) -> Arena:
        """Give the call's memory."""
        return self._laid.arena

    def past(self, ring: int) -> tuple[int, int, int]:
        """Give count, sum and sum of squares of what left a ring."""
        laid = self._laid
        return laid.past_n[ring], laid.past_sum[ring], laid.past_squares[ring]


class Sums:
    """Sums of one column over the windows of `Rows`."""

    def __init__(self, rows: Rows, values: NDArray[np.generic]) -> None:
        self._rows = rows
        self._total = rows.arena.take(len(values) + 1)
        self._total[0] = 0
        np.cumsum(values, dtype=np.int64, out=self._total[1:])
        self._at_end = self._total[rows.end]

    def over(self, window_ms: int) -> IntArray:
        """Sum over the window."""
        over: IntArray = self._at_end - self._total[self._rows.starts[window_ms]]
        return over

    def whole(self) -> IntArray:
        """Sum over everything that the ring holds up to now."""
        whole: IntArray = self._at_end - self._total[self._rows.begin]
        return whole
