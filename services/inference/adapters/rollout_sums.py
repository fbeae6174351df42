"""Sums of rollouts and the notice of changes in Redis, under `models:`; all of it may be lost.

`models:rollout:{<id>}` is a hash of counts, `models:epoch` a number that grows with each change,
`models:labels` a bounded list of labels that features received.
"""

from collections.abc import Sequence

import orjson

from libs.common.redis import UNAVAILABLE, Redis
from libs.common.redis_keys import tag

EPOCH_KEY = "models:epoch"
LABELS_KEY = "models:labels"
_KEPT_S = 7 * 86_400
_LABELS_TAKEN = 500


class RedisRolloutSums:
    """`RolloutSums` over Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def add(self, rollout_id: str, increments: dict[str, int]) -> dict[str, int] | None:
        """Add increments in one transaction and give the total; None when Redis is down."""
        key = _key(rollout_id)
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                for field, amount in increments.items():
                    pipe.hincrby(key, field, amount)
                pipe.expire(key, _KEPT_S)
                pipe.hgetall(key)
                found = (await pipe.execute())[-1]
        except UNAVAILABLE:
            return None
        return {field.decode(): int(amount) for field, amount in found.items()}

    async def restore(self, rollout_id: str, counts: dict[str, int]) -> None:
        """Put saved counts back where Redis has none."""
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                for field, amount in counts.items():
                    pipe.hsetnx(_key(rollout_id), field, amount)
                await pipe.execute()
        except UNAVAILABLE:
            return

    async def notify(self) -> None:
        """Tell all replicas that records changed; they look every two seconds anyway."""
        try:
            await self._redis.incr(EPOCH_KEY)
        except UNAVAILABLE:
            return

    async def epoch(self) -> int | None:
        """Give a number that changes with each notice."""
        try:
            value = await self._redis.get(EPOCH_KEY)
        except UNAVAILABLE:
            return None
        return int(value) if value else 0

    async def labels(self) -> Sequence[dict[str, object]]:
        """Take labels that arrived."""
        try:
            taken = await self._redis.lpop(LABELS_KEY, _LABELS_TAKEN)
        except UNAVAILABLE:
            return []
        return [orjson.loads(item) for item in taken or [] if isinstance(item, bytes)]


def _key(rollout_id: str) -> str:
    return f"models:rollout:{tag(rollout_id)}"
