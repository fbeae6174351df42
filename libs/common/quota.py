"""The quota of calls to a provider outside: a sliding window, exact, over all replicas.

One Redis script keeps a log of the permits of the last window, on the server's clock. The log
reaches a second further back than the window, so that permits may take up to a second to the wire
and the provider still never counts more than the quota in any window. A permit is taken just
before the wire and never given back.

What could break the promise is answered with refusal: when Redis has lost the log (flushed, or
restarted empty) nothing is granted for one window; when its clock steps back, the permits that
seem to lie in the future count anew from now. Redis gone: nothing for one window (what others took
is unknown), then each process grants itself its share, `limit // replicas`, and reports these
permits when Redis is back. A clock of Redis that steps forward frees permits early, and a network
that only cuts off some processes lets their shares come on top: set `replicas` above `limit` where
that must not be, then a process alone grants nothing.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from libs.common.ids import uuid7
from libs.common.redis import UNAVAILABLE, Redis

Granted = Literal["granted", "exhausted", "unavailable"]

_GUARD_MS = 1_000
# Milliseconds. KEYS: log, epoch. ARGV: limit, span, member, the epoch that this process knows,
# then the ages of permits that it granted alone. Returns {granted, epoch}.
_TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local limit, span, member, known = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local epoch = redis.call('GET', KEYS[2])
if not epoch then
  epoch = member
  redis.call('SET', KEYS[2], epoch)
end
for _, early in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  redis.call('ZADD', KEYS[1], now, early)
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - span)
for i = 5, #ARGV do
  redis.call('ZADD', KEYS[1], now - tonumber(ARGV[i]), 'alone:' .. member .. ':' .. i)
end
if known ~= '' and known ~= epoch then
  for i = 1, limit do
    redis.call('ZADD', KEYS[1], now, 'lost:' .. i)
  end
end
redis.call('PEXPIRE', KEYS[1], span + 1000)
if redis.call('ZCARD', KEYS[1]) >= limit then return {0, epoch} end
redis.call('ZADD', KEYS[1], now, member)
redis.call('PEXPIRE', KEYS[1], span + 1000)
return {1, epoch}
"""


class EgressQuota:
    """Grants calls to one provider."""

    def __init__(
        self,
        redis: Redis,
        key: str,
        *,
        limit: int,
        replicas: int,
        window_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Build it.

        Args:
            redis: the shared server.
            key: of the log, with a hash tag, as `reports:{gemini}:attempts`.
            limit: permits per window over all replicas; 0 grants nothing.
            replicas: processes that share it.
            window_s: the provider's window.
            clock: seconds, monotonic.
        """
        self._script: Any = redis.register_script(_TAKE)
        self._keys = [key, f"{key}:epoch"]
        self._limit = limit
        self._share = limit // replicas
        self._window_s = window_s
        self._clock = clock
        self._epoch = b""
        self._lost_at: float | None = None
        self._alone: deque[float] = deque()

    async def take(self) -> Granted:
        """Take one permit; use it within a second.

        Returns:
            granted; exhausted: the window is full; unavailable: Redis cannot say.
        """
        if self._limit == 0:
            return "exhausted"
        self._forget()
        now = self._clock()
        ages = [int((now - at) * 1e3) for at in self._alone]
        span = int(self._window_s * 1e3) + _GUARD_MS
        try:
            granted, epoch = await self._script(
                keys=self._keys, args=[self._limit, span, uuid7(), self._epoch, *ages]
            )
        except UNAVAILABLE:
            return self._take_alone()
        self._lost_at = None
        self._epoch = epoch
        self._alone.clear()
        return "granted" if granted else "exhausted"

    def _take_alone(self) -> Granted:
        now = self._clock()
        if self._lost_at is None:
            self._lost_at = now
        if now - self._lost_at < self._window_s:
            return "unavailable"
        if len(self._alone) >= self._share:
            return "exhausted"
        self._alone.append(now)
        return "granted"

    def _forget(self) -> None:
        oldest = self._clock() - self._window_s - _GUARD_MS / 1e3
        while self._alone and self._alone[0] <= oldest:
            self._alone.popleft()
