"""From `POST /features/events` to what the reader reads, with faults on the way."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import asyncpg
import httpx2
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from libs.common.errors import UnavailableError
from libs.common.features.contract import FeatureRequest
from libs.common.features.fraud import FRAUD_V1
from libs.common.features.layout import LATENESS_MS, SERVING_KEY
from libs.common.features.reader import OnlineFeatureReader
from libs.common.postgres import Postgres
from libs.common.redis import create_redis
from libs.common.redis_lean import LeanRedis
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.log import PostgresEventLog, note_applied
from services.features.domain.events import PARTITIONS, Accepted
from services.features.ingest import Ingestion
from tests.integration.features.conftest import Running, Start
from tests.integration.features.worlds import TENANT, actual_rings, expected_rings, payments

pytestmark = pytest.mark.anyio


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _event(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "type": "card_transaction",
        "event_ms": _now_ms(),
        "entities": {"card_id": "card_1", "merchant_id": "merchant_1"},
        "values": {"amount_minor": 1250},
        "attrs": {"mcc_code": "5411", "country_code": "GB"},
        **changes,
    }


async def _send(running: Running, *events: Any, path: str = "/features/events") -> httpx2.Response:
    return await running.client.post(path, json={"events": list(events)})


async def _stored(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM features.events"))
    finally:
        await connection.close()


async def _read(redis_url: str, card: str = "card_1", event_id: str | None = None) -> Any:
    redis = create_redis(redis_url, timeout_s=1.0)
    try:
        request = FeatureRequest(
            {"card": card, "merchant": "merchant_1"}, {"amount_minor": 100}, _now_ms(), event_id
        )
        async with aclosing(LeanRedis(redis, timeout_s=1.0)) as store:
            return await OnlineFeatureReader(store).read(FRAUD_V1, TENANT, [request])
    finally:
        await redis.aclose()


def _value(read: Any, name: str) -> float:
    return float(read.matrix[0][FRAUD_V1.names.index(name)])


async def test_an_ingested_payment_is_read_and_counts_once(start: Start, redis_url: str) -> None:
    async with start() as running:
        answer = await _send(running, _event())
        expected = {"accepted": 1, "duplicates": 0, "late": 0, "rejected": []}
        assert answer.json() == expected
        await running.applied()
        read = await _read(redis_url)
        assert _value(read, "card_count_1h") == 2
        assert _value(read, "merchant_count_1d") == 2
        assert read.freshness_s[0] < 60
        assert _value(await _read(redis_url, event_id="e0"), "card_count_1h") == 1


async def test_redelivery_changes_nothing(
    start: Start, redis_url: str, clean_postgres: str
) -> None:
    async with start() as running:
        event = _event()
        assert (await _send(running, event, event)).json()["duplicates"] == 1
        await running.applied()
        before = actual_rings(redis_url)
        again = (await _send(running, event)).json()
        assert (again["accepted"], again["duplicates"]) == (0, 1)
        await running.applied()
        assert actual_rings(redis_url) == before
    assert await _stored(clean_postgres) == 1


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"values": {"amount_minor": -1}}, "/events/1/values/amount_minor"),
        ({"values": {"amount_minor": "12"}}, "/events/1/values/amount_minor"),
        ({"values": {"amount_minor": 1.5}}, "/events/1/values/amount_minor"),
        ({"values": {"amount_minor": 2**40}}, "/events/1/values/amount_minor"),
        ({"values": {}}, "/events/1/values/amount_minor"),
        ({"entities": {}}, "/events/1/entities/card_id"),
        ({"entities": {"card_id": ""}}, "/events/1/entities/card_id"),
        ({"attrs": {"mcc_code": "54"}}, "/events/1/attrs/mcc_code"),
        ({"attrs": {"country_code": "gb"}}, "/events/1/attrs/country_code"),
        ({"type": "nonsense"}, "/events/1/type"),
        ({"surprise": 1}, "/events/1/surprise"),
        ({"event_ms": 4_000_000_000_000}, "/events/1/event_ms"),
        ({"event_ms": True}, "/events/1/event_ms"),
        ({"arrival_ms": 1}, "/events/1/arrival_ms"),
    ],
)
async def test_a_bad_event_is_named_and_only_the_good_ones_are_written(
    start: Start, clean_postgres: str, change: dict[str, Any], pointer: str
) -> None:
    async with start() as running:
        answer = await _send(running, _event(0), _event(1, **change))
        body = answer.json()
        assert answer.status_code == 200
        assert body["accepted"] == 1
        assert [(r["index"], r["pointer"]) for r in body["rejected"]] == [(1, pointer)]
        alone = await _send(running, _event(2, **change))
        assert alone.status_code == 422
        assert alone.json()["errors"][0]["pointer"] == pointer.replace("/1/", "/0/")
    assert await _stored(clean_postgres) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 422),
        (b'{"events": []}', 422),
        (b'{"events": {}}', 422),
        (b'{"events": [1], "x": 1}', 422),
        (b'{"events": [{"values": NaN}]}', 400),
        (b'{"events": [null]}', 422),
        (b'{"events": [' + b"1," * 5000 + b"1]}", 422),
    ],
)
async def test_a_bad_body_is_refused_whole(
    start: Start, clean_postgres: str, body: bytes, status: int
) -> None:
    async with start() as running:
        answer = await running.client.post("/features/events", content=body)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
    assert await _stored(clean_postgres) == 0


async def test_an_event_after_the_lateness_bound_is_kept_and_applied_nowhere(
    start: Start, redis_url: str, clean_postgres: str
) -> None:
    async with start() as running:
        late = _event(0, event_ms=_now_ms() - LATENESS_MS - 1000)
        assert (await _send(running, late)).json()["late"] == 1
        await running.applied()
        assert actual_rings(redis_url) == {}
    assert await _stored(clean_postgres) == 1


async def test_a_backfill_leaves_the_rings_of_its_sorted_history(
    start: Start, redis_url: str
) -> None:
    events = payments(2000)
    async with start() as running:
        started = time.perf_counter()
        answer = await _send(running, *events, path="/features/backfills")
        assert answer.json()["accepted"] == len(events)
        await running.applied()
        assert time.perf_counter() - started < 10
        assert actual_rings(redis_url) == expected_rings(events)


async def test_item_events_feed_user_item_and_session(start: Start, redis_url: str) -> None:
    event = {
        "event_id": "v1",
        "type": "item_view",
        "event_ms": _now_ms(),
        "entities": {"user_id": "u", "item_id": "i", "session_id": "s"},
        "values": {"price_minor": 999},
        "attrs": {"item_category": "books"},
    }
    async with start() as running:
        assert (await _send(running, event)).json()["accepted"] == 1
        await running.applied()
    assert sorted(key.split(":")[2] for key in actual_rings(redis_url)) == [
        "item",
        "session",
        "user",
    ]


async def test_an_emptied_redis_is_rebuilt_and_never_read_as_no_history(
    start: Start, redis_url: str
) -> None:
    events = payments(500)
    client = Redis.from_url(redis_url)
    async with start() as running:
        await _send(running, *events, path="/features/backfills")
        await running.applied()
        expected = actual_rings(redis_url)
        client.flushall()
        assert (await _read(redis_url)).degraded_reasons in (["store_not_ready"], [])
        await running.until(lambda: _is_serving(client))
        assert actual_rings(redis_url) == expected
    client.close()


async def _is_serving(client: Any) -> bool:
    return client.get(SERVING_KEY) is not None


async def test_a_redis_that_lost_its_last_effects_is_replayed(start: Start, redis_url: str) -> None:
    events = payments(400)
    client = Redis.from_url(redis_url)
    async with start() as running:
        await _send(running, *events[:200], path="/features/backfills")
        await running.applied()
        snapshot = {key: cast(bytes, client.dump(key)) for key in client.scan_iter("*")}
        await _send(running, *events[200:], path="/features/backfills")
        await running.applied()
        with client.pipeline() as pipeline:
            pipeline.flushall()
            for key, dump in snapshot.items():
                pipeline.restore(key, 0, dump)
            pipeline.execute()

        async def is_whole() -> bool:
            return actual_rings(redis_url) == expected_rings(events)

        await running.until(is_whole)
    client.close()


async def test_offsets_of_a_partition_have_no_gap(start: Start, clean_postgres: str) -> None:
    events = payments(300)
    async with start() as running:
        for first in range(0, 300, 50):
            await _send(running, *events[first : first + 100], path="/features/backfills")
    connection = await asyncpg.connect(clean_postgres)
    rows = await connection.fetch(
        'SELECT count(*) AS n, max("offset") AS last FROM features.log GROUP BY partition'
    )
    await connection.close()
    assert rows
    assert all(row["n"] == row["last"] for row in rows)


async def test_progress_is_noted_beside_ingestion_without_a_deadlock(clean_postgres: str) -> None:
    postgres = Postgres(clean_postgres, "features")
    log = PostgresEventLog(postgres, DefinitionStore(postgres))
    events = payments(1600, seed=11, days=1)

    async def append(first: int) -> None:
        taken = [
            Accepted(
                event["event_id"],
                "card_transaction",
                *(event["event_ms"], event["arrival_ms"]),
                {key: event[key] for key in ("entities", "values", "attrs")},
                False,
            )
            for event in events[first : first + 20]
        ]
        await log.append(TENANT, taken)

    async def note() -> None:
        async with postgres.connection() as connection:
            for offset in range(150):
                order = sorted(range(PARTITIONS), key=lambda number: (number * 7 + offset) % 16)
                await note_applied(connection, dict.fromkeys(order, offset))

    try:
        await log.ensure_partitions()
        await asyncio.gather(note(), *(append(first) for first in range(0, 1600, 20)))
        heads = await log.heads()
    finally:
        await postgres.close()
    assert sum(head.last_offset for head in heads.values()) >= 3 * 1600
    assert {head.applied_offset for head in heads.values()} == {149}


async def test_definitions_and_freshness_tell_what_is_served(start: Start) -> None:
    async with start() as running:
        items = (await running.client.get("/v1/features/definitions")).json()["items"]
        services = {item["name"]: item for item in items if item["kind"] == "feature_service"}
        assert services["fraud_v1"]["fingerprint"] == FRAUD_V1.fingerprint
        await _send(running, _event())
        await running.applied()
        body = (await running.client.get("/features/freshness")).json()
        ages = {item["view"]: item["newest_event_age_s"] for item in body["items"]}
        assert 0 <= ages["card"] < 60
        assert ages["user"] is None
        assert body["oldest_unapplied_age_s"] is None


async def test_without_postgres_nothing_is_acknowledged(start: Start, redis_url: str) -> None:
    async with start(is_whole=False, postgres_url="postgresql://127.0.0.1:1/none") as running:
        answer = await _send(running, _event())
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert actual_rings(redis_url) == {}


async def test_the_service_and_the_offline_twin_agree(start: Start, redis_url: str) -> None:
    from libs.common.features.windows import CardEvents, fraud_columns

    events = sorted(payments(600, days=40), key=lambda event: event["event_ms"])
    current = {**events[-1], "event_ms": _now_ms(), "event_id": "now"}

    def numbers(name: str, texts: list[str]) -> Any:
        return np.unique(texts, return_inverse=True)[1].astype(np.int64)

    rows = [*events, current]
    columns = fraud_columns(
        CardEvents(
            np.array([e["event_ms"] for e in rows], dtype=np.int64),
            numbers("card", [e["entities"]["card_id"] for e in rows]),
            numbers("merchant", [e["entities"]["merchant_id"] for e in rows]),
            np.array([e["values"]["amount_minor"] for e in rows], dtype=np.int64),
            np.full(len(rows), 5411, dtype=np.int64),
            numbers("country", [e["attrs"]["country_code"] for e in rows]),
        )
    )
    offline = FRAUD_V1.derive({name: values[-1:] for name, values in columns.items()})[0]
    async with start() as running:
        await _send(running, *events, path="/features/backfills")
        await running.applied()
        redis = create_redis(redis_url, timeout_s=1.0)
        request = FeatureRequest(
            {
                "card": current["entities"]["card_id"],
                "merchant": current["entities"]["merchant_id"],
            },
            {"amount_minor": current["values"]["amount_minor"], **current["attrs"]},
            current["event_ms"],
        )
        async with aclosing(LeanRedis(redis, timeout_s=1.0)) as store:
            read = await OnlineFeatureReader(store).read(FRAUD_V1, TENANT, [request])
        await redis.aclose()
    np.testing.assert_allclose(read.matrix[0], offline.astype(np.float32), rtol=1e-6)


async def test_a_stream_of_lines_is_committed_in_parts(start: Start, clean_postgres: str) -> None:
    events = [_event(number) for number in range(2500)]
    lines = [json.dumps(event) for event in events]
    lines[1200] = "no json"
    lines[2100] = json.dumps(_event(2100, values={"amount_minor": -1}))
    async with start() as running:

        async def stream() -> AsyncIterator[bytes]:
            body = "\n".join(lines).encode()
            for first in range(0, len(body), 10_000):
                yield body[first : first + 10_000]

        for accepted in (2498, 0):
            answer = await running.client.post(
                "/features/events",
                content=stream(),
                headers={"content-type": "application/x-ndjson"},
            )
            body = answer.json()
            assert body["accepted"] == accepted
            rejected = [(item["index"], item["pointer"]) for item in body["rejected"]]
            assert rejected == [(1200, "/1200"), (2100, "/2100/values/amount_minor")]
    assert await _stored(clean_postgres) == 2498


async def test_a_stream_without_line_ends_is_refused(start: Start) -> None:
    async with start() as running:
        answer = await running.client.post(
            "/features/events",
            content=b"x" * 100_000,
            headers={"content-type": "application/x-ndjson"},
        )
        assert answer.status_code == 422


async def test_more_batches_than_fit_are_told_to_come_back(
    start: Start, clean_postgres: str
) -> None:
    async with start(ingest_concurrency_max=1) as running:
        bodies = [[_event(10 * n + m) for m in range(10)] for n in range(8)]
        answers = await asyncio.gather(*(_send(running, *events) for events in bodies))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["retry-after"] == "1"
    assert await _stored(clean_postgres) == 10 * statuses.count(200)


async def test_an_online_store_far_behind_stops_ingestion_with_503() -> None:
    ingestion = Ingestion(cast(Any, None), CollectorRegistry(), lag=lambda: 11, lag_max=10)
    with pytest.raises(UnavailableError) as caught:
        await ingestion.take(TENANT, [_event()], is_backfill=False)
    assert caught.value.headers["Retry-After"] == "5"


async def test_a_redis_stream_is_ingested_once_whatever_was_read_before(
    start: Start, redis_url: str, clean_postgres: str
) -> None:
    client: Any = Redis.from_url(redis_url)
    for number in range(20):
        client.xadd("payments", {"event": json.dumps(_event(number))})
    client.xadd("payments", {"event": "no json"})
    # A consumer that died after reading, before acknowledging.
    client.xgroup_create("payments", "gatehouse-features", id="0")
    client.xreadgroup("gatehouse-features", "ingestion", {"payments": ">"}, count=5)
    async with start(stream="payments") as running:

        async def is_acknowledged() -> bool:
            group = client.xinfo_groups("payments")[0]
            return bool(group["pending"] == 0 and group["last-delivered-id"] == newest)

        newest = client.xinfo_stream("payments")["last-generated-id"]
        await running.until(is_acknowledged)
        assert await _stored(clean_postgres) == 20
        newest = client.xadd("payments", {"event": json.dumps(_event(20))})
        await running.until(is_acknowledged)
        assert await _stored(clean_postgres) == 21
    client.close()
