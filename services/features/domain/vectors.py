"""Pushed vectors: the packed layout of one row of a feature view. Pure.

Little-endian: the 48-byte header of `libs.common.features.layout` (its pad holds the microseconds
below `event_ms`, its schema id the view's version), then a null bitmap padded to 8 bytes, columns
widest first (so that numpy reads them aligned), then the bytes of text columns. A text column is
the position of its end in that tail, u32; it begins where the previous text column ends.
"""

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.common.features.layout import HEADER, MAGIC, LayoutError

# Pushed views start here; smaller schema ids are the rings'.
FIRST_SCHEMA_ID = 1000
SCHEMA_ID_MAX = 65_535
TEXT_BYTES_MAX = 64 * 1024
_NUMPY = {"float64": "<f8", "int64": "<i8", "float32": "<f4", "int32": "<i4", "bool": "u1"}
_STRUCT = {"float64": "d", "int64": "q", "float32": "f", "int32": "i", "bool": "?"}
_TEXT = ("string", "bytes")
DTYPES = (*_NUMPY, *_TEXT)
_INTEGER_BITS = {"int64": 64, "int32": 32}


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """When a vector was true: Unix milliseconds and the microseconds below them (0-999)."""

    event_ms: int
    sub_us: int = 0


@dataclass(frozen=True)
class VectorLayout:
    """The layout of one version of a pushed view.

    Attributes:
        schema_id: u16 in the header, unique within the tenant.
        features: (name, dtype) in the order of the definition.
    """

    schema_id: int
    features: tuple[tuple[str, str], ...]

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Types by feature."""
        return dict(self.features)

    @cached_property
    def _uniform(self) -> np.dtype[Any] | None:
        """The one number type of all features, None where they differ."""
        kinds = {kind for _, kind in self.features}
        only = kinds.pop() if len(kinds) == 1 else ""
        is_plain = only in _NUMPY and only != "bool"
        return np.dtype(_NUMPY[only]) if is_plain else None

    @property
    def is_uniform(self) -> bool:
        """Whether all features are numbers of one type."""
        return self._uniform is not None

    @cached_property
    def columns(self) -> list[tuple[str, str]]:
        """Features in the order of their columns, widest first."""
        widths = {name: np.dtype(_NUMPY.get(kind, "<u4")).itemsize for name, kind in self.features}
        return sorted(self.features, key=lambda feature: -widths[feature[0]])

    @cached_property
    def _texts(self) -> list[tuple[str, str]]:
        return [feature for feature in self.columns if feature[1] in _TEXT]

    @cached_property
    def numbers(self) -> struct.Struct | None:
        """What lies behind the nulls of a row, column by column; None where some of it is text."""
        if self._texts:
            return None
        return struct.Struct("<" + "".join([_STRUCT[kind] for _, kind in self.columns]))

    @cached_property
    def null_bytes(self) -> int:
        """Length of the null bitmap."""
        return (len(self.features) + 63) // 64 * 8

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The fixed part as a numpy type, header and null bitmap included."""
        fields: list[Any] = [("header", f"V{HEADER.size}"), ("nulls", "u1", (self.null_bytes,))]
        fields += [(f"c_{name}", _NUMPY.get(kind, "<u4")) for name, kind in self.columns]
        bare = np.dtype(fields).itemsize
        padding = -bare % 8
        if padding:
            fields.append(("pad", f"V{padding}"))
        return np.dtype(fields)

    def check(self, name: str, value: object) -> str | None:
        """Say what is wrong with a value for a feature, None when it fits; None is null."""
        kind = dict(self.features)[name]
        if value is None:
            return None
        if kind == "bool":
            return None if isinstance(value, bool) else "must be a boolean"
        if kind in _TEXT:
            return _wrong_text(kind, value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "must be a number"
        bits = _INTEGER_BITS.get(kind)
        if bits is None:
            return None
        if not isinstance(value, int):
            return "must be a whole number"
        return None if -(2 ** (bits - 1)) <= value < 2 ** (bits - 1) else f"exceeds {bits} bits"

    def pack(self, stamp: Stamp, values: Mapping[str, Any]) -> bytes:
        """Encode one row; a missing or None value, or NaN, is null. Values passed `check`."""
        row = np.zeros(1, self.dtype)
        nulls = np.zeros(self.null_bytes * 8, dtype=np.uint8)
        tail = bytearray()
        for index, (name, kind) in enumerate(self.features):
            value = values.get(name)
            if value is None or (isinstance(value, float) and math.isnan(value)):
                nulls[index] = 1
            elif kind not in _TEXT:
                row[f"c_{name}"] = value
        for name, kind in self._texts:
            value = values.get(name)
            if value is not None:
                tail += base64.b64decode(value) if kind == "bytes" else value.encode()
            row[f"c_{name}"] = len(tail)
        row["nulls"] = np.packbits(nulls, bitorder="little")
        header = HEADER.pack(MAGIC, self.schema_id, 0, stamp.event_ms, 0, 0, 0, stamp.sub_us, 0)
        return header + row.tobytes()[HEADER.size :] + bytes(tail)

    def unpack(self, blobs: Sequence[bytes]) -> dict[str, list[Any]]:
        """Decode rows of this layout, one list per feature, None for null.

        Raises:
            LayoutError: a blob is too short or its tail has the wrong length.
        """
        size = self.dtype.itemsize
        if min(map(len, blobs)) < size:
            raise LayoutError("vector: wrong length")
        if self._uniform is not None and max(map(len, blobs)) == size:
            nothing = bytes(self.null_bytes)
            end = HEADER.size + self.null_bytes
            if all(blob[HEADER.size : end] == nothing for blob in blobs):
                return self._unpack_plain(blobs, end)
        rows = np.frombuffer(b"".join([blob[:size] for blob in blobs]), self.dtype)
        nulls = np.unpackbits(rows["nulls"], axis=1, bitorder="little").astype(bool)
        found: dict[str, list[Any]] = {}
        has_null = {int(index) for index in np.flatnonzero(nulls.any(axis=0))}
        for index, (name, kind) in enumerate(self.features):
            if kind not in _TEXT:
                column = rows[f"c_{name}"]
                found[name] = (column.astype(bool) if kind == "bool" else column).tolist()
            if kind not in _TEXT and index in has_null:
                for row in np.flatnonzero(nulls[:, index]):
                    found[name][row] = None
        if self._texts:
            self._unpack_texts(blobs, rows, nulls, found)
        elif any(len(blob) != size for blob in blobs):
            raise LayoutError("vector: wrong length")
        return found

    def _unpack_plain(self, blobs: Sequence[bytes], first: int) -> dict[str, list[Any]]:
        """Decode rows of numbers of one type without a null: one table, transposed."""
        assert self._uniform is not None
        end = first + len(self.features) * self._uniform.itemsize
        table = np.frombuffer(b"".join([blob[first:end] for blob in blobs]), self._uniform)
        columns = table.reshape(len(blobs), len(self.features)).T.tolist()
        return dict(zip([name for name, _ in self.columns], columns, strict=True))

    def _unpack_texts(
        self,
        blobs: Sequence[bytes],
        rows: NDArray[np.void],
        nulls: NDArray[np.bool_],
        found: dict[str, list[Any]],
    ) -> None:
        size, order = self.dtype.itemsize, [name for name, _ in self.features]
        starts = [size] * len(blobs)
        for name, kind in self._texts:
            column = order.index(name)
            values: list[Any] = []
            for row, (blob, end) in enumerate(zip(blobs, rows[f"c_{name}"].tolist(), strict=True)):
                part = blob[starts[row] : size + end]
                starts[row] = size + end
                if nulls[row, column]:
                    values.append(None)
                elif kind == "bytes":
                    values.append(base64.b64encode(part).decode())
                else:
                    values.append(part.decode())
            found[name] = values
        if any(start != len(blob) for start, blob in zip(starts, blobs, strict=True)):
            raise LayoutError("vector: wrong length")


def _wrong_text(kind: str, value: object) -> str | None:
    if not isinstance(value, str):
        return "must be text"
    if len(value.encode("utf-8", "surrogatepass")) > TEXT_BYTES_MAX:
        return f"exceeds {TEXT_BYTES_MAX} bytes"
    if kind == "bytes":
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return "must be base64"
    return None


@dataclass(frozen=True, slots=True)
class Head:
    """What the header of a vector says."""

    schema_id: int
    stamp: Stamp
    offset: int


def head_of(blob: bytes) -> Head:
    """Read the header.

    Raises:
        LayoutError: these are no bytes of ours.
    """
    if len(blob) < HEADER.size:
        raise LayoutError("vector: wrong length")
    magic, schema_id, _, event_ms, _, _, _, sub_us, offset = HEADER.unpack_from(blob)
    if magic != MAGIC:
        raise LayoutError("vector: wrong magic")
    return Head(schema_id, Stamp(event_ms, sub_us), offset)


_HEADER_DTYPE = np.dtype(
    [
        ("magic", "<u2"),
        ("schema_id", "<u2"),
        ("flags", "<u4"),
        ("event_ms", "<u8"),
        ("rest", "V20"),
        ("sub_us", "<u4"),
        ("offset", "<u8"),
    ]
)


def heads_of(blobs: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """Read schema id, event_ms and microseconds of many vectors; schema id 0: not ours."""
    size = HEADER.size
    if len(blobs) == 1 and len(blobs[0]) >= size:
        magic, schema_id, _, event_ms, _, _, _, sub_us, _ = HEADER.unpack_from(blobs[0])
        return [(schema_id if magic == MAGIC else 0, event_ms, sub_us)]
    joined = b"".join([blob[:size] if len(blob) >= size else bytes(size) for blob in blobs])
    heads = np.frombuffer(joined, _HEADER_DTYPE)
    schema_ids = np.where(heads["magic"] == MAGIC, heads["schema_id"], 0).tolist()
    return list(zip(schema_ids, heads["event_ms"].tolist(), heads["sub_us"].tolist(), strict=True))


def stamped(blob: bytes, *, written_ms: int, epoch: int, partition: int, offset: int) -> bytes:
    """Give the same vector with the facts of its writing in the header."""
    magic, schema_id, flags, event_ms, _, _, _, sub_us, _ = HEADER.unpack_from(blob)
    header = HEADER.pack(
        magic, schema_id, flags, event_ms, written_ms, epoch, partition, sub_us, offset
    )
    return header + blob[HEADER.size :]


def is_newer(blob: bytes, than: bytes | None) -> bool:
    """Say whether the script would replace `than`: (event time, arrival) decides.

    The Python twin of `adapters/vector.lua`.
    """
    if than is None:
        return True
    one, other = head_of(blob), head_of(than)
    return (one.stamp.event_ms, one.stamp.sub_us, one.offset) > (
        other.stamp.event_ms,
        other.stamp.sub_us,
        other.offset,
    )
