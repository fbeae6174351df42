"""Generated payments as events, and the rings that they must leave."""

import random
import time
from typing import Any, cast

from redis import Redis

from libs.common.features.layout import VIEWS, unpack_ring
from services.features.domain.events import Accepted

DAY_MS = 86_400_000
TENANT = "default"


def payments(count: int, seed: int = 1, *, days: int = 60) -> list[dict[str, Any]]:
    """Give payments in arrival order; most in time order, some up to an hour late."""
    draw = random.Random(seed)
    start_ms = time.time_ns() // 1_000_000 - days * DAY_MS
    step_ms = days * DAY_MS // count
    events = []
    for number in range(count):
        arrival_ms = start_ms + number * step_ms
        is_delayed = draw.random() < 0.05
        events.append(
            {
                "event_id": f"tx-{seed}-{number}",
                "type": "card_transaction",
                "event_ms": arrival_ms - (draw.randrange(3_600_000) if is_delayed else 0),
                "arrival_ms": arrival_ms,
                "entities": {
                    "card_id": f"card_{draw.randrange(20)}",
                    "merchant_id": f"merchant_{draw.randrange(5)}",
                },
                "values": {"amount_minor": draw.randrange(1, 100_000)},
                "attrs": {"mcc_code": "5411", "country_code": draw.choice(["GB", "US"])},
            }
        )
    return events


def expected_rings(events: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Sort, then fold what lies out of reach: no script, no order of arrival."""
    records: dict[tuple[str, str], dict[int, tuple[int, ...]]] = {}
    for event in events:
        body = {key: event[key] for key in ("entities", "values", "attrs")}
        at_ms = event["event_ms"]
        accepted = Accepted(event["event_id"], event["type"], at_ms, at_ms, body, is_late=False)
        for touch in accepted.touches:
            record = VIEWS[touch.view].record.unpack(touch.record)
            records.setdefault((touch.view, touch.entity), {})[record[2]] = record
    return {
        VIEWS[view].key(TENANT, entity): _folded(view, list(rows.values()))
        for (view, entity), rows in records.items()
    }


def _folded(view: str, rows: list[tuple[int, ...]]) -> tuple[Any, ...]:
    cutoff_ms = max(row[0] for row in rows) - VIEWS[view].keep_ms
    gone = [row for row in rows if row[0] <= cutoff_ms]
    past = (
        len(gone),
        sum(row[1] for row in gone),
        sum(row[1] ** 2 for row in gone),
        max((row[0] for row in gone), default=0),
    )
    return past, sorted(row for row in rows if row[0] > cutoff_ms)


def actual_rings(redis_url: str) -> dict[str, tuple[Any, ...]]:
    """Read every ring as plain values."""
    client = Redis.from_url(redis_url)
    try:
        rings = {}
        for key in client.scan_iter("features:*:ring"):
            view = key.decode().split(":")[2]
            ring = unpack_ring(VIEWS[view], cast(bytes, client.get(key)))
            past = ring.past
            rows = sorted(tuple(int(field) for field in row) for row in ring.records)
            rings[key.decode()] = (past.n, past.sum, past.sum_of_squares, past.last_ms), rows
        return rings
    finally:
        client.close()
