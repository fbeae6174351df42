"""WebSocket pass-through: admission before the handshake, messages both ways, proper ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from services.gateway.adapters.websocket import MESSAGE_BYTES_MAX
from tests.support.gateway import RunningGateway, running_gateway

pytestmark = pytest.mark.anyio
PATH = "/v1/guardrails/stream"


@asynccontextmanager
async def echo_server(seen: list[dict[str, str]]) -> AsyncIterator[str]:
    """Run a real WebSocket server that echoes; `close` closes with 1003, `big` answers too much."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path != PATH:
            return web.json_response({"status": "ok"})
        seen.append({name.lower(): value for name, value in request.headers.items()})
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.data == "close":
                await socket.close(code=1003)
            elif message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/{rest:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def gateway_with(
    state_dir: Path, postgres: str, redis: str, seen: list[dict[str, str]]
) -> AsyncIterator[RunningGateway]:
    async with (
        echo_server(seen) as url,
        running_gateway(
            state_dir, postgres, redis, guardrails_url=url, cors_origins=("https://app.example",)
        ) as running,
    ):
        yield running


async def test_a_conversation(state_dir: Path, clean_postgres: str, redis_url: str) -> None:
    seen: list[dict[str, str]] = []
    async with gateway_with(state_dir, clean_postgres, redis_url, seen) as gateway:
        headers = {"X-API-Key": gateway.demo_key, "X-Tenant": "evil", "Cookie": "a=b"}
        async with gateway.session.ws_connect(gateway.url + PATH, headers=headers) as socket:
            for size in (1, 1000, MESSAGE_BYTES_MAX - 1):
                await socket.send_str("x" * size)
                assert len((await socket.receive()).data) == size
            await socket.send_bytes(b"\x00\x01")
            assert (await socket.receive()).data == b"\x00\x01"
            await socket.send_str("close")
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1003
        assert seen[0]["x-gatehouse-identity"]
        assert not {"x-tenant", "x-api-key", "cookie", "authorization"} & set(seen[0])
        async with gateway.session.ws_connect(
            gateway.url + PATH, headers=headers, max_msg_size=0
        ) as socket:
            await socket.send_str("x" * (MESSAGE_BYTES_MAX + 1))
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1009


async def test_refusals_come_as_http_before_the_handshake(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    seen: list[dict[str, str]] = []
    async with gateway_with(state_dir, clean_postgres, redis_url, seen) as gateway:
        weak = await gateway.make_key(scopes=["models:read"])
        good = {"X-API-Key": gateway.demo_key}
        cases: list[tuple[str, dict[str, str], int]] = [
            (PATH, {}, 401),
            (PATH, {"X-API-Key": "gh_nonsense"}, 401),
            (PATH, {"X-API-Key": weak}, 403),
            (PATH, {**good, "Origin": "https://evil.example"}, 403),
            (PATH, {**good, "Origin": "null"}, 403),
            ("/v1/guardrails/other", good, 404),
            ("/v1/guardrails/stream;x", good, 400),
        ]
        for path, headers, status in cases:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await gateway.session.ws_connect(gateway.url + path, headers=headers)
            assert refused.value.status == status, (path, headers)
        assert seen == []
        for origin in ("https://app.example", f"http://127.0.0.1:{gateway.port}"):
            headers = {**good, "Origin": origin}
            async with gateway.session.ws_connect(gateway.url + PATH, headers=headers) as socket:
                await socket.send_str("a")
                assert (await socket.receive()).data == "a"


async def test_a_connection_ends_with_its_credential_and_with_the_process(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    seen: list[dict[str, str]] = []
    async with gateway_with(state_dir, clean_postgres, redis_url, seen) as gateway:
        edge = gateway.app.edge
        assert edge is not None
        cache = edge._admission._authenticator._cache
        headers = {"X-API-Key": await gateway.make_key(scopes=["guardrails:check"])}
        assert (await gateway.call("GET", "/livez", headers=headers, key=None))[0] == 200
        async with asyncio.timeout(10):
            async with gateway.session.ws_connect(gateway.url + PATH, headers=headers) as socket:
                await socket.send_str("a")
                await socket.receive()
            # The same key, now with an end: as if it had been made to expire.
            for entry in cache.values():
                if entry.credential.caller.scopes == frozenset({"guardrails:check"}):
                    object.__setattr__(entry.credential, "expires_at", time.time() + 0.5)
            async with gateway.session.ws_connect(gateway.url + PATH, headers=headers) as socket:
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
                assert socket.close_code == 1008
            headers = {"X-API-Key": gateway.demo_key}
            async with gateway.session.ws_connect(gateway.url + PATH, headers=headers) as socket:
                gateway.app.platform.health.drain()
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
                assert socket.close_code == 1012


async def test_a_service_that_is_gone_is_503(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, guardrails_url="http://127.0.0.1:1"
    ) as gateway:
        headers = {"X-API-Key": gateway.demo_key}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await gateway.session.ws_connect(gateway.url + PATH, headers=headers)
        assert refused.value.status == 503
