"""The client-side cache against a real Redis: right after each write, off when disconnected."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from libs.common.features.cache import BlobCache
from libs.common.features.contract import FeatureRequest
from libs.common.features.layout import SERVING_KEY, VIEWS, pack_ring
from libs.common.features.personalization import PERSONALIZATION_V1
from libs.common.features.reader import OnlineFeatureReader
from libs.common.redis import Redis, create_redis
from libs.common.redis_lean import LeanRedis

pytestmark = pytest.mark.anyio
KEY = "features:{t:item:i}:ring"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = create_redis(redis_url, timeout_s=1.0)
    yield client
    await client.aclose()


@pytest.fixture
async def cache(redis: Redis) -> AsyncIterator[BlobCache]:
    made = BlobCache(redis, views=["item"], ttl_s=60, entries_max=3)
    made.start()
    await _until(lambda: made.is_live)
    yield made
    await made.close()


@pytest.fixture
async def store(redis: Redis) -> AsyncIterator[LeanRedis]:
    made = LeanRedis(redis, timeout_s=1.0)
    yield made
    await made.aclose()


async def _until(check: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, "the effect did not come in time"
        await asyncio.sleep(0.002)


def _keep(cache: BlobCache, *keys: str, blob: bytes | None = b"1") -> None:
    cache.put(cache.mark(keys), [(key, blob) for key in keys])


async def test_a_write_by_anybody_drops_the_key(redis: Redis, cache: BlobCache) -> None:
    _keep(cache, KEY)
    assert cache.get(KEY) is not None
    await redis.set(KEY, b"2")
    await _until(lambda: cache.get(KEY) is None)


async def test_a_flush_drops_everything(redis: Redis, cache: BlobCache) -> None:
    _keep(cache, KEY, "features:b")
    assert len(cache) == 2
    await redis.flushall()
    await _until(lambda: len(cache) == 0)


async def test_what_was_read_before_an_invalidation_is_not_kept(
    redis: Redis, cache: BlobCache
) -> None:
    mark = cache.mark([KEY])
    stale: Any = await redis.get(KEY)
    await redis.set(KEY, b"2")
    await _until(lambda: len(cache) == 0)
    cache.put(mark, [(KEY, stale)])
    assert cache.get(KEY) is None


async def test_a_lost_connection_empties_the_cache_until_it_is_back(
    redis: Redis, cache: BlobCache
) -> None:
    _keep(cache, KEY)
    tracking = [c for c in await redis.client_list() if c["flags"].find("t") >= 0]
    assert tracking
    await redis.client_kill_filter(_id=tracking[0]["id"])
    await _until(lambda: not cache.is_live)
    assert cache.get(KEY) is None
    _keep(cache, KEY)
    assert len(cache) == 0
    await _until(lambda: cache.is_live)
    _keep(cache, KEY)
    await redis.set(KEY, b"3")
    await _until(lambda: cache.get(KEY) is None)


async def test_entries_are_bounded_and_age_out(redis: Redis, cache: BlobCache) -> None:
    _keep(cache, *(f"features:{number}" for number in range(9)))
    assert len(cache) == 3
    short = BlobCache(redis, views=["item"], ttl_s=0.0)
    short.start()
    await _until(lambda: short.is_live)
    _keep(short, KEY)
    assert short.get(KEY) is None
    await short.close()


async def test_the_reader_asks_redis_once_for_what_does_not_change(
    redis: Redis, store: LeanRedis, cache: BlobCache
) -> None:
    view, now_ms = VIEWS["item"], time.time_ns() // 1_000_000
    await redis.set(SERVING_KEY, b"1")
    await redis.set(view.key("t", "i"), pack_ring(view, [(now_ms - 5, -1, 1, 0, 0)]))
    reader = OnlineFeatureReader(store, timeout_s=1.0, cache=cache)
    place = PERSONALIZATION_V1.raw.index("item:views_1d")

    async def views() -> float:
        request = FeatureRequest({"item": "i"}, {}, now_ms)
        rows = await reader.read(PERSONALIZATION_V1, "t", [request])
        assert rows.raw is not None
        assert rows.degraded_reasons == []
        return float(rows.raw[0, place])

    for _ in range(50):
        assert await views() == 1
        await asyncio.sleep(0.002)
    asked = (await redis.info("commandstats"))["cmdstat_mget"]["calls"]
    for _ in range(20):
        assert await views() == 1
    assert (await redis.info("commandstats"))["cmdstat_mget"]["calls"] == asked
    records = [(now_ms - 5, -1, 1, 0, 0), (now_ms - 4, -1, 2, 0, 0)]
    await redis.set(view.key("t", "i"), pack_ring(view, records))
    deadline = time.monotonic() + 20
    while await views() != 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)  # a read from the cache alone does not let the follower run


async def test_an_emptied_store_is_noticed_through_the_cache(
    redis: Redis, store: LeanRedis, cache: BlobCache
) -> None:
    await redis.set(SERVING_KEY, b"1")
    reader = OnlineFeatureReader(store, timeout_s=1.0, cache=cache)
    request = FeatureRequest({"item": "i"}, {}, time.time_ns() // 1_000_000)
    await reader.read(PERSONALIZATION_V1, "t", [request])
    await redis.flushall()
    deadline = time.monotonic() + 20
    while not (await reader.read(PERSONALIZATION_V1, "t", [request])).degraded_reasons:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
