"""What a service sends in parts arrives in parts."""

import asyncio
from pathlib import Path

import pytest

from tests.support.fake_upstream import Received, echo
from tests.support.gateway import running_gateway

pytestmark = pytest.mark.anyio
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def _chunk(text: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text)


async def test_each_server_sent_event_arrives_before_the_next_is_sent(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    next_one = asyncio.Event()

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        if not request.target.endswith("?events"):
            await echo(request, writer)
            return
        writer.write(HEAD)
        for number in range(3):
            writer.write(_chunk(b"id: %d\ndata: {}\n\n" % number))
            await writer.drain()
            await next_one.wait()
            next_one.clear()
        writer.write(b"0\r\nX-Trailer: 1\r\n\r\n")

    async with running_gateway(
        state_dir, clean_postgres, redis_url, answers={"inference": answer}
    ) as gateway:
        headers = {"X-API-Key": gateway.demo_key, "Accept": "text/event-stream"}
        async with (
            asyncio.timeout(10),
            gateway.session.get(f"{gateway.url}/models?events", headers=headers) as reply,
        ):
            assert reply.headers["Content-Type"] == "text/event-stream"
            assert "X-Trailer" not in reply.headers
            for number in range(3):
                seen = await reply.content.readuntil(b"\n\n")
                assert seen == b"id: %d\ndata: {}\n\n" % number
                next_one.set()
            assert await reply.content.read() == b""
