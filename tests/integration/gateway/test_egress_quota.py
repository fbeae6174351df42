"""The quota of calls to a provider: exact over replicas, closed when its log cannot be trusted."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from libs.common.quota import EgressQuota
from libs.common.redis import Redis, create_redis

pytestmark = pytest.mark.anyio
KEY = "reports:{provider}:attempts"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = create_redis(redis_url, timeout_s=1.0)
    yield client
    await client.aclose()


def quota(redis: Redis, limit: int = 5, window_s: float = 60.0, replicas: int = 3) -> EgressQuota:
    return EgressQuota(redis, KEY, limit=limit, replicas=replicas, window_s=window_s)


async def taken(quotas: list[EgressQuota], count: int) -> list[str]:
    return [await quotas[number % len(quotas)].take() for number in range(count)]


async def test_no_window_holds_more_than_the_quota_over_three_replicas(redis: Redis) -> None:
    quotas = [quota(redis, limit=5, window_s=0.6) for _ in range(3)]
    granted: list[float] = []
    until = time.monotonic() + 4.0

    async def demand(mine: EgressQuota) -> None:
        while time.monotonic() < until:  # some 20 times what is allowed
            if await mine.take() == "granted":
                granted.append(time.monotonic())
            await asyncio.sleep(0.02)

    await asyncio.gather(*(demand(mine) for mine in quotas))
    granted.sort()
    assert len(granted) >= 10
    for at in granted:
        assert sum(at <= other < at + 0.6 for other in granted) <= 5


async def test_a_flushed_log_closes_the_quota_for_a_window(redis: Redis) -> None:
    quotas = [quota(redis) for _ in range(2)]
    assert await taken(quotas, 4) == ["granted"] * 4
    await redis.flushall()
    assert await taken(quotas, 4) == ["exhausted"] * 4
    # A process that starts now knows nothing, and is held by the same log.
    assert await quota(redis).take() == "exhausted"
    remaining = await redis.pttl(KEY)
    assert 60_000 < remaining <= 62_000


async def test_permits_from_the_future_count_for_one_window_from_now(redis: Redis) -> None:
    mine = quota(redis)
    await taken([mine], 5)
    now_ms = time.time() * 1e3
    members: Any = await redis.zrange(KEY, 0, -1)
    for member in members:
        await redis.zadd(KEY, {member: now_ms + 3_600_000})  # the clock was an hour ahead
    assert await mine.take() == "exhausted"
    rows: Any = await redis.zrange(KEY, 0, -1, withscores=True)
    assert max(score for _, score in rows) <= time.time() * 1e3 + 1_000


async def test_permits_granted_alone_are_counted_when_redis_is_back(redis: Redis) -> None:
    now = [0.0]
    mine = EgressQuota(redis, KEY, limit=6, replicas=2, clock=lambda: now[0])
    gone = create_redis("redis://127.0.0.1:1")
    working, mine._script = mine._script, gone.register_script("return 1")
    assert await mine.take() == "unavailable"
    now[0] = 60.0
    assert await taken([mine], 4) == ["granted"] * 3 + ["exhausted"]
    mine._script = working
    assert await taken([mine], 4) == ["granted"] * 3 + ["exhausted"]
    await gone.aclose()


async def test_a_quota_of_nothing_grants_nothing(redis: Redis) -> None:
    assert await quota(redis, limit=0).take() == "exhausted"
    assert not await redis.exists(KEY)
