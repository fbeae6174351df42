"""The hops of one request as bars: where each began, how long it took, who called whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 640
# A bar shorter than this could not be seen.
_NARROWEST = 2.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One span, in units of the drawing; `depth` counts its callers."""

    service: str
    name: str
    kind: str
    status: str
    depth: int
    x: float
    width: float
    start_ms: float
    duration_ms: float


def waterfall(spans: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Lay the spans of one trace out, callers before what they called.

    Args:
        spans: each with span_id, parent_span_id, service, name, kind, status, start_unix_ns (text
            or number) and duration_ms. A span whose caller is not among them stands at the left.
    """
    if not spans:
        return []
    started = {span["span_id"]: int(span["start_unix_ns"]) for span in spans}
    first = min(started.values())
    # Relative to the first: as doubles, times since 1970 are only good to 0.1 us.
    lasts = max(started[span["span_id"]] - first + span["duration_ms"] * 1e6 for span in spans)
    scale = WIDTH / max(lasts, 1.0)
    called: dict[str | None, list[Mapping[str, Any]]] = {}
    for span in sorted(spans, key=lambda each: started[each["span_id"]]):
        caller = span.get("parent_span_id")
        called.setdefault(caller if caller in started else None, []).append(span)
    bars: list[Bar] = []
    waiting = [(span, 0) for span in reversed(called.get(None, []))]
    while waiting:
        span, depth = waiting.pop()
        begin = started[span["span_id"]] - first
        width = max(span["duration_ms"] * 1e6 * scale, _NARROWEST)
        bars.append(
            Bar(
                str(span["service"]).removeprefix("gatehouse-"),
                span["name"],
                span["kind"],
                span["status"],
                depth,
                round(min(begin * scale, WIDTH - width), 1),
                round(width, 1),
                round(begin / 1e6, 2),
                round(span["duration_ms"], 2),
            )
        )
        waiting += [(each, depth + 1) for each in reversed(called.get(span["span_id"], []))]
    return bars
