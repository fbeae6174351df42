"""Writes roll-ups to PostgreSQL: additive upserts with the log offset in the same transaction.

The sums of a batch are added to minutes and to hours at once, so that a day's window reads some
hours and a few minutes. Minute tables are partitioned by month; the writer makes partitions as
event times need them. A histogram is one row of two arrays: PostgreSQL merges it with the batch's,
so a batch writes tens of rows where a row per bucket took thousands.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from services.analytics.domain.fold import ADDITIVE, Fold, Series, Slot, SlotFold, Sums
from services.analytics.domain.model_drift import ModelDrift
from services.analytics.domain.windows import floor_hour

TAIL_NAME = "audit"
# Retention keeps minutes for longer than this (the setting's lower bound).
MONTHS_KNOWN_FOR = timedelta(days=31)
PARTITIONED = ("rollup_minutes", "histogram_minutes", "category_minutes")
COLUMNS = (*ADDITIVE, "latency_min", "latency_max")
DOUBLE = {name for name, kind in Sums.__annotations__.items() if kind is not int}

_Key = tuple[int, datetime]


def _upsert_sums(table: str) -> str:
    names = ", ".join(("series_id", "period", *COLUMNS))
    types = ["integer[]", "timestamptz[]"] + [
        "double precision[]" if name in DOUBLE else "bigint[]" for name in COLUMNS
    ]
    arrays = ", ".join(f"${at}::{kind}" for at, kind in enumerate(types, 1))
    added = ", ".join(f"{name} = {table}.{name} + EXCLUDED.{name}" for name in ADDITIVE)
    return (
        f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays}) "
        f"ON CONFLICT (series_id, period) DO UPDATE SET {added}, "
        f"latency_min = LEAST({table}.latency_min, EXCLUDED.latency_min), "
        f"latency_max = GREATEST({table}.latency_max, EXCLUDED.latency_max)"
    )


def _upsert_histogram(table: str) -> str:
    return (
        f"INSERT INTO {table} (series_id, period, metric, buckets, counts) "
        "VALUES ($1, $2, $3, $4::integer[], $5::bigint[]) "
        "ON CONFLICT (series_id, period, metric) DO UPDATE SET (buckets, counts) = ("
        "SELECT array_agg(bucket ORDER BY bucket), array_agg(n ORDER BY bucket) FROM ("
        "SELECT bucket, sum(n)::bigint AS n FROM ("
        f"SELECT unnest({table}.buckets) AS bucket, unnest({table}.counts) AS n UNION ALL "
        "SELECT unnest(EXCLUDED.buckets), unnest(EXCLUDED.counts)) both_sides "
        "GROUP BY bucket) merged)"
    )


def _upsert_categories(table: str) -> str:
    return (
        f"INSERT INTO {table} (series_id, period, metric, value, n) SELECT * FROM "
        "unnest($1::integer[], $2::timestamptz[], $3::text[], $4::text[], $5::bigint[]) "
        "ON CONFLICT (series_id, period, metric, value) "
        f"DO UPDATE SET n = {table}.n + EXCLUDED.n"
    )


_UPSERT_DRIFT = (
    "INSERT INTO model_drift (tenant, model, version, release, at, n, m, compared, told) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb) ON CONFLICT (tenant, model, version) "
    "DO UPDATE SET release = EXCLUDED.release, at = EXCLUDED.at, n = EXCLUDED.n, "
    "m = EXCLUDED.m, compared = EXCLUDED.compared, told = EXCLUDED.told "
    "WHERE EXCLUDED.at >= model_drift.at"
)

_TABLES = ("minutes", "hours")
_SUMS = {name: _upsert_sums(f"rollup_{name}") for name in _TABLES}
_HISTOGRAMS = {name: _upsert_histogram(f"histogram_{name}") for name in _TABLES}
_CATEGORIES = {name: _upsert_categories(f"category_{name}") for name in _TABLES}


class RollupWriter:
    """Adds folded batches; one writer at a time, the offset in the database decides which."""

    def __init__(self, *, partitioned: bool = True) -> None:
        self._partitioned = partitioned
        self._months: set[datetime] = set()

    async def next_index(self, connection: Any) -> int:
        """Give the first log index that is not rolled up, creating the state on first use."""
        await connection.execute(
            "INSERT INTO tail_state (name, next_index) VALUES ($1, 0) ON CONFLICT DO NOTHING",
            TAIL_NAME,
        )
        return int(
            await connection.fetchval(
                "SELECT next_index FROM tail_state WHERE name = $1", TAIL_NAME
            )
        )

    async def apply(
        self,
        connection: Any,
        batch: Fold,
        *,
        from_index: int,
        next_index: int,
        log_size: int,
        skipped: int = 0,
    ) -> bool:
        """Add a folded batch and move the offset, in one transaction.

        Returns:
            False when another writer moved the offset first; nothing is written then.
        """
        async with connection.transaction():
            moved = await connection.execute(
                "UPDATE tail_state SET next_index = $3, log_size = $4, "
                "event_time = GREATEST(event_time, $5), skipped = skipped + $6 "
                "WHERE name = $1 AND next_index = $2",
                TAIL_NAME,
                from_index,
                next_index,
                log_size,
                batch.last_time,
                batch.skipped + skipped,
            )
            if moved != "UPDATE 1":
                return False
            if self._partitioned:
                await self._ensure_partitions(connection, {slot.minute for slot in batch.slots})
            await _write(connection, batch.slots)
            if batch.drifts:
                rows = [_drift_row(tenant, one) for (tenant, *_), one in batch.drifts.items()]
                await connection.executemany(_UPSERT_DRIFT, rows)
            if batch.predictions:
                await connection.execute(
                    "INSERT INTO tenant_totals SELECT * FROM unnest($1::text[], $2::bigint[]) "
                    "ON CONFLICT (tenant) DO UPDATE "
                    "SET predictions = tenant_totals.predictions + EXCLUDED.predictions",
                    list(batch.predictions.keys()),
                    list(batch.predictions.values()),
                )
        return True

    async def _ensure_partitions(self, connection: Any, minutes: Iterable[datetime]) -> None:
        months = {at.replace(day=1, hour=0, minute=0) for at in minutes} - self._months
        for month in sorted(months):
            await ensure_partitions(connection, month)
        # An old month may be dropped by the retention at any time, so it is asked for each time.
        recent = utc_now() - MONTHS_KNOWN_FOR
        self._months = {month for month in self._months | months if month > recent}

    async def mark_caught_up(self, connection: Any, log_size: int, at: datetime) -> None:
        """Record that the end of the log was reached at `at`."""
        await connection.execute(
            "UPDATE tail_state SET caught_up_at = $2, log_size = $3 WHERE name = $1",
            TAIL_NAME,
            at,
            log_size,
        )


async def ensure_partitions(connection: Any, month: datetime) -> None:
    """Create the partitions of the month that starts at `month`."""
    following = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
    for table in PARTITIONED:
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {table}_{month:%Y_%m} PARTITION OF {table} "
            f"FOR VALUES FROM ('{month.isoformat()}') TO ('{following.isoformat()}')"
        )


async def _write(connection: Any, slots: dict[Slot, SlotFold]) -> None:
    if not slots:
        return
    ids = await _series_ids(connection, {slot.series for slot in slots})
    minutes: dict[_Key, SlotFold] = {}
    hours: dict[_Key, SlotFold] = {}
    for slot, folded in slots.items():
        minutes[ids[slot.series], slot.minute] = folded
        hours.setdefault((ids[slot.series], floor_hour(slot.minute)), SlotFold()).add(folded)
    for name, rows in (("minutes", minutes), ("hours", hours)):
        # In one order everywhere, so that two writers could not lock rows crosswise.
        keys = sorted(rows)
        figures = [[getattr(rows[key].sums, column) for key in keys] for column in COLUMNS]
        await connection.execute(
            _SUMS[name], [key[0] for key in keys], [key[1] for key in keys], *figures
        )
        await connection.executemany(_HISTOGRAMS[name], list(_histogram_rows(keys, rows)))
        categories = [
            (*key, metric, value, n)
            for key in keys
            for metric, counts in sorted(rows[key].categories.items())
            for value, n in sorted(counts.items())
        ]
        if categories:
            await connection.execute(_CATEGORIES[name], *map(list, zip(*categories, strict=True)))


def _drift_row(tenant: str, one: ModelDrift) -> tuple[Any, ...]:
    told = orjson.dumps([asdict(told) for told in one.told]).decode()
    return (
        tenant, one.model, one.version, one.release, one.at, one.n, one.m, one.compared, told,
    )  # fmt: skip


def _histogram_rows(
    keys: list[_Key], rows: dict[_Key, SlotFold]
) -> Iterable[tuple[int, datetime, str, list[int], list[int]]]:
    for key in keys:
        for metric, buckets in sorted(rows[key].histograms.items()):
            ordered: Counter[int] = buckets
            found = sorted(ordered)
            yield (*key, metric, found, [ordered[bucket] for bucket in found])


async def _series_ids(connection: Any, series: set[Series]) -> dict[Series, int]:
    columns = [list(column) for column in zip(*sorted(series), strict=True)]
    names = ", ".join(Series._fields)
    arrays = ", ".join(f"${at}::text[]" for at in range(1, len(Series._fields) + 1))
    await connection.execute(
        f"INSERT INTO series ({names}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING",
        *columns,
    )
    rows = await connection.fetch(
        f"SELECT s.id, {', '.join(f's.{name}' for name in Series._fields)} FROM series s "
        f"JOIN unnest({arrays}) AS wanted ({names}) USING ({names})",
        *columns,
    )
    return {Series(*list(row.values())[1:]): row["id"] for row in rows}


def utc_now() -> datetime:
    """Give the time, in UTC."""
    return datetime.now(UTC)
