"""The limits over real stores: order, defaults, exemptions, fields, and stores that are gone."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from services.gateway.adapters.ip_limiter import PostgresIpLimiter
from services.gateway.adapters.key_limiter import RedisKeyLimiter
from services.gateway.domain.limits import Decision, Policy
from tests.support.gateway import RunningGateway, eventually, running_gateway

pytestmark = pytest.mark.anyio
WIDE: dict[str, Any] = {"ip_burst_per_s": 100_000, "ip_limit_requests": 10_000}


async def statuses(
    gateway: RunningGateway, count: int, path: str = "/models", **kw: Any
) -> list[int]:
    return [(await gateway.call("GET", path, **kw))[0] for _ in range(count)]


async def test_an_ordinary_key_gets_sixty_requests_per_address(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, ip_burst_per_s=100_000
    ) as gateway:
        key = await gateway.make_key(scopes=["models:read"])
        assert await statuses(gateway, 60, key=key) == [200] * 60
        status, body, headers = await gateway.call("GET", "/models", key=key)
        assert status == 429
        assert body["violated-policies"] == ["ip"]
        assert 1 <= int(headers["retry-after"]) <= 60
        assert headers["ratelimit-policy"].startswith('"ip";q=60;w=60')
        assert '"ip";r=0' in headers["ratelimit"]
        # The demo key and the operational paths go on, from the same address.
        assert (await gateway.call("GET", "/models"))[0] == 200
        assert (await gateway.call("GET", "/health", key=None))[0] == 200
        event = gateway.recorder.of("limit.exceeded")
        assert len(event) == 1
        assert event[0].data["policy"] == "ip"


async def test_a_key_has_a_quota_of_its_own(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(state_dir, clean_postgres, redis_url, **WIDE) as gateway:
        key = await gateway.make_key(
            scopes=["models:read"], limits={"requests_max": 5, "window_s": 60}
        )
        assert await statuses(gateway, 6, key=key) == [200] * 5 + [429]
        _, body, headers = await gateway.call("GET", "/models", key=key)
        assert body["violated-policies"] == ["key"]
        assert 1 <= int(headers["retry-after"]) <= 12


async def test_the_default_quota_of_a_key_is_one_hundred_per_minute(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(state_dir, clean_postgres, redis_url, **WIDE) as gateway:
        key = await gateway.make_key(scopes=["models:read"])
        seen = await asyncio.gather(*(gateway.call("GET", "/models", key=key) for _ in range(110)))
        passed = sum(status == 200 for status, _, _ in seen)
        assert 100 <= passed <= 101  # one more may drip in at 100 per 60 s


async def test_predict_is_limited_to_ten_per_address(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(state_dir, clean_postgres, redis_url, **WIDE) as gateway:
        key = await gateway.make_key(scopes=["predict:text"])
        seen = [
            await gateway.call("POST", "/predict", key=key, json={"text": "x"}) for _ in range(11)
        ]
        assert [status for status, _, _ in seen] == [200] * 10 + [429]
        assert seen[-1][1]["violated-policies"] == ["route:/predict"]
        assert (await gateway.call("POST", "/predict", json={"text": "x"}))[0] == 200


async def test_failed_authentication_counts_against_the_address(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, ip_burst_per_s=100_000, ip_limit_requests=5
    ) as gateway:
        assert await statuses(gateway, 6, key="wrong") == [401] * 5 + [429]


async def test_the_guard_stops_a_burst_before_authentication(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(state_dir, clean_postgres, redis_url, ip_burst_per_s=3) as gateway:
        seen = await asyncio.gather(
            *(gateway.call("GET", "/models", key="wrong") for _ in range(9))
        )
        refused = [body for status, body, _ in seen if status == 429]
        assert len(refused) >= 5
        assert refused[0]["violated-policies"] == ["ip-burst"]


async def test_without_redis_the_key_quota_holds_locally(
    state_dir: Path, clean_postgres: str
) -> None:
    async with running_gateway(
        state_dir, clean_postgres, "redis://127.0.0.1:1/0", **WIDE
    ) as gateway:
        key = await gateway.make_key(
            scopes=["models:read"], limits={"requests_max": 3, "window_s": 60}
        )
        assert await statuses(gateway, 4, key=key) == [200] * 3 + [429]


async def test_concurrency_of_a_key_is_bounded(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    release = asyncio.Event()

    async def hold(request: Any, writer: Any) -> None:
        from tests.support.fake_upstream import echo

        if request.method == "GET" and request.target == "/models":
            await release.wait()
        await echo(request, writer)

    async with running_gateway(
        state_dir, clean_postgres, redis_url, answers={"inference": hold}, **WIDE
    ) as gateway:
        key = await gateway.make_key(scopes=["models:read"], limits={"concurrency_max": 2})
        held = [asyncio.create_task(gateway.call("GET", "/models", key=key)) for _ in range(2)]

        async def both_wait() -> bool:
            received = gateway.upstreams["inference"].received
            return sum(request.target == "/models" for request in received) == 2

        await eventually(both_wait)
        status, body, _ = await gateway.call("GET", "/models", key=key)
        assert (status, body["violated-policies"]) == (429, ["concurrency"])
        release.set()
        assert [(await task)[0] for task in held] == [200, 200]


async def test_the_address_log_is_exact_under_concurrency(clean_postgres: str) -> None:
    limiters = [PostgresIpLimiter(clean_postgres, "gateway") for _ in range(3)]
    for limiter in limiters:
        await limiter.connect()
    policy = Policy("ip", 20, 60, 20)
    decisions: list[Decision | None] = []
    for _ in range(30):  # on a busy machine some are told to decide locally, in 60 ms
        if sum(decision is not None for decision in decisions) >= 40:
            break
        decisions += await asyncio.gather(
            *(limiter.take("10.0.0.1", policy) for limiter in limiters for _ in range(4))
        )
    for limiter in limiters:
        await limiter.close()
    made = [decision for decision in decisions if decision]
    # Who was told to decide locally may have been counted nevertheless.
    unseen = len(decisions) - len(made)
    assert min(20, len(made)) - unseen <= sum(decision.allowed for decision in made) <= 20
    assert len(made) >= 40
    refused = [decision for decision in made if not decision.allowed]
    assert all(0 < decision.retry_after_s <= 60 for decision in refused)


async def test_redis_and_local_algorithm_agree(redis_url: str) -> None:
    from libs.common.redis import create_redis

    redis = create_redis(redis_url, timeout_s=1.0)
    limiter = RedisKeyLimiter(redis)
    policy = Policy("key", 7, 60, 7)
    seen = [await limiter.take("t", "p", policy) for _ in range(9)]
    assert [d.allowed for d in seen if d] == [True] * 7 + [False] * 2
    assert [d.remaining for d in seen if d] == [6, 5, 4, 3, 2, 1, 0, 0, 0]
    last = seen[-1]
    assert last is not None
    assert 0 < last.retry_after_s <= 60 / 7
    await redis.aclose()


async def test_lots_never_exceed_the_quota(redis_url: str) -> None:
    from libs.common.redis import create_redis

    redis = create_redis(redis_url, timeout_s=1.0)
    limiters = [RedisKeyLimiter(redis) for _ in range(2)]
    policy = Policy("key", 5_000, 3_600, 300)  # lots of five
    started = time.monotonic()
    seen = [await limiters[i % 2].take("t", "p", policy) for i in range(400)]
    dripped = (time.monotonic() - started) / policy.period_s
    assert 290 <= sum(bool(d and d.allowed) for d in seen) <= 301 + dripped
    await redis.aclose()


async def test_the_next_lot_of_a_busy_key_is_drawn_before_the_present_one_ends(
    redis_url: str,
) -> None:
    from libs.common.redis import create_redis

    redis = create_redis(redis_url, timeout_s=1.0)
    limiter = RedisKeyLimiter(redis)
    policy = Policy("key", 64_000, 3_600, 64_000)  # a first lot of 64
    assert await limiter.take("t", "p", policy)
    account = limiter._accounts["t", "p"]
    waited = 0
    for _ in range(2_000):
        if account.drawing is not None:
            await account.drawing
        waited += not account.permits
        decision = await limiter.take("t", "p", policy)
        assert decision
        assert decision.allowed
    assert waited == 0
    assert account.size == 640  # a hundredth of the quota, however busy the key
    await redis.aclose()


async def test_who_waits_for_a_permit_is_served_in_order_and_before_whoever_comes_later(
    redis_url: str,
) -> None:
    from libs.common.redis import create_redis

    redis = create_redis(redis_url, timeout_s=1.0)
    limiter = RedisKeyLimiter(redis)
    policy = Policy("key", 5_000, 3_600, 5_000)  # lots of five to fifty
    served: list[int] = []

    async def one(number: int) -> None:
        assert await limiter.take("t", "p", policy)
        served.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(400):
            group.create_task(one(number))
            if number % 40 == 0:
                await asyncio.sleep(0.001)
    assert served == list(range(400))
    assert not limiter._accounts["t", "p"].waiters
    await redis.aclose()


async def test_a_clock_set_back_by_an_hour_costs_an_address_one_window(clean_postgres: str) -> None:
    limiter = PostgresIpLimiter(clean_postgres, "gateway")
    await limiter.connect()
    policy = Policy("ip", 3, 1.0, 3)
    ahead = int((time.time() + 3_600) * 1e6)
    await limiter._pool.execute(
        "INSERT INTO ip_hits VALUES ('10.0.0.9', $1)", [ahead, ahead + 1, ahead + 2]
    )
    first = None
    while first is None:  # on a busy machine some are told to decide locally
        first = await limiter.take("10.0.0.9", policy)
    assert not first.allowed
    assert first.retry_after_s <= 1.0

    async def passes() -> bool:
        decision = await limiter.take("10.0.0.9", policy)
        return bool(decision and decision.allowed)

    await eventually(passes, timeout_s=4)
    await limiter.close()


async def test_a_clock_set_back_by_an_hour_costs_a_key_one_burst(redis_url: str) -> None:
    from libs.common.redis import create_redis, tag

    redis = create_redis(redis_url, timeout_s=1.0)
    limiter = RedisKeyLimiter(redis)
    policy = Policy("key", 10, 1.0, 10)
    await redis.set(f"limits:{tag('t', 'key', 'p')}", str((time.time() + 3_600) * 1e6))
    first = await limiter.take("t", "p", policy)
    assert first is not None
    assert not first.allowed
    assert first.retry_after_s <= 0.1

    async def passes() -> bool:
        decision = await limiter.take("t", "p", policy)
        return bool(decision and decision.allowed)

    await eventually(passes)
    await redis.aclose()


async def test_a_flushed_redis_gives_no_key_a_second_quota(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    from libs.common.redis import create_redis

    async with running_gateway(state_dir, clean_postgres, redis_url, **WIDE) as gateway:
        key = await gateway.make_key(
            scopes=["models:read"], limits={"requests_max": 3, "window_s": 60}
        )
        assert await statuses(gateway, 3, key=key) == [200] * 3
        redis = create_redis(redis_url, timeout_s=1.0)
        await redis.flushall()
        await redis.script_flush()
        await redis.aclose()
        assert await statuses(gateway, 2, key=key) == [429] * 2  # this process remembers
        other = await gateway.make_key(
            scopes=["models:read"], limits={"requests_max": 3, "window_s": 60}
        )
        assert await statuses(gateway, 4, key=other) == [200] * 3 + [429]


async def test_a_store_that_fails_means_no_fresh_burst(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, ip_burst_per_s=1000, ip_limit_requests=6
    ) as gateway:
        key = await gateway.make_key(scopes=["models:read"])
        seen = await statuses(gateway, 6, key=key)
        edge = gateway.app.edge
        assert edge is not None
        limiter = edge._admission._ip_limiter
        assert isinstance(limiter, PostgresIpLimiter)
        limiter.is_up, limiter._probe_at = False, time.monotonic() + 60
        edge._admission._denied._until.clear()
        seen += await statuses(gateway, 4, key=key)
        assert sum(status == 200 for status in seen) <= 6
