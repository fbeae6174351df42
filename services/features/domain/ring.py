"""The Python twin of `adapters/ring.lua`: what one write does to a ring, byte for byte."""

from collections.abc import Sequence
from dataclasses import dataclass

from libs.common.features.layout import HEADER, Past, RingView, pack_ring, unpack_ring


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of one write.

    Attributes:
        blob: the ring afterwards; None when it never existed and nothing was applied.
        applied: records that are new.
        duplicates: records whose tag the ring already holds at their time.
        too_late: records older than what the ring still holds.
    """

    blob: bytes | None
    applied: int
    duplicates: int
    too_late: int


def write(
    view: RingView,
    blob: bytes | None,
    records: Sequence[bytes],
    *,
    written_ms: int,
    epoch: int,
    partition: int,
    offset: int,
) -> Written:
    """Insert packed records in (time, arrival) order, then fold what is out of reach."""
    ring = unpack_ring(view, blob) if blob else None
    held = [tuple(int(field) for field in row) for row in ring.records] if ring else []
    past = ring.past if ring else Past()
    newest = ring.event_ms if ring else 0
    applied = duplicates = too_late = 0
    for packed in records:
        record = view.record.unpack(packed)
        at_ms, tag = record[0], record[2]
        if at_ms <= max(newest - view.keep_ms, past.last_ms):
            too_late += 1
        elif any(row[0] == at_ms and row[2] == tag for row in held):
            duplicates += 1
        else:
            place = sum(row[0] <= at_ms for row in held)
            held.insert(place, record)
            newest = max(newest, at_ms)
            applied += 1
    if not applied:
        return Written(blob, 0, duplicates, too_late)
    gone = sum(row[0] <= newest - view.keep_ms for row in held)
    gone = max(gone, len(held) - view.records_max)
    last_offset = max(offset, ring.offset if ring else 0)
    after = pack_ring(
        view,
        held[gone:],
        past=_fold(past, held[:gone]),
        event_ms=newest,
        written_ms=written_ms,
        epoch=max(epoch, HEADER.unpack_from(blob)[5] if blob else 0),
        partition=partition,
        offset=last_offset,
    )
    return Written(after, applied, duplicates, too_late)


def _fold(past: Past, gone: Sequence[tuple[int, ...]]) -> Past:
    return Past(
        past.n + len(gone),
        past.sum + sum(row[1] for row in gone),
        past.sum_of_squares + sum(row[1] ** 2 for row in gone),
        max([past.last_ms, *(row[0] for row in gone)]),
    )
