"""Connections to one service: HTTP/1.1 over an asyncio protocol, parsed by httptools, reused.

One request at a time per connection, the most recently used first. A client library costs three
times as much here (docs/benchmarks/gateway.md): it builds request, URL, header and payload objects
that a proxy, which passes bytes through, never looks at.

A connection that says anything unexpected (bytes that nobody asked for, a second answer, an
upgrade, an endless head) is closed and never reused: two readers must not disagree about where an
answer ends.
"""

import asyncio
import time
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import httptools

from services.gateway.adapters.lazy_clock import LazyClock

Headers = list[tuple[bytes, bytes]]

CONNECT_TIMEOUT_S = 1.0
# The pool gives a connection up before the services do (they keep one for 75 s).
IDLE_S = 30.0
# An answer that its reader takes too slowly stops being read from the service.
BUFFERED_BYTES_MAX = 256 * 1024
_HEAD_BYTES_MAX = 64 * 1024


class ConnectFailedError(OSError):
    """No connection came about."""


class BrokenOffError(OSError):
    """The connection ended, or turned to nonsense, before the answer was complete."""


class Answer:
    """One response while it arrives; `wait` gives news, `take` what has come so far."""

    __slots__ = (
        "_connection", "_error", "_size", "_waiter", "has_head", "headers", "is_complete",
        "is_head_request", "length", "parts", "status",
    )  # fmt: skip

    def __init__(self, connection: "Connection", *, is_head_request: bool) -> None:
        self._connection = connection
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._size = 0
        self.is_head_request = is_head_request
        self.status = 0
        self.headers: Headers = []
        self.length: int | None = None
        self.parts: list[bytes] = []
        self.has_head = False
        self.is_complete = False

    @property
    def is_drained(self) -> bool:
        """Whether the whole body came and was taken."""
        return self.is_complete and not self.parts

    async def wait(self, seconds: float) -> None:
        """Wait for the head, more of the body, the end or a failure.

        Raises:
            TimeoutError: nothing came within `seconds`.
            BrokenOffError: the connection broke.
        """
        if self._error:
            raise self._error
        connection = self._connection
        waiter = self._waiter = connection.loop.create_future()
        connection.clock.set(time.monotonic() + seconds)
        try:
            await waiter
        finally:
            connection.clock.stop()
            self._waiter = None

    async def wait_for_head(self, seconds: float) -> None:
        """Wait until status and headers are there; raises as `wait`."""
        until = time.monotonic() + seconds
        while not self.has_head:
            await self.wait(until - time.monotonic())

    async def wait_for_end(self, idle_s: float) -> None:
        """Wait until the whole body is there; raises as `wait`, which gets `idle_s` each time."""
        while not self.is_complete:
            await self.wait(idle_s)

    def take(self) -> bytes:
        """Give the body bytes that came since the last call."""
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.parts = []
        self._size = 0
        self._connection.resume_reading()
        return data

    def release(self) -> None:
        """Give the connection back: reused after a whole answer, closed otherwise."""
        self._connection.finish(self)

    def feed(self, data: bytes) -> None:
        """Take body bytes from the parser."""
        self.parts.append(data)
        self._size += len(data)
        if self._size > BUFFERED_BYTES_MAX and not self.is_complete:
            self._connection.pause_reading()

    def fail(self, error: BaseException) -> None:
        """End the answer with an error, now or at the next wait."""
        self._error = error
        waiter = self._waiter
        if waiter and not waiter.done():
            waiter.set_exception(error)

    def is_late(self) -> None:
        """Tell the reader that nothing came in time."""
        waiter = self._waiter
        if waiter and not waiter.done():
            waiter.set_exception(TimeoutError())

    def wake(self) -> None:
        """Tell the reader that something came."""
        waiter = self._waiter
        if waiter and not waiter.done() and self.has_head:
            waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection of a pool; its parser calls the `on_` methods."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._answer: Answer | None = None
        self._head_bytes = 0
        self._is_chunked = False
        self._is_reading_paused = False
        self._may_reuse = True
        self._writable: asyncio.Future[None] | None = None
        self.loop = asyncio.get_running_loop()
        self.clock = LazyClock(self.loop, self._is_late)
        self.is_open = False
        self.idle_since = 0.0

    def send(self, head: bytes, body: bytes, *, is_head_request: bool = False) -> Answer:
        """Write a request and give its answer, which is still to come."""
        answer = self._answer = Answer(self, is_head_request=is_head_request)
        self._transport.write(head + body if body else head)
        return answer

    async def write(self, data: bytes) -> None:
        """Write a part of a streamed body; waits while the service is not reading."""
        if self._writable is not None:
            await self._writable
        if not self.is_open:
            raise BrokenOffError("the connection is closed")
        self._transport.write(data)

    def keep_for_one_answer(self) -> None:
        """Close after this answer, because the request was not sent whole."""
        self._may_reuse = False

    def pause_reading(self) -> None:
        """Let the service wait for our reader."""
        if not self._is_reading_paused and self.is_open:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._is_reading_paused and self.is_open:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def finish(self, answer: Answer) -> None:
        """Part from an answer; gives the connection back to the pool if it is clean."""
        if self._answer is not answer:
            return
        self._answer = None
        if answer.is_complete and self._may_reuse and self.is_open:
            self._pool.give_back(self)
        else:
            self.close()

    def close(self) -> None:
        """Close at once."""
        if self.is_open:
            self.is_open = False
            self._transport.abort()

    def _is_late(self) -> None:
        if self._answer is not None:
            self._answer.is_late()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Parse; wake the reader once per piece, so that a small answer is one wake-up."""
        answer = self._answer
        if answer is None:
            self._may_reuse = False
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break("the answer is not HTTP")
            return
        answer.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what waits; an answer without a length ends properly here."""
        self.is_open = False
        self.clock.close()
        self._pool.lost(self)
        if self._writable and not self._writable.done():
            self._writable.set_exception(BrokenOffError("the connection is closed"))
            self._writable = None
        answer = self._answer
        if answer is None or answer.is_complete:
            return
        if answer.has_head and answer.length is None and not self._is_chunked and exc is None:
            answer.is_complete = True
            answer.wake()
        else:
            answer.fail(BrokenOffError("the connection was closed"))

    def pause_writing(self) -> None:
        """Make `write` wait."""
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        """Let `write` go on."""
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def on_message_begin(self) -> None:
        """Start an answer; a second one in the same breath is refused."""
        self._head_bytes = 0
        self._is_chunked = False
        if self._answer is None or self._answer.is_complete:
            self._break("more than one answer came")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field; those after the body (trailers) are dropped."""
        answer = self._answer
        if answer is None or answer.has_head:
            return
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _HEAD_BYTES_MAX:
            self._break("the head is too large")
            return
        name = name.lower()
        if name == b"content-length":
            answer.length = int(value) if value.isdigit() else None
        elif name == b"transfer-encoding":
            self._is_chunked = True
        answer.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Publish the head, unless it is an interim one."""
        answer = self._answer
        if answer is None or answer.is_complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            answer.headers, answer.length = [], None
            if status == 101:
                self._break("the service wants to switch protocols")
            return
        answer.status = status
        answer.has_head = True
        if answer.is_head_request:
            # The parser cannot know that no body follows.
            self._may_reuse = False
            answer.is_complete = True

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        if self._answer is not None and not self._answer.is_complete:
            self._answer.feed(data)

    def on_message_complete(self) -> None:
        """End the answer."""
        answer = self._answer
        if answer is None or not answer.has_head:
            return
        if not self._parser.should_keep_alive():
            self._may_reuse = False
        answer.is_complete = True

    def _break(self, why: str) -> None:
        self._may_reuse = False
        if self._answer and not self._answer.is_complete:
            self._answer.fail(BrokenOffError(why))
        self.close()


