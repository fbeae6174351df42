"""From the audit log to the mission's endpoints, over real stores."""

import random
import statistics
from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.analytics.conftest import Start
from tests.support.audit_log import serve_audit_log
from tests.support.predictions import prediction, verdict

pytestmark = pytest.mark.anyio


async def test_the_first_prediction_is_counted_within_two_seconds_with_default_settings(
    start: Start,
):
    async with start(tail_poll_s=0.25) as running:
        running.log.append(prediction())

        async def counted() -> bool:
            return await running.total() == 1

        await running.until(counted, within_s=2.0)
        body = (await running.client.get("/v1/metrics/count")).json()
        assert body["since_start"] == 1
        assert body["since"].endswith("Z")


async def test_a_window_without_end_includes_the_running_minute_and_says_it_is_open(start: Start):
    async with start() as running:
        running.log.append(prediction(confidence=0.8, latency_ms={"total": 40.0}))
        await running.counted(1)
        answer = await running.client.post("/metrics/aggregated", json={"time_window_minutes": 60})
        body = answer.json()
        assert answer.status_code == 200
        assert body["total_predictions"] == 1
        assert body["window"]["complete"] is False
        assert body["window"]["minutes"] == 60
        assert body["average_confidence"] == pytest.approx(0.8)
        assert body["sentiment_distribution"] == {"positive": 1, "neutral": 0, "negative": 0}
        assert body["latency_ms"]["p95"] == pytest.approx(40.0, rel=0.01)
        assert body["status"] == "OK"


async def test_the_newest_event_is_in_the_window_at_every_minute_of_an_hour(start: Start):
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    moments = [hour + timedelta(minutes=i, seconds=s) for i in range(60) for s in (0, 59.999)]
    now = moments[0]
    async with start(clock=lambda: now) as running:
        for at, now in enumerate(moments, 1):
            running.log.append(prediction(now))
            await running.counted(at)
            body = (await running.client.post("/metrics/aggregated", json={})).json()
            assert body["total_predictions"] == at, now


async def test_an_empty_window_has_counts_of_zero_and_nulls_for_the_rest(start: Start):
    async with start() as running:
        answer = await running.client.post("/metrics/aggregated", json={"time_window_minutes": 1})
        body = answer.json()
        assert body["total_predictions"] == 0
        assert body["average_confidence"] is None
        assert body["latency_ms"]["min"] is None
        assert body["latency_ms"]["p95"] is None
        assert body["totals"]["error_rate"] is None
        assert body["cache"]["hit_rate"] is None
        assert body["status"] == "OK"
        assert body["by_model"] == []


async def test_the_correlation_is_the_exact_one_and_an_unknown_model_has_no_data(start: Start):
    rng = random.Random(5)
    pairs = [(length, 3.0 + length / 20 + rng.gauss(0, 2)) for length in range(20, 220)]
    async with start() as running:
        running.log.append(*(prediction(input_length=x, latency_ms={"total": y}) for x, y in pairs))
        await running.counted(len(pairs))
        body = (await running.client.post("/metrics/aggregated", json={})).json()
        exact = statistics.correlation(*zip(*pairs, strict=True))
        assert body["input_length_latency_correlation"] == pytest.approx(exact, abs=1e-9)
        answer = await running.client.post("/metrics/aggregated", json={"model": "nobody"})
        assert answer.status_code == 200
        assert answer.json()["total_predictions"] == 0
        assert answer.json()["latency_ms"]["p95"] is None


