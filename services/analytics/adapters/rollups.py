"""Roll-ups in PostgreSQL: additive upserts with the log offset in the same transaction.

The sums of a batch are added to minutes and to hours at once, so that a day's window reads some
hours and a few minutes. Minute tables are partitioned by month; the writer makes partitions as
event times need them.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from libs.common.postgres import Postgres
from services.analytics.domain.fold import ADDITIVE, Fold, Series, Slot, Sums
from services.analytics.domain.ports import Filters, SeriesFigures, Watermark
from services.analytics.domain.windows import Window, floor_hour

TAIL_NAME = "audit"
_PARTITIONED = ("rollup_minutes", "histogram_minutes", "category_minutes")
_COLUMNS = (*ADDITIVE, "latency_min", "latency_max")
_DOUBLE = {name for name, kind in Sums.__annotations__.items() if kind is not int}


def _upsert_sums(table: str) -> str:
    names = ", ".join(("series_id", "period", *_COLUMNS))
    types = ["integer[]", "timestamptz[]"] + [
        "double precision[]" if name in _DOUBLE else "bigint[]" for name in _COLUMNS
    ]
    arrays = ", ".join(f"${at}::{kind}" for at, kind in enumerate(types, 1))
    added = ", ".join(f"{name} = {table}.{name} + EXCLUDED.{name}" for name in ADDITIVE)
    return (
        f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays}) "
        f"ON CONFLICT (series_id, period) DO UPDATE SET {added}, "
        f"latency_min = LEAST({table}.latency_min, EXCLUDED.latency_min), "
        f"latency_max = GREATEST({table}.latency_max, EXCLUDED.latency_max)"
    )


def _upsert_counts(table: str, column: str, kind: str) -> str:
    return (
        f"INSERT INTO {table} (series_id, period, metric, {column}, n) SELECT * FROM "
        f"unnest($1::integer[], $2::timestamptz[], $3::text[], $4::{kind}[], $5::bigint[]) "
        f"ON CONFLICT (series_id, period, metric, {column}) "
        f"DO UPDATE SET n = {table}.n + EXCLUDED.n"
    )


_SERIES_WHERE = (
    "s.tenant = $5 AND s.kind = $6 AND ($7::text IS NULL OR s.model = $7) "
    "AND ($8::text IS NULL OR s.version = $8) AND ($9::text IS NULL OR s.release = $9) "
    "AND ($10::text IS NULL OR s.route = $10)"
)


def _select(name: str, what: str, group: str, extra: str = "") -> str:
    """Read hours in the middle of a window and minutes at its edges.

    Each series is looked up by the primary key of its rows: the planner cannot know how few series
    a filter leaves, and would read every row of the period instead.
    """
    picked = f"WITH picked AS (SELECT s.* FROM series s WHERE {_SERIES_WHERE}) "
    source = (
        f"SELECT * FROM {name}_hours WHERE period >= $2 AND period < $3 "
        f"AND series_id = p.id{extra} UNION ALL "
        f"SELECT * FROM {name}_minutes WHERE (period >= $1 AND period < $2 "
        f"OR period >= $3 AND period < $4) AND series_id = p.id{extra}"
    )
    return f"{picked}SELECT {what} FROM picked p CROSS JOIN LATERAL ({source}) r GROUP BY {group}"


_SUM_OF = ", ".join(f"sum(r.{name}) AS {name}" for name in ADDITIVE)
_READ_SUMS = _select(
    "rollup",
    f"p.*, {_SUM_OF}, min(r.latency_min) AS latency_min, max(r.latency_max) AS latency_max",
    "p.id, p.tenant, p.kind, p.model, p.version, p.release, p.arm, p.route",
)
_READ_BUCKETS = _select(
    "histogram",
    "p.id, r.metric, r.bucket AS value, sum(r.n)::bigint AS n",
    "p.id, r.metric, r.bucket",
    " AND metric = ANY($11)",
)
_READ_CATEGORIES = _select(
    "category", "p.id, r.metric, r.value, sum(r.n)::bigint AS n", "p.id, r.metric, r.value"
)


class RollupStore:
    """Reads and writes the roll-ups of every tenant; the tailer is the only writer."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._months: set[datetime] = set()

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
            await self._ensure_partitions(connection, {slot.minute for slot in batch.sums})
            ids = await _series_ids(connection, {slot.series for slot in batch.sums})
            await _write_sums(connection, batch.sums, ids)
            await _write_counts(connection, "histogram", "bucket", "integer", batch.buckets, ids)
            await _write_counts(connection, "category", "value", "text", batch.categories, ids)
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
            following = month.replace(
                year=month.year + month.month // 12, month=month.month % 12 + 1
            )
            for table in _PARTITIONED:
                await connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {table}_{month:%Y_%m} PARTITION OF {table} "
                    f"FOR VALUES FROM ('{month.isoformat()}') TO ('{following.isoformat()}')"
                )
        self._months |= months

    async def mark_caught_up(self, connection: Any, log_size: int, at: datetime) -> None:
        """Record that the end of the log was reached at `at`."""
        await connection.execute(
            "UPDATE tail_state SET caught_up_at = $2, log_size = $3 WHERE name = $1",
            TAIL_NAME,
            at,
            log_size,
        )

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

    async def read(self, tenant: str, window: Window, filters: Filters) -> list[SeriesFigures]:
        """Give the figures of every series with data in the window."""
        cut = window.split()
        args = (
            cut.start, cut.hours_start, cut.hours_end, cut.end,
            tenant, filters.kind, filters.model, filters.version, filters.release, filters.route,
        )  # fmt: skip
        async with (
            self._postgres.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            rows = await connection.fetch(_READ_SUMS, *args)
            if not rows:
                return []
            buckets = await connection.fetch(_READ_BUCKETS, *args, list(filters.histograms))
            categories = await connection.fetch(_READ_CATEGORIES, *args)
        found = {row["id"]: _figures_of(row) for row in rows}
        for row in buckets:
            found[row["id"]].histograms.setdefault(row["metric"], {})[row["value"]] = row["n"]
        for row in categories:
            found[row["id"]].categories.setdefault(row["metric"], {})[row["value"]] = row["n"]
        return list(found.values())

    async def total_predictions(self, tenant: str) -> int:
        """Count every prediction of a tenant that is rolled up."""
        value = await self._postgres.fetchval(
            "SELECT predictions FROM tenant_totals WHERE tenant = $1", tenant
        )
        return int(value or 0)

    async def predictions_in(self, tenant: str, window: Window) -> int:
        """Count a tenant's predictions in a window of any length."""
        cut = window.split()
        sql = _select("rollup", "p.kind, sum(r.n)::bigint AS n", "p.kind")
        row = await self._postgres.fetchrow(
            sql, cut.start, cut.hours_start, cut.hours_end, cut.end,
            tenant, "prediction", None, None, None, None,
        )  # fmt: skip
        return int(row["n"]) if row else 0

    async def watermark(self) -> Watermark:
        """Say how far the roll-ups follow the log."""
        row = await self._postgres.fetchrow("SELECT * FROM tail_state WHERE name = $1", TAIL_NAME)
        if row is None:
            return Watermark()
        return Watermark(
            log_index=row["next_index"],
            log_size=row["log_size"],
            event_time=row["event_time"],
            caught_up_at=row["caught_up_at"],
            skipped=row["skipped"],
        )


def _figures_of(row: Any) -> SeriesFigures:
    sums = Sums(
        **{
            name: float(row[name]) if name in _DOUBLE else int(row[name])  # type: ignore[arg-type] # typed by column
            for name in ADDITIVE
        },
        latency_min=row["latency_min"],
        latency_max=row["latency_max"],
    )
    return SeriesFigures(Series(*(row[name] for name in Series._fields)), sums)


async def _series_ids(connection: Any, series: set[Series]) -> dict[Series, int]:
    if not series:
        return {}
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


async def _write_sums(connection: Any, sums: dict[Slot, Sums], ids: dict[Series, int]) -> None:
    hours: dict[tuple[int, datetime], Sums] = {}
    minutes: dict[tuple[int, datetime], Sums] = {}
    for slot, figures in sums.items():
        minutes[ids[slot.series], slot.minute] = figures
        hours.setdefault((ids[slot.series], floor_hour(slot.minute)), Sums()).add(figures)
    for table, rows in (("rollup_minutes", minutes), ("rollup_hours", hours)):
        if rows:
            ordered = sorted(rows)
            columns = [[getattr(rows[key], name) for key in ordered] for name in _COLUMNS]
            await connection.execute(
                _upsert_sums(table), [k[0] for k in ordered], [k[1] for k in ordered], *columns
            )


async def _write_counts(
    connection: Any,
    name: str,
    column: str,
    kind: str,
    counts: Counter[Any],
    ids: dict[Series, int],
) -> None:
    minutes: Counter[tuple[int, datetime, str, Any]] = Counter()
    hours: Counter[tuple[int, datetime, str, Any]] = Counter()
    for (slot, metric, value), n in counts.items():
        minutes[ids[slot.series], slot.minute, metric, value] += n
        hours[ids[slot.series], floor_hour(slot.minute), metric, value] += n
    for table, rows in ((f"{name}_minutes", minutes), (f"{name}_hours", hours)):
        if rows:
            ordered = sorted(rows)
            columns = [list(part) for part in zip(*ordered, strict=True)]
            await connection.execute(
                _upsert_counts(table, column, kind), *columns, [rows[key] for key in ordered]
            )


def utc_now() -> datetime:
    """Give the time, in UTC."""
    return datetime.now(UTC)
