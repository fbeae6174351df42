"""What a caller sees when a service is gone, slow, broken off, or plainly odd."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.fake_upstream import Received, echo, reply
from tests.support.gateway import eventually, running_gateway

pytestmark = pytest.mark.anyio


async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
    """Misbehave by the value of the query."""
    kind = request.target.partition("?")[2]
    if kind == "hang":
        await asyncio.sleep(30)
    elif kind == "reset":
        writer.close()
    elif kind == "half":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"z" * 90_000)
        await writer.drain()
        writer.close()
    elif kind == "odd":
        await reply(
            writer,
            b"{}",
            status="418 Teapot",
            headers=(
                ("Connection", "X-Secret"),
                ("X-Secret", "1"),
                ("X-Gatehouse-Internal", "1"),
                ("Server", "fake"),
                ("X-Kept", "1"),
            ),
        )
    elif kind == "stream":
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(50):
            writer.write(b"2000\r\n" + b"s" * 0x2000 + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    else:
        await echo(request, writer)


async def test_faults_of_a_service(state_dir: Path, clean_postgres: str, redis_url: str) -> None:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, answers={"inference": answer}
    ) as gateway:

        async def ask(kind: str, **kw: Any) -> tuple[int, Any, dict[str, str]]:
            return await gateway.call("GET", f"/models?{kind}", **kw)

        started = asyncio.get_running_loop().time()
        status, body, _ = await ask("hang", headers={"X-Request-Deadline-Ms": "100"})
        assert (status, body["code"]) == (504, "deadline_exceeded")
        assert asyncio.get_running_loop().time() - started < 1

        status, body, _ = await ask("reset")
        assert (status, body["code"]) == (502, "upstream_error")

        with pytest.raises(aiohttp.ClientPayloadError):
            await ask("half")

        status, _, headers = await ask("odd")
        assert status == 418
        assert headers["x-kept"] == "1"
        assert not {"x-secret", "x-gatehouse-internal", "server"} & set(headers)

        status, body, _ = await ask("stream")
        assert (status, len(body)) == (200, 50 * 0x2000)


async def test_a_service_that_is_gone_is_503_at_once(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, audit_url="http://127.0.0.1:1"
    ) as gateway:
        status, body, headers = await gateway.call("GET", "/v1/audit/events")
        assert (status, body["code"]) == (503, "upstream_unavailable")
        assert headers["retry-after"] == "1"


async def test_a_caller_who_leaves_cancels_the_call(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, answers={"inference": answer}
    ) as gateway:
        upstream = gateway.upstreams["inference"]
        with pytest.raises(TimeoutError):
            await gateway.call("GET", "/models?hang", timeout=aiohttp.ClientTimeout(total=0.3))
        registry = gateway.app.platform.registry

        async def is_counted() -> bool:
            labels = {"method": "GET", "route": "/models", "status": "499"}
            return bool(registry.get_sample_value("gatehouse_gateway_http_requests_total", labels))

        await eventually(is_counted)
        assert any(r.target == "/models?hang" for r in upstream.received)


async def test_not_ready_until_the_ready_file_appears(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    file = state_dir / "seeded"
    file.unlink(missing_ok=True)
    async with running_gateway(state_dir, clean_postgres, redis_url, ready_file=file) as gateway:

        async def waits_for_the_file_alone() -> bool:
            status, body, _ = await gateway.call("GET", "/readyz", key=None)
            assert status == 503
            return list(body["reasons"]) == ["seed"]

        async def is_ready() -> bool:
            return (await gateway.call("GET", "/readyz", key=None))[0] == 200

        await eventually(waits_for_the_file_alone)
        file.touch()
        await eventually(is_ready)
