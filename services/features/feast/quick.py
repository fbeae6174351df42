"""The usual read, one row of views without texts, rendered straight from the bytes. Pure.

Gives what `views` gives, or nothing where a row is not usual: absent, old, with a null, of another
version. `tests/unit/features/test_quick.py` holds both ways against each other.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from libs.common.features.layout import HEADER, MAGIC
from services.features.domain.pushed import PushedView
from services.features.domain.vectors import Stamp
from services.features.feast.wire import EPOCH, rfc3339

_START = b'{"values":['
_KEY_TAIL = f'],"statuses":["PRESENT"],"event_timestamps":["{EPOCH}"]}}'.encode()


@dataclass(frozen=True, slots=True)
class _PlainView:
    """A pushed view without texts."""

    schema_id: int
    ttl_ms: int
    nulls: bytes
    numbers: struct.Struct
    size: int

    def texts(self, blob: bytes | None, now_ms: int) -> tuple[Stamp, list[bytes]] | None:
        """Give a row's time and its numbers as JSON, None where it is not usual."""
        if blob is None or len(blob) != self.size or not blob.startswith(self.nulls, HEADER.size):
            return None
        magic, schema_id, _, event_ms, _, _, _, sub_us, _ = HEADER.unpack_from(blob)
        if magic != MAGIC or schema_id != self.schema_id or now_ms - event_ms > self.ttl_ms:
            return None
        text = orjson.dumps(self.numbers.unpack_from(blob, HEADER.size + len(self.nulls)))
        if b"null" in text:  # infinity
            return None
        return Stamp(event_ms, sub_us), text[1:-1].split(b",")


@dataclass(frozen=True, slots=True)
class QuickPlan:
    """How to render one row.

    Attributes:
        views: in the order of their blobs.
        order: (view's number, place among its columns) of each result.
    """

    views: tuple[_PlainView, ...]
    order: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls, views: Sequence[PushedView], order: Sequence[tuple[int, str]]
    ) -> "QuickPlan | None":
        """Plan results given as (view's number, feature); None where a view is not plain."""
        plain = []
        for view in views:
            numbers = view.layout.numbers
            if numbers is None:
                return None
            size, nulls = view.layout.dtype.itemsize, bytes(view.layout.null_bytes)
            plain.append(_PlainView(view.layout.schema_id, view.ttl_ms, nulls, numbers, size))
        columns = [[name for name, _ in view.layout.columns] for view in views]
        places = tuple((number, columns[number].index(name)) for number, name in order)
        return cls(tuple(plain), places)

    def render(
        self,
        head: bytes,
        entities: Mapping[str, list[object]],
        blobs: Sequence[bytes | None],
        now_ms: int,
    ) -> tuple[bytes, list[int]] | None:
        """Give the answer and each view's event time; None where the row is not usual.

        Args:
            head: the answer up to its results.
            entities: of the request.
            blobs: one per view.
            now_ms: wall clock.
        """
        texts, tails, times = [], [], []
        for view, blob in zip(self.views, blobs, strict=True):
            found = view.texts(blob, now_ms)
            if found is None:
                return None
            stamp, numbers = found
            texts.append(numbers)
            times.append(stamp.event_ms)
            tails.append(
                b'],"statuses":["PRESENT"],"event_timestamps":["%b"]}' % rfc3339(stamp).encode()
            )
        results = [orjson.dumps(column)[1:-1] + _KEY_TAIL for column in entities.values()]
        results += [texts[number][place] + tails[number] for number, place in self.order]
        return b"%b%b%b]}" % (head, _START, (b"," + _START).join(results)), times
