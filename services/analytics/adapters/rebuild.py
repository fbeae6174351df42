"""Rebuilds the roll-ups from the audit log, beside the ones that serve.

The log is read from its start into a schema of its own, while the tailer and every reader go on.
At the end one transaction stops the tailer (it holds the row of its offset), reads what is missing
up to that offset and puts the new rows in place of the old: readers see the one or the other.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from libs.common.errors import ConflictError, ServiceError
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from libs.common.tasks import end
from services.analytics.adapters.rollup_writer import (
    TAIL_NAME,
    RollupWriter,
    ensure_partitions,
)
from services.analytics.domain.fold import fold
from services.analytics.domain.ports import LogBatch, LogReader

log = get_logger()

SCHEMA = "analytics_rebuild"
_LOCK_KEY = 0x72_65_62_75  # "rebu"
_TABLES = (
    "rollup_minutes", "rollup_hours", "histogram_minutes", "histogram_hours",
    "category_minutes", "category_hours", "tenant_totals", "model_drift", "series",
)  # fmt: skip
# The pool's own limit is for requests; putting millions of rows in place takes longer.
_SWAP_TIMEOUT_S = 3_600.0
# Waits between attempts to read a batch, while the log or the network is away.
READ_WAITS_S = (0.1, 0.5, 2.0)
_IS_LOCKED = (
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 "
    "AND objid = $1 AND granted)"
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How the last rebuild stands; `state` is never, running, done, failed or interrupted."""

    state: str = "never"
    done: int = 0
    total: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: str | None = None


