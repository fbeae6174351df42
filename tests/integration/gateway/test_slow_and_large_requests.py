"""Requests that arrive too slowly or with too much of a head, over raw sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gateway import RunningGateway, running_gateway

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, header_receipt_s=0.3, body_receipt_s=0.3
    ) as running:
        yield running


async def drip(gateway: RunningGateway, pieces: list[bytes], pause_s: float = 0.1) -> bytes:
    """Send pieces with pauses; give what comes back until the gateway closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(3):
            received = b""
            with contextlib.suppress(ConnectionResetError):  # we were still sending
                while piece := await reader.read(65_536):
                    received += piece
            return received
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


async def test_a_connection_that_never_speaks_is_closed(gateway: RunningGateway) -> None:
    assert (await drip(gateway, [])).startswith(b"HTTP/1.1 408")


async def test_a_dripping_head_is_closed_whatever_drips(gateway: RunningGateway) -> None:
    pieces = [b"GET / HTTP/1.1\r\nHost: a\r\n", *[b"X-A: b\r\n"] * 30]
    answer = await drip(gateway, pieces, pause_s=0.05)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"receipt_timeout"' in answer


async def test_a_dripping_second_head_is_closed(gateway: RunningGateway) -> None:
    whole = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
    answer = await drip(gateway, [whole, b"GET /livez HTTP/1.1\r\n", *[b"X: y\r\n"] * 20])
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answer


@pytest.mark.parametrize("length", [100, 200_000])
async def test_a_dripping_body_is_408(gateway: RunningGateway, length: int) -> None:
    head = (
        f"POST /score/fraud HTTP/1.1\r\nHost: a\r\nX-API-Key: {gateway.demo_key}\r\n"
        f"Content-Length: {min(length, 60_000)}\r\n\r\n"
    )
    answer = await drip(gateway, [head.encode(), *[b"{"] * 20])
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"receipt_timeout"' in answer
    assert all(r.method != "POST" for r in gateway.upstreams["inference"].received)


@pytest.mark.parametrize(
    "fields", [["X-A: b"] * 120, ["X-A: " + "b" * 40_000], ["X-A: b"] * 100_000]
)
async def test_too_much_head_is_431(gateway: RunningGateway, fields: list[str]) -> None:
    head = "GET /livez HTTP/1.1\r\nHost: a\r\n" + "\r\n".join(fields) + "\r\n\r\n"
    answer = await drip(gateway, [head.encode()])
    # With more on its way to a closed connection, the answer may be lost to a reset.
    assert answer.startswith(b"HTTP/1.1 431") or (not answer and len(head) > 65_536)
    labels = {"reason": "headers_too_large"}
    counted = gateway.app.platform.registry.get_sample_value(
        "gatehouse_gateway_connections_refused_total", labels
    )
    assert counted == 1


async def test_slow_callers_do_not_disturb_others(gateway: RunningGateway) -> None:
    slow = [asyncio.create_task(drip(gateway, [b"GET / HT"])) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert (await gateway.call("GET", "/models"))[0] == 200
    answers = await asyncio.gather(*slow)
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)
