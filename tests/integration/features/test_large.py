"""What is large: a long stream of lines in bounded memory, an entity with very many events."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from redis import Redis

from libs.common.features.layout import VIEWS, unpack_ring
from libs.common.features.shipped import MERCHANT_RISK
from libs.common.features.shipped import read as read_bytes
from tests.integration.features.conftest import Start
from tests.integration.features.test_kill import _service
from tests.integration.features.worlds import DAY_MS, TENANT

MIB = 1024 * 1024


def _lines(size: int, started_ms: int) -> Iterator[bytes]:
    """Give events whose lines are padded to 16 KiB, every second of them refused."""
    for number in range(size // 16_384):
        event: dict[str, Any] = {
            "event_id": f"long-{number}",
            "type": "card_transaction",
            "event_ms": started_ms,
            "entities": {"card_id": f"card_{number % 50}"},
            "values": {"amount_minor": number if number % 2 else -1},
        }
        yield json.dumps(event).encode().ljust(16_383) + b"\n"


def test_a_long_stream_of_lines_is_taken_in_bounded_memory(
    clean_postgres: str, redis_url: str, state_dir: Path
) -> None:
    with _service(clean_postgres, redis_url, state_dir) as (process, url):
        server = psutil.Process(process.pid)
        before, most = server.memory_info().rss, 0
        started_ms = time.time_ns() // 1_000_000

        def watched() -> Iterator[bytes]:
            nonlocal most
            for number, line in enumerate(_lines(96 * MIB, started_ms)):
                if number % 200 == 0:
                    most = max(most, server.memory_info().rss)
                yield line

        headers = {"content-type": "application/x-ndjson"}
        answer = httpx2.post(
            f"{url}/features/events/stream", content=watched(), headers=headers, timeout=120
        )
    assert answer.status_code == 200, answer.text
    taken = answer.json()
    assert taken["accepted"] == 3072
    assert len(taken["rejected"]) == 1000
    assert most - before < 48 * MIB


@pytest.mark.anyio
async def test_an_entity_with_more_events_than_a_ring_holds_says_unknown_not_wrong(
    start: Start, redis_url: str
) -> None:
    now_ms = time.time_ns() // 1_000_000
    count = VIEWS["merchant"].records_max + 800
    events = [
        {
            "event_id": f"hot-{number}",
            "type": "card_transaction",
            "event_ms": now_ms - 8 * DAY_MS + number,
            "entities": {"card_id": f"card_{number % 100}", "merchant_id": "hot"},
            "values": {"amount_minor": 100},
        }
        for number in range(count)
    ]
    async with start(events_max=50_000) as running:
        for first in range(0, count, 3000):
            body = {"events": events[first : first + 3000]}
            await running.client.post("/features/backfills", json=body)
        await running.applied()
        features = ["merchant:count_30d", "merchant_risk:labelled_count_7d"]
        answer = await running.client.post(
            "/get-online-features",
            json={"features": features, "entities": {"merchant_id": ["hot"]}},
        )
    redis = Redis.from_url(redis_url)
    ring = redis.get(VIEWS["merchant"].key(TENANT, "hot"))
    tiles = redis.get(MERCHANT_RISK.redis_key(TENANT, "hot"))
    redis.close()
    assert isinstance(ring, bytes)
    assert isinstance(tiles, bytes)
    assert len(unpack_ring(VIEWS["merchant"], ring).records) == VIEWS["merchant"].records_max
    # What the ring forgot makes its window unknown; tiles hold every event in a few kilobytes.
    assert answer.json()["results"][1]["statuses"] == ["NULL_VALUE"]
    assert answer.json()["results"][2]["values"] == [float(count)]
    assert len(tiles) < 40_000
    assert read_bytes(MERCHANT_RISK, tiles, now_ms).values[1] == count
