"""One flight per question: a map in the process, a lock in Redis, a write that the lock fences.

(1) callers of one process share a task, each shielded from the others' cancellation; (2) look in
the cache; (3) take the lock; (4) look again; (5) make the value; (6) one script writes it only if
the lock is still ours, then frees it. Who does not get the lock polls the cache. With Redis gone
only the in-process part is left. Values are JSON: a pickle would be code for whoever can write.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from libs.common.ids import uuid7
from libs.common.redis import UNAVAILABLE, Redis

_POLL_S = (0.05, 0.2)

_WRITE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_FREE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


@dataclass(frozen=True, slots=True)
class Made:
    """A fresh value and how long it may be reused."""

    value: dict[str, Any]
    ttl_s: int


Make = Callable[[], Awaitable[Made]]


class ReportCache:
    """Shares values between callers, processes and moments."""

    def __init__(
        self,
        redis: Redis,
        *,
        looking: Redis | None = None,
        lock_ttl_s: float,
        wait_s_max: float,
    ) -> None:
        """Build it; `looking` is for the callers' first look, which must not wait long."""
        self._redis: Any = redis
        self._looking: Any = looking or redis
        self._lock_ms = int(lock_ttl_s * 1000)
        self._wait_s_max = wait_s_max
        self._flights: dict[str, asyncio.Task[tuple[dict[str, Any], bool] | None]] = {}

    async def get_or_make(
        self, key: str, make: Make, *, deadline_s: float
    ) -> tuple[dict[str, Any], bool] | None:
        """Give (value, was it cached), or None when it is not there within the deadline.

        The flight goes on after the deadline and fills the cache.
        """
        found = await self.look(key, through=self._looking)
        if found is not None:
            return found, True
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._fly(key, make))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        # asyncio.wait neither cancels the flight when it times out nor when the caller goes.
        done, _ = await asyncio.wait({flight}, timeout=deadline_s)
        return flight.result() if done else None

    async def look(self, key: str, *, through: Any = None) -> dict[str, Any] | None:
        """Read a cached value; None when there is none or Redis is away."""
        try:
            raw = await (through or self._redis).get(key)
        except UNAVAILABLE:
            return None
        return dict(orjson.loads(raw)) if raw else None

    async def _fly(self, key: str, make: Make) -> tuple[dict[str, Any], bool] | None:
        lock, token = f"{key}:lock", uuid7()
        give_up = asyncio.get_running_loop().time() + self._wait_s_max
        while True:
            try:
                is_ours = await self._redis.set(lock, token, nx=True, px=self._lock_ms)
            except UNAVAILABLE:
                return (await make()).value, False
            if is_ours:
                return await self._make_locked(key, lock, token, make)
            await asyncio.sleep(random.uniform(*_POLL_S))
            found = await self.look(key)
            if found is not None:
                return found, True
            if asyncio.get_running_loop().time() > give_up:
                return None

    async def _make_locked(
        self, key: str, lock: str, token: str, make: Make
    ) -> tuple[dict[str, Any], bool]:
        found = await self.look(key)
        if found is not None:
            await self._quietly(_FREE, (lock,), (token,))
            return found, True
        renewing = asyncio.create_task(self._renew(lock, token))
        try:
            made = await make()
            body = orjson.dumps(made.value)
            await self._quietly(_WRITE, (key, lock), (token, body, made.ttl_s * 1000))
            return made.value, False
        except BaseException:
            await self._quietly(_FREE, (lock,), (token,))
            raise
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing

    async def _renew(self, lock: str, token: str) -> None:
        while True:
            await asyncio.sleep(self._lock_ms / 3000)
            await self._quietly(_RENEW, (lock,), (token, self._lock_ms))

    async def _quietly(self, script: str, keys: tuple[str, ...], args: tuple[Any, ...]) -> None:
        """Run a script; with Redis away the value is simply not shared and the lock runs out."""
        with contextlib.suppress(*UNAVAILABLE):
            await self._redis.eval(script, len(keys), *keys, *args)

    async def close(self) -> None:
        """End the flights that are still under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
