"""Streaming updaters of computed views against brute force, and distinct counts against sets."""

import random
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.features import hll, tiles
from libs.common.features.computed import Aggregate, ComputedView
from libs.common.features.layout import LayoutError, code_of, tag_of
from libs.common.features.readings import read_ring
from libs.common.features.tile_readings import read_tiles
from libs.common.features.tiles import Tiles
from services.features.domain.ring import write
from tests.unit.common.features.computed_worlds import (
    DAY,
    START_MS,
    Event,
    World,
    brute_force,
    log_of,
    same,
    worlds,
)


def _ring(world: World, records: list[bytes], now_ms: int) -> dict[str, float] | None:
    blob = None
    for offset, record in enumerate(records, 1):
        facts = {"written_ms": 0, "epoch": 1, "partition": 0, "offset": offset}
        blob = write(world.view.layout, blob, [record], **facts).blob
    return None if blob is None else _named(world, read_ring(world.view, blob, now_ms).values)


def _tiles(world: World, records: list[bytes], now_ms: int, step: int) -> dict[str, float]:
    blob = Tiles.empty(world.view).encode(world.view, written_ms=0, epoch=1, partition=0)
    for first in range(0, len(records), step):
        state = Tiles.decode(world.view, blob)
        part = records[first : first + step]
        state.add(world.view, b"".join(part), first + len(part))
        blob = state.encode(world.view, written_ms=0, epoch=1, partition=0)
    return _named(world, read_tiles(world.view, blob, now_ms).values)


def _named(world: World, values: list[float]) -> dict[str, float]:
    return dict(zip([item.name for item in world.view.aggregates], values, strict=True))


def _assert_same(found: dict[str, float], expected: dict[str, float]) -> None:
    differing = {
        name: (found[name], expected[name])
        for name in expected
        if not same(found[name], expected[name])
    }
    assert not differing


@settings(max_examples=150, deadline=None)
@given(worlds("ring"))
def test_rings_give_what_brute_force_gives_at_any_moment(world: World) -> None:
    for now_ms in world.moments:
        for entity in ("a", "b"):
            found = _ring(world, log_of(world, entity, now_ms), now_ms)
            if found is not None:
                _assert_same(found, brute_force(world, entity, now_ms))


@settings(max_examples=150, deadline=None)
@given(worlds("tiles"), st.integers(1, 30), st.sampled_from([0, 3, tiles.HEAD_LONG]))
def test_tiles_give_what_brute_force_gives_with_starts_rounded_down(
    world: World, step: int, head_long: int
) -> None:
    with patch.object(tiles, "HEAD_LONG", head_long):
        for now_ms in world.moments:
            for entity in ("a", "b"):
                found = _tiles(world, log_of(world, entity, now_ms), now_ms, step)
                _assert_same(found, brute_force(world, entity, now_ms))


@pytest.mark.parametrize("engine", ["ring", "tiles"])
def test_the_event_that_is_scored_is_left_out_by_its_tag(engine: str) -> None:
    view = _view(engine)
    event = Event("e1", START_MS, START_MS, "a", 500, "GB")
    world = World(view, [event], [], [])
    record = log_of(world, "a", START_MS)[0]
    if engine == "ring":
        blob = write(view.layout, None, [record], written_ms=0, epoch=1, partition=0, offset=1).blob
        reading = read_ring(view, blob or b"", START_MS, tag_of("e1"))
    else:
        state = Tiles.empty(view)
        state.add(view, record, 1)
        blob = state.encode(view, written_ms=0, epoch=1, partition=0)
        reading = read_tiles(view, blob, START_MS, tag_of("e1"))
    assert _named(world, reading.values)["f_count"] == 0
    assert reading.event_ms == START_MS


def _view(engine: Any) -> ComputedView:

    aggregates = (
        Aggregate("f_count", "count", None, DAY),
        Aggregate("f_distinct", "distinct", "country_code", DAY),
    )
    return ComputedView("v", 1, 1000, ("card_id",), ("card_transaction",), engine, aggregates, DAY)


def test_a_hot_entity_keeps_tiles_of_bounded_size() -> None:
    view, state, draw = _view("tiles"), None, random.Random(7)
    events = [
        Event(f"e{n}", START_MS + n * 20, START_MS + n * 20, "a", draw.randrange(10**6), "GB")
        for n in range(20_000)
    ]
    records = log_of(World(view, events, [], []), "a", START_MS + DAY)
    state = Tiles.empty(view)
    for first in range(0, len(records), 2000):
        state.add(view, b"".join(records[first : first + 2000]), first + 2000)
    blob = state.encode(view, written_ms=0, epoch=1, partition=0)
    assert len(blob) < 32_000
    now_ms = events[-1].event_ms
    assert read_tiles(view, blob, now_ms).values == [20_000.0, 1.0]


@pytest.mark.parametrize("count", [0, 1, 10, 1000, 50_000])
def test_distinct_counts_err_by_a_few_percent_and_are_exact_when_few(count: int) -> None:
    found = hll.estimate_codes(code_of(f"card-{n}") for n in range(count))
    assert abs(found - count) <= max(1, 0.1 * count)


def test_unions_of_registers_equal_registers_of_unions() -> None:
    codes = np.array([code_of(str(n)) for n in range(3000)])
    left, right, both = hll.empty(), hll.empty(), hll.empty()
    hll.add(left, codes[:2000])
    hll.add(right, codes[1000:])
    hll.add(both, codes)
    np.testing.assert_array_equal(np.maximum(left, right), both)


@pytest.mark.parametrize("cut", [1, 40, 56, 60, 500])
def test_damaged_tiles_are_refused(cut: int) -> None:
    view = _view("tiles")
    blob = Tiles.empty(view).encode(view, written_ms=0, epoch=1, partition=0)
    with pytest.raises(LayoutError):
        Tiles.decode(view, blob[:-cut])
