"""A Redis Stream as a source of events: it feeds the same ingestion as the HTTP route.

Entries hold one JSON event in the field `event`. An entry is acknowledged after the Postgres
commit; what a stopped consumer had read is read again at its next start, and known events are
skipped, so each counts once.
"""

from collections.abc import Sequence
from typing import Any, cast

import orjson
from redis.exceptions import ResponseError

from libs.common.redis import Redis

_GROUP, _CONSUMER = "gatehouse-features", "ingestion"
_FIELD = b"event"
_BLOCK_MS = 1000


class RedisStreamSource:
    """Implements `EventSource`; one consumer per stream keeps the order."""

    def __init__(self, redis: Redis, stream: str) -> None:
        """Take a client whose timeout exceeds the second that a read blocks, and the stream."""
        self._redis, self._stream = redis, stream
        # What this consumer has read and not acknowledged comes first.
        self._after = "0"

    async def open(self) -> None:
        """Make the group; safe to repeat."""
        try:
            await self._redis.xgroup_create(self._stream, _GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def take(self, most: int) -> list[tuple[str, Any]]:
        """Give the next entries as (id, event); an entry without a JSON event gives None."""
        answer = cast(
            list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]],
            await self._redis.xreadgroup(
                _GROUP, _CONSUMER, {self._stream: self._after}, count=most, block=_BLOCK_MS
            ),
        )
        entries = answer[0][1] if answer else []
        if self._after != ">":
            self._after = entries[-1][0].decode() if entries else ">"
        return [(name.decode(), _event(fields)) for name, fields in entries]

    async def acknowledge(self, ids: Sequence[str]) -> None:
        """Say that the entries are committed."""
        await self._redis.xack(self._stream, _GROUP, *ids)


def _event(fields: dict[bytes, bytes] | None) -> Any:
    try:
        return orjson.loads((fields or {}).get(_FIELD, b""))
    except orjson.JSONDecodeError:
        return None
