"""Attacks that no HTTP client would send, over raw sockets: framing, paths, headers, leaks."""

import asyncio
import gzip
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
        state_dir, clean_postgres, redis_url, ip_burst_per_s=1000, ip_limit_requests=1000
    ) as running:
        yield running


async def raw(gateway: RunningGateway, head: str, body: bytes = b"") -> bytes:
    """Send bytes as they are and give everything that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    text = head.replace("\n", "\r\n").replace("KEY", gateway.demo_key)
    writer.write(text.encode("latin-1") + b"\r\n\r\n" + body)
    try:
        async with asyncio.timeout(3):
            return await reader.read(4096)
    finally:
        writer.close()


def reached(gateway: RunningGateway) -> list[str]:
    """Give the targets that reached any service beyond the gateway's own polls."""
    polls = {"/health", "/openapi.json"}
    return [
        request.target
        for upstream in gateway.upstreams.values()
        for request in upstream.received
        if request.target not in polls
    ]


AMBIGUOUS = [
    "GET /../models HTTP/1.1\nHost: a\nX-API-Key: KEY",
    "GET /%2e%2e/models HTTP/1.1\nHost: a\nX-API-Key: KEY",
    "GET /models/%252e%252e HTTP/1.1\nHost: a\nX-API-Key: KEY",
    "GET //models HTTP/1.1\nHost: a\nX-API-Key: KEY",
    "GET /models;x HTTP/1.1\nHost: a\nX-API-Key: KEY",
    "GET /models\\x HTTP/1.1\nHost: a\nX-API-Key: KEY",
    "GET /models/a%00 HTTP/1.1\nHost: a\nX-API-Key: KEY",
    "POST /score/fraud HTTP/1.1\nHost: a\nX-API-Key: KEY\nContent-Length: 2\n"
    "Transfer-Encoding: chunked",
    "POST /score/fraud HTTP/1.1\nHost: a\nX-API-Key: KEY\nContent-Length: 2\nContent-Length: 3",
    "GET /models HTTP/1.1\nHost: a\nHost: b\nX-API-Key: KEY",
    "GET /models HTTP/1.1\nHost: a\nX-API-Key: KEY\nX-API-Key: KEY",
    "GET /models HTTP/1.1\nHost: a\nX-API-Key: KEY\nAuthorization: Bearer KEY",
    "GET /models HTTP/1.1\nHost: a\n X-Folded: KEY",
    "POST /score/fraud HTTP/1.1\nHost: a\nX-API-Key: KEY\nContent-Length: -1",
]


async def test_ambiguous_requests_are_refused(gateway: RunningGateway) -> None:
    for head in AMBIGUOUS:
        answer = await raw(gateway, head, b"{}")
        assert answer.startswith(b"HTTP/1.1 400"), (head, answer[:200])
    assert reached(gateway) == []


async def test_a_bad_chunk_never_completes_a_request(gateway: RunningGateway) -> None:
    head = "POST /score/fraud HTTP/1.1\nHost: a\nX-API-Key: KEY\nTransfer-Encoding: chunked"
    answer = await raw(gateway, head, b"5\r\nhelloX\r\n0\r\n\r\n")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert reached(gateway) == []


async def test_a_huge_announced_body_is_refused_before_it_is_sent(gateway: RunningGateway) -> None:
    head = "POST /score/fraud HTTP/1.1\nHost: a\nX-API-Key: KEY\nContent-Length: 10000000000"
    assert (await raw(gateway, head)).startswith(b"HTTP/1.1 413")


async def test_a_request_behind_a_refused_one_is_not_smuggled(gateway: RunningGateway) -> None:
    head = "POST /score/fraud HTTP/1.1\nHost: a\nX-API-Key: KEY\nContent-Length: 70000"
    smuggled = b"GET /models HTTP/1.1\r\nHost: a\r\nX-API-Key: x\r\n\r\n"
    answer = await raw(gateway, head, smuggled)
    assert answer.count(b"HTTP/1.1") == 1
    assert reached(gateway) == []


async def test_an_upgrade_on_a_plain_route_is_not_one(gateway: RunningGateway) -> None:
    head = "GET /models HTTP/1.1\nHost: a\nX-API-Key: KEY\nConnection: upgrade\nUpgrade: h2c"
    await raw(gateway, head)
    for request in gateway.upstreams["inference"].received:
        assert not request.header("upgrade")


async def test_credentials_appear_in_no_answer_log_or_event(
    gateway: RunningGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = "gh_CANARYCANARY_" + "s" * 49
    for path in ("/models", f"/unknown/{canary}", f"/models?token={canary}"):
        _, body, headers = await gateway.call("GET", path, key=canary)
        assert "ssssssss" not in str(headers)
        assert "ssssssss" not in str(body)
    written = capsys.readouterr()
    assert "ssssssss" not in written.out + written.err
    assert "ssssssss" not in str([event.to_wire() for event in gateway.recorder.events])
    assert b"ssssssss" not in (await gateway.call("GET", "/metrics", key=None))[1]


async def test_no_header_value_breaks_into_a_second_header(gateway: RunningGateway) -> None:
    for evil in ("b\rX-Evil: 1", "b\0c", "b\r\r\nX-Evil: 1"):
        head = "GET /models HTTP/1.1\r\nHost: a\r\nX-API-Key: KEY\r\nX-A: " + evil
        await raw(gateway, head.replace("\r\n", "\n"))
    for request in gateway.upstreams["inference"].received:
        assert not request.header("x-evil")


async def test_a_compressed_body_is_neither_unpacked_nor_believed(gateway: RunningGateway) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    status, _, _ = await gateway.call("POST", "/score/fraud", data=bomb, headers=headers)
    assert status == 200
    assert gateway.upstreams["inference"].received[-1].body == bomb


async def test_nothing_a_caller_sends_reaches_a_url_or_host_of_ours(
    gateway: RunningGateway,
) -> None:
    heads = [
        "GET http://169.254.169.254/latest/meta-data HTTP/1.1\nHost: a\nX-API-Key: KEY",
        "GET /models HTTP/1.1\nHost: 169.254.169.254\nX-API-Key: KEY\nX-Original-URL: /admin",
        "GET /models HTTP/1.1\nHost: evil\nX-API-Key: KEY\nX-Forwarded-Host: evil\n"
        "X-Forwarded-Prefix: /x\nForwarded: host=evil",
    ]
    for head in heads:
        await raw(gateway, head)
    received = [r for r in gateway.upstreams["inference"].received if r.target == "/models"]
    assert len(received) == 2
    for request in received:
        assert request.header("host") == gateway.upstreams["inference"].url.removeprefix("http://")
        assert not request.header("x-original-url")
        assert not request.header("x-forwarded-prefix")
        assert not request.header("forwarded")
    assert received[1].header("x-forwarded-host") == "evil"


async def test_hosts_outside_the_list_are_refused(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, allowed_hosts=("api.example",)
    ) as gateway:
        for host, status in (("api.example", b"200"), ("evil.example", b"400"), ("", b"400")):
            answer = await raw(gateway, f"GET /models HTTP/1.1\nHost: {host}\nX-API-Key: KEY")
            assert answer.startswith(b"HTTP/1.1 " + status), host
