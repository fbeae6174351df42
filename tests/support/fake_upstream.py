"""A tiny real HTTP service that records what it received; stands in for any of the five.

It speaks raw HTTP/1.1 over asyncio streams, so that it can also misbehave: hang, break off, answer
slowly or with hop-by-hop noise. One instance per service and test.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import orjson


@dataclass
class Received:
    """One request as it arrived on the wire."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """Give the only value of a header, empty when absent."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else ""


Answer = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class FakeUpstream:
    """Listens on a free loopback port; `answer` decides what comes back."""

    answer: Answer
    received: list[Received] = field(default_factory=list)
    connections_open: int = 0
    connections_total: int = 0
    port: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it closes."""
        self.connections_open += 1
        self.connections_total += 1
        self.writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while True:
                request = await _read_request(reader)
                if request is None:
                    return
                self.received.append(request)
                await self.answer(request, writer)
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        except asyncio.CancelledError:
            return  # asyncio.streams reports a cancelled handler as an error in 3.11
        finally:
            self.connections_open -= 1
            self.writers.discard(writer)
            self.tasks.discard(task)
            with suppress(ConnectionError, RuntimeError):
                writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = [(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in lines[1:-2])]
    lookup = {name.lower(): value for name, value in headers}
    body = b""
    if lookup.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    elif "content-length" in lookup:
        body = await reader.readexactly(int(lookup["content-length"]))
    return Received(method, target, headers, body)


async def reply(
    writer: asyncio.StreamWriter,
    body: bytes,
    *,
    status: str = "200 OK",
    headers: tuple[tuple[str, str], ...] = (),
) -> None:
    """Write a whole answer with Content-Length."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in headers]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    await writer.drain()


async def echo(request: Received, writer: asyncio.StreamWriter) -> None:
    """Answer health and description polls plainly and everything else with what arrived."""
    document: dict[str, object]
    if request.target == "/health":
        document = {"status": "ok", "version": "9.9.9", "uptime_seconds": 5, "ready": True}
    elif request.target == "/openapi.json":
        document = {"openapi": "3.1.0", "paths": {}}
    else:
        document = {
            "method": request.method,
            "target": request.target,
            "body": request.body.decode("latin-1")[:2000],
        }
    await reply(writer, orjson.dumps(document), headers=(("Content-Type", "application/json"),))


@asynccontextmanager
async def fake_upstream(answer: Answer = echo) -> AsyncIterator[FakeUpstream]:
    """Run a fake service for the length of a block."""
    upstream = FakeUpstream(answer)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for writer in list(upstream.writers):
            writer.close()
        for task in list(upstream.tasks):
            task.cancel()
        await asyncio.gather(*upstream.tasks, return_exceptions=True)
