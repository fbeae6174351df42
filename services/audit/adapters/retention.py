"""Removes what the policies no longer keep: announced in the log, detached, a week later dropped.

`DETACH ... CONCURRENTLY` runs outside of a transaction and blocks no writer; an interrupted one is
finalized first. One process at a time does it (advisory lock). Tiles stay for ever, so proofs of
removed events stay valid; below the minimum index bundles answer 410.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from libs.common.errors import ServiceError
from libs.common.events.envelope import Event
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from libs.common.transparency.records import PRUNED, Pruned
from services.audit.adapters.partitions import RETENTIONS, ensure_partitions
from services.audit.adapters.sequencer import Sequencer
from services.audit.domain.events import Accepted, accept
from services.audit.domain.retention import (
    DEFAULTS,
    GRACE,
    Hold,
    Month,
    Policy,
    prunable,
    tenant_cuts,
)

log = get_logger()

INTERVAL_S = 3600.0
_LOCK_KEY = 0x70727565  # any constant, the same in every process
_CUT_ROWS = 2_000
_PARENTS = ("leaf", "search_row", *(f"payload_{name}" for name in RETENTIONS))
_FINALIZE = (
    "SELECT c.relname AS name, p.relname AS parent FROM pg_inherits i "
    "JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent "
    "WHERE i.inhdetachpending AND p.relnamespace = to_regnamespace(current_schema())"
)
_MONTHS = (
    "SELECT c.relname AS name, p.relname AS parent FROM pg_inherits i "
    "JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent "
    "WHERE p.relnamespace = to_regnamespace(current_schema()) AND p.relname = ANY($1)"
)


class Retention:
    """The job and the state that it reads."""

    def __init__(
        self,
        postgres: Postgres,
        sequencer: Sequencer,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._postgres = postgres
        self._sequencer = sequencer
        self._now = now

    async def run(self) -> None:
        """Apply the policies every hour until cancelled."""
        while True:
            try:
                await self.apply()
            except (ServiceError, asyncpg.PostgresError, OSError) as error:
                log.warning("retention not applied", error_type=type(error).__name__)
            await asyncio.sleep(INTERVAL_S)

    async def policies(self) -> list[Policy]:
        """Give every policy; what nobody set is the default."""
        rows = await self._postgres.fetch(
            "SELECT tenant, event_class, keep_days, version FROM retention_policy ORDER BY 1, 2"
        )
        found = [Policy(*row) for row in rows]
        stated = {policy.event_class for policy in found if not policy.tenant}
        return [policy for policy in DEFAULTS if policy.event_class not in stated] + found

    async def holds(self) -> list[Hold]:
        """Give the holds that are in force."""
        rows = await self._postgres.fetch(
            "SELECT tenant, event_class, since, until FROM legal_hold WHERE released_at IS NULL"
        )
        return [Hold(*row) for row in rows]

    async def months(self) -> list[Month]:
        """Give the attached monthly partitions."""
        rows = await self._postgres.fetch(_MONTHS, list(_PARENTS))
        return [_month(row["name"], row["parent"]) for row in rows]

    async def apply(self) -> dict[str, list[str]]:
        """Remove what is due; give the names of what was detached, dropped and cut.

        Raises:
            ServiceError: the log or the database do not answer; the next run goes on.
        """
        done: dict[str, list[str]] = {"detached": [], "dropped": [], "cut": []}
        async with self._postgres.connection() as connection:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY):
                return done
            try:
                await self._apply(connection, done)
            finally:
                await connection.fetchval("SELECT pg_advisory_unlock($1)", _LOCK_KEY)
        if any(done.values()):
            log.info("retention applied", count=sum(map(len, done.values())))
        return done

    async def _apply(self, connection: Any, done: dict[str, list[str]]) -> None:
        # A clock that runs ahead must not remove anything early: the log's own time bounds it.
        last = await connection.fetchval("SELECT ingested_at FROM log_state")
        if last is None:
            return
        now = min(self._now(), last)
        await ensure_partitions(connection, max(self._now(), last))
        for row in await connection.fetch(_FINALIZE):
            await connection.execute(
                f"ALTER TABLE {row['parent']} DETACH PARTITION {row['name']} FINALIZE"
            )
        policies, holds = await self.policies(), await self.holds()
        for month in prunable(await self.months(), policies, holds, now):
            await self._retire(connection, month, policies, now)
            done["detached"].append(month.name)
        done["dropped"] = await self._drop(connection, now)
        for policy, before in tenant_cuts(policies, holds, now):
            if await self._cut(connection, policy, before):
                done["cut"].append(f"{policy.tenant}/{policy.event_class}")

    async def _retire(
        self, connection: Any, month: Month, policies: list[Policy], now: datetime
    ) -> None:
        """Announce, raise the minimum index for leaves, detach, record; repeatable anywhere."""
        row = await connection.fetchrow(
            f"SELECT coalesce(min(index), 0) AS first, coalesce(max(index) + 1, 0) AS last, "
            f"count(*) AS rows FROM {month.name}"
        )
        first, last, count = row["first"], row["last"], row["rows"]
        is_new = await connection.fetchval(
            "INSERT INTO pruned_partition (name, parent, from_index, to_index, rows) "
            "VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO NOTHING RETURNING true",
            month.name,
            month.parent,
            first,
            last,
            count,
        )
        if count:
            await self._announce(month, first, last, count, policies)
            if month.parent == "leaf":
                await connection.execute(
                    "UPDATE log_state SET min_index = greatest(min_index, $1)", last
                )
        if is_new:
            log.info("partition retired", name=month.name, count=count)
        await connection.execute(
            f"ALTER TABLE {month.parent} DETACH PARTITION {month.name} CONCURRENTLY"
        )
        await connection.execute(
            "UPDATE pruned_partition SET detached_at = $2 WHERE name = $1", month.name, now
        )

    async def _announce(
        self, month: Month, first: int, last: int, count: int, policies: list[Policy]
    ) -> None:
        """Put the removal into the log itself, before anything is gone."""
        versions = {policy.event_class: policy.version for policy in policies if not policy.tenant}
        await self._append(
            Pruned(month.event_class or "all", first, last),
            {"policy": versions, "count": count, "partition": month.name},
            month.name,
        )

    async def _append(self, span: Pruned, data: Mapping[str, Any], partition: str = "") -> None:
        event = Event(
            id=span.event_id(partition),
            type=PRUNED,
            source="audit",
            event_class="required",
            data={
                "from_index": span.start,
                "to_index": span.end,
                "event_class": span.event_class,
                **data,
            },
            tenant="",
            principal="service:audit",
        )
        accepted = accept(event.to_wire(), "audit")
        if not isinstance(accepted, Accepted):
            raise TypeError(accepted)
        await self._sequencer.append([accepted])

    async def _drop(self, connection: Any, now: datetime) -> list[str]:
        rows = await connection.fetch(
            "SELECT name FROM pruned_partition WHERE dropped_at IS NULL AND detached_at < $1",
            now - GRACE,
        )
        for row in rows:
            await connection.execute(f"DROP TABLE IF EXISTS {row['name']}")
            await connection.execute(
                "UPDATE pruned_partition SET dropped_at = $2 WHERE name = $1", row["name"], now
            )
        return [row["name"] for row in rows]

    async def _cut(self, connection: Any, policy: Policy, before: datetime) -> int:
        """Delete a tenant's payloads of a class, in small steps that no writer waits for."""
        span = await connection.fetchrow(
            "SELECT min(p.index) AS first, max(p.index) + 1 AS last, count(*) AS rows "
            "FROM search_row s JOIN payload p ON p.index = s.index "
            "AND p.ingested_at = s.ingested_at "
            "WHERE s.tenant = $1 AND p.retention = $2 AND s.ingested_at < $3",
            policy.tenant,
            policy.event_class,
            before,
        )
        if not span["rows"]:
            return 0
        first, last, count = span["first"], span["last"], int(span["rows"])
        await self._append(
            Pruned(policy.event_class, first, last),
            {
                "policy": {policy.event_class: policy.version},
                "count": count,
                "tenant": policy.tenant,
            },
        )
        while True:
            status = await connection.execute(
                "DELETE FROM payload WHERE (index, ingested_at) IN ("
                "SELECT p.index, p.ingested_at FROM search_row s JOIN payload p "
                "ON p.index = s.index AND p.ingested_at = s.ingested_at "
                "WHERE s.tenant = $1 AND p.retention = $2 AND s.ingested_at < $3 LIMIT $4)",
                policy.tenant,
                policy.event_class,
                before,
                _CUT_ROWS,
            )
            if status == "DELETE 0":
                return count


def _month(name: str, parent: str) -> Month:
    """Read a partition's class and month from its name, which we gave it."""
    year, number = int(name[-6:-2]), int(name[-2:])
    start = datetime(year, number, 1, tzinfo=UTC)
    end = (start + timedelta(days=32)).replace(day=1)
    event_class = parent.removeprefix("payload_") if parent.startswith("payload_") else None
    return Month(name, parent, event_class, start, end)
