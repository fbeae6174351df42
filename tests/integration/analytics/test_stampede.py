"""Four processes, fifty cold callers each, one upstream call."""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from libs.common.redis import create_redis
from services.analytics.adapters.quota import QUOTA_KEY
from tests.support.analytics_processes import analytics_processes
from tests.support.audit_log import serve_audit_log
from tests.support.gemini.server import serve_gemini
from tests.support.predictions import prediction

pytestmark = pytest.mark.anyio
PROCESSES, CALLERS, EVENTS = 4, 50, 200


async def past_the_boundary() -> None:
    """Wait while the aligned window is about to move: the questions must be one question."""
    while True:
        now = datetime.now(UTC) - timedelta(seconds=5)
        left = 300 - (now.minute % 5) * 60 - now.second
        if left > 20:
            return
        await asyncio.sleep(0.5)


async def test_fifty_cold_callers_of_each_of_four_processes_make_one_call(
    clean_postgres: str, redis_url: str
):
    async with serve_gemini() as stand_in, serve_audit_log() as log:
        environment = {
            "POSTGRES_URL": clean_postgres,
            "REDIS_URL": redis_url,
            "AUDIT_URL": log.url,
            "GEMINI_BASE_URL": stand_in.url,
            "GEMINI_API_KEY": "test-key",
        }
        at = datetime.now(UTC) - timedelta(minutes=15)
        log.append(*(prediction(at, status="failed", reason="timeout") for _ in range(EVENTS)))
        stand_in.set("ok", latency_ms=400)
        with tempfile.TemporaryDirectory(prefix="gh-") as directory:
            async with (
                analytics_processes(PROCESSES, Path(directory), environment) as processes,
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            ):
                await _until_counted(session, processes[0].url)
                await past_the_boundary()
                reports = await asyncio.gather(
                    *(
                        _analyze(session, process.url)
                        for process in processes
                        for _ in range(CALLERS)
                    )
                )
        assert len(reports) == PROCESSES * CALLERS
        assert len(stand_in.calls) == 1
        redis = create_redis(redis_url, timeout_s=1)
        assert await redis.zcard(QUOTA_KEY) == 1
        await redis.aclose()
        assert {report["generated_by"] for report in reports} == {"gemini"}
        answers = [{key: report[key] for key in report if key != "cache"} for report in reports]
        assert all(answer == answers[0] for answer in answers)


async def _until_counted(session: aiohttp.ClientSession, url: str) -> None:
    for _ in range(300):
        async with session.get(f"{url}/metrics/count") as answer:
            if (await answer.json())["total_predictions"] == EVENTS:
                return
        await asyncio.sleep(0.1)
    pytest.fail("the events were not counted in time")


async def _analyze(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.post(f"{url}/analyze/performance", json={}) as answer:
        assert answer.status == 200, await answer.text()
        body: dict[str, Any] = await answer.json()
        return body
