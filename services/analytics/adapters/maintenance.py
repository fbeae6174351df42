"""Retention of what analytics keeps: months of minute roll-ups are dropped, the rest is deleted."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from libs.common.errors import ServiceError
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from services.analytics.adapters.rollup_writer import PARTITIONED

log = get_logger()

EVERY_S = 3_600.0
TRANSITIONS_KEPT = timedelta(days=90)
DELIVERIES_KEPT = timedelta(days=7)
_LOCK_KEY = 0x6D_61_69_6E  # "main"
_MONTH = re.compile(r"_(\d{4})_(\d{2})$")
_HOURLY = ("rollup_hours", "histogram_hours", "category_hours")
_PARTITIONS = (
    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
    "WHERE i.inhparent = $1::regclass ORDER BY c.relname"
)


class Maintenance:
    """Removes what is older than it is kept; one process at a time."""

    def __init__(
        self,
        postgres: Postgres,
        *,
        minutes_kept: timedelta,
        hours_kept: timedelta,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._postgres = postgres
        self._minutes_kept = minutes_kept
        self._hours_kept = hours_kept
        self._clock = clock

    async def run(self) -> None:
        """Clean up every hour until cancelled."""
        while True:
            try:
                await self.clean()
            except ServiceError as error:
                log.info("maintenance waits", reason=error.problem_code)
            except Exception as error:  # tried again in an hour; nothing else depends on it
                log.exception("maintenance failed", error_type=type(error).__name__)
            await asyncio.sleep(EVERY_S)

    async def clean(self) -> list[str]:
        """Remove what is too old; give the names of the dropped partitions."""
        now = self._clock()
        async with self._postgres.transaction() as connection:
            # Dropping waits for readers; it must not make new ones wait behind it for long.
            await connection.execute("SET LOCAL lock_timeout = '2s'")
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK_KEY):
                return []
            dropped = await _drop_months(connection, now - self._minutes_kept)
            for table in _HOURLY:
                await connection.execute(
                    f"DELETE FROM {table} WHERE period < $1", now - self._hours_kept
                )
            await connection.execute(
                "DELETE FROM model_drift WHERE at < $1", now - self._minutes_kept
            )
            await connection.execute(
                "DELETE FROM alert_transitions WHERE at < $1", now - TRANSITIONS_KEPT
            )
            await connection.execute(
                "DELETE FROM alert_deliveries WHERE state <> 'waiting' AND created_at < $1",
                now - DELIVERIES_KEPT,
            )
        return dropped


async def _drop_months(connection: Any, before: datetime) -> list[str]:
    """Drop the partitions of months that ended before that time."""
    dropped = []
    for table in PARTITIONED:
        for row in await connection.fetch(_PARTITIONS, table):
            match = _MONTH.search(row["relname"])
            if match is None:
                continue
            year, month = int(match[1]), int(match[2])
            ended = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
            if ended <= before:
                await connection.execute(f'DROP TABLE "{row["relname"]}"')
                dropped.append(row["relname"])
    return dropped
