"""Commands over one connection of its own, where the price is the client and not the server.

redis-py's pool, packing, retry and response handling cost several times what the round trip costs.
It still opens the connection (address, TLS, password, database); after that the bytes are written
and parsed here. Calls of one time share the connection: the server answers in order, and what a
caller gave up on is read and dropped. A server that stays silent loses the connection.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from libs.common.redis import Redis

_BUFFER_BYTES = 1 << 17


def packed(*parts: bytes | int | str) -> bytes:
    """Give one command as it travels."""
    return b"*%d\r\n%b" % (len(parts), arguments(*parts))


def arguments(*parts: bytes | int | str) -> bytes:
    """Give arguments as they travel, without their number."""
    encoded = [part if type(part) is bytes else str(part).encode() for part in parts]
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded])


class _Call:
    """Commands on their way, and the answers that came so far."""

    __slots__ = ("answers", "future", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted, self.answers = wanted, list[Any]()
        self.future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()


class _Connection(asyncio.BufferedProtocol):
    """Takes over an open connection of redis-py and hands each answer to the call it is for."""

    def __init__(self, held: Any) -> None:
        self._held, self._transport = held, held._writer.transport
        self._parser = hiredis.Reader()
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._waiting: deque[_Call] = deque()
        self.is_lost, self.heard = False, 0
        self._transport.set_protocol(self)

    def send(self, commands: Sequence[bytes]) -> asyncio.Future[list[Any]]:
        """Send commands; the future gets their answers."""
        call = _Call(len(commands))
        self._waiting.append(call)
        self._transport.write(b"".join(commands))
        return call.future

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give where the next bytes go."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that came."""
        self.heard += 1
        self._parser.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type] # any buffer will do
        while (answer := self._parser.gets()) is not False:
            call = self._waiting[0]
            call.answers.append(answer)
            if len(call.answers) == call.wanted:
                self._waiting.popleft()
                if not call.future.done():
                    call.future.set_result(call.answers)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail everybody who waits."""
        self.close()
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(RedisConnectionError("the server closed the connection"))

    def close(self) -> None:
        """Close the connection at once."""
        self.is_lost = True
        self._held._close()
        self._transport.abort()


class LeanRedis:
    """Sends packed commands; its methods belong to one event loop."""

    def __init__(self, redis: Redis, *, timeout_s: float) -> None:
        """Take a client whose kind of connection is used, and the longest time of one call."""
        self._make: Any = redis.connection_pool.make_connection
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()

    async def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give the values in the order of the keys, None for a key that does not exist.

        Raises:
            RedisError, OSError, TimeoutError: as `libs.common.redis.UNAVAILABLE`.
        """
        [values] = await self.call([packed("MGET", *keys)])
        if isinstance(values, ResponseError):
            raise values
        found: list[bytes | None] = values
        return found

    async def call(self, commands: Sequence[bytes]) -> list[Any]:
        """Send packed commands together; a refused one has its ResponseError as its answer.

        Raises:
            RedisError, OSError, TimeoutError: as `libs.common.redis.UNAVAILABLE`.
        """
        connection = self._connection
        if connection is None or connection.is_lost:
            connection = await self._open()
        future = connection.send(commands)
        # One timer costs a third of `asyncio.timeout`.
        timer = asyncio.get_running_loop().call_later(
            self._timeout_s, _expire, connection, connection.heard, future
        )
        try:
            answers = await future
        finally:
            timer.cancel()
        return [
            ResponseError(str(answer)) if isinstance(answer, hiredis.ReplyError) else answer
            for answer in answers
        ]

    async def _open(self) -> _Connection:
        async with asyncio.timeout(self._timeout_s), self._opening:
            if self._connection is None or self._connection.is_lost:
                held = self._make()
                try:
                    await held.connect()
                except BaseException:
                    held._close()
                    raise
                self._connection = _Connection(held)
            return self._connection

    async def aclose(self) -> None:
        """Close the connection; a later call opens another."""
        if self._connection is not None:
            self._connection.close()
            await asyncio.sleep(0)  # lets the loop take leave of the socket


def _expire(connection: _Connection, heard: int, future: asyncio.Future[list[Any]]) -> None:
    if future.done():
        return
    future.set_exception(TimeoutError("The store did not answer in time."))
    if connection.heard == heard:
        connection.close()  # not a byte since the call was sent
