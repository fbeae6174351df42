"""The online store of rings, tiles and vectors in Redis: its progress, reads, batches of log rows.

Progress of a partition is the text `<generation>:<offset>` under `features:applied:<partition>`.
It moves only after the effects and only from the expected text, so a crash repeats effects
(harmless, by tag) and a flush is noticed (the generation is gone).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.exceptions import WatchError

from libs.common.features.layout import SERVING_KEY, VIEWS
from libs.common.redis import Redis, tag
from libs.common.redis_lean import LeanRedis
from services.features.adapters.ring_writer import (
    Computed,
    Group,
    Lease,
    RingWriter,
    is_windowed,
    vector_key,
)
from services.features.domain.events import PARTITIONS, LogRow
from services.features.domain.vectors import head_of
from services.features.errors import StoreLostError

# Reads of clients wait longer than scoring does: nobody fills in for them.
FETCH_TIMEOUT_S = 0.25

_KEYS = [f"features:applied:{partition}" for partition in range(PARTITIONS)]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far Redis is: per partition generation and offset; whether readers may trust it."""

    texts: Mapping[int, bytes]
    is_serving: bool

    def offset(self, partition: int) -> int:
        """Give the last applied offset of a partition."""
        return int(self.texts[partition].rpartition(b":")[2])


class RedisRings:
    """One instance per process; writes are idempotent throughout."""

    def __init__(self, redis: Redis, computed: Computed = lambda tenant, key: None) -> None:
        self._redis = redis
        self._writer = RingWriter(redis, computed)
        self._reads = LeanRedis(redis, timeout_s=FETCH_TIMEOUT_S)

    @property
    def unreadable(self) -> list[tuple[str, str, str]]:
        """Entities (tenant, view, entity) whose bytes a write could not read."""
        return self._writer.unreadable

    async def progress(self) -> Progress:
        """Read the progress; partitions that Redis does not know start over at 0."""
        serving, *texts = await self._redis.mget([SERVING_KEY, *_KEYS])
        if None in texts:
            # Readers must not take an emptied store for cards without history.
            await self._redis.delete(SERVING_KEY)
            serving = None
            for key, text in zip(_KEYS, texts, strict=True):
                if text is None:
                    await self._redis.set(key, f"{secrets.token_hex(8)}:0", nx=True)
            texts = await self._redis.mget(_KEYS)
        if None in texts:
            raise StoreLostError("the store was emptied while its progress was read")
        return Progress(cast(Any, dict(enumerate(texts))), serving is not None)

    async def restart(self, partition: int) -> None:
        """Make a partition start over at offset 0."""
        await self._redis.set(_KEYS[partition], f"{secrets.token_hex(8)}:0")

    async def stop_serving(self) -> None:
        """Make readers mark stored features as missing."""
        await self._redis.delete(SERVING_KEY)

    async def start_serving(self, expected: Progress) -> bool:
        """Let readers trust the store if its progress is still the expected one."""
        async with self._redis.pipeline() as pipeline:
            await pipeline.watch(*_KEYS)
            texts = await pipeline.mget(_KEYS)
            if dict(enumerate(texts)) != expected.texts:
                return False
            pipeline.multi()  # type: ignore[no-untyped-call] # redis-py leaves it untyped
            pipeline.set(SERVING_KEY, b"1")
            try:
                await pipeline.execute()
            except WatchError:
                return False
        return True

    async def apply(
        self, rows: Sequence[LogRow], leases: Mapping[int, Lease], *, written_ms: int
    ) -> dict[int, bytes]:
        """Apply rows in offset order and move their partitions' progress; give the new texts.

        Args:
            rows: of any partitions.
            leases: by partition.
            written_ms: wall clock.

        Raises:
            StoreLostError: a partition's progress is not the expected one any more.
        """
        by_entity: dict[tuple[str, str, str], Group] = {}
        last: dict[int, int] = {}
        for row in rows:
            last[row.partition] = row.offset
            if row.record:  # an erased row only keeps its offset
                by_entity.setdefault((row.tenant, row.view, row.entity), []).append(row)
        await self._writer.write(list(by_entity.values()), leases, written_ms)
        await self._note_newest(by_entity)
        moved = {
            partition: leases[partition].progress.rpartition(b":")[0] + b":%d" % offset
            for partition, offset in last.items()
        }
        await self._writer.advance(
            [(_KEYS[number], leases[number].progress, text) for number, text in moved.items()]
        )
        return moved

    async def rewrite(self, rows: Group, lease: Lease, *, written_ms: int) -> None:
        """Write log rows of one entity again; progress stays."""
        await self._writer.write([rows], {rows[-1].partition: lease}, written_ms)

    async def forget(self, tenant: str, view: str, entity: str) -> None:
        """Drop a ring that cannot be read, so that its history can be applied again."""
        await self._redis.delete(self.key_of(tenant, view, entity))

    def key_of(self, tenant: str, view: str, entity: str) -> str:
        """Give the key under which log rows of a view and an entity are written."""
        return (
            VIEWS[view].key(tenant, entity) if view in VIEWS else vector_key(tenant, view, entity)
        )

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None] | None:
        """Read blobs in one round trip; None while the store does not hold what the log says."""
        serving, *blobs = await self._reads.mget([SERVING_KEY, *keys])
        return None if serving is None else blobs

    async def close(self) -> None:
        """Close the connections that are not the client's."""
        await self._reads.aclose()
        await self._writer.close()

    async def _note_newest(self, groups: Mapping[tuple[str, str, str], Group]) -> None:
        """Keep the newest event time per tenant and view, for the freshness report."""
        newest: dict[tuple[str, str], int] = {}
        for (tenant, view, _), group in groups.items():
            key = (tenant, view.partition("@")[0])
            if is_windowed(view):
                at_ms = max([int.from_bytes(row.record[:8], "little") for row in group])
            else:
                at_ms = max([head_of(row.record).stamp.event_ms for row in group])
            newest[key] = max(newest.get(key, 0), at_ms)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for (tenant, view), at_ms in newest.items():
                pipeline.zadd(_newest_key(tenant), {view: at_ms}, gt=True)
            await pipeline.execute()

    async def newest_ms(self, tenant: str) -> dict[str, int]:
        """Give the newest applied event time of each view of a tenant."""
        pairs = cast(
            list[tuple[bytes, float]],
            await self._redis.zrange(_newest_key(tenant), 0, -1, withscores=True),
        )
        return {view.decode(): int(score) for view, score in pairs}


def _newest_key(tenant: str) -> str:
    return f"features:{tag(tenant, 'newest')}"
