"""The raw event log in Postgres: deduplicated events, gap-free offsets per partition."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from libs.common.features.computed import ComputedView
from libs.common.postgres import Postgres
from services.features.adapters.definitions import Catalog, DefinitionStore
from services.features.domain.computed import label_touch, touch_of
from services.features.domain.events import PARTITIONS, Accepted, LogRow, Touch, partition_of

CHANNEL = "features_log"
# Any constant will do, as long as every applier of this database uses the same.
_LEASE_CLASS = 0x66656174  # "feat"

_STAGING = """
CREATE TEMP TABLE IF NOT EXISTS staging (
    event_id text, type text, event_ms bigint, arrival_ms bigint, is_late boolean, body text
) ON COMMIT DELETE ROWS
"""
_STAGING_COLUMNS = ["event_id", "type", "event_ms", "arrival_ms", "is_late", "body"]
# Ordered, so that two batches that share events wait for each other instead of deadlocking.
_INSERT_NEW = """
INSERT INTO events (tenant, event_id, type, event_ms, arrival_ms, is_late, body, definitions)
SELECT $1, event_id, type, event_ms, arrival_ms, is_late, body::jsonb, $2
FROM staging ORDER BY event_id
ON CONFLICT (tenant, event_id) DO NOTHING
RETURNING event_id
"""
_LOCK_PARTITIONS = """
SELECT partition, next_offset FROM partitions
WHERE partition = ANY($1::smallint[]) ORDER BY partition FOR UPDATE
"""
_MOVE_PARTITIONS = """
UPDATE partitions SET next_offset = moved.next_offset
FROM unnest($1::smallint[], $2::bigint[]) AS moved (partition, next_offset)
WHERE partitions.partition = moved.partition
"""
# Rows are locked in the order in which ingestion locks them; without it the two deadlock.
_NOTE = """
WITH held AS MATERIALIZED (
    SELECT partition FROM partitions WHERE partition = ANY($1::smallint[])
    ORDER BY partition FOR UPDATE
)
UPDATE partitions SET applied_offset = done.o
FROM held JOIN unnest($1::smallint[], $2::bigint[]) AS done (p, o) ON held.partition = done.p
WHERE partitions.partition = held.partition AND applied_offset < done.o
"""
_LOG_COLUMNS = ["partition", "offset", "tenant", "view", "entity", "record", "arrival_ms"]
_LOG_COLUMNS.append("event_id")
LABELS = """
SELECT subject_id, label, available_ms FROM labels
WHERE tenant = $1 AND kind = 'transaction' AND subject_id = ANY($2) ORDER BY available_ms
"""
# Labels and events of a tenant wait for each other, so that each sees the other.
LABELS_SHARE = "SELECT pg_advisory_xact_lock_shared(hashtextextended('labels:' || $1, 0))"
LABELS_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('labels:' || $1, 0))"
_READ = """
SELECT following.* FROM unnest($1::smallint[], $2::bigint[]) AS done (partition, "offset")
CROSS JOIN LATERAL (
    SELECT partition, "offset", tenant, view, entity, record, arrival_ms FROM log
    WHERE log.partition = done.partition AND log."offset" > done."offset"
    ORDER BY "offset" LIMIT $3
) AS following ORDER BY following.partition, following."offset"
"""
_READ_ENTITY = """
SELECT partition, "offset", tenant, view, entity, record, arrival_ms FROM log
WHERE view = $1 AND entity = $2 AND tenant = $3 AND partition = $4 ORDER BY "offset"
"""
# An equal time is decided by arrival, as online.
_NEWEST_PUSHED = """
SELECT DISTINCT ON (body->'entities') body::text FROM events
WHERE tenant = $1 AND type = 'pushed' AND body->>'view' = $2 AND event_ms BETWEEN $3 AND $4
ORDER BY body->'entities', event_ms DESC, (body->>'sub_us')::int DESC, arrival_ms DESC
"""
_OLDEST = """
SELECT min(arrival_ms) FROM log
JOIN unnest($1::smallint[], $2::bigint[]) AS done (partition, "offset")
    ON log.partition = done.partition AND log."offset" = done."offset" + 1
