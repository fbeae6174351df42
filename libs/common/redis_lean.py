"""Commands over connections of its own, where the price is the client and not the server.

redis-py's pool, packing, retry and response handling cost several times what the round trip costs.
It still opens each connection (address, TLS, password, database); after that bytes are written and
parsed here. A call that fails or is given up closes its connection, so no answer meets a wrong
question.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from libs.common.redis import Redis

_IDLE_MAX = 8
_READ_BYTES = 1 << 16


def packed(*parts: bytes | int | str) -> bytes:
    """Give one command, or a part of one that is counted elsewhere, as it travels."""
    return b"*%d\r\n%b" % (len(parts), arguments(*parts))


def arguments(*parts: bytes | int | str) -> bytes:
    """Give arguments as they travel, without their number."""
    encoded = [part if type(part) is bytes else str(part).encode() for part in parts]
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded])


class LeanRedis:
    """Sends packed commands; at most so many connections as there are calls at a time."""

    def __init__(self, redis: Redis, *, timeout_s: float) -> None:
        """Take a client whose kind of connection is used, and the longest time of one call."""
        self._make: Any = redis.connection_pool.make_connection
        self._timeout_s = timeout_s
        self._idle: list[tuple[Any, Any, Any, Any]] = []

    async def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give the values in the order of the keys, None for a key that does not exist.

        Raises:
            RedisError, OSError, TimeoutError: as `libs.common.redis.UNAVAILABLE`.
        """
        [answer] = await self.call([packed("MGET", *keys)])
        if isinstance(answer, ResponseError):
            raise answer
        values: list[bytes | None] = answer
        return values

    async def call(self, commands: Sequence[bytes]) -> list[Any]:
        """Send packed commands together; a refused one has its ResponseError as its answer.

        Raises:
            RedisError, OSError, TimeoutError: as `libs.common.redis.UNAVAILABLE`.
        """
        async with asyncio.timeout(self._timeout_s):
            held = self._idle.pop() if self._idle else await self._open()
            connection, reader, writer, parser = held
            answers: list[Any] = []
            try:
                writer.write(b"".join(commands))
                while len(answers) < len(commands):
                    answer = parser.gets()
                    if answer is not False:
                        answers.append(answer)
                        continue
                    data = await reader.read(_READ_BYTES)
                    if not data:
                        raise RedisConnectionError("the server closed the connection")
                    parser.feed(data)
            finally:
                if len(answers) == len(commands) and len(self._idle) < _IDLE_MAX:
                    self._idle.append(held)
                else:
                    await connection.disconnect(nowait=True)
        return [
            ResponseError(str(answer)) if isinstance(answer, hiredis.ReplyError) else answer
            for answer in answers
        ]

    async def _open(self) -> tuple[Any, Any, Any, Any]:
        connection = self._make()
        await connection.connect()
        return connection, connection._reader, connection._writer, hiredis.Reader()

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop()[0].disconnect(nowait=True)
