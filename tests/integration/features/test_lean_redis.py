"""Commands past the client, against a real Redis: order, refusals, silence, a lost server."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from deploy.local.servers import EmbeddedRedis
from libs.common.redis import UNAVAILABLE, Redis, create_redis
from libs.common.redis_lean import LeanRedis, packed

pytestmark = pytest.mark.anyio


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = create_redis(redis_url, timeout_s=1.0)
    yield client
    await client.aclose()


async def test_calls_of_one_time_each_get_their_own_answers(redis: Redis) -> None:
    await redis.mset({f"k{number}": str(number) * (number % 7) * 20_000 for number in range(60)})
    async with aclosing(LeanRedis(redis, timeout_s=10.0)) as store:
        keys = [[f"k{number}", "none", f"k{59 - number}"] for number in range(60)]
        found = await asyncio.gather(*(store.mget(asked) for asked in keys))
    for asked, values in zip(keys, found, strict=True):
        assert values == await redis.mget(asked)


async def test_a_refused_command_is_an_answer_among_the_others(redis: Redis) -> None:
    await redis.set("text", "x")
    async with aclosing(LeanRedis(redis, timeout_s=5.0)) as store:
        commands = [packed("SET", "n", 7), packed("INCR", "text"), packed("INCR", b"n")]
        first, refused, last = await store.call(commands)
    assert (first, last) == (b"OK", 8)
    assert isinstance(refused, ResponseError)


async def test_who_gives_up_spoils_nobody_elses_answer(redis: Redis) -> None:
    await redis.mset({"a": "1", "b": "2" * 3_000_000})
    async with aclosing(LeanRedis(redis, timeout_s=10.0)) as store:
        await store.mget(["a"])
        for _ in range(20):
            left = asyncio.create_task(store.mget(["b"]))
            stays = asyncio.create_task(store.mget(["a"]))
            await asyncio.sleep(0)
            left.cancel()
            assert await stays == [b"1"]


async def test_a_stopped_server_costs_the_timeout_and_a_woken_one_is_used_again(
    tmp_path: Path,
) -> None:
    server = EmbeddedRedis(tmp_path)
    redis = create_redis(server.start(), timeout_s=1.0)
    async with aclosing(LeanRedis(redis, timeout_s=0.2)) as store:
        assert await store.mget(["a"]) == [None]
        assert server.pid
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                started = time.monotonic()
                with pytest.raises(UNAVAILABLE):
                    await store.mget(["a"])
                assert time.monotonic() - started < 2
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await _answers(store)
        server.stop()
        with pytest.raises(UNAVAILABLE):
            await store.mget(["a"])
        server.start()
        await _answers(store)
    await redis.aclose()
    server.stop()


async def _answers(store: LeanRedis) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            assert await store.mget(["a"]) == [None]
        except UNAVAILABLE:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        else:
            return
