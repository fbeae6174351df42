"""The Lua script against its Python twin and against plain sorting, on a real Redis."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

import services.features.adapters as adapters
from libs.common.features.layout import AHEAD_MS, LATENESS_MS, VIEWS, unpack_ring
from libs.common.features.windows import DAY_MS
from services.features.domain.ring import write

SCRIPT = Path(adapters.__file__).with_name("ring.lua")
START_MS = 1_750_000_000_000
CARD = VIEWS["card"]


@pytest.fixture
def server(redis_url: str) -> Any:
    client = Redis.from_url(redis_url)
    yield client
    client.close()


def _lua(server: Any, view: Any, records: list[bytes], offset: int) -> list[int]:
    arguments = [
        view.schema_id,
        view.dtype.itemsize,
        view.keep_ms,
        view.records_max,
        view.expire_ms,
        7,
        3,
        2,
        offset,
        b"".join(records),
    ]
    answer: list[int] = server.eval(SCRIPT.read_text(), 1, "ring", *arguments)
    return answer


_EVENT = st.tuples(
    st.integers(0, 70 * DAY_MS),
    st.one_of(st.integers(0, 10**6), st.sampled_from([0, 65_535, 65_536, 2**40 - 1])),
    st.integers(0, 2**64 - 1),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(st.lists(_EVENT, max_size=8), max_size=6))
def test_the_script_and_its_twin_leave_the_same_bytes(server: Any, batches: Any) -> None:
    server.flushall()
    blob = None
    for number, batch in enumerate(batches):
        records = [CARD.record.pack(START_MS + at, v, tag, 1, 2, 3, 0) for at, v, tag in batch]
        result = write(CARD, blob, records, written_ms=7, epoch=3, partition=2, offset=number + 1)
        answer = _lua(server, CARD, records, number + 1)
        assert answer == [result.applied, result.duplicates, result.too_late]
        blob = result.blob
        assert server.get("ring") == blob


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_EVENT, min_size=1, max_size=25, unique_by=lambda e: e[2]), st.data())
def test_lateness_and_redelivery_end_in_the_sorted_history(
    server: Any, events: Any, data: Any
) -> None:
    server.flushall()
    # Arrival follows time within the lateness bound; then everything is delivered again, shuffled.
    delay = st.integers(0, LATENESS_MS)
    arrivals = sorted(events, key=lambda event: event[0] + data.draw(delay))
    again = data.draw(st.permutations(arrivals))
    for at, value, tag in (*arrivals, *again):
        _lua(server, CARD, [CARD.record.pack(START_MS + at, value, tag, 1, 2, 3, 0)], 1)
    ring = unpack_ring(CARD, server.get("ring"))
    newest = max(at for at, _, _ in events)
    gone = [event for event in events if event[0] <= newest - CARD.keep_ms]
    assert ring.past.n == len(gone)
    assert ring.past.sum == sum(value for _, value, _ in gone)
    assert ring.past.sum_of_squares == sum(value**2 for _, value, _ in gone)
    held = sorted((int(row["event_ms"]), int(row["tag"])) for row in ring.records)
    assert held == sorted((START_MS + at, t) for at, _, t in events if at > newest - CARD.keep_ms)


def test_a_full_ring_folds_its_oldest_records(server: Any) -> None:
    view = VIEWS["session"]
    records = [view.record.pack(START_MS + n, 1, n, 0, 0) for n in range(view.records_max + 10)]
    _lua(server, view, records, 1)
    ring = unpack_ring(view, server.get("ring"))
    assert (len(ring.records), ring.past.n) == (view.records_max, 10)
    assert ring.past.last_ms == START_MS + 9
    assert _lua(server, view, records[:10], 2) == [0, 0, 10]


def test_an_unreadable_ring_is_never_overwritten(server: Any) -> None:
    server.set("ring", b"nonsense")
    with pytest.raises(Exception, match="UNREADABLE"):
        _lua(server, CARD, [CARD.record.pack(START_MS, 1, 1, 1, 2, 3, 0)], 1)
    assert server.get("ring") == b"nonsense"


def test_the_ring_reaches_further_back_than_any_event_may_arrive_late() -> None:
    assert all(v.keep_ms >= v.horizon_ms + LATENESS_MS + AHEAD_MS for v in VIEWS.values())
