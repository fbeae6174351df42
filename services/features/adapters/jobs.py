"""Long-running work and its progress, in Postgres, so that any replica can tell it."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from libs.common.postgres import Postgres

# A job that has said nothing for so long died with its process.
_STALE = "interval '2 minutes'"


class JobStore:
    """Keeps jobs; a job belongs to a tenant."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def begin(
        self, tenant: str, job_id: str, kind: str, details: Mapping[str, Any], *, is_forced: bool
    ) -> list[str]:
        """Note a job as running, or give the views that a running one of its kind holds."""
        async with self._postgres.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('features:jobs:' || $1, 0))", tenant
            )
            rows = await connection.fetch(
                "SELECT details FROM jobs WHERE tenant = $1 AND kind = $2 AND state = 'running' "
                f"AND updated_at > now() - {_STALE}",
                tenant,
                kind,
            )
            held = {name for row in rows for name in orjson.loads(row[0])["feature_views"]}
            common = sorted(held & set(details["feature_views"]))
            if common and not is_forced:
                return common
            await connection.execute(
                "INSERT INTO jobs (tenant, job_id, kind, state, details) "
                "VALUES ($1, $2, $3, 'running', $4::jsonb)",
                tenant,
                job_id,
                kind,
                orjson.dumps(details).decode(),
            )
        return []

    async def note(self, tenant: str, job_id: str, done: int) -> None:
        """Note progress."""
        await self._postgres.execute(
            "UPDATE jobs SET done = $3, updated_at = now() WHERE tenant = $1 AND job_id = $2",
            tenant,
            job_id,
            done,
        )

    async def end(self, tenant: str, job_id: str, state: str, done: int) -> None:
        """Note the end: `done` or `failed`."""
        await self._postgres.execute(
            "UPDATE jobs SET state = $3, done = $4, total = $4, updated_at = now() "
            "WHERE tenant = $1 AND job_id = $2",
            tenant,
            job_id,
            state,
            done,
        )

    async def keep(
        self, tenant: str, job_id: str, kind: str, details: Mapping[str, Any], done: int
    ) -> None:
        """Note a job that is applied by others; `details.heads` says when it is complete."""
        await self._postgres.execute(
            "INSERT INTO jobs (tenant, job_id, kind, state, done, total, details) "
            "VALUES ($1, $2, $3, 'running', 0, $4, $5::jsonb)",
            tenant,
            job_id,
            kind,
            done,
            orjson.dumps(details).decode(),
        )

    async def last_end_ms(self, tenant: str, views: Sequence[str]) -> int:
        """Give up to when all of the views have been materialized, 0 for never."""
        rows = await self._postgres.fetch(
            "SELECT view, max((details->>'end_ms')::bigint) FROM jobs, "
            "jsonb_array_elements_text(details->'feature_views') AS view "
            "WHERE tenant = $1 AND kind = 'materialize' AND state = 'done' AND view = ANY($2) "
            "GROUP BY view",
            tenant,
            list(views),
        )
        ends = {row[0]: int(row[1]) for row in rows}
        return min((ends.get(view, 0) for view in views), default=0)

    async def get(self, tenant: str, job_id: str) -> dict[str, Any] | None:
        """Give a job, None if the tenant has no such job."""
        row = await self._postgres.fetchrow(
            "SELECT kind, state, done, total, details, created_at, updated_at FROM jobs "
            "WHERE tenant = $1 AND job_id = $2",
            tenant,
            job_id,
        )
        if row is None:
            return None
        return {
            "job_id": job_id,
            "kind": row[0],
            "state": row[1],
            "done": row[2],
            "total": row[3],
            "details": orjson.loads(row[4]),
            "created_at": row[5].isoformat().replace("+00:00", "Z"),
            "updated_at": row[6].isoformat().replace("+00:00", "Z"),
        }
