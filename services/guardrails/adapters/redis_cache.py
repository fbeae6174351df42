"""The verdict cache in Redis: `verdicts:{tenant}:<hmac>`, a TTL on every key, one MGET per call.

Calls of a tenant that come while one of its MGETs is on the way share the next one.

Fails open: Redis down or slow means that nothing is remembered and everything is computed. Values
hold actions, scores, offsets and labels, never text; keys are HMACs under the tenant's key.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from libs.common.redis import UNAVAILABLE, Redis, tag

# The epoch outlives every verdict that carries it; Postgres restores it when Redis lost it.
EPOCH_TTL_S = 7 * 86_400


@dataclass(frozen=True)
class _Call:
    """The keys of one call and where its values go; a caller that gave up cancelled it."""

    names: list[str]
    values: asyncio.Future[list[Any]]

    def give(self, values: list[Any]) -> None:
        if not self.values.done():
            self.values.set_result(values)

    def fail(self, error: Exception) -> None:
        if not self.values.done():
            self.values.set_exception(error)


class RedisVerdictCache:
    """Implements the port `VerdictCache`."""

    def __init__(
        self, redis: Redis, observe: Callable[[str, int], None] = lambda outcome, count: None
    ) -> None:
        self._redis = redis
        self._observe = observe
        self._waiting: dict[str, list[_Call]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def get(
        self, tenant: str, keys: Sequence[str]
    ) -> tuple[int | None, list[dict[str, Any] | None]]:
        """Read the epoch and the entries in one round trip."""
        names = [_epoch_key(tenant), *(_key(tenant, key) for key in keys)]
        try:
            values = await self._read(tenant, names)
        except UNAVAILABLE:
            self._observe("unavailable", len(keys))
            return None, [None] * len(keys)
        entries = [None if value is None else orjson.loads(value) for value in values[1:]]
        epoch = None if values[0] is None else int(values[0])
        hits = sum(entry is not None and entry.get("epoch") == epoch for entry in entries)
        self._observe("hit", hits)
        self._observe("miss", len(keys) - hits)
        return epoch, entries

    async def _read(self, tenant: str, names: list[str]) -> list[Any]:
        """Read values, together with the calls that wait for the same tenant's next MGET."""
        loop = asyncio.get_running_loop()
        call = _Call(names, loop.create_future())
        self._waiting.setdefault(tenant, []).append(call)
        if tenant not in self._reading:
            self._reading[tenant] = loop.create_task(self._read_on(tenant))
        return await call.values

    async def _read_on(self, tenant: str) -> None:
        """Send one MGET after the other until nobody waits."""
        calls: list[_Call] = []
        try:
            while calls := self._waiting.pop(tenant, []):
                try:
                    found = await self._redis.mget([name for call in calls for name in call.names])
                except Exception as error:  # whoever waits must hear of it, whatever it is
                    for call in calls:
                        call.fail(error)
                    continue
                at = 0
                for call in calls:
                    call.give(found[at : at + len(call.names)])
                    at += len(call.names)
        finally:
            del self._reading[tenant]
            for call in calls:
                call.values.cancel()  # only what a cancelled task left open

    async def put(
        self, tenant: str, entries: Mapping[str, dict[str, Any]], *, ttl_s: int, epoch: int
    ) -> None:
        """Write the entries in one pipeline."""
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for key, entry in entries.items():
                    pipe.set(_key(tenant, key), orjson.dumps(entry), ex=ttl_s)
                await pipe.execute()
        except UNAVAILABLE:
            self._observe("unavailable", len(entries))

    async def mirror_epoch(self, tenant: str, epoch: int) -> bool:
        """Show an epoch to every worker; false when Redis does not take it.

        It never goes backwards: two publications may mirror in the other order.
        """
        script = (
            "local now = tonumber(redis.call('GET', KEYS[1]) or '-1') "
            "if tonumber(ARGV[1]) > now then redis.call('SET', KEYS[1], ARGV[1]) end "
            "redis.call('EXPIRE', KEYS[1], ARGV[2]) return 1"
        )
        try:
            await self._redis.eval(script, 1, _epoch_key(tenant), epoch, EPOCH_TTL_S)
        except UNAVAILABLE:
            return False
        return True


class NoCache:
    """Remembers nothing; for a service without Redis."""

    async def get(
        self, tenant: str, keys: Sequence[str]
    ) -> tuple[int | None, list[dict[str, Any] | None]]:
        """Know nothing."""
        return None, [None] * len(keys)

    async def put(
        self, tenant: str, entries: Mapping[str, dict[str, Any]], *, ttl_s: int, epoch: int
    ) -> None:
        """Forget at once."""

    async def mirror_epoch(self, tenant: str, epoch: int) -> bool:
        """Have nobody to tell."""
        return True


def _key(tenant: str, key: str) -> str:
    return f"verdicts:{tag(tenant)}:{key}"


def _epoch_key(tenant: str) -> str:
    return f"verdicts:{tag(tenant)}:epoch"
