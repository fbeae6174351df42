"""The packed layout of pushed vectors."""

import base64
import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.features.layout import LayoutError
from services.features.domain.vectors import (
    DTYPES,
    Stamp,
    VectorLayout,
    head_of,
    heads_of,
    is_newer,
    stamped,
)

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float64": st.floats(allow_infinity=False),
    "float32": st.floats(width=32, allow_infinity=False),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "bool": st.booleans(),
    "string": st.text(st.characters(codec="utf-8"), max_size=20),
    "bytes": st.binary(max_size=20).map(lambda raw: base64.b64encode(raw).decode()),
}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=80), st.data())
def test_what_is_packed_is_unpacked(kinds: list[str], data: Any) -> None:
    layout = VectorLayout(1000, tuple((f"f{n}", kind) for n, kind in enumerate(kinds)))
    rows = [
        {f"f{n}": data.draw(st.none() | _VALUES[kind]) for n, kind in enumerate(kinds)}
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    assert all(layout.check(name, value) is None for row in rows for name, value in row.items())
    blobs = [layout.pack(Stamp(1_000, 7), row) for row in rows]
    unpacked = layout.unpack(blobs)
    for index, row in enumerate(rows):
        for name, value in row.items():
            expected = None if isinstance(value, float) and math.isnan(value) else value
            assert unpacked[name][index] == expected


def test_fifty_small_floats_take_less_than_300_bytes() -> None:
    layout = VectorLayout(1000, tuple((f"f{n}", "float32") for n in range(50)))
    assert len(layout.pack(Stamp(1), {f"f{n}": 0.5 for n in range(50)})) == 256


def test_later_time_then_later_arrival_wins() -> None:
    layout = VectorLayout(1000, (("a", "int64"),))

    def blob(at_ms: int, sub_us: int, offset: int) -> bytes:
        packed = layout.pack(Stamp(at_ms, sub_us), {"a": 1})
        return stamped(packed, written_ms=9, epoch=1, partition=3, offset=offset)

    order = [blob(5, 0, 9), blob(5, 1, 2), blob(5, 1, 3), blob(6, 0, 1)]
    for older, newer in itertools.pairwise(order):
        assert is_newer(newer, older)
        assert not is_newer(older, newer)
        assert not is_newer(newer, newer)
    assert is_newer(order[0], None)
    assert head_of(order[1]).stamp == Stamp(5, 1)


@pytest.mark.parametrize("blob", [b"", b"nonsense", bytes(200)])
def test_bytes_that_are_not_ours_are_told(blob: bytes) -> None:
    assert heads_of([blob])[0][0] == 0
    with pytest.raises(LayoutError):
        head_of(blob)


def test_a_cut_vector_is_refused() -> None:
    layout = VectorLayout(1000, (("a", "string"), ("b", "int64")))
    blob = layout.pack(Stamp(1), {"a": "text", "b": 1})
    for cut in (blob[:-1], blob + b"x", blob[:50]):
        with pytest.raises(LayoutError):
            layout.unpack([cut])
