"""Retries and the breaker over real sockets."""

import asyncio
from pathlib import Path

import pytest

from tests.support.fake_upstream import Received, echo, reply
from tests.support.gateway import running_gateway

pytestmark = pytest.mark.anyio
SCORE = {"card_id": "card_00000001", "transaction_amount": 12.5}


async def test_a_safe_call_is_sent_again_once(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    seen = 0

    async def first_fails(request: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        if request.target == "/score/fraud":
            seen += 1
            if seen == 1:
                await reply(writer, b"{}", status="503 Busy")
                return
        await echo(request, writer)

    async with running_gateway(
        state_dir, clean_postgres, redis_url, answers={"inference": first_fails}
    ) as gateway:
        assert (await gateway.call("POST", "/score/fraud", json=SCORE))[0] == 200
        assert seen == 2
        bodies = {r.body for r in gateway.upstreams["inference"].received if r.method == "POST"}
        assert len(bodies) == 1


async def test_an_unsafe_call_is_never_sent_again(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async def fails(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.method == "POST":
            writer.close()
        else:
            await echo(request, writer)

    async with running_gateway(
        state_dir, clean_postgres, redis_url, answers={"analytics": fails}
    ) as gateway:
        status, _, _ = await gateway.call("POST", "/analyze/performance", json={})
        assert status == 502
        posts = [r for r in gateway.upstreams["analytics"].received if r.method == "POST"]
        assert len(posts) == 1


async def test_a_storm_of_errors_opens_the_breaker_and_a_probe_closes_it(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    is_broken = True

    async def storm(request: Received, writer: asyncio.StreamWriter) -> None:
        if is_broken and request.target == "/models":
            await reply(writer, b"{}", status="500 Oops")
        else:
            await echo(request, writer)

    async with running_gateway(
        state_dir, clean_postgres, redis_url, answers={"inference": storm}
    ) as gateway:
        first = [(await gateway.call("GET", "/models"))[0] for _ in range(20)]
        assert first == [500] * 20
        loop = asyncio.get_running_loop()
        started = loop.time()
        status, body, headers = await gateway.call("GET", "/models")
        assert (status, body["code"], headers["retry-after"]) == (503, "breaker_open", "2")
        assert loop.time() - started < 0.1
        # Another service is not concerned.
        assert (await gateway.call("GET", "/v1/audit/events"))[0] == 200
        is_broken = False
        async with asyncio.timeout(5):
            while (await gateway.call("GET", "/models"))[0] != 200:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.1)
        assert (await gateway.call("GET", "/models"))[0] == 200
