"""The per-key policy over all replicas: GCRA in one Redis script on the server's clock.

Permits are drawn in small lots for keys with large quotas, so that a busy key costs one round trip
per lot, the next one while half of the present one is left, so that nobody waits for it. Who
has to wait nevertheless is served in order of arrival, and before whoever comes later. Every permit
comes out of the one shared count, so the quota is never exceeded.
While Redis is down every request is told to decide locally, and a task of its own asks Redis once
per second.
"""

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

from libs.common.logging import get_logger
from libs.common.redis import UNAVAILABLE, Redis, tag
from services.gateway.domain.limits import Decision, Policy

log = get_logger()

_PROBE_EVERY_S = 1.0
# One permit in a first lot per this many of the quota: small quotas are counted one by one.
_QUOTA_PER_PERMIT = 1_000
# A lot that is used up sooner is followed by one twice as large, up to a hundredth of the quota.
_LOT_LASTS_S = 0.25
_LOT_MAX = 4_096
_LOTS_PER_QUOTA = 100
_LOT_LIFETIME_S = 1.0
# The next lot is drawn when one part in so many of the present one is left.
_LOW_SHARE = 2
_ACCOUNTS_MAX = 20_000

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


class _Account:
    """The permits of one busy key that were drawn and not used yet, and who waits for more."""

    __slots__ = (
        "ahead_s",
        "drawing",
        "drawn_at",
        "expires_at",
        "permits",
        "policy",
        "size",
        "waiters",
    )

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.permits = 0
        self.expires_at = 0.0
        self.drawn_at = 0.0
        self.ahead_s = 0.0
        self.size = _smallest_lot(policy)
        self.waiters: deque[asyncio.Future[Decision | None]] = deque()
        self.drawing: asyncio.Task[None] | None = None

    def wanted(self, now: float) -> int:
        """Give the size of the next lot: as much as is used in a quarter of a second, in bounds."""
        if now - self.drawn_at < _LOT_LASTS_S:
            self.size *= 2
        elif now >= self.expires_at:
            self.size = _smallest_lot(self.policy)
        self.size = max(1, min(self.size, _LOT_MAX, self.policy.quota // _LOTS_PER_QUOTA))
        return self.size + len(self.waiters)

    def put(self, granted: int, ahead_s: float, now: float) -> None:
        """Take a lot in; what is left of the one before goes with it while it is fresh."""
        self.permits = granted + (self.permits if now < self.expires_at else 0)
        self.drawn_at, self.expires_at, self.ahead_s = now, now + _LOT_LIFETIME_S, ahead_s

    def spend(self) -> Decision:
        """Use one permit."""
        self.permits -= 1
        return _allowed(self.policy, self.ahead_s, self.permits)

    def settle(self, decision: Decision | None) -> None:
        """Give everybody who waits the same answer."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(decision)


class RedisKeyLimiter:
    """Implements KeyLimiter."""

    def __init__(self, redis: Redis) -> None:
        self._script: Any = redis.register_script(SCRIPT)
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._redis: Any = redis
        self._probing: asyncio.Task[None] | None = None
        self._probe_at = 0.0
        self.is_up = True

    async def take(self, tenant: str, principal: str, policy: Policy) -> Decision | None:
        """Count one request, or give None when Redis cannot say in time."""
        now = time.monotonic()
        key = (tenant, principal)
        account = self._accounts.get(key)
        if account and account.permits and not account.waiters and now < account.expires_at:
            decision = account.spend()
            if account.permits * _LOW_SHARE <= account.size and self.is_up:
                self._draw_for(key, account)
            return decision
        if not self.is_up:
            self._probe_in_background(now)
            return None
        if policy.quota < 2 * _QUOTA_PER_PERMIT:
            return await self._one(key, policy)
        account = account or self._opened(key, policy)
        account.policy = policy
        waiter: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        account.waiters.append(waiter)
        self._draw_for(key, account)
        return await waiter

    async def _one(self, key: tuple[str, str], policy: Policy) -> Decision | None:
        """Count one request of a key with a small quota: every permit is asked for."""
        drawn = await self._draw(key, policy, 1)
        if drawn is None:
            return None
        granted, ahead_s, retry_s = drawn
        if not granted:
            return Decision(policy, False, 0, retry_s, ahead_s)
        return _allowed(policy, ahead_s, 0)

    def _opened(self, key: tuple[str, str], policy: Policy) -> _Account:
        if len(self._accounts) >= _ACCOUNTS_MAX:
            self._accounts = {
                name: account for name, account in self._accounts.items() if account.drawing
            }
        account = self._accounts[key] = _Account(policy)
        return account

    def _draw_for(self, key: tuple[str, str], account: _Account) -> None:
        """Draw in a task of its own, one per key: nobody waits while there are permits."""
        if account.drawing is None:
            account.drawing = asyncio.create_task(self._fill(key, account))

    async def _fill(self, key: tuple[str, str], account: _Account) -> None:
        """Draw a lot, and serve who waits in the order in which they came."""
        try:
            while True:
                drawn = await self._draw(key, account.policy, account.wanted(time.monotonic()))
                if drawn is None:
                    account.settle(None)
                    return
                granted, ahead_s, retry_s = drawn
                if not granted:
                    account.settle(Decision(account.policy, False, 0, retry_s, ahead_s))
                    return
                account.put(granted, ahead_s, time.monotonic())
                while account.waiters and account.permits:
                    waiter = account.waiters.popleft()
                    if not waiter.done():
                        waiter.set_result(account.spend())
                if not account.waiters:
                    return
        finally:
            account.drawing = None
            account.settle(None)  # nobody is left behind, whatever went wrong

    async def _draw(
        self, key: tuple[str, str], policy: Policy, size: int
    ) -> tuple[int, float, float] | None:
        """Ask Redis for permits: granted, seconds ahead, seconds to wait; None: it cannot say."""
        tenant, principal = key
        try:
            granted, ahead_us, retry_us = await self._script(
                keys=[f"limits:{tag(tenant, 'key', principal)}"],
                args=[policy.period_s * 1e6, policy.burst, size],
            )
        except UNAVAILABLE:
            self._probe_at = time.monotonic() + _PROBE_EVERY_S
            self._note(is_up=False)
            return None
        return granted, ahead_us / 1e6, retry_us / 1e6

    def _probe_in_background(self, now: float) -> None:
        if now >= self._probe_at and (self._probing is None or self._probing.done()):
            self._probe_at = now + _PROBE_EVERY_S
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        with contextlib.suppress(*UNAVAILABLE):
            await self._redis.ping()
            self._note(is_up=True)

    def _note(self, *, is_up: bool) -> None:
        if is_up != self.is_up:
            self.is_up = is_up
            log.warning(
                "limit store changed", dependency="redis", mode="shared" if is_up else "local"
            )


def _smallest_lot(policy: Policy) -> int:
    return max(1, policy.quota // _QUOTA_PER_PERMIT)


def _allowed(policy: Policy, ahead_s: float, unused: int) -> Decision:
    shared = int((policy.burst * policy.period_s - ahead_s) / policy.period_s + 1e-6)
    return Decision(policy, True, max(0, shared + unused), 0.0, ahead_s)