class Pool:
    """The connections to one service; how many there may be is the gate's business."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._is_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._connecting = 0
        self.prefix = parts.path.rstrip("/")
        self.authority = parts.netloc.rpartition("@")[2]

    @property
    def open_count(self) -> int:
        """Connections open, idle ones included."""
        return len(self._all)

    @property
    def busy_count(self) -> int:
        """Calls in flight: connections in use or about to be."""
        return len(self._all) - len(self._idle) + self._connecting

    async def acquire(self, seconds: float) -> Connection:
        """Give a connection, the last one used or a new one.

        Raises:
            ConnectFailedError: none came about within `seconds`, at most one second.
        """
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and time.monotonic() - connection.idle_since < IDLE_S:
                return connection
            connection.close()
        self._connecting += 1
        try:
            async with asyncio.timeout(min(seconds, CONNECT_TIMEOUT_S)):
                _, made = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self), self._host, self._port, ssl=self._is_tls or None
                )
        except (OSError, TimeoutError) as error:
            raise ConnectFailedError(str(type(error).__name__)) from error
        finally:
            self._connecting -= 1
        self._all.add(made)
        return made

    def give_back(self, connection: Connection) -> None:
        """Keep a clean connection for the next request."""
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self._all.discard(connection)
        if connection.idle_since and connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close all connections."""
        self._idle.clear()
        for connection in list(self._all):
            connection.close()
