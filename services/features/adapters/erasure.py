"""Erasure of one entity: online, in the log and its events, and in samples. Safe to repeat.

Log rows keep their offsets, which other rows are counted by; what they said is blanked.
"""

import asyncio
import time
from collections.abc import Sequence

import orjson

from libs.common.errors import UnavailableError
from libs.common.features.computed import entity_key
from libs.common.postgres import Postgres
from libs.common.redis import UNAVAILABLE, Redis
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.log import read_heads
from services.features.adapters.rings import RedisRings
from services.features.domain.computed import entity_of
from services.features.domain.events import partition_of

_APPLIED_WITHIN_S = 5.0
# By the log's index, not by a scan: every event has a row there of each entity that it names.
_MINE = """
SELECT DISTINCT log.event_id FROM log
JOIN unnest($2::text[], $3::text[]) AS place (view, entity)
    ON log.view = place.view AND log.entity = place.entity
WHERE log.tenant = $1 AND log.event_id <> ''
"""
_EVENTS = f"""
WITH mine AS ({_MINE}), gone AS (
    DELETE FROM events USING mine
    WHERE events.tenant = $1 AND events.event_id = mine.event_id RETURNING events.event_id
), unlabelled AS (
    DELETE FROM labels USING gone
    WHERE labels.tenant = $1 AND kind = 'transaction' AND subject_id = gone.event_id RETURNING 1
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM unlabelled)
"""
_BLANK = """
UPDATE log SET entity = '', event_id = '', record = ''::bytea
FROM unnest($2::text[], $3::text[]) AS place (view, entity)
WHERE log.view = place.view AND log.entity = place.entity AND log.tenant = $1
"""
_ENTITIES_OF = """
SELECT DISTINCT (events.body->'entities')::text FROM log
JOIN events ON events.tenant = log.tenant AND events.event_id = log.event_id
WHERE log.tenant = $1 AND log.view = $2 AND log.entity = $3
"""


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
        catalog = await self._definitions.catalog(tenant, is_fresh=True)
        names = [item.name for item in catalog.views.values() if item.join_keys == (column,)]
        names += [item.key for item in catalog.by_key.values() if item.join_keys == (column,)]
        composite = [
            item
            for item in catalog.by_key.values()
            if column in item.join_keys and len(item.join_keys) > 1
        ]
        places = [(view, entity), *((name, entity_key([entity])) for name in names)]
        async with self._postgres.transaction() as connection:
            for item in composite:
                bodies = await connection.fetch(_ENTITIES_OF, tenant, view, entity)
                mine = {entity_of(item, orjson.loads(row[0])) for row in bodies}
                places += [(item.key, name) for name in mine if name is not None]
            # Event ids and bodies name the entity; its events go altogether.
            listed = ([name for name, _ in places], [name for _, name in places])
            events, labels = await connection.fetchrow(_EVENTS, tenant, *listed)
            rows = await connection.execute(_BLANK, tenant, *listed)
            samples = await connection.execute(
                f"DELETE FROM samples WHERE tenant = $1 AND body->'entities'->>'{column}' = $2",
                tenant,
                entity,
            )
        await self._forget_online(tenant, places)
        return {
            "events": events,
            "log_rows": _count(rows),
            "samples": _count(samples),
            "labels": labels,
        }

    async def _forget_online(self, tenant: str, places: Sequence[tuple[str, str]]) -> None:
        """Delete the keys, after an applier that read the rows before has written them."""
        keys = [self._rings.key_of(tenant, name, entity) for name, entity in places]
        partitions = {partition_of(tenant, name, entity) for name, entity in places}
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