class Rebuilder:
    """Runs one rebuild at a time over all replicas."""

    def __init__(self, postgres: Postgres, reader: LogReader, *, batch: int) -> None:
        self._postgres = postgres
        self._reader = reader
        self._batch = batch
        self._task: asyncio.Task[None] | None = None

    async def progress(self) -> Progress:
        """Say how the last rebuild stands."""
        found = await self._stored()
        if found.state == "running" and not await self._postgres.fetchval(_IS_LOCKED, _LOCK_KEY):
            # A runner ends its row before it frees the lock: now a running row has lost its own.
            found = await self._stored()
            if found.state == "running":
                return replace(found, state="interrupted")
        return found

    async def _stored(self) -> Progress:
        row = await self._postgres.fetchrow("SELECT * FROM rebuilds WHERE name = $1", TAIL_NAME)
        if row is None:
            return Progress()
        return Progress(**{key: value for key, value in row.items() if key != "name"})

    async def start(self, *, accept_loss: bool) -> Progress:
        """Begin a rebuild in the background.

        Raises:
            ConflictError: one is running, or entries of the log are pruned and would be lost.
            UnavailableError: the log or the database does not answer.
        """
        first = await self._reader.read(0, 1)
        if first.min_index > 0 and not accept_loss:
            raise ConflictError(
                f"The log starts at {first.min_index}; figures of earlier entries would be lost.",
                hint="Send accept_loss: true to go ahead.",
                code="log_pruned",
            )
        started: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(started))
        if not await started:
            raise ConflictError("A rebuild is running.", code="rebuild_running")
        return await self.progress()

    async def _run(self, started: asyncio.Future[bool]) -> None:
        try:
            async with self._postgres.connection() as connection:
                is_ours = await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY)
                if is_ours:
                    await connection.execute(
                        "INSERT INTO rebuilds VALUES ($1, 'running', 0, 0) ON CONFLICT (name) "
                        "DO UPDATE SET state = 'running', done = 0, total = 0, "
                        "started_at = now(), finished_at = NULL, reason = NULL",
                        TAIL_NAME,
                    )
                started.set_result(is_ours)
                if is_ours:
                    await self._rebuild_or_fail(connection)
        except ServiceError as error:
            if not started.done():
                started.set_exception(error)
            else:  # the database left: the row stays as it is and reads as interrupted
                log.warning("rebuild lost the database", reason=error.problem_code)

    async def _rebuild_or_fail(self, connection: Any) -> None:
        """Rebuild; a failure is on record before the connection, and the lock with it, goes."""
        try:
            await self.rebuild(connection)
        except Exception as error:  # the state must say so whatever it was
            reason = error.problem_code if isinstance(error, ServiceError) else type(error).__name__
            log.exception("rebuild failed", error_type=type(error).__name__)
            await self._postgres.execute(
                "UPDATE rebuilds SET state = 'failed', reason = $2, finished_at = now() "
                "WHERE name = $1",
                TAIL_NAME,
                reason,
            )

    async def rebuild(self, connection: Any) -> None:
        """Rebuild on this connection; the caller holds the lock."""
        await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}")
        for table in (*_TABLES, "tail_state"):
            await connection.execute(
                f"CREATE TABLE {SCHEMA}.{table} (LIKE analytics.{table} INCLUDING ALL)"
            )
        writer = RollupWriter(partitioned=False)
        # The writer's names lead to the new tables from here on.
        await connection.execute(f"SET search_path = {SCHEMA}")
        try:
            while await self._step(connection, writer, await self._target(connection)):
                pass
            async with connection.transaction():
                target = await self._target(connection, lock=True)
                while await self._step(connection, writer, target):
                    pass
                await _put_in_place(connection)
        finally:
            await connection.execute("SET search_path = analytics")
        await connection.execute(
            "UPDATE rebuilds SET state = 'done', finished_at = now() WHERE name = $1", TAIL_NAME
        )
        await connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")

    @staticmethod
    async def _target(connection: Any, *, lock: bool = False) -> int:
        """Give the serving roll-ups' offset; locked, the tailer waits before its next batch."""
        found = await connection.fetchval(
            "SELECT next_index FROM analytics.tail_state WHERE name = $1"
            + (" FOR UPDATE" if lock else ""),
            TAIL_NAME,
        )
        return int(found or 0)

    async def _step(self, connection: Any, writer: RollupWriter, target: int) -> bool:
        """Add one batch below the target; say whether there may be more."""
        from_index = await writer.next_index(connection)
        if from_index >= target:
            return False
        batch = await self._read(from_index, min(self._batch, target - from_index))
        pruned = max(0, min(batch.min_index, target) - from_index)
        next_index = max(batch.next_index, from_index + pruned)
        if next_index <= from_index:
            raise ConflictError("The log is shorter than the roll-ups.", code="log_shrunk")
        # A log that starts behind the target has nothing for us.
        documents = batch.documents[: max(0, target - from_index - pruned)]
        await writer.apply(
            connection,
            fold(documents),
            from_index=from_index,
            next_index=min(next_index, target),
            log_size=batch.size,
            skipped=pruned,
        )
        await connection.execute(
            "UPDATE analytics.rebuilds SET done = $2, total = $3 WHERE name = $1",
            TAIL_NAME,
            min(next_index, target),
            target,
        )
        return True

    async def _read(self, from_index: int, limit: int) -> LogBatch:
        """Read a batch; a log that is away for a moment does not end a rebuild of hours."""
        for wait_s in READ_WAITS_S:
            try:
                return await self._reader.read(from_index, limit)
            except ServiceError:
                await asyncio.sleep(wait_s)
        return await self._reader.read(from_index, limit)

    async def close(self) -> None:
        """End a rebuild that is under way; nothing of it has any effect yet."""
        if self._task is not None:
            await end(self._task)


async def _put_in_place(connection: Any) -> None:
    months = await connection.fetch(
        f"SELECT DISTINCT date_trunc('month', period, 'UTC') AS month FROM {SCHEMA}.rollup_minutes"
    )
    await connection.execute("SET LOCAL search_path = analytics")
    for row in months:
        await ensure_partitions(connection, row["month"])
    for table in _TABLES:
        await connection.execute(f"DELETE FROM {table}", timeout=_SWAP_TIMEOUT_S)
        await connection.execute(
            f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {SCHEMA}.{table}",
            timeout=_SWAP_TIMEOUT_S,
        )
    await connection.execute(
        "SELECT setval(pg_get_serial_sequence('series', 'id'), "
        "(SELECT coalesce(max(id), 0) + 1 FROM series), false)"
    )
    await connection.execute(
        f"UPDATE tail_state t SET skipped = n.skipped FROM {SCHEMA}.tail_state n "
        "WHERE t.name = n.name"
    )
