"""Wiring of analytics."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypedDict

from libs.common import app as common
from libs.common.events.envelope import EventEmitter
from libs.common.platform import Platform
from libs.common.tasks import end
from services.analytics.adapters.alert_store import AlertStore
from services.analytics.adapters.audit_log import AuditLogReader
from services.analytics.adapters.charts import ChartRenderer
from services.analytics.adapters.gemini import GeminiWriter
from services.analytics.adapters.quota import Quota
from services.analytics.adapters.report_cache import ReportCache
from services.analytics.adapters.rollup_writer import RollupWriter
from services.analytics.adapters.rollups import RollupStore
from services.analytics.adapters.tail import Tailer, TailMetrics
from services.analytics.adapters.thresholds import ThresholdStore
from services.analytics.adapters.webhooks import WebhookSender
from services.analytics.alert_views import Alerts
from services.analytics.alerting import Alerting, AlertMetrics, Deliveries
from services.analytics.charts import Charts
from services.analytics.domain.webhooks import Destinations
from services.analytics.reports import ReportMetrics, Reports
from services.analytics.routes import native, router
from services.analytics.service import Analytics
from services.analytics.settings import AnalyticsSettings
from services.analytics.statistics import Statistics

# The lock is renewed every third of this; a holder that died frees it within it.
LOCK_TTL_S = 15.0
# Four attempts of ten seconds and their waits end before this; then losers get the rules' report.
LOCK_WAIT_S_MAX = 60.0


class State(TypedDict):
    """What routes find under `request.state`."""

    analytics: Analytics
    reports: Reports
    statistics: Statistics
    charts: Charts
    alerts: Alerts


def create_app(
    settings: AnalyticsSettings, *, events: EventEmitter | None = None
) -> common.ServiceApp:
    """Build the service.

    Args:
        settings: its settings.
        events: replaces the write-ahead log, in tests.
    """

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[State]:
        store = RollupStore(platform.postgres)
        tailer = Tailer(
            platform.postgres,
            RollupWriter(),
            AuditLogReader(platform.client("audit")),
            TailMetrics(platform.registry),
            batch=settings.tail_batch,
            poll_s=settings.tail_poll_s,
        )
        thresholds = ThresholdStore(platform.postgres, platform.events)
        metrics = ReportMetrics(platform.registry)
        quota = Quota(platform.redis, limit=settings.gemini_rate_limit, replicas=settings.replicas)
        writer = GeminiWriter(
            settings,
            quota,
            on_attempt=lambda outcome: metrics.attempts.labels(outcome).inc(),
            on_tokens=lambda kind, count: metrics.tokens.labels(kind).inc(count),
        )
        cache = ReportCache(platform.redis, lock_ttl_s=LOCK_TTL_S, wait_s_max=LOCK_WAIT_S_MAX)
        reports = Reports(settings, store, thresholds, writer, cache, metrics)
        statistics = Statistics(store)
        renderer = ChartRenderer(settings.state_dir / "matplotlib")
        platform.health.add_check("log_tail", tailer.health)
        alert_store = AlertStore(platform.postgres, platform.events)
        alert_metrics = AlertMetrics(platform.registry)
        destinations = Destinations(settings.webhook_origins, settings.webhook_private_origins)
        master = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
        alerting = Alerting(platform.postgres, store, thresholds, alert_store, alert_metrics)
        running = [asyncio.create_task(tailer.run()), asyncio.create_task(alerting.run())]
        if master is not None:
            sender = WebhookSender(destinations)
            deliveries = Deliveries(alert_store, sender, alert_metrics, master=master)
            running.append(asyncio.create_task(deliveries.run()))
        try:
            yield State(
                analytics=Analytics(store, thresholds, started_at=datetime.now(UTC)),
                reports=reports,
                statistics=statistics,
                alerts=Alerts(alert_store, destinations, master=master),
                charts=Charts(store, thresholds, statistics, renderer),
            )
        finally:
            for task in running:
                await end(task)
            await cache.close()
            await writer.close()
            renderer.close()

    return common.create_app(
        "analytics", settings, lifespan, routers=[native], v1_routers=[router], events=events
    )
