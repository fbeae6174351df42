"""Thresholds and written reports over HTTP."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from libs.common.redis import create_redis
from services.analytics.adapters.gemini import GeminiWriter
from services.analytics.adapters.report_cache import Made, ReportCache
from tests.integration.analytics.conftest import Running, Start
from tests.support.gemini.server import MODES, serve_gemini
from tests.support.predictions import prediction

pytestmark = [
    pytest.mark.anyio,
    # google-genai 3.4 subclasses aiohttp's session, which aiohttp 3.14 discourages.
    pytest.mark.filterwarnings(
        "ignore:Inheritance class AiohttpClientSession from ClientSession:DeprecationWarning"
    ),
]

MINUTES = 10
NOW = datetime.now(UTC)
# One moment for all questions: a minute that ends in between would make them two questions.
FROZEN: dict[str, Any] = {"clock": lambda: NOW}


async def seed(running: Running, *, failed: int, n: int = 200) -> None:
    """Fill the closed window with `failed` errors of n; the one before is healthy."""
    now = NOW
    for back, errors in ((MINUTES + 5, 0), (4, failed)):
        at = now - timedelta(minutes=back)
        running.log.append(
            *(
                prediction(at, status="failed" if i < errors else "ok", reason="timeout")
                for i in range(n)
            )
        )
    await running.counted(2 * n)


async def analyze(running: Running) -> dict[str, Any]:
    answer = await running.client.post(
        "/v1/analyze/performance", json={"time_window_minutes": MINUTES}
    )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def numbers_in(report: dict[str, Any]) -> set[str]:
    prose = [report["summary"], report["root_cause_hypothesis"] or "", *report["recommendations"]]
    prose += [issue["title"] for issue in report["identified_issues"]]
    return set(re.findall(r"\d+(?:\.\d+)?", " ".join(prose)))


def numbers_of_facts(report: dict[str, Any]) -> set[str]:
    shown = set()
    for fact in report["facts"]:
        shown.add(str(fact["n"]))
        for value in (fact["value"], fact["previous"], fact["limit"]):
            if value is not None:
                shown |= {f"{value:.1f}", f"{value * 100:.2f}", f"{value:.0f}"}
    return shown


async def test_without_a_key_the_rules_write_and_name_the_broken_limit(start: Start):
    async with start(**FROZEN) as running:
        await seed(running, failed=40)
        report = await analyze(running)
        assert (report["generated_by"], report["fallback_reason"]) == ("rules", "no_key")
        assert report["severity"] == "critical"
        assert "20.00 %" in report["identified_issues"][0]["title"]
        assert report["metrics_analyzed"]["errors"] == 40
        assert numbers_in(report) <= numbers_of_facts(report)
        for name in ("summary", "recommendations", "confidence_score", "generated_at"):
            assert report[name]


async def test_a_healthy_window_has_no_issue_and_an_empty_one_says_so(start: Start):
    async with start(**FROZEN) as running:
        empty = await analyze(running)
        assert empty["identified_issues"] == []
        assert "No requests" in empty["summary"]
        assert empty["confidence_score"] == 0
        await seed(running, failed=0)
        healthy = await analyze(running)
        assert healthy["identified_issues"] == []
        assert healthy["severity"] == "low"
        assert healthy["root_cause_hypothesis"] is None


async def test_gemini_writes_once_and_the_cache_answers_the_next_question(start: Start):
    async with serve_gemini() as stand_in:
        settings = {**FROZEN, "gemini_api_key": "test-key", "gemini_base_url": stand_in.url}
        settings |= {"gemini_prompt_usd": 2.0, "gemini_answer_usd": 8.0}
        async with start(**settings) as running:
            await seed(running, failed=40)
            stand_in.set("ok", latency_ms=200)
            reports = await asyncio.gather(*(analyze(running) for _ in range(25)))
            assert len(stand_in.calls) == 1
            assert {report["generated_by"] for report in reports} == {"gemini"}
            assert {report["summary"] for report in reports} == {reports[0]["summary"]}
            again = await analyze(running)
            assert again["cache"]["hit"] is True
            assert len(stand_in.calls) == 1
            assert numbers_in(again) <= numbers_of_facts(again)
            # What it cost is counted once, at the configured prices.
            usage, text = reports[0]["usage"], (await running.client.get("/metrics")).text
            cost = (usage["prompt_tokens"] * 2.0 + usage["answer_tokens"] * 8.0) / 1e6
            (told,) = re.findall(r"^gatehouse_analytics_gemini_cost_usd_total (.+)$", text, re.M)
            assert float(told) == pytest.approx(cost)
            assert 'gemini_attempts_total{outcome="ok"} 1.0' in text
            assert "sentiment" not in str(stand_in.calls[0]["body"]["contents"])


async def test_a_refused_answer_becomes_the_rules_report_with_its_reason(start: Start):
    async with serve_gemini() as stand_in:
        settings = {**FROZEN, "gemini_api_key": "test-key", "gemini_base_url": stand_in.url}
        async with start(**settings) as running:
            await seed(running, failed=40)
            stand_in.set("nonsense_numbers")
            report = await analyze(running)
            assert report["fallback_reason"] == "invented_number"
            assert report["generated_by"] == "rules"
            assert "73.2" not in str(report)
            text = (await running.client.get("/metrics")).text
            assert 'gatehouse_analytics_gemini_attempts_total{outcome="invented_number"} 1' in text


async def test_two_processes_share_one_upstream_call_through_redis(start: Start):
    async with serve_gemini() as stand_in:
        settings = {**FROZEN, "gemini_api_key": "test-key", "gemini_base_url": stand_in.url}
        async with start(**settings) as first, start(first.log, **settings) as second:
            await seed(first, failed=40)
            stand_in.set("ok", latency_ms=150)
            both = [analyze(one) for one in (first, second) for _ in range(10)]
            reports = await asyncio.gather(*both)
            assert len(stand_in.calls) == 1
            assert len({report["generated_at"] for report in reports}) == 1


async def test_a_writer_that_lost_the_lock_does_not_overwrite_the_cache(redis_url):
    redis = create_redis(redis_url, timeout_s=1)
    cache = ReportCache(redis, lock_ttl_s=10, wait_s_max=5)

    async def make_while_losing_the_lock() -> Made:
        await redis.set("reports:{t}:k:lock", "somebody else")
        return Made({"by": "the slow one"}, 60)

    got = await cache.get_or_make("reports:{t}:k", make_while_losing_the_lock, deadline_s=5)
    assert got == ({"by": "the slow one"}, False)
    assert await cache.look("reports:{t}:k") is None
    assert await redis.get("reports:{t}:k:lock") == b"somebody else"
    await redis.aclose()


async def test_a_cancelled_caller_and_a_late_one_do_not_stop_the_flight(redis_url):
    redis = create_redis(redis_url, timeout_s=1)
    cache = ReportCache(redis, lock_ttl_s=10, wait_s_max=5)
    go = asyncio.Event()

    async def make() -> Made:
        await go.wait()
        return Made({"n": 1}, 60)

    doomed = asyncio.create_task(cache.get_or_make("reports:{t}:c", make, deadline_s=5))
    late = await cache.get_or_make("reports:{t}:c", make, deadline_s=0.02)
    doomed.cancel()
    patient = asyncio.create_task(cache.get_or_make("reports:{t}:c", make, deadline_s=5))
    await asyncio.sleep(0)
    go.set()
    assert late is None
    # It joins the flight or, a moment later, finds what the flight has cached.
    found = await patient
    assert found is not None
    assert found[0] == {"n": 1}
    assert await cache.look("reports:{t}:c") == {"n": 1}
    await redis.aclose()


async def test_a_killed_lock_holder_delays_the_next_by_the_lock_time_at_most(redis_url):
    redis = create_redis(redis_url, timeout_s=1)
    await redis.set("reports:{t}:d:lock", "a dead process", px=400)
    cache = ReportCache(redis, lock_ttl_s=0.4, wait_s_max=5)

    async def make() -> Made:
        return Made({"n": 2}, 60)

    assert await cache.get_or_make("reports:{t}:d", make, deadline_s=3) == ({"n": 2}, False)
    await redis.aclose()


async def test_with_redis_gone_reports_are_written_by_rules(start: Start):
    async with serve_gemini() as stand_in:
        settings = {**FROZEN, "gemini_api_key": "test-key", "gemini_base_url": stand_in.url}
        async with start(**settings, redis_url="redis://127.0.0.1:1") as running:
            await seed(running, failed=40)
            report = await analyze(running)
            assert report["fallback_reason"] == "quota_unavailable"
            assert stand_in.calls == []


async def test_thresholds_start_at_the_missions_defaults_and_changes_are_versions(start: Start):
    async with start(**FROZEN) as running:
        body = (await running.client.get("/metrics/thresholds")).json()
        assert (body["min_confidence_warning"], body["min_confidence_critical"]) == (0.6, 0.4)
        assert body["max_inference_time_warning_ms"] == 200
        assert body["max_inference_time_critical_ms"] == 500
        assert body["version"] == 0
        running.log.append(prediction(NOW, latency_ms={"total": 50.0}))
        await running.counted(1)
        changed = await running.client.put(
            "/metrics/thresholds",
            json={"max_inference_time_warning_ms": 10, "max_inference_time_critical_ms": 20},
        )
        assert changed.status_code == 200
        assert changed.json()["version"] == 1
        (event,) = running.events.events
        assert event.type == "threshold.changed"
        assert event.data["to"]["max_inference_time_warning_ms"] == 10
        figures = (await running.client.post("/metrics/aggregated", json={})).json()
        assert figures["status"] == "CRITICAL", figures
        assert figures["thresholds_version"] == "1"
        assert figures["breaches"][0]["metric"] == "latency_p95_ms"


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"min_confidence_critical": 0.7}, 422, "/min_confidence_critical"),
        ({"max_inference_time_warning_ms": 500}, 422, "/max_inference_time_critical_ms"),
        ({"min_confidence_warning": 1.5}, 422, "/min_confidence_warning"),
        ({"min_confidence_warning": "0.5"}, 422, "/min_confidence_warning"),
        ({"limit": 1}, 422, "/limit"),
        ({"samples_min": 10, "expected_version": 4}, 409, None),
        ({}, 422, None),
    ],
)
async def test_bad_thresholds_are_refused_and_nothing_is_written(
    start: Start, body, status, pointer
):
    async with start(**FROZEN) as running:
        answer = await running.client.put("/metrics/thresholds", json=body)
        assert answer.status_code == status
        if pointer:
            assert answer.json()["errors"][0]["pointer"] == pointer
        assert (await running.client.get("/metrics/thresholds")).json()["version"] == 0
        assert running.events.events == []


async def test_modes_that_are_tried_again_end_in_a_whole_report_too(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    async def at_once(_: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr("services.analytics.app.GeminiWriter", partial(GeminiWriter, sleep=at_once))
    reasons = {
        "503": "upstream_error",
        "html_502": "upstream_error",
        "429": "rate_limited",
        "reset_mid_body": "transport",
        "slow": "timeout",
    }
    async with serve_gemini() as stand_in:
        settings = {
            **FROZEN,
            "gemini_api_key": "test-key",
            "gemini_base_url": stand_in.url,
            "gemini_rate_limit": 100,
            "gemini_timeout_s": 0.5,
        }
        async with start(**settings) as running:
            await seed(running, failed=40)
            # One that succeeds in between keeps the circuit closed.
            modes = [mode for failing in reasons for mode in (failing, "ok")]
            for at, mode in enumerate(modes):
                stand_in.set(mode, latency_ms=1_000 if mode == "slow" else 0)
                answer = await running.client.post(
                    "/analyze/performance", json={"time_window_minutes": 8 + at}
                )
                report = answer.json()
                assert report["fallback_reason"] == reasons.get(mode), mode
                assert report["generated_by"] == ("gemini" if mode == "ok" else "rules")
                assert report["summary"], mode
                assert report["recommendations"], mode
                assert numbers_in(report) <= numbers_of_facts(report), mode
    tested = reasons.keys() | {"ok", "fenced_json", "reasoning_prefix", "400_key", "blocked"}
    tested |= {"max_tokens", "empty_parts", "not_json", "nonsense_numbers", "injection_echo"}
    assert tested | {"unknown_fact"} == set(MODES)


@pytest.mark.parametrize("redis", ["up", "down"])
async def test_every_mode_of_the_far_side_ends_in_a_whole_report_with_its_reason(
    start: Start, redis: str
):
    reasons = {
        "ok": None,
        "fenced_json": None,
        "reasoning_prefix": None,
        "400_key": "bad_key",
        "blocked": "blocked",
        "max_tokens": "truncated",
        "empty_parts": "truncated",
        "not_json": "invalid_json",
        "nonsense_numbers": "invented_number",
        "injection_echo": "unsafe_text",
        "unknown_fact": "unknown_fact",
    }
    async with serve_gemini() as stand_in:
        settings: dict[str, Any] = {
            **FROZEN,
            "gemini_api_key": "test-key",
            "gemini_base_url": stand_in.url,
            "gemini_rate_limit": 100,
        }
        if redis == "down":
            settings["redis_url"] = "redis://127.0.0.1:1"
        async with start(**settings) as running:
            await seed(running, failed=40)
            for at, (mode, reason) in enumerate(reasons.items()):
                stand_in.set(mode)
                # Another window each time, so that each is another question.
                answer = await running.client.post(
                    "/analyze/performance", json={"time_window_minutes": 10 + at}
                )
                report = answer.json()
                wanted = reason if redis == "up" else "quota_unavailable"
                assert report["fallback_reason"] == wanted, mode
                assert report["summary"], mode
                assert report["recommendations"], mode
                assert report["severity"] == "critical", mode
                assert numbers_in(report) <= numbers_of_facts(report), mode
                used = report["usage"]
                assert (used is not None and used["prompt_tokens"] > 0) == (wanted is None), mode
        assert bool(stand_in.calls) == (redis == "up")