"""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a partition stands: its last offset and the last one known to be applied."""

    last_offset: int
    applied_offset: int


class PostgresEventLog:
    """Implements `EventLog`; everything of one call is one transaction."""

    def __init__(self, postgres: Postgres, definitions: DefinitionStore) -> None:
        self._postgres, self._definitions = postgres, definitions

    async def append(self, tenant: str, events: Sequence[Accepted]) -> int:
        """Write unknown events with their log rows and wake the appliers at commit."""
        by_id = {event.event_id: event for event in events}
        async with self._postgres.transaction() as connection:
            catalog = await self._definitions.held(connection, tenant)
            await connection.execute("SET LOCAL client_min_messages = warning")
            await connection.execute(_STAGING)
            await connection.copy_records_to_table(
                "staging",
                columns=_STAGING_COLUMNS,
                records=[
                    (
                        event.event_id,
                        event.type,
                        event.event_ms,
                        event.arrival_ms,
                        event.is_late,
                        orjson.dumps(event.body).decode(),
                    )
                    for event in by_id.values()
                ],
            )
            rows = await connection.fetch(_INSERT_NEW, tenant, catalog.count)
            inserted = {row[0] for row in rows}
            new = [event for event in by_id.values() if event.event_id in inserted]
            views = catalog.written()
            touched = [
                (touch, event.arrival_ms, event.event_id)
                for event in new
                for touch in (*event.touches, *computed_touches(event, views))
            ]
            touched += await _label_touches(connection, tenant, new, catalog)
            await append_rows(connection, tenant, touched)
            await connection.execute(f"NOTIFY {CHANNEL}")
        return len(new)

    async def append_touches(self, tenant: str, touches: Sequence[Touch]) -> None:
        """Write rows for events that the log already has, so that they are applied again."""
        now_ms = time.time_ns() // 1_000_000
        async with self._postgres.transaction() as connection:
            await append_rows(connection, tenant, [(touch, now_ms, "") for touch in touches])
            await connection.execute(f"NOTIFY {CHANNEL}")

    async def newest_pushed(
        self, tenant: str, view: str, start_ms: int, end_ms: int, batch: int
    ) -> AsyncIterator[list[str]]:
        """Give the newest pushed event of each entity of a view in `[start, end]`, as JSON text."""
        async with self._postgres.transaction() as connection:
            cursor = await connection.cursor(_NEWEST_PUSHED, tenant, view, start_ms, end_ms)
            while rows := await cursor.fetch(batch):
                yield [row[0] for row in rows]

    async def ensure_partitions(self) -> None:
        """Make the rows of all partitions; safe to repeat."""
        await self._postgres.execute(
            "INSERT INTO partitions (partition) SELECT generate_series(0, $1::int - 1) "
            "ON CONFLICT DO NOTHING",
            PARTITIONS,
        )

    async def store_definitions(self, documents: Sequence[dict[str, Any]]) -> None:
        """Keep every version of a definition that ever served, by fingerprint."""
        async with self._postgres.transaction() as connection:
            await connection.executemany(
                "INSERT INTO definitions (kind, name, fingerprint, document) "
                "VALUES ($1, $2, $3, $4::jsonb) ON CONFLICT DO NOTHING",
                [
                    (
                        document["kind"],
                        document["name"],
                        document["fingerprint"],
                        orjson.dumps(document).decode(),
                    )
                    for document in documents
                ],
            )

    async def oldest_unapplied_ms(self, applied: dict[int, int]) -> int | None:
        """Give the arrival of the oldest log row that no ring has yet, None without any."""
        value = await self._postgres.fetchval(
            _OLDEST,
            list(applied),
            list(applied.values()),
        )
        return None if value is None else int(value)

    async def heads(self) -> dict[int, Head]:
        """Give where each partition stands."""
        async with self._postgres.connection() as connection:
            return await read_heads(connection)


Touched = tuple[Touch, int, str]