async def test_figures_of_a_day_agree_with_an_exact_recount(start: Start):
    rng = random.Random(7)
    end = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=2)
    events, inside = [], []
    for _ in range(3_000):
        at = end - timedelta(seconds=rng.uniform(-90, 30 * 3600))
        latency = rng.lognormvariate(3, 1)
        failed = rng.random() < 0.03
        event = prediction(
            at,
            latency_ms={"total": latency},
            status="failed" if failed else "ok",
            version=rng.choice(["1", "2"]),
            cached=rng.random() < 0.2,
        )
        events.append(event)
        if end - timedelta(hours=24) <= datetime.fromisoformat(event.time) < end:
            inside.append(event)
    async with start(tail_batch=170) as running:
        running.log.append(*events)
        await running.counted(3_000)
        answer = await running.client.post(
            "/metrics/aggregated",
            json={"time_window_minutes": 1440, "end": end.isoformat()},
        )
        body = answer.json()
        latencies = sorted(event.data["latency_ms"]["total"] for event in inside)
        assert body["total_predictions"] == len(inside)
        assert body["totals"]["errors"] == sum(e.data["status"] == "failed" for e in inside)
        assert body["cache"]["hits"] == sum(e.data["cached"] for e in inside)
        assert body["latency_ms"]["min"] == pytest.approx(latencies[0])
        assert body["latency_ms"]["max"] == pytest.approx(latencies[-1])
        assert body["latency_ms"]["mean"] == pytest.approx(sum(latencies) / len(latencies))
        exact_p95 = latencies[-(-len(latencies) * 95 // 100) - 1]
        assert body["latency_ms"]["p95"] == pytest.approx(exact_p95, rel=0.0101)
        by_version = {row["version"]: row["requests"] for row in body["by_model"]}
        assert by_version == {
            version: sum(e.data["version"] == version for e in inside) for version in ("1", "2")
        }
        filtered = await running.client.post(
            "/metrics/aggregated",
            json={"time_window_minutes": 1440, "end": end.isoformat(), "version": "2"},
        )
        assert filtered.json()["total_predictions"] == by_version["2"]


async def test_a_restarted_tailer_goes_on_where_it_stopped_and_counts_nothing_twice(start: Start):
    async with serve_audit_log() as log:
        log.append(*(prediction() for _ in range(50)))
        async with start(log, tail_batch=7) as running:
            await running.counted(50)
        log.append(*(prediction() for _ in range(30)))
        async with start(log, tail_batch=7) as first, start(log, tail_batch=7) as second:
            await first.counted(80)
            assert await second.total() == 80


async def test_tenants_do_not_see_each_other_and_verdicts_are_no_predictions(start: Start):
    async with start() as running:
        running.log.append(
            prediction(),
            prediction(tenant="other"),
            verdict(action="block"),
            verdict(action="mask"),
            verdict(),
        )
        await running.counted(1)

        async def checked() -> bool:
            body = (await running.client.post("/metrics/aggregated", json={})).json()
            return bool(
                body["guardrails"] == {"checked": 3, "blocked": 1, "masked": 1, "flagged": 0}
            )

        await running.until(checked)


async def test_entries_that_were_pruned_or_erased_are_passed_over(start: Start):
    async with start() as running:
        running.log.append(*(prediction() for _ in range(10)))
        running.log.documents[8] = None
        running.log.min_index = 5
        await running.counted(4)
        body = (await running.client.post("/metrics/aggregated", json={})).json()
        assert body["window"]["watermark"]["log_index"] == 10


async def test_while_audit_is_down_the_rolled_up_figures_are_served_with_their_age(start: Start):
    async with start() as running:
        running.log.append(prediction())
        await running.counted(1)
        running.log.fail_with = 503
        running.log.append(prediction())

        async def degraded() -> bool:
            health = (await running.client.get("/health")).json()
            return bool(health["components"]["log_tail"]["status"] == "degraded")

        await running.until(degraded)
        assert await running.total() == 1
        running.log.fail_with = None
        await running.counted(2)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"time_window_minutes": 0}, "/time_window_minutes"),
        ({"time_window_minutes": 1441}, "/time_window_minutes"),
        ({"time_window_minutes": "60"}, "/time_window_minutes"),
        ({"time_window_minutes": 60, "windows": 1}, "/windows"),
        ({"end": "2999-01-01T00:00:00Z"}, "/end"),
        ({"end": "2025-01-01T00:00:00"}, "/end"),
    ],
)
async def test_a_bad_window_is_refused_with_the_field_named(start: Start, body, pointer):
    async with start() as running:
        answer = await running.client.post("/metrics/aggregated", json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == pointer
