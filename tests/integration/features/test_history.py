"""History, parity, labels and erasure, over real stores; windows against brute force."""

import io
import json
import math
import time
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from redis import Redis

from libs.common.events.registry import problems_of
from libs.common.features.contract import FeatureRequest, FeatureService
from libs.common.features.fraud import FRAUD_V1, FRAUD_V2
from libs.common.features.layout import VIEWS
from libs.common.features.reader import OnlineFeatureReader
from libs.common.redis import create_redis
from libs.common.redis_lean import LeanRedis
from tests.integration.features.conftest import Running, Start
from tests.integration.features.worlds import TENANT, actual_rings, payments
from tests.unit.common.features import oracle

pytestmark = pytest.mark.anyio
COUNTRIES = {"GB": 1, "US": 2}


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


def _as_payment(event: dict[str, Any]) -> oracle.Payment:
    entities = event["entities"]
    return oracle.Payment(
        event["event_ms"],
        int(entities["card_id"].rpartition("_")[2]),
        int(entities["merchant_id"].rpartition("_")[2]),
        event["values"]["amount_minor"],
        5411,
        COUNTRIES[event["attrs"]["country_code"]],
    )


def _row(event: dict[str, Any]) -> dict[str, Any]:
    return {
        "entities": event["entities"],
        "as_of": _iso(event["event_ms"]),
        "values": {**event["values"], **event["attrs"]},
        "event_id": event["event_id"],
    }


async def _load(running: Running, events: list[dict[str, Any]]) -> None:
    answer = await running.client.post("/features/backfills", json={"events": events})
    assert answer.json()["accepted"] == len(events)


async def _historical(running: Running, rows: list[Any], **more: Any) -> list[dict[str, Any]]:
    body = {"feature_service": "fraud_v1", "include": "raw", "rows": rows, **more}
    answer = await running.client.post("/features/historical", json=body)
    assert answer.status_code == 200, answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines.pop() == {"rows": len(rows), "complete": True}
    return lines


async def test_rows_equal_brute_force_over_what_had_arrived_by_then(start: Start) -> None:
    events = payments(700, seed=3, days=5)
    asked = events[50::13]
    async with start() as running:
        await _load(running, events)
        found = await _historical(running, [_row(event) for event in asked])
    hidden = 0
    for event, row in zip(asked, found, strict=True):
        now_ms = event["event_ms"]
        others = [e for e in events if e["event_ms"] <= now_ms and e is not event]
        seen = sorted((e for e in others if e["arrival_ms"] <= now_ms), key=lambda e: e["event_ms"])
        hidden += len(others) - len(seen)
        expected = oracle.fraud_row(list(map(_as_payment, seen)), _as_payment(event))
        for name, value in expected.items():
            got = math.nan if row[name] is None else row[name]
            np.testing.assert_allclose(got, value, rtol=1e-9, err_msg=name)
    assert hidden > 0, "the world has no event that arrived late"


async def test_arrow_and_parquet_hold_the_same_rows_as_ndjson(start: Start) -> None:
    arrow = pytest.importorskip("pyarrow")
    events = payments(600, seed=4)
    async with start() as running:
        await _load(running, events)
        rows = [_row(event) for event in events]
        lines = await _historical(running, rows)
        body = {"feature_service": "fraud_v1", "include": "raw", "rows": rows}
        answer = await running.client.post(
            "/features/historical",
            json=body,
            headers={"accept": "application/vnd.apache.arrow.stream"},
        )
        table = arrow.ipc.open_stream(io.BytesIO(answer.content)).read_all()
        headers = {"accept": "application/vnd.apache.parquet"}
        answer = await running.client.post("/features/historical", json=body, headers=headers)
        job = await running.client.get(f"/features/backfills/{answer.headers['x-job-id']}")
        parquet = pytest.importorskip("pyarrow.parquet").read_table(io.BytesIO(answer.content))
    assert parquet.to_pylist() == lines
    assert (job.json()["kind"], job.json()["state"]) == ("historical", "done")
    assert job.json()["done"] == len(rows)
    assert table.to_pylist() == lines


async def _serve(
    redis_url: str, events: list[dict[str, Any]], now_ms: int, service: FeatureService
) -> list[dict[str, Any]]:
    """Read online as inference does, and give the samples it would post."""
    redis = create_redis(redis_url, timeout_s=1.0)
    requests = [
        FeatureRequest(
            {
                "card": event["entities"]["card_id"],
                "merchant": event["entities"]["merchant_id"],
            },
            {**event["values"], **event["attrs"]},
            now_ms,
        )
        for event in events
    ]
    async with aclosing(LeanRedis(redis, timeout_s=1.0)) as store:
        read = await OnlineFeatureReader(store).read(service, TENANT, requests)
    await redis.aclose()
    assert read.raw is not None
    return [
        {
            "sample_id": f"s{index}-{now_ms}",
            "feature_service": service.name,
            "entities": event["entities"],
            "as_of": _iso(now_ms),
            "values": {**event["values"], **event["attrs"]},
            "offsets": {view: found[index] for view, found in read.offsets.items()},
            "raw": [None if value != value else value for value in read.raw[index].tolist()],
        }
        for index, event in enumerate(events)
    ]


