"""Integer tiles with a raw head: the bytes of one hot entity, how events enter.

For entities whose events are too many to keep: a ladder of tile lengths (5 min for reaches up to
1 h, 1 h up to 48 h, 1 d beyond), each with as many slots as the view's features need. The newest
events stay as they are (the head), so that the moment of a read is exact, one event can be left
out, and those ahead of the clock do not count early. A head that grows long is sealed down to the
newest ten minutes, 512 events at most. Pure, needs numpy.

Little-endian: the header of `layout.py`, `head u32 | hll bytes u32`, the slots of each rung,
registers of distinct counts (zlib; they are mostly zero), the head's records.
A window has the same minimum whatever order events came in; sums and squares are whole numbers.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from libs.common.features import hll
from libs.common.features.computed import (
    BECAME_POSITIVE,
    CEASED_POSITIVE,
    EVENT,
    ComputedView,
    Rung,
)
from libs.common.features.layout import HEADER, MAGIC, LayoutError
from libs.common.features.windows import NULL_CODE

# Sealing costs more than keeping; a head shorter than HEAD_LONG is left alone.
HEAD_MS, HEAD_LONG, HEAD_MAX = 600_000, 128, 512
_COUNTS = struct.Struct("<II")
_SLOT = np.dtype(
    [
        ("bucket", "<i8"),
        ("count", "<u4"),
        ("values", "<u4"),
        ("sum", "<i8"),
        ("sq_hi", "<u8"),
        ("sq_lo", "<u8"),
        ("min", "<i8"),
        ("max", "<i8"),
        ("newest_ms", "<i8"),
        ("last_ms", "<i8"),
        ("last", "<i8"),
        ("positives", "<i8"),
    ]
)
_LIMB_BITS = 20
_MASK32 = (1 << 32) - 1
_NO_BUCKET = -1
_LEAST, _MOST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


@dataclass(slots=True)
class Tiles:
    """Decoded state of one entity.

    Attributes:
        generation: mark of the store that it was written for; another one starts anew.
        slots: per rung, shape (slots,).
        registers: per rung and text, shape (slots, 1024).
        head: the newest events and labels, ascending by (their event's time, arrival).
    """

    event_ms: int
    offset: int
    slots: list[NDArray[np.void]]
    registers: list[list[hll.Registers]]
    head: NDArray[np.void]
    rungs: list[Rung] = field(repr=False)
    generation: int = 0

    @classmethod
    def empty(cls, view: ComputedView) -> "Tiles":
        """Give the state of an entity without events."""
        rungs = view.rungs
        slots = []
        for rung in rungs:
            fresh = np.zeros(rung.slots, _SLOT)
            fresh["bucket"] = _NO_BUCKET
            slots.append(fresh)
        registers = [
            [np.zeros((rung.slots, hll.REGISTERS), np.uint8) for _ in rung.fields] for rung in rungs
        ]
        return cls(0, 0, slots, registers, np.empty(0, view.layout.dtype), rungs)

    @classmethod
    def decode(cls, view: ComputedView, blob: bytes, *, is_writable: bool = True) -> "Tiles":
        """Read the bytes of an entity.

        Raises:
            LayoutError: these are no bytes of this view.
        """
        if len(blob) < HEADER.size + _COUNTS.size:
            raise LayoutError(f"{view.name}: wrong length")
        magic, schema_id, generation, event_ms, _, _, _, _, offset = HEADER.unpack_from(blob)
        if magic != MAGIC or schema_id != view.schema_id:
            raise LayoutError(f"{view.name}: wrong magic or schema")
        head, packed = _COUNTS.unpack_from(blob, HEADER.size)
        rungs = view.rungs
        at = HEADER.size + _COUNTS.size
        slots = []
        sizes = sum(rung.slots for rung in rungs) * _SLOT.itemsize
        if len(blob) != at + sizes + packed + head * view.layout.dtype.itemsize:
            raise LayoutError(f"{view.name}: wrong length")
        for rung in rungs:
            taken = np.frombuffer(blob, _SLOT, rung.slots, at)
            slots.append(taken.copy() if is_writable else taken)
            at += taken.nbytes
        registers = _registers(view, rungs, blob[at : at + packed], is_writable=is_writable)
        records = np.frombuffer(blob, view.layout.dtype, head, at + packed)
        return cls(event_ms, offset, slots, registers, records, rungs, generation)

    def encode(self, view: ComputedView, *, written_ms: int, epoch: int, partition: int) -> bytes:
        """Give the bytes."""
        facts = (self.event_ms, written_ms, epoch, partition, 0, self.offset)
        header = HEADER.pack(MAGIC, view.schema_id, self.generation, *facts)
        flat = b"".join([part.tobytes() for parts in self.registers for part in parts])
        packed = zlib.compress(flat, 1) if flat else b""
        counts = _COUNTS.pack(len(self.head), len(packed))
        slots = b"".join([part.tobytes() for part in self.slots])
        return header + counts + slots + packed + self.head.tobytes()

    def add(self, view: ComputedView, records: bytes, offset: int) -> None:
        """Take records in arrival order, whose last has this log offset."""
        self.offset = offset
        came = np.frombuffer(records, view.layout.dtype)
        times = came["event_ms"][came["kind"] == EVENT]
        self.event_ms = max(self.event_ms, int(times.max(initial=0)))
        head = np.frombuffer(self.head.tobytes() + came.tobytes(), view.layout.dtype)
        times = head["event_ms"]
        if len(head) > 1 and (times[1:] < times[:-1]).any():
            head = head[np.argsort(times, kind="stable")]
        sealed = 0
        if len(head) > HEAD_LONG:
            sealed = int(head["event_ms"].searchsorted(self.event_ms - HEAD_MS, "right"))
            if len(head) > HEAD_MAX:
                sealed = max(sealed, len(head) - HEAD_MAX + HEAD_LONG)
            # Some at a time: opening a tile costs as much for one event as for many.
            sealed = 0 if sealed < HEAD_LONG // 2 else sealed
            if sealed:
                self._seal(view, head[:sealed])
        self.head = head[sealed:]

    def _label(self, event_ms: int, kind: int) -> None:
        for rung, slots in zip(self.rungs, self.slots, strict=True):
            number = event_ms // rung.tile_ms
            slot = self._slot(slots, rung, number)
            if slot is not None:
                slots["positives"][slot] += {BECAME_POSITIVE: 1, CEASED_POSITIVE: -1}[kind]

    def _slot(self, slots: NDArray[np.void], rung: Rung, bucket: int) -> int | None:
        """Give the slot of a tile, emptied of an older one; None if a newer one holds it."""
        slot = bucket % rung.slots
        held = int(slots["bucket"][slot])
        if held > bucket:
            return None
        if held < bucket:
            slots[slot] = np.zeros(1, _SLOT)[0]
            slots["bucket"][slot] = bucket
            slots["min"][slot], slots["max"][slot] = _LEAST, _MOST
            for registers in self.registers[self.rungs.index(rung)]:
                registers[slot] = 0
        return slot

    def _seal(self, view: ComputedView, records: NDArray[np.void]) -> None:
        """Move events and labels, ascending, from the head into their tiles."""
        is_event = records["kind"] == EVENT
        if not is_event.all():
            for label in records[~is_event]:
                self._label(int(label["event_ms"]), int(label["kind"]))
            records = records[is_event]
            if not len(records):
                return
        for rung, slots, registers in zip(self.rungs, self.slots, self.registers, strict=True):
            buckets = records["event_ms"] // rung.tile_ms
            starts = np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]])
            for start, end in zip(starts, [*starts[1:], len(records)], strict=True):
                slot = self._slot(slots, rung, int(buckets[start]))
                if slot is not None:
                    inside = records[start:end]
                    _add_tile(slots, slot, inside)
                    for name, held in zip(rung.fields, registers, strict=True):
                        codes = inside[f"code{view.code_fields.index(name)}"].astype(np.int64)
                        hll.add(held[slot], codes[codes != NULL_CODE])


def _add_tile(slots: NDArray[np.void], slot: int, inside: NDArray[np.void]) -> None:
    slots["count"][slot] += len(inside)
    newest = int(inside["event_ms"][-1])
    numbers = inside["value"][inside["value"] != NULL_CODE]
    if len(numbers):
        last_ms = int(inside["event_ms"][inside["value"] != NULL_CODE][-1])
        # Among equal times the later arrival is the last.
        if last_ms >= int(slots["last_ms"][slot]):
            slots["last"][slot], slots["last_ms"][slot] = numbers[-1], last_ms
        slots["values"][slot] += len(numbers)
        slots["sum"][slot] += int(numbers.sum())
        squares = _squares(numbers) + (int(slots["sq_hi"][slot]) << 32) + int(slots["sq_lo"][slot])
        slots["sq_hi"][slot], slots["sq_lo"][slot] = squares >> 32, squares & _MASK32
        slots["min"][slot] = min(int(slots["min"][slot]), int(numbers.min()))
        slots["max"][slot] = max(int(slots["max"][slot]), int(numbers.max()))
    slots["newest_ms"][slot] = max(int(slots["newest_ms"][slot]), newest)


def _squares(numbers: NDArray[np.int64]) -> int:
    """Sum squares of numbers below 2^40, exactly."""
    high, low = numbers >> _LIMB_BITS, numbers & ((1 << _LIMB_BITS) - 1)
    sums = [int((left * right).sum()) for left, right in ((high, high), (high, low), (low, low))]
    return (sums[0] << (2 * _LIMB_BITS)) + (sums[1] << (_LIMB_BITS + 1)) + sums[2]


def _registers(
    view: ComputedView, rungs: Sequence[Rung], packed: bytes, *, is_writable: bool
) -> list[list[hll.Registers]]:
    if not packed:
        return [[] for _ in rungs]
    try:
        flat = zlib.decompress(packed)
    except zlib.error:
        raise LayoutError(f"{view.name}: unreadable registers") from None
    wanted = sum(rung.slots * len(rung.fields) for rung in rungs) * hll.REGISTERS
    if len(flat) != wanted:
        raise LayoutError(f"{view.name}: wrong length")
    at, found = 0, []
    for rung in rungs:
        mine = []
        for _ in rung.fields:
            taken = np.frombuffer(flat, np.uint8, rung.slots * hll.REGISTERS, at)
            taken = taken.reshape(rung.slots, hll.REGISTERS)
            mine.append(taken.copy() if is_writable else taken)
            at += taken.size
        found.append(mine)
    return found
