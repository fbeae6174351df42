"""Connections to a service against a server that says exactly what each case needs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from services.gateway.adapters.wire import (
    BUFFERED_BYTES_MAX,
    BrokenOffError,
    ConnectFailedError,
    Pool,
)

pytestmark = pytest.mark.anyio
REQUEST = b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def pool_of(talk: Talk) -> AsyncIterator[Pool]:
    """Run a server that talks after each request head, and give a pool of connections to it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                await reader.readuntil(b"\r\n\r\n")
                await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield pool
    finally:
        pool.close()
        server.close()
        await asyncio.sleep(0)


def says(*pieces: bytes, close: bool = False) -> Talk:
    """Write the pieces one by one, as separate segments."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)
        if close:
            writer.close()

    return talk


async def ask(pool: Pool, *, is_head: bool = False) -> tuple[int, bytes, int]:
    """Make one call; give status, body and the connections that stay open."""
    connection = await pool.acquire(1.0)
    answer = connection.send(REQUEST, b"", is_head_request=is_head)
    try:
        await answer.wait_for_head(1.0)
        await answer.wait_for_end(1.0)
        result = answer.status, answer.take()
    finally:
        answer.release()
    await asyncio.sleep(0)
    return *result, pool.open_count


async def test_a_clean_connection_is_used_again() -> None:
    async with pool_of(says(OK)) as pool:
        for _ in range(3):
            assert await ask(pool) == (200, b"ok", 1)


@pytest.mark.parametrize(
    ("pieces", "status", "body"),
    [
        pytest.param([OK[:10], OK[10:]], 200, b"ok", id="head in two pieces"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n", OK], 200, b"ok", id="interim answer"),
        pytest.param(
            [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 9\r\n\r\n" + OK],
            200,
            b"ok",
            id="early hints in one piece",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n", b"ok\r\n0\r\n\r\n"],
            200,
            b"ok",
            id="chunked",
        ),
        pytest.param(
            [
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
            ],
            200,
            b"ok",
            id="trailers",
        ),
        pytest.param([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b"", id="no content"),
        pytest.param([b"HTTP/1.1 304 X\r\nContent-Length: 7\r\n\r\n"], 304, b"", id="unchanged"),
    ],
)
async def test_forms_of_an_answer(pieces: list[bytes], status: int, body: bytes) -> None:
    async with pool_of(says(*pieces)) as pool:
        for _ in range(2):
            assert await ask(pool) == (status, body, 1)


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async with pool_of(says(b"HTTP/1.1 200 OK\r\n\r\nto the ", b"end", close=True)) as pool:
        assert await ask(pool) == (200, b"to the end", 0)


async def test_an_answer_to_head_has_no_body_and_ends_its_connection() -> None:
    async with pool_of(says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")) as pool:
        assert await ask(pool, is_head=True) == (200, b"", 0)


async def test_connection_close_is_honoured() -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with pool_of(says(closing)) as pool:
        assert await ask(pool) == (200, b"ok", 0)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"SSH-2.0-OpenSSH\r\n"], id="not http"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"], id="cut body"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Le"], id="cut head"),
        pytest.param(
            [b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"], id="upgrade"
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\n" + b"x-pad: " + b"p" * 9000 + b"\r\n"] * 9, id="endless head"
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok"],
            id="two framings",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"],
            id="two lengths",
        ),
        pytest.param([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], id="chunk"),
    ],
)
async def test_nonsense_breaks_the_connection(pieces: list[bytes]) -> None:
    async with pool_of(says(*pieces, close=True)) as pool:
        with pytest.raises(BrokenOffError):
            await ask(pool)
        await asyncio.sleep(0.01)
        assert pool.open_count == 0


async def test_bytes_that_nobody_asked_for_never_answer_the_next_request() -> None:
    async with pool_of(says(OK + OK)) as pool:
        assert await ask(pool) == (200, b"ok", 0)
    async with pool_of(says(OK, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as pool:
        assert (await ask(pool))[:2] == (200, b"ok")
        await asyncio.sleep(0.05)
        assert pool.open_count == 0
        assert (await ask(pool))[:2] == (200, b"ok")


async def test_a_slow_reader_stops_the_service_not_the_memory() -> None:
    size = 64 * BUFFERED_BYTES_MAX
    sent = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with pool_of(pour) as pool:
        connection = await pool.acquire(1.0)
        answer = connection.send(REQUEST, b"")
        await answer.wait_for_head(1.0)
        await asyncio.sleep(0.2)
        assert sum(map(len, answer.parts)) < 2 * BUFFERED_BYTES_MAX
        assert sent < size
        received = 0
        while not answer.is_drained:
            if not answer.parts:
                await answer.wait(1.0)
            received += len(answer.take())
        answer.release()
        assert received == size


async def test_a_silent_service_times_out_and_its_connection_is_not_kept() -> None:
    async with pool_of(says()) as pool:
        connection = await pool.acquire(1.0)
        answer = connection.send(REQUEST, b"")
        with pytest.raises(TimeoutError):
            await answer.wait_for_head(0.05)
        answer.release()
        await asyncio.sleep(0.01)
        assert pool.open_count == 0


async def test_nobody_listens() -> None:
    with pytest.raises(ConnectFailedError):
        await Pool("http://127.0.0.1:1").acquire(1.0)