@pytest.mark.parametrize("service", [FRAUD_V1, FRAUD_V2], ids=lambda service: service.name)
async def test_what_was_served_is_computed_again_and_late_events_are_skew(
    start: Start, redis_url: str, service: FeatureService
) -> None:
    events = payments(500, seed=5, days=20)
    for event in events[::3]:
        event["attrs"]["device_id"] = "phone"
    async with start(parity_every_s=3600) as running:
        await _load(running, events)
        for event in events[::5]:
            body = {"transaction_id": event["event_id"], "label": "fraud"}
            await running.client.post("/v1/feedback", json=body)
        await running.applied()
        now_ms = time.time_ns() // 1_000_000
        samples = await _serve(redis_url, events[:60], now_ms, service)
        wrong = {**samples[0], "sample_id": "wrong", "raw": [7.0, *samples[0]["raw"][1:]]}
        posted = {"samples": [*samples, wrong]}
        answer = await running.client.post("/features/samples", json=posted)
        assert answer.json() == {"accepted": 61, "duplicates": 0}
        again = await running.client.post("/features/samples", json=posted)
        assert again.json() == {"accepted": 0, "duplicates": 61}
        # An event that arrives after the read, but lies before it, is no mismatch.
        late = {
            **events[0],
            "event_id": "late",
            "event_ms": now_ms - 60_000,
            "arrival_ms": now_ms,
        }
        await _load(running, [late])
        await running.applied()
        parity = running.state["parity"]
        while await parity.compare():
            pass
        report = (await running.client.get("/features/parity")).json()
        assert report["samples_checked"] == 61
        assert report["samples_with_mismatch"] == 1
        first = FRAUD_V1.raw[0].partition(":")
        assert report["mismatches"] == [{"view": first[0], "feature": first[2], "count": 1}]
        metrics = (await running.client.get("/metrics")).text
        assert 'gatehouse_feature_lateness_skew_total{feature="count_1h",view="card"}' in metrics


async def test_a_label_is_kept_told_and_known_only_from_then_on(start: Start) -> None:
    events = payments(20, seed=6)
    async with start() as running:
        await _load(running, events)
        before = _iso(time.time_ns() // 1_000_000 - 1)
        body = {"transaction_id": events[3]["event_id"], "label": "fraud"}
        answer = await running.client.post("/v1/feedback", json=body)
        assert (answer.status_code, answer.json()["accepted"]) == (200, True)
        again = await running.client.post("/v1/feedback", json=body)
        assert again.json()["accepted"] is False
        assert [problems_of(event, "features") for event in running.events.documents] == [None] * 2
        rows = [_row(event) for event in events[2:5]]
        known = await _historical(running, rows, labels_known_by=before)
        assert [row["label"] for row in known] == [None, None, None]
        now = _iso(time.time_ns() // 1_000_000 + 1)
        known = await _historical(running, rows, labels_known_by=now)
        assert [row["label"] for row in known] == [None, "fraud", None]


@pytest.mark.parametrize(
    "body",
    [
        {"label": "fraud"},
        {"transaction_id": "a", "prediction_id": "b", "label": "fraud"},
        {"transaction_id": "a"},
        {"transaction_id": "a", "label": 3},
        {"transaction_id": "a", "label": "x" * 65},
        {"transaction_id": "a", "label": "fraud", "occurred_at": "2999-01-01T00:00:00Z"},
        {"transaction_id": "a", "label": "fraud", "occurred_at": "2026-01-01T00:00:00"},
        {"transaction_id": "a", "label": "fraud", "more": 1},
    ],
)
async def test_bad_feedback_is_refused_and_tells_nobody(start: Start, body: Any) -> None:
    async with start() as running:
        answer = await running.client.post("/v1/feedback", json=body)
        assert answer.status_code == 422
        assert running.events.documents == []


async def test_an_erased_card_is_gone_online_and_from_history(start: Start, redis_url: str) -> None:
    events = payments(200, seed=7)
    card = events[0]["entities"]["card_id"]
    async with start() as running:
        await _load(running, events)
        await running.applied()
        body = {"entity": "card", "id": card}
        erased = (await running.client.post("/features/erasures", json=body)).json()
        assert erased["events"] == sum(e["entities"]["card_id"] == card for e in events)
        assert erased["log_rows"] == erased["events"]
        key = VIEWS["card"].key(TENANT, card)
        assert key not in actual_rings(redis_url)
        others = {k: v for k, v in actual_rings(redis_url).items() if k != key}
        client = Redis.from_url(redis_url)
        client.flushall()
        await _load(running, payments(3, seed=8))
        await running.applied()
        assert set(others) <= set(actual_rings(redis_url))
        assert (await running.client.post("/features/erasures", json=body)).json()["events"] <= 3
        client.close()


async def test_an_unreadable_ring_is_written_anew_from_the_log(
    start: Start, redis_url: str
) -> None:
    events = payments(200, seed=9)
    async with start() as running:
        await _load(running, events[:-1])
        await running.applied()
        key = VIEWS["card"].key(TENANT, events[-1]["entities"]["card_id"])
        client = Redis.from_url(redis_url)
        client.set(key, b"nonsense")
        await _load(running, events[-1:])
        await running.applied()

        async def is_readable() -> bool:
            return bool(client.get(key) != b"nonsense")

        await running.until(is_readable)
        client.close()
        past, rows = actual_rings(redis_url)[key]
        mine = [e for e in events if VIEWS["card"].key(TENANT, e["entities"]["card_id"]) == key]
        assert past[0] + len(rows) == len(mine)
        metrics = (await running.client.get("/metrics")).text
        assert 'gatehouse_features_unreadable_rings_total{view="card"} 1.0' in metrics
