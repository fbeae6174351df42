"""Fills new computed views from history: log rows for the events that came before the definition.

An event carries how many definitions its tenant had when it came, so exactly the events before a
view's definition are taken; those after it wrote their rows themselves. Rows and the place where
the work stands are one transaction: a killed builder goes on where it was, and each event counts
once. The view serves when the appliers have written what the builder wrote; the version before it
serves until then.
"""

import asyncio
from typing import Any

import orjson

from libs.common.errors import UnavailableError
from libs.common.features.computed import ComputedView
from libs.common.logging import get_logger
from libs.common.postgres import UNAVAILABLE as POSTGRES_UNAVAILABLE
from libs.common.postgres import Postgres
from libs.common.redis import UNAVAILABLE as REDIS_UNAVAILABLE
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.log import (
    CHANNEL,
    LABELS,
    LABELS_SHARE,
    Touched,
    append_rows,
    read_heads,
)
from services.features.adapters.rings import RedisRings
from services.features.adapters.view_place import job_of, place_of
from services.features.domain.computed import label_touch, touch_of

log = get_logger()

_BATCH = 2000
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('features:build:' || $1, 0))"
_NEXT = """
SELECT arrival_ms, event_id, type, event_ms, body::text FROM events
WHERE tenant = $1 AND definitions < $2 AND type = ANY($3) AND arrival_ms - event_ms <= $4
    AND (arrival_ms, event_id) > ($5, $6)
ORDER BY arrival_ms, event_id LIMIT $7
"""
_COUNT = """
SELECT count(*) FROM events
WHERE tenant = $1 AND definitions < $2 AND type = ANY($3) AND arrival_ms - event_ms <= $4
"""
_FAILURES: tuple[type[BaseException], ...] = (
    UnavailableError,
    *POSTGRES_UNAVAILABLE,
    *REDIS_UNAVAILABLE,
)


class ViewBuilder:
    """Works until every defined version is ready; any replica may, one does."""

    def __init__(self, postgres: Postgres, definitions: DefinitionStore, rings: RedisRings) -> None:
        self._postgres, self._definitions, self._rings = postgres, definitions, rings
        self.wake = asyncio.Event()

    async def run(self, every_s: float) -> None:
        """Build for ever; a store that is gone only delays it."""
        while True:
            self.wake.clear()
            try:
                for tenant, key, definitions in await self._definitions.building():
                    view = await self._definitions.of_key(tenant, key)
                    if view is not None:
                        await self.build(tenant, view, definitions)
            except _FAILURES as error:
                log.warning("view builder waits", error_type=type(error).__name__)
            try:
                async with asyncio.timeout(every_s):
                    await self.wake.wait()
            except TimeoutError:
                continue

    async def build(self, tenant: str, view: ComputedView, definitions: int) -> None:
        """Write what is missing and mark the version ready once it is applied."""
        while await self._step(tenant, view, definitions):
            pass
        async with self._postgres.connection() as connection:
            heads = await read_heads(connection)
        while True:
            progress = await self._rings.progress()
            if all(progress.offset(p) >= head.last_offset for p, head in heads.items()):
                break
            await asyncio.sleep(0.02)
        await self._definitions.mark_ready(tenant, view.schema_id)
        await self._postgres.execute(
            "UPDATE jobs SET state = 'done', total = done, updated_at = now() "
            "WHERE tenant = $1 AND job_id = $2",
            tenant,
            job_of(view),
        )

    async def _step(self, tenant: str, view: ComputedView, definitions: int) -> bool:
        """Write one batch; False when nothing is left, or another replica is at it."""
        asked = (tenant, definitions, list(view.event_types), view.lateness_ms)
        async with self._postgres.transaction() as connection:
            if not await connection.fetchval(_LOCK, f"{tenant}:{view.key}"):
                await asyncio.sleep(0.2)
                return True
            place = await self._place(connection, tenant, view, asked)
            rows = await connection.fetch(_NEXT, *asked, *place, _BATCH)
            if not rows:
                return False
            await append_rows(connection, tenant, await _touched(connection, tenant, view, rows))
            details = {"arrival_ms": rows[-1][0], "event_id": rows[-1][1]}
            await connection.execute(
                "UPDATE jobs SET done = done + $3, details = $4::jsonb, updated_at = now() "
                "WHERE tenant = $1 AND job_id = $2",
                tenant,
                job_of(view),
                len(rows),
                orjson.dumps(details).decode(),
            )
            await connection.execute(f"NOTIFY {CHANNEL}")
        return True

    async def _place(
        self, connection: Any, tenant: str, view: ComputedView, asked: tuple[Any, ...]
    ) -> tuple[int, str]:
        """Give after which event the work goes on; note it as begun at the first time."""
        place = await place_of(connection, tenant, view)
        if place is not None:
            return place
        await connection.execute(
            "INSERT INTO jobs (tenant, job_id, kind, state, total, details) "
            "VALUES ($1, $2, 'view', 'running', $3, $4::jsonb)",
            tenant,
            job_of(view),
            await connection.fetchval(_COUNT, *asked),
            '{"arrival_ms": -1, "event_id": ""}',
        )
        return -1, ""


async def _touched(
    connection: Any, tenant: str, view: ComputedView, rows: list[Any]
) -> list[Touched]:
    """Give what events and the labels that are known of them write."""
    found: list[Touched] = []
    events: dict[str, tuple[str, str, int, Any]] = {}
    arrivals: dict[str, int] = {}
    for arrival_ms, event_id, kind, event_ms, text in rows:
        events[event_id] = (event_id, kind, event_ms, orjson.loads(text))
        arrivals[event_id] = arrival_ms
        touch = touch_of(view, *events[event_id])
        if touch is not None:
            found.append((touch, arrival_ms, event_id))
    if view.label is None:
        return found
    # Labels wait meanwhile, so that none is missed or written twice.
    await connection.execute(LABELS_SHARE, tenant)
    before: dict[str, str] = {}
    for event_id, label, available_ms in await connection.fetch(LABELS, tenant, list(events)):
        touch = label_touch(
            view, events[event_id], available_ms, before=before.get(event_id), after=label
        )
        if touch is not None:
            found.append((touch, max(available_ms, arrivals[event_id]), ""))
        before[event_id] = label
    return found
