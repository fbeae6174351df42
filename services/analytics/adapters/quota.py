"""The quota of upstream attempts: sliding minute, over all replicas, in one Redis script.

Redis gone: nothing is granted for a full minute (what others took is unknown), then this process
grants itself its share, `floor(limit / replicas)`. It is never unlimited.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from libs.common.ids import uuid7
from libs.common.redis import UNAVAILABLE, Redis

WINDOW_S = 60
QUOTA_KEY = "reports:{gemini}:attempts"
Granted = Literal["granted", "exhausted", "unavailable"]

_TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now, ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2] + 1000)
return 1
"""


class Quota:
    """Grants attempts, `limit` per sliding minute."""

    def __init__(
        self,
        redis: Redis,
        *,
        limit: int,
        replicas: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis: Any = redis
        self._limit = limit
        self._share = limit // replicas
        self._clock = clock
        self._lost_at: float | None = None
        self._own: deque[float] = deque()

    async def take(self) -> Granted:
        """Take one attempt, or say that there is none."""
        if self._limit == 0:
            return "exhausted"
        try:
            taken = await self._redis.eval(
                _TAKE, 1, QUOTA_KEY, self._limit, WINDOW_S * 1000, uuid7()
            )
        except UNAVAILABLE:
            return self._take_alone()
        self._lost_at = None
        return "granted" if taken else "exhausted"

    def _take_alone(self) -> Granted:
        now = self._clock()
        if self._lost_at is None:
            self._lost_at = now
        if now - self._lost_at < WINDOW_S:
            return "unavailable"
        while self._own and now - self._own[0] >= WINDOW_S:
            self._own.popleft()
        if len(self._own) >= self._share:
            return "exhausted"
        self._own.append(now)
        return "granted"
