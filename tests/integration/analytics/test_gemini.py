"""The Gemini writer through the real library against the stand-in server."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from libs.common.redis import create_redis
from services.analytics.adapters.gemini import Answer, Failure, GeminiWriter
from services.analytics.adapters.quota import Quota
from services.analytics.domain import facts
from services.analytics.domain.aggregate import Aggregate
from services.analytics.domain.draft import Draft, fill, refusal_of
from services.analytics.domain.fold import Sums
from services.analytics.domain.histogram import bucket_of
from services.analytics.domain.thresholds import Thresholds
from services.analytics.settings import AnalyticsSettings
from tests.support.gemini.server import StandIn, serve_gemini

pytestmark = [
    pytest.mark.anyio,
    # google-genai 3.4 subclasses aiohttp's session, which aiohttp 3.14 discourages.
    pytest.mark.filterwarnings(
        "ignore:Inheritance class AiohttpClientSession from ClientSession:DeprecationWarning"
    ),
]


def window(n: int, errors: int, latency: float) -> Aggregate:
    sums = Sums(n=n, errors=errors, latency_n=n, latency_sum=n * latency)
    sums.latency_min = sums.latency_max = latency
    return Aggregate(sums=sums, histograms={"latency_ms": {bucket_of(latency): n}})


def sheet(errors: int = 30) -> facts.FactSheet:
    quiet = (Aggregate(), Aggregate())
    return facts.build(window(200, errors, 90.0), window(200, 1, 80.0), {}, {}, quiet, Thresholds())


@asynccontextmanager
async def writer_against(
    stand_in: StandIn, redis_url: str, sleeps: list[float], **overrides: Any
) -> AsyncIterator[GeminiWriter]:
    settings = AnalyticsSettings.load(
        **{
            "gemini_api_key": "test-key",
            "gemini_base_url": stand_in.url,
            "gemini_timeout_s": 5.0,
            **overrides,
        }
    )
    redis = create_redis(redis_url, timeout_s=1)
    quota = Quota(redis, limit=settings.gemini_rate_limit, replicas=1)

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)

    writer = GeminiWriter(settings, quota, sleep=sleep)
    try:
        yield writer
    finally:
        await writer.close()
        await redis.aclose()


async def test_an_answer_is_a_checked_draft_and_the_request_is_as_documented(redis_url):
    async with (
        serve_gemini() as stand_in,
        writer_against(stand_in, redis_url, []) as writer,
    ):
        result = await writer.analyse(sheet())
        assert isinstance(result, Answer)
        assert result.model_version == "gemini-2.5-flash-lite-standin"
        assert refusal_of(result.draft, sheet()) is None
        (call,) = stand_in.calls
        assert call["path"] == "/v1beta/models/gemini-2.5-flash-lite:generateContent"
        assert call["query"] == ""
        assert call["client"].startswith("google-genai-sdk/3.")
        assert call["server_timeout"] == "5"
        config = call["body"]["generationConfig"]
        assert config["temperature"] == 0.3
        assert config["maxOutputTokens"] == 1024
        assert config["responseMimeType"] == "application/json"
        assert config["responseJsonSchema"]["title"] == "Draft"
        assert config["thinkingConfig"] in ({"thinking_budget": 0}, {"thinkingBudget": 0})


@pytest.mark.parametrize(
    ("mode", "reason", "calls"),
    [
        ("503", "upstream_error", 4),
        ("html_502", "upstream_error", 4),
        ("429", "rate_limited", 4),
        ("reset_mid_body", "transport", 4),
        ("400_key", "bad_key", 1),
        ("blocked", "blocked", 1),
        ("max_tokens", "truncated", 1),
        ("empty_parts", "truncated", 1),
        ("not_json", "invalid_json", 2),
        ("nonsense_numbers", "invented_number", 1),
        ("injection_echo", "unsafe_text", 1),
        ("unknown_fact", "unknown_fact", 1),
        ("fenced_json", None, 1),
        ("reasoning_prefix", None, 1),
    ],
)
async def test_every_mode_ends_in_a_draft_or_a_named_reason(redis_url, mode, reason, calls):
    async with serve_gemini() as stand_in:
        stand_in.set(mode)
        async with writer_against(stand_in, redis_url, []) as writer:
            result = await writer.analyse(sheet())
        assert (result.reason if isinstance(result, Failure) else None) == reason
        assert len(stand_in.calls) == calls


async def test_retries_wait_one_two_and_four_seconds_or_more_and_then_succeed(redis_url):
    sleeps: list[float] = []
    async with serve_gemini() as stand_in:
        stand_in.set("503", n=3)
        async with writer_against(stand_in, redis_url, sleeps) as writer:
            assert isinstance(await writer.analyse(sheet()), Answer)
        assert len(stand_in.calls) == 4
    bounds = ((1, 2), (2, 4), (4, 8))
    assert all(low <= slept <= high for slept, (low, high) in zip(sleeps, bounds, strict=True))


async def test_the_servers_own_delay_wins_and_a_long_one_ends_the_attempts(redis_url):
    sleeps: list[float] = []
    async with serve_gemini() as stand_in:
        stand_in.set("429", n=1, retry_delay="3.5s")
        async with writer_against(stand_in, redis_url, sleeps) as writer:
            assert isinstance(await writer.analyse(sheet()), Answer)
            stand_in.set("429", retry_delay="55s")
            assert isinstance(await writer.analyse(sheet()), Failure)
        assert sleeps == [3.5]
        assert len(stand_in.calls) == 3


async def test_a_slow_answer_times_out_in_seconds_not_milliseconds(redis_url):
    async with serve_gemini() as stand_in:
        stand_in.set("slow", latency_ms=300)
        async with writer_against(stand_in, redis_url, [], gemini_timeout_s=2.0) as writer:
            assert isinstance(await writer.analyse(sheet()), Answer)
        stand_in.set("slow", latency_ms=2000)
        async with writer_against(stand_in, redis_url, [], gemini_timeout_s=0.2) as writer:
            assert await writer.analyse(sheet()) == Failure("timeout")


async def test_a_refused_connection_fails_at_once_without_the_librarys_own_retry(redis_url):
    async with serve_gemini() as stand_in:
        pass  # closed again: nobody listens there now
    started = time.monotonic()
    async with writer_against(stand_in, redis_url, []) as writer:
        assert await writer.analyse(sheet()) == Failure("transport")
    assert time.monotonic() - started < 0.9


async def test_the_eleventh_attempt_in_a_minute_never_leaves_and_retries_count(redis_url):
    async with serve_gemini() as stand_in:
        stand_in.set("503")
        async with writer_against(stand_in, redis_url, []) as writer:
            await writer.analyse(sheet())
            await writer.analyse(sheet())
            assert await writer.analyse(sheet()) == Failure("quota")
        assert len(stand_in.calls) == 10


async def test_the_circuit_opens_after_three_failed_reports(redis_url):
    async with serve_gemini() as stand_in:
        stand_in.set("400_key")
        async with writer_against(stand_in, redis_url, []) as writer:
            for _ in range(3):
                assert await writer.analyse(sheet()) == Failure("bad_key")
            assert await writer.analyse(sheet()) == Failure("circuit_open")
        assert len(stand_in.calls) == 3


async def test_without_redis_there_is_nothing_for_a_minute_and_then_the_own_share():
    now = [0.0]
    redis = create_redis("redis://127.0.0.1:1")
    quota = Quota(redis, limit=10, replicas=3, clock=lambda: now[0])
    assert await quota.take() == "unavailable"
    now[0] = 59.9
    assert await quota.take() == "unavailable"
    now[0] = 60.0
    assert [await quota.take() for _ in range(4)] == ["granted"] * 3 + ["exhausted"]
    now[0] = 119.9
    assert await quota.take() == "exhausted"
    await redis.aclose()


async def test_the_severity_of_an_issue_is_that_of_its_facts_whatever_the_model_says(redis_url):
    async with (
        serve_gemini() as stand_in,
        writer_against(stand_in, redis_url, []) as writer,
    ):
        result = await writer.analyse(sheet())
        assert isinstance(result, Answer)
        assert {issue.severity for issue in result.draft.identified_issues} == {"low"}
        written = fill(Draft.model_validate(result.draft), sheet())
        assert written.severity == "critical"
        assert [issue.severity for issue in written.identified_issues] == ["critical"]
