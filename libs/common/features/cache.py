"""Blobs kept in this process, dropped the moment Redis says that they changed.

Server-assisted invalidation (CLIENT TRACKING with BCAST) over a connection of its own, in this
order, because after SUBSCRIBE a RESP2 connection takes no CLIENT: CLIENT ID, CLIENT TRACKING ON
REDIRECT to itself, SUBSCRIBE. A message is a list of keys, or nothing after FLUSHALL.

Bounds: so many entries, the least recently used goes first; an age cap behind the invalidation.
While the connection is not known to be alive nothing is kept and nothing is answered from here.
A read that began before an invalidation never stores what it read: a miss leaves a mark, and only
the bearer of a mark that is still there may put a blob in its place.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from libs.common.logging import get_logger
from libs.common.redis import UNAVAILABLE, Redis

log = get_logger()

_PREFIX = "features:"
_CHANNEL = "__redis__:invalidate"
# Silence for so long is answered with a PING; twice so long is a lost connection.
_QUIET_S = 2.0
_RETRY_S = 0.5


class BlobCache:
    """Implements the cache for one Redis; starts with its first use, ends with its loop."""

    def __init__(
        self,
        redis: Redis,
        *,
        views: Iterable[str],
        ttl_s: float = 300.0,
        entries_max: int = 50_000,
    ) -> None:
        """Take the server and the bounds.

        Args:
            redis: any client of the server; a connection of its own is made like its.
            views: names of the views whose blobs are kept; each costs memory and invalidations.
            ttl_s: the longest that a blob is answered without asking Redis.
            entries_max: how many blobs are kept.
        """
        self._redis = redis
        self.views = frozenset(views)
        self._ttl_s, self._entries_max = ttl_s, entries_max
        # Value: (blob or None for "no such key", when it was stored), or the mark of a miss.
        self._entries: OrderedDict[str, tuple[bytes | None, float] | object] = OrderedDict()
        self._following: asyncio.Task[None] | None = None
        self.is_live = False
        self.hits = self.misses = self.invalidations = 0

    def __len__(self) -> int:
        return len(self._entries)

    def start(self) -> None:
        """Follow invalidations, once."""
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following and forget everything."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        self._forget()

    def get(self, key: str) -> tuple[bytes | None, float] | None:
        """Give what is known of a key: (blob, when it was stored), None where Redis must say."""
        entry = self._entries.get(key)
        if type(entry) is tuple and self.is_live and time.monotonic() - entry[1] < self._ttl_s:
            self._entries.move_to_end(key)
            self.hits += 1
            return entry
        self.misses += 1
        return None

    def mark(self, keys: Iterable[str]) -> object | None:
        """Announce reads of keys; the answer goes to `put`. None: nothing is kept now."""
        if not self.is_live:
            return None
        mark = object()
        for key in keys:
            self._entries[key] = mark
            self._entries.move_to_end(key)
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
        return mark

    def put(self, mark: object | None, pairs: Iterable[tuple[str, bytes | None]]) -> None:
        """Keep what was read, as far as nothing was invalidated since `mark`."""
        if mark is None or not self.is_live:
            return
        now = time.monotonic()
        for key, blob in pairs:
            if self._entries.get(key) is mark:
                self._entries[key] = (blob, now)

    def _forget(self) -> None:
        self.is_live = False
        self._entries.clear()

    async def _follow(self) -> None:
        """Keep a tracking connection; without one the cache is empty and off."""
        while True:
            # Not from the pool: its connection would come back with tracking on.
            make: Any = self._redis.connection_pool.make_connection
            connection = make()
            try:
                await connection.connect()
                number = await _ask(connection, "CLIENT", "ID")
                await _ask(
                    connection,
                    *("CLIENT", "TRACKING", "ON", "REDIRECT", str(number)),
                    *("BCAST", "PREFIX", _PREFIX),
                )
                await _ask(connection, "SUBSCRIBE", _CHANNEL)
                self.is_live = True
                await self._listen(connection)
            except UNAVAILABLE as error:
                if self.is_live:
                    log.warning("feature cache off", error_type=type(error).__name__)
            finally:
                self._forget()
                await connection.disconnect(nowait=True)
            await asyncio.sleep(_RETRY_S)

    async def _listen(self, connection: Any) -> None:
        is_asked = False
        while True:
            message = await connection.read_response(timeout=_QUIET_S, disconnect_on_error=False)
            if message is None:
                if is_asked:
                    raise TimeoutError("the tracking connection is silent")
                is_asked = True
                await connection.send_command("PING", check_health=False)
                continue
            is_asked = False
            if message[0] == b"message":
                self._drop(message[2])

    def _drop(self, keys: list[bytes] | None) -> None:
        if keys is None:
            self._entries.clear()
            return
        for key in keys:
            if self._entries.pop(key.decode(), None) is not None:
                self.invalidations += 1


async def _ask(connection: Any, *command: str) -> Any:
    await connection.send_command(*command, check_health=False)
    return await connection.read_response()
