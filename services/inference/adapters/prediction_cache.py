"""Predictions in Redis: `predictions:{tenant}:<key>`, with an epoch per tenant.

One MGET reads the epoch and the values. A value of another epoch counts as absent, so that raising
the epoch empties a tenant's cache at once (erasure, rollback). Redis gone or slow means a miss;
nothing waits on it longer than the client's timeout, and errors are never stored.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from libs.common.redis import UNAVAILABLE, Redis, tag

_PREFIX = "predictions"


class PredictionCache:
    """Reads and writes values; counts what happened in this process."""

    def __init__(self, redis: Redis | None, *, ttl_s: int, value_bytes_max: int) -> None:
        """Set up.

        Args:
            redis: None switches the cache off.
            ttl_s: how long a value lives; 0 switches the cache off.
            value_bytes_max: larger values are not stored.
        """
        self._redis = redis if ttl_s > 0 else None
        self._ttl_s = ttl_s
        self._value_bytes_max = value_bytes_max
        self.stored = self.too_large = self.unavailable = 0

    @property
    def is_on(self) -> bool:
        """Whether anything is cached at all."""
        return self._redis is not None

    async def read(self, tenant: str, keys: Sequence[str]) -> tuple[int | None, list[bytes | None]]:
        """Give the epoch and the values; epoch None when the store did not answer."""
        if self._redis is None:
            return None, [None] * len(keys)
        try:
            values: list[Any] = await self._redis.mget(
                [self._epoch_key(tenant), *(self._key(tenant, key) for key in keys)]
            )
        except UNAVAILABLE:
            self.unavailable += 1
            return None, [None] * len(keys)
        return int(values[0] or 0), values[1:]

    async def write(self, tenant: str, values: Mapping[str, bytes]) -> None:
        """Store values in one round trip."""
        fitting = {
            key: value for key, value in values.items() if len(value) <= self._value_bytes_max
        }
        self.too_large += len(values) - len(fitting)
        if self._redis is None or not fitting:
            return
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, value in fitting.items():
                    pipeline.set(self._key(tenant, key), value, ex=self._ttl_s)
                await pipeline.execute()
            self.stored += len(fitting)
        except UNAVAILABLE:
            self.unavailable += 1

    async def clear(self, tenant: str) -> int:
        """Raise the tenant's epoch, which empties its cache; gives the new epoch.

        Raises:
            RedisError, OSError: the store did not answer, so nothing was cleared.
        """
        if self._redis is None:
            return 0
        return int(await self._redis.incr(self._epoch_key(tenant)))

    def statistics(self) -> dict[str, Any]:
        """Say what this process saw since it started."""
        return {
            "enabled": self.is_on,
            "ttl_seconds": self._ttl_s,
            "value_bytes_max": self._value_bytes_max,
            "stored": self.stored,
            "refused_too_large": self.too_large,
            "store_unavailable": self.unavailable,
        }

    @staticmethod
    def _key(tenant: str, key: str) -> str:
        return f"{_PREFIX}:{tag(tenant)}:{key}"

    @staticmethod
    def _epoch_key(tenant: str) -> str:
        return f"{_PREFIX}:{tag(tenant)}:epoch"
