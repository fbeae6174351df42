"""The per-key policy over all replicas: GCRA in one Redis script on the server's clock.

Permits are drawn in small lots for keys with large quotas, so that a busy key costs one round trip
per lot, the next one while a quarter of the present one is left, so that nobody waits for it. Every
permit still comes out of the one shared count, so the quota is never exceeded.
While Redis is down every request is told to decide locally, and a task of its own asks Redis once
per second.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

from libs.common.logging import get_logger
from libs.common.redis import UNAVAILABLE, Redis, tag
from services.gateway.domain.limits import Decision, Policy

log = get_logger()

_PROBE_EVERY_S = 1.0
_LOT_MAX = 64
# One permit in a lot per this many of the quota: small quotas are counted one by one.
_QUOTA_PER_PERMIT = 1_000
_LOT_LIFETIME_S = 1.0
_LOTS_MAX = 20_000
_LOW_SHARE = 4

# Microseconds throughout. KEYS[1] holds the theoretical arrival time; ARGV: period, burst, lot.
# Grants as many of the lot as fit; returns {granted, tat - now, retry}. A time further ahead than a
# full burst was written before the clock stepped back: it is cut to a full burst and stored so.
SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local period, burst, lot = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local latest = now + burst * period
if tat > latest + 1000 then
  tat = latest
  redis.call('SET', KEYS[1], string.format('%.3f', tat), 'PX', math.ceil((tat - now) / 1000) + 1000)
end
local free = math.floor((now + burst * period - tat) / period + 0.000001)
if free < 1 then
  return {0, math.ceil(tat - now), math.ceil(tat + period - burst * period - now)}
end
local granted = math.min(free, lot)
tat = tat + granted * period
redis.call('SET', KEYS[1], string.format('%.3f', tat), 'PX', math.ceil((tat - now) / 1000) + 1000)
return {granted, math.ceil(tat - now), 0}
"""


@dataclass(slots=True)
class _Lot:
    permits: int
    expires_at: float
    ahead_s: float
    low: int  # with so many permits left the next lot is drawn


class RedisKeyLimiter:
    """Implements KeyLimiter."""

    def __init__(self, redis: Redis) -> None:
        self._script: Any = redis.register_script(SCRIPT)
        self._lots: dict[tuple[str, str], _Lot] = {}
        self._drawing: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self._redis: Any = redis
        self._probing: asyncio.Task[None] | None = None
        self._probe_at = 0.0
        self.is_up = True

    async def take(self, tenant: str, principal: str, policy: Policy) -> Decision | None:
        """Count one request, or give None when Redis cannot say in time."""
        now = time.monotonic()
        key = (tenant, principal)
        lot = self._lots.get(key)
        if lot is None or not lot.permits or now >= lot.expires_at:
            drawing = self._drawing.get(key)
            if drawing is not None:
                await asyncio.shield(drawing)  # one draw at a time: two would waste a lot
                now = time.monotonic()
                lot = self._lots.get(key)
        if lot and lot.permits and now < lot.expires_at:
            lot.permits -= 1
            if lot.permits == lot.low and self.is_up and key not in self._drawing:
                self._draw_ahead(key, policy, now)
            return self._allowed(policy, lot.ahead_s, lot.permits)
        if not self.is_up:
            self._probe_in_background(now)
            return None
        if policy.quota < 2 * _QUOTA_PER_PERMIT or key in self._drawing:
            return await self._draw(key, policy, now)
        self._drawing[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._draw(key, policy, now)
        finally:
            self._drawing.pop(key).set_result(None)

    def _draw_ahead(self, key: tuple[str, str], policy: Policy, now: float) -> None:
        """Draw the next lot while the present one lasts: no request of a busy key waits for it."""
        drawn = asyncio.ensure_future(self._draw(key, policy, now, permits_taken=0))
        self._drawing[key] = drawn
        drawn.add_done_callback(lambda _: self._drawing.pop(key))

    async def _draw(
        self, key: tuple[str, str], policy: Policy, now: float, *, permits_taken: int = 1
    ) -> Decision | None:
        """Draw a lot from the shared count and take the first permit of it, if one is wanted."""
        tenant, principal = key
        size = min(_LOT_MAX, max(1, policy.quota // _QUOTA_PER_PERMIT))
        try:
            granted, ahead_us, retry_us = await self._script(
                keys=[f"limits:{tag(tenant, 'key', principal)}"],
                args=[policy.period_s * 1e6, policy.burst, size],
            )
        except UNAVAILABLE:
            self._probe_at = now + _PROBE_EVERY_S
            self._note(is_up=False)
            return None
        if not granted:
            return Decision(policy, False, 0, retry_us / 1e6, ahead_us / 1e6)
        if len(self._lots) >= _LOTS_MAX:
            self._lots.clear()
        left = self._lots.get(key)
        unused = left.permits if left and now < left.expires_at else 0
        permits = granted - permits_taken + unused
        lot = _Lot(permits, now + _LOT_LIFETIME_S, ahead_us / 1e6, size // _LOW_SHARE)
        self._lots[key] = lot
        return self._allowed(policy, lot.ahead_s, lot.permits)

    def _probe_in_background(self, now: float) -> None:
        if now >= self._probe_at and (self._probing is None or self._probing.done()):
            self._probe_at = now + _PROBE_EVERY_S
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        with contextlib.suppress(*UNAVAILABLE):
            await self._redis.ping()
            self._note(is_up=True)

    @staticmethod
    def _allowed(policy: Policy, ahead_s: float, unused: int) -> Decision:
        shared = int((policy.burst * policy.period_s - ahead_s) / policy.period_s + 1e-6)
        return Decision(policy, True, max(0, shared + unused), 0.0, ahead_s)

    def _note(self, *, is_up: bool) -> None:
        if is_up != self.is_up:
            self.is_up = is_up
            log.warning(
                "limit store changed", dependency="redis", mode="shared" if is_up else "local"
            )
