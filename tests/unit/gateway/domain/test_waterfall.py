"""Spans of a trace become bars: callers first, inside the drawing."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.waterfall import WIDTH, waterfall


def span(name: str, parent: str | None, start_ms: float, ms: float) -> dict[str, Any]:
    return {
        "span_id": name, "parent_span_id": parent, "service": "gatehouse-gateway", "name": name,
        "kind": "server", "status": "ok", "start_unix_ns": str(int(start_ms * 1e6) + 10**18),
        "duration_ms": ms,
    }  # fmt: skip


def test_a_call_stands_below_its_caller_where_it_began() -> None:
    bars = waterfall([span("b", "a", 25, 50), span("c", "b", 50, 25), span("a", None, 0, 100)])
    assert [(bar.name, bar.depth) for bar in bars] == [("a", 0), ("b", 1), ("c", 2)]
    assert [(bar.x, bar.width) for bar in bars] == [(0, 640), (160, 320), (320, 160)]
    assert [bar.start_ms for bar in bars] == [0, 25, 50]
    assert {bar.service for bar in bars} == {"gateway"}


def test_nothing_gives_nothing_and_an_unknown_caller_stands_at_the_left() -> None:
    assert waterfall([]) == []
    assert [bar.depth for bar in waterfall([span("a", "elsewhere", 0, 1)])] == [0]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.floats(0, 1e4), st.floats(0, 1e4)), min_size=1, max_size=30
    )
)
def test_every_span_has_one_bar_inside_the_drawing(rows: list[tuple[int, float, float]]) -> None:
    # The caller is any earlier span, so there are chains, fans and several roots.
    spans = [
        span(f"s{at}", f"s{caller}" if caller < at else None, start, ms)
        for at, (caller, start, ms) in enumerate(rows)
    ]
    bars = waterfall(spans)
    assert sorted(bar.name for bar in bars) == sorted(each["span_id"] for each in spans)
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH + 0.11 for bar in bars)
    order = {bar.name: at for at, bar in enumerate(bars)}
    for each in spans:
        if each["parent_span_id"]:
            assert order[each["parent_span_id"]] < order[each["span_id"]]
