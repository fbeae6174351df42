"""Erasure of one entity: online, in the log and its events, and in samples. Safe to repeat.

Log rows keep their offsets, which other rows are counted by; what they said is blanked.
"""

import asyncio
import time
from collections.abc import Sequence

from libs.common.errors import UnavailableError
from libs.common.features.layout import VIEWS
from libs.common.postgres import Postgres
from libs.common.redis import UNAVAILABLE, Redis
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.log import read_heads
from services.features.adapters.rings import RedisRings, vector_key
from services.features.domain.events import partition_of

_APPLIED_WITHIN_S = 5.0


class Eraser:
    """Erases entities of a tenant."""

    def __init__(
        self, postgres: Postgres, redis: Redis, rings: RedisRings, definitions: DefinitionStore
    ) -> None:
        self._postgres, self._redis, self._rings = postgres, redis, rings
        self._definitions = definitions

    async def erase(self, tenant: str, view: str, entity: str) -> dict[str, int]:
        """Erase and count what was erased.

        Raises:
            UnavailableError: a store does not answer; repeat it.
        """
        column = f"{view}_id"
        catalog = await self._definitions.catalog(tenant)
        pushed = [item.name for item in catalog.views.values() if item.join_keys == (column,)]
        async with self._postgres.transaction() as connection:
            # Event ids and bodies name the entity; its events go altogether.
            gone = await connection.fetch(
                "DELETE FROM events WHERE tenant = $1 AND body->'entities'->>$2 = $3 "
                "RETURNING event_id",
                tenant,
                column,
                entity,
            )
            rows = await connection.execute(
                "UPDATE log SET entity = '', record = ''::bytea "
                "WHERE view = ANY($1) AND entity = $2 AND tenant = $3",
                [view, *pushed],
                entity,
                tenant,
            )
            samples = await connection.execute(
                "DELETE FROM samples WHERE tenant = $1 AND body->'entities'->>$2 = $3",
                tenant,
                column,
                entity,
            )
            labels = await connection.execute(
                "DELETE FROM labels WHERE tenant = $1 AND kind = 'transaction' "
                "AND subject_id = ANY($2)",
                tenant,
                [row[0] for row in gone],
            )
        await self._forget_online(tenant, view, pushed, entity)
        return {
            "events": len(gone),
            "log_rows": _count(rows),
            "samples": _count(samples),
            "labels": _count(labels),
        }

    async def _forget_online(
        self, tenant: str, view: str, pushed: Sequence[str], entity: str
    ) -> None:
        """Delete the keys, after an applier that read the rows before has written them."""
        keys = [VIEWS[view].key(tenant, entity)]
        keys += [vector_key(tenant, name, entity) for name in pushed]
        partitions = {partition_of(tenant, name, entity) for name in (view, *pushed)}
        try:
            for key in keys:
                await self._redis.delete(key)
            async with self._postgres.connection() as connection:
                heads = await read_heads(connection)
            deadline = time.monotonic() + _APPLIED_WITHIN_S
            while True:
                progress = await self._rings.progress()
                if all(progress.offset(p) >= heads[p].last_offset for p in partitions):
                    break
                if time.monotonic() > deadline:
                    raise UnavailableError("The online store is behind; repeat the erasure.")
                await asyncio.sleep(0.01)
            for key in keys:
                await self._redis.delete(key)
        except UNAVAILABLE as error:
            raise UnavailableError("The online store does not answer.") from error


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
