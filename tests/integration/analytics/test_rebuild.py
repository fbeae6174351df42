"""A rebuild equals the first count, goes on beside the service, and says how far it is."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.common.postgres import Postgres
from services.analytics.adapters.maintenance import Maintenance
from services.analytics.adapters.rollup_writer import RollupWriter
from services.analytics.domain.fold import fold
from tests.integration.analytics.conftest import Running, Start
from tests.support.predictions import model_drift, prediction, verdict

pytestmark = pytest.mark.anyio
_TABLES = {
    "rollup_minutes": "n, errors, latency_n, round(latency_sum::numeric, 3), latency_min",
    "rollup_hours": "n, errors, latency_n, round(latency_sum::numeric, 3), latency_max",
    "histogram_minutes": "metric, buckets, counts",
    "histogram_hours": "metric, buckets, counts",
    "category_minutes": "metric, value, n",
    "category_hours": "metric, value, n",
}


async def rows(postgres: Postgres) -> dict[str, list[Any]]:
    """Read everything, with series by name: their numbers are new after a rebuild."""
    found: dict[str, list[Any]] = {
        table: await postgres.fetch(
            f"SELECT s.tenant, s.kind, s.model, s.version, r.period, {columns} FROM {table} r "
            "JOIN series s ON s.id = r.series_id ORDER BY 1, 2, 3, 4, 5, 6, 7"
        )
        for table, columns in _TABLES.items()
    }
    found["drifts"] = await postgres.fetch("SELECT * FROM model_drift ORDER BY version")
    found["totals"] = await postgres.fetch("SELECT * FROM tenant_totals ORDER BY tenant")
    return {table: [tuple(row) for row in of_table] for table, of_table in found.items()}


async def rebuilt(running: Running, **body: object) -> dict[str, Any]:
    started = await running.client.post("/v1/analytics/rebuild", json=body)
    assert started.status_code == 202, started.text

    async def ended() -> Any:
        found = (await running.client.get("/v1/analytics/rebuild")).json()
        return found if found["state"] != "running" else None

    view: dict[str, Any] = await running.until(ended, within_s=60)
    return view


async def test_a_rebuild_while_events_arrive_equals_the_count_of_the_tailer(
    start: Start, clean_postgres: str
):
    now = datetime.now(UTC)
    postgres = Postgres(clean_postgres, "analytics")
    async with start(tail_batch=100) as running:
        assert (await running.client.get("/v1/analytics/rebuild")).json()["state"] == "never"
        for i in range(600):
            at = now - timedelta(minutes=i % 200)
            latency = {"total": 1.0 + i % 90}
            running.log.append(
                prediction(at, version=str(i % 3), latency_ms=latency),
                prediction(at, tenant="other", status="failed" if i % 4 else "ok"),
                verdict(at, action="block" if i % 5 else "mask"),
            )
        running.log.append(
            model_drift(now), model_drift(now - timedelta(minutes=5), rows_compared=900),
            model_drift(now - timedelta(minutes=5), version="1"),
        )  # fmt: skip

        async def is_read() -> bool:
            found = await postgres.fetchval("SELECT next_index FROM tail_state")
            return bool(found == 1803)

        await running.until(is_read)
        await running.counted(600)
        before = await rows(postgres)
        assert [(row[2], row[5]) for row in before["drifts"]] == [("1", 2_000), ("2", 2_000)]
        view = await rebuilt(running)
        assert (view["state"], view["done"], view["total"]) == ("done", 1803, 1803)
        assert await rows(postgres) == before
        # What is spoilt is healed, and events that arrive meanwhile are neither lost nor doubled.
        await postgres.execute("UPDATE rollup_hours SET n = n + 7")
        await postgres.execute("DELETE FROM histogram_minutes")
        await postgres.execute("DELETE FROM model_drift")
        running.log.append(*(prediction(now, version="9") for _ in range(50)))
        view, _ = await asyncio.gather(rebuilt(running), running.counted(650))
        assert view["state"] == "done", view
        running.log.append(*(prediction(now, version="9") for _ in range(50)))
        await running.counted(700)
        total = await postgres.fetchval("SELECT sum(n)::bigint FROM rollup_hours")
        assert total == 1800 + 100
        after = await rows(postgres)
        kept = [row for row in after["histogram_minutes"] if row[3] != "9"]
        assert kept == before["histogram_minutes"]
        assert after["drifts"] == before["drifts"]
        exists = await postgres.fetchval("SELECT to_regnamespace('analytics_rebuild')")
        assert exists is None
    await postgres.close()


async def test_a_pruned_log_is_rebuilt_only_when_the_loss_is_accepted(start: Start):
    async with start() as running:
        running.log.append(*(prediction() for _ in range(40)))
        await running.counted(40)
        running.log.min_index = 15
        refused = await running.client.post("/v1/analytics/rebuild", json={})
        assert (refused.status_code, refused.json()["code"]) == (409, "log_pruned")
        assert await running.total() == 40
        assert (await rebuilt(running, accept_loss=True))["state"] == "done"
        assert await running.total() == 25


async def test_a_rebuild_that_fails_changes_nothing_and_says_why(start: Start):
    async with start(tail_batch=5) as running:
        running.log.append(*(prediction() for _ in range(40)))
        await running.counted(40)
        running.log.fail_after(len(running.log.reads) + 3)
        view = await rebuilt(running)
        assert (view["state"], view["reason"]) == ("failed", "unavailable")
        running.log.fail_with = None
        assert await running.total() == 40


async def test_months_beyond_their_time_are_dropped_and_late_events_still_find_a_place(
    clean_postgres: str,
):
    postgres = Postgres(clean_postgres, "analytics")
    old = datetime(2023, 5, 10, tzinfo=UTC)
    writer = RollupWriter()

    async def add(at: datetime) -> None:
        async with postgres.connection() as connection:
            index = await writer.next_index(connection)
            batch = fold([prediction(at).to_wire()])
            await writer.apply(
                connection, batch, from_index=index, next_index=index + 1, log_size=0
            )

    await add(old)
    await add(datetime.now(UTC))
    maintenance = Maintenance(
        postgres, minutes_kept=timedelta(days=62), hours_kept=timedelta(days=400)
    )
    dropped = await maintenance.clean()
    assert {
        "rollup_minutes_2023_05", "histogram_minutes_2023_05", "category_minutes_2023_05"
    } <= set(dropped)  # fmt: skip
    assert await postgres.fetchval("SELECT count(*) FROM rollup_minutes") == 1
    assert await postgres.fetchval("SELECT count(*) FROM rollup_hours") == 1
    await add(old)
    assert await postgres.fetchval("SELECT count(*) FROM rollup_minutes") == 2
    await maintenance.clean()
    await postgres.close()