async def append_rows(connection: Any, tenant: str, touches: Sequence[Touched]) -> None:
    """Give rows (what is written, arrival, event id) their offsets and write them."""
    touched = [
        (partition_of(tenant, touch.view, touch.entity), touch, arrival_ms, event_id)
        for touch, arrival_ms, event_id in touches
    ]
    if not touched:
        return
    partitions = sorted({row[0] for row in touched})
    following = dict(await connection.fetch(_LOCK_PARTITIONS, partitions))
    records = []
    for partition, touch, arrival_ms, event_id in touched:
        offset = following[partition]
        following[partition] = offset + 1
        entity = (touch.view, touch.entity)
        records.append((partition, offset, tenant, *entity, touch.record, arrival_ms, event_id))
    await connection.copy_records_to_table("log", columns=_LOG_COLUMNS, records=records)
    await connection.execute(_MOVE_PARTITIONS, partitions, [following[p] for p in partitions])


def computed_touches(event: Accepted, views: Sequence[ComputedView]) -> list[Touch]:
    """Give what an event writes for the tenant's computed views, but those it is late for."""
    if event.pushed is not None:
        return []
    facts = (event.event_id, event.type, event.event_ms, event.body)
    found = (
        touch_of(view, *facts)
        for view in views
        if not view.is_late(event.event_ms, event.arrival_ms)
    )
    return [touch for touch in found if touch is not None]


async def _label_touches(
    connection: Any, tenant: str, new: Sequence[Accepted], catalog: Catalog
) -> list[Touched]:
    """Give what labels write that were known before their event came."""
    views = [view for view in catalog.written() if view.label is not None]
    events = {event.event_id: event for event in new if event.pushed is None}
    if not views or not events:
        return []
    await connection.execute(LABELS_SHARE, tenant)
    found: list[Touched] = []
    before: dict[str, str] = {}
    for event_id, label, available_ms in await connection.fetch(LABELS, tenant, list(events)):
        event = events[event_id]
        facts = (event_id, event.type, event.event_ms, event.body)
        for view in views:
            if view.is_late(event.event_ms, event.arrival_ms):
                continue
            touch = label_touch(view, facts, available_ms, before=before.get(event_id), after=label)
            if touch is not None:
                found.append((touch, max(available_ms, event.arrival_ms), ""))
        before[event_id] = label
    return found


async def read_heads(connection: Any) -> dict[int, Head]:
    """Give where each partition stands, over an open connection."""
    rows = await connection.fetch("SELECT partition, next_offset, applied_offset FROM partitions")
    return {row[0]: Head(row[1] - 1, row[2]) for row in rows}


async def read_rows(connection: Any, after: Mapping[int, int], limit: int) -> list[LogRow]:
    """Give the rows behind an offset of each partition, in offset order, `limit` of each."""
    rows = await connection.fetch(_READ, list(after), list(after.values()), limit)
    return list(map(LogRow._make, rows))


async def read_entity(
    connection: Any, partition: int, tenant: str, view: str, entity: str
) -> list[LogRow]:
    """Give every row of one entity in offset order."""
    rows = await connection.fetch(_READ_ENTITY, view, entity, tenant, partition)
    return list(map(LogRow._make, rows))


async def acquire_leases(connection: Any, partitions: list[int]) -> dict[int, int]:
    """Take free partitions for as long as the connection lives; give their new epochs.

    The lease is an advisory lock of the session: a killed applier loses it with its connection,
    without a timeout to wait for. The epoch grows with each new owner.
    """
    taken = [
        partition
        for partition in partitions
        if await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", _LEASE_CLASS, partition)
    ]
    # One row at a time: ingestion locks several, in an order that one statement might not take.
    return {
        partition: await connection.fetchval(
            "UPDATE partitions SET epoch = epoch + 1 WHERE partition = $1 RETURNING epoch",
            partition,
        )
        for partition in taken
    }


async def note_applied(connection: Any, applied: dict[int, int]) -> None:
    """Remember in Postgres how far Redis is: a later, lower figure there means it lost data."""
    await connection.execute(_NOTE, list(applied), list(applied.values()))
