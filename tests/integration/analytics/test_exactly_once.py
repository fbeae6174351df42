"""The roll-ups equal a recount of the log, however often and whenever the tailer dies."""

import asyncio
import random

import pytest
from prometheus_client import CollectorRegistry

from libs.common.http_client import ServiceClient
from libs.common.postgres import Postgres
from libs.common.tasks import end
from services.analytics.adapters.audit_log import AuditLogReader
from services.analytics.adapters.rollup_writer import RollupWriter
from services.analytics.adapters.rollups import RollupStore
from services.analytics.adapters.tail import Tailer, TailMetrics
from tests.support.audit_log import serve_audit_log
from tests.support.predictions import prediction

pytestmark = pytest.mark.anyio


async def test_a_tailer_killed_fifty_times_at_random_counts_every_event_once(clean_postgres):
    rng = random.Random(8)
    async with serve_audit_log() as log:
        log.append(*(prediction(version=rng.choice("12")) for _ in range(3_000)))
        client = ServiceClient("audit", log.url, None)
        kills = 0
        reached = 0
        while reached < 3_000 and kills < 500:
            # A pool of its own each time: the kill takes the connection and its lock with it.
            postgres = Postgres(clean_postgres, "analytics")
            store = RollupStore(postgres)
            tailer = Tailer(
                postgres,
                RollupWriter(),
                AuditLogReader(client),
                TailMetrics(CollectorRegistry()),
                batch=25,
                poll_s=0.01,
            )
            await postgres.pool()
            running = asyncio.create_task(tailer.run())
            await asyncio.sleep(rng.uniform(0.005, 0.04) if kills < 50 else 1.0)
            await end(running)
            kills += 1
            reached = (await store.watermark()).log_index
            total = await store.total_predictions("default")
            assert total == reached
            by_minutes = await postgres.fetchval("SELECT sum(n) FROM rollup_minutes")
            by_hours = await postgres.fetchval("SELECT sum(n) FROM rollup_hours")
            buckets = await postgres.fetchval(
                "SELECT sum(n) FROM histogram_minutes, unnest(counts) AS n "
                "WHERE metric = 'latency_ms'"
            )
            assert {int(by_minutes or 0), int(by_hours or 0), int(buckets or 0)} == {reached}
            await postgres.close()
        await client.close()
        assert reached == 3_000
        assert kills >= 20
