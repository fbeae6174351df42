"""An upgrade of roll-ups from before histograms were arrays counts the log again by itself."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from libs.common import migrations
from libs.common.migrations import migrate
from tests.integration.analytics.conftest import Start
from tests.support.audit_log import serve_audit_log
from tests.support.predictions import prediction

pytestmark = pytest.mark.anyio
NOW = datetime.now(UTC)


async def _at_second_revision(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrate as far as the release with a row per bucket, and fill it as its tailer did."""
    from alembic.script import ScriptDirectory

    upgrade = ScriptDirectory._upgrade_revs
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "head_revision", lambda _: "0002")
        patched.setattr(
            ScriptDirectory,
            "_upgrade_revs",
            lambda self, _, current: upgrade(self, "0002", current),
        )
        assert await migrate(url, ["analytics"]) == {"analytics": "0002"}
    connection = await asyncpg.connect(url, server_settings={"search_path": "analytics"})
    await connection.execute(
        """
        INSERT INTO series (tenant, kind, model, version, release, arm, route)
            VALUES ('default', 'prediction', 'sentiment', '1', '1.0.0', 'stable', '/predict');
        INSERT INTO histogram_hours VALUES (1, now(), 'latency_ms', 120, 40);
        INSERT INTO tenant_totals VALUES ('default', 40);
        INSERT INTO tail_state (name, next_index, log_size) VALUES ('audit', 40, 40);
        INSERT INTO thresholds (tenant, version, limits, changed_by)
            VALUES ('default', 1, '{"min_confidence_warning": 0.7}', 'somebody');
        """
    )
    await connection.close()


async def test_an_upgrade_counts_the_log_again_by_itself_and_keeps_limits(
    start: Start, empty_database: str, monkeypatch: pytest.MonkeyPatch
):
    await _at_second_revision(empty_database, monkeypatch)
    await migrate(empty_database, ["analytics"])
    async with serve_audit_log() as log:
        at = NOW - timedelta(minutes=1)
        log.append(*(prediction(at, latency_ms={"total": 30.0}) for _ in range(60)))
        settings = {"postgres_url": empty_database, "clock": lambda: NOW}
        async with start(log, **settings) as running:
            await running.counted(60)
            body = (await running.client.post("/metrics/aggregated", json={})).json()
            assert body["total_predictions"] == 60
            assert body["latency_ms"]["p95"] == pytest.approx(30.0, rel=0.01)
            limits = (await running.client.get("/metrics/thresholds")).json()
            assert (limits["version"], limits["min_confidence_warning"]) == (1, 0.7)
