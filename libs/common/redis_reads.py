"""MGET over connections of its own, for reads whose price is the client and not the server.

redis-py's pool, retry and response handling cost several times what the round trip costs. It still
opens each connection (address, TLS, password, database); after that bytes are written and parsed
here. A read that fails or is given up closes its connection, so no answer meets a wrong question.
"""

import asyncio
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from libs.common.redis import Redis

_IDLE_MAX = 8
_READ_BYTES = 1 << 16


class LeanReads:
    """Reads many keys at once; at most so many connections as there are reads at a time."""

    def __init__(self, redis: Redis, *, timeout_s: float) -> None:
        """Take a client whose kind of connection is used, and the longest time of one read."""
        self._make: Any = redis.connection_pool.make_connection
        self._timeout_s = timeout_s
        self._idle: list[tuple[Any, Any, Any, Any]] = []

    async def mget(self, keys: list[str]) -> list[bytes | None]:
        """Give the values in the order of the keys, None for a key that does not exist.

        Raises:
            RedisError, OSError, TimeoutError: as `libs.common.redis.UNAVAILABLE`.
        """
        encoded = [key.encode() for key in keys]
        parts = [b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1)]
        parts += [b"$%d\r\n%b\r\n" % (len(key), key) for key in encoded]
        async with asyncio.timeout(self._timeout_s):
            held = self._idle.pop() if self._idle else await self._open()
            connection, reader, writer, parser = held
            is_whole = False
            try:
                writer.write(b"".join(parts))
                while (answer := parser.gets()) is False:
                    data = await reader.read(_READ_BYTES)
                    if not data:
                        raise RedisConnectionError("the server closed the connection")
                    parser.feed(data)
                is_whole = True
            finally:
                if is_whole and len(self._idle) < _IDLE_MAX:
                    self._idle.append(held)
                else:
                    await connection.disconnect(nowait=True)
        if isinstance(answer, hiredis.ReplyError):
            raise ResponseError(str(answer))
        values: list[bytes | None] = answer
        return values

    async def _open(self) -> tuple[Any, Any, Any, Any]:
        connection = self._make()
        await connection.connect()
        return connection, connection._reader, connection._writer, hiredis.Reader()

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop()[0].disconnect(nowait=True)
