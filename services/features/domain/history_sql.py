"""The SQL half of a computed view: the same definition as a point-in-time query. Pure.

Per asked row a LATERAL over the events of its entity that had arrived by then; labels count as they
were known then. It gives each window's statistics; `libs.common.features.computed.finish` turns
them into values, as online.
"""

from collections.abc import Sequence
from typing import Any

from libs.common.features.computed import (
    OF_VALUE,
    Aggregate,
    ComputedView,
)
from libs.common.features.hll import estimate_codes
from libs.common.features.layout import code_of
from libs.common.features.readings import Statistics, finish

# Where an event keeps each field; the only texts that reach the query.
_FIELDS = {
    **{name: f"e.body->'values'->>'{name}'" for name in ("amount_minor", "price_minor")},
    **{
        name: f"e.body->'attrs'->>'{name}'"
        for name in ("mcc_code", "country_code", "device_id", "item_category")
    },
    **{
        name: f"e.body->'entities'->>'{name}'"
        for name in ("card_id", "merchant_id", "user_id", "item_id", "session_id")
    },
}
_LABEL = """
LEFT JOIN LATERAL (
    SELECT label FROM labels
    WHERE labels.tenant = $1 AND kind = 'transaction' AND subject_id = e.event_id
        AND available_ms <= r.as_of AND (unseen.since_ms IS NULL OR available_ms < unseen.since_ms)
    ORDER BY available_ms DESC LIMIT 1
) AS known ON true
"""
# Since when the entity's labels lie behind the last offset that a row may see.
_UNSEEN = """
CROSS JOIN LATERAL (
    SELECT min(arrival_ms) AS since_ms FROM log
    WHERE log.view = $6 AND log.entity = r.entity AND log.tenant = $1
        AND log.event_id = '' AND log."offset" > r.until
) AS unseen
"""
_QUERY = """
SELECT r.number, found.* FROM unnest($2::int[], $3::text[], $4::bigint[], $5::bigint[])
    AS r (number, entity, as_of, until)
{unseen}
CROSS JOIN LATERAL (
    SELECT max(e.event_ms) AS newest_ms, {columns}
    FROM log JOIN events AS e ON e.tenant = log.tenant AND e.event_id = log.event_id
    {label}
    WHERE log.view = $6 AND log.entity = r.entity AND log.tenant = $1
        AND length(log.record) > 0 AND e.event_ms <= r.as_of
        AND CASE WHEN r.until IS NULL THEN e.arrival_ms <= r.as_of
            ELSE log."offset" <= r.until END
        AND e.event_ms >= r.as_of - {reach}
) AS found
ORDER BY r.number
"""
# Parameters: tenant, row numbers, entities, as-of times, last log offsets that rows may see (null:
# what had arrived by the as-of time), the view's key, the positive label.
_POSITIVE = "(known.label = $7 OR known.label = 'true')"
_LONGEST_TILE_MS = 86_400_000


def compile_view(view: ComputedView) -> str:
    """Give the query; one row per asked row, statistics of each aggregate in order."""
    columns = []
    for index, item in enumerate(view.aggregates):
        columns += [
            f"{expression} AS a{index}_{place}"
            for place, expression in enumerate(_expressions(view, item))
        ]
    # Aggregates filter exactly; this only bounds what is looked at.
    reach = view.horizon_ms + (_LONGEST_TILE_MS if view.is_tiled else 0)
    label, unseen = ("", "") if view.label is None else (_LABEL, _UNSEEN)
    return _QUERY.format(columns=", ".join(columns), label=label, unseen=unseen, reach=reach)


def parameters(
    view: ComputedView,
    tenant: str,
    entities: Sequence[str],
    as_of_ms: Sequence[int],
    until: Sequence[int | None] | None = None,
) -> list[Any]:
    """Give what the query takes; without `until` a row sees what had arrived by then."""
    numbers = list(range(len(entities)))
    last = [None] * len(entities) if until is None else list(until)
    taken = [tenant, numbers, list(entities), list(as_of_ms), last, view.key]
    return [*taken, view.label] if view.label is not None else taken


def _inside(view: ComputedView, item: Aggregate) -> str:
    start, end = f"r.as_of - {item.reach_ms}", f"r.as_of - {item.delay_ms}"
    if not view.is_tiled:
        return f"e.event_ms > {start} AND e.event_ms <= {end}"
    tile = item.tile_ms
    first = f"e.event_ms >= ({start}) / {tile} * {tile}"
    return f"{first} AND e.event_ms < ({end}) / {tile} * {tile}" if item.delay_ms else first


def _expressions(view: ComputedView, item: Aggregate) -> list[str]:
    inside = _inside(view, item)
    count = f"count(*) FILTER (WHERE {inside})"
    if item.kind == "rate":
        return [count, f"count(*) FILTER (WHERE {inside} AND {_POSITIVE})"]
    if item.kind == "time_since":
        return [f"max(e.event_ms) FILTER (WHERE {inside})"]
    if item.kind == "distinct":
        return [f"array_agg(DISTINCT {_FIELDS[str(item.field)]}) FILTER (WHERE {inside})"]
    if item.kind not in OF_VALUE:
        return [count]
    value = f"({_FIELDS[str(item.field)]})::numeric"
    known = f"FILTER (WHERE {inside} AND {value} IS NOT NULL)"
    if item.kind == "last":
        return [f'(array_agg({value} ORDER BY e.event_ms DESC, log."offset" DESC) {known})[1]']
    if item.kind in {"min", "max"}:
        return [f"{item.kind}({value}) {known}"]
    square = f"sum({value} * {value}) {known}"
    return [f"count(*) {known}", f"sum({value}) {known}", square]


def values_of(view: ComputedView, row: Any, now_ms: int) -> list[float]:
    """Turn one row of the query's answer (number, newest, statistics) into values."""
    cells = list(row)[2:]
    values, at = [], 0
    for item in view.aggregates:
        width = len(_expressions(view, item))
        found = _statistics(view, item, cells[at : at + width])
        values.append(finish(item.kind, found, now_ms))
        at += width
    return values


def _statistics(view: ComputedView, item: Aggregate, cells: list[Any]) -> Statistics:
    first = cells[0]
    if item.kind == "rate":
        return Statistics(count=first, positives=cells[1])
    if item.kind == "time_since":
        return Statistics(newest_ms=first)
    if item.kind == "distinct":
        texts = [text for text in first or () if text is not None]
        if view.is_tiled:
            return Statistics(distinct=estimate_codes(code_of(text) for text in texts))
        return Statistics(distinct=float(len(texts)))
    if item.kind == "count":
        return Statistics(count=first)
    if item.kind in {"last", "min", "max"}:
        value = None if first is None else int(first)
        return Statistics(last=value, least=value, most=value)
    return Statistics(values=first, total=int(cells[1] or 0), squares=int(cells[2] or 0))
