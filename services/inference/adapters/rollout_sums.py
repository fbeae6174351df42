"""Sums of rollouts and the notice of changes in Redis, under `models:`; all of it may be lost.

`models:rollout:{<id>}` is a hash of counts, `models:answers:{<id>}` one of answers that a label may
speak about, `models:epoch` a number that grows with each change. Labels are read from the stream
that features writes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import orjson

from libs.common.redis import UNAVAILABLE, Redis
from libs.common.redis_keys import tag
from libs.common.rollouts import LABELS_STREAM
from services.inference.domain.control import Remembered

EPOCH_KEY = "models:epoch"
_KEPT_S = 7 * 86_400
_LABELS_TAKEN = 500
# A label rests so long before it is read: the replica that gave its answer remembers it only after
# answering, and a label that finds no answer is lost.
_LABEL_RESTS_MS = 2_000
# Answers remembered per rollout, about 150 bytes each.
_ANSWERS_MAX = 200_000


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

    async def remember(self, rollout_id: str, answers: Mapping[str, Remembered]) -> None:
        """Keep answers; beyond the bound new ones are not, of either arm alike."""
        if not answers:
            return
        key = _answers_key(rollout_id)
        try:
            if await self._redis.hlen(key) >= _ANSWERS_MAX:
                return
            async with self._redis.pipeline(transaction=True) as pipe:
                for ref, answer in answers.items():
                    pipe.hset(key, ref, orjson.dumps(astuple(answer)))
                pipe.expire(key, _KEPT_S)
                await pipe.execute()
        except UNAVAILABLE:
            return

    async def labels(self, since: str) -> tuple[list[tuple[str, str]], str]:
        """Give labels that came after a place and have rested, and the new place."""
        until = str(int(time.time() * 1e3) - _LABEL_RESTS_MS)
        try:
            found: Any = await self._redis.xrange(LABELS_STREAM, f"({since}", until, _LABELS_TAKEN)
        except UNAVAILABLE:
            return [], since
        labels = [(entry[b"ref"].decode(), entry[b"label"].decode()) for _, entry in found]
        return labels, found[-1][0].decode() if found else since

    async def recall(
        self, rollout_id: str, labels: Sequence[tuple[str, str]]
    ) -> list[tuple[Remembered, str]]:
        """Take out the answers that labels name."""
        if not labels:
            return []
        key = _answers_key(rollout_id)
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                for ref, _ in labels:
                    pipe.hget(key, ref)
                    pipe.hdel(key, ref)
                found = (await pipe.execute())[::2]
        except UNAVAILABLE:
            return []
        return [
            (Remembered(*orjson.loads(value)), label)
            for value, (_, label) in zip(found, labels, strict=True)
            if value is not None
        ]


def _answers_key(rollout_id: str) -> str:
    return f"models:answers:{tag(rollout_id)}"


def _key(rollout_id: str) -> str:
    return f"models:rollout:{tag(rollout_id)}"
