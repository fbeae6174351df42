"""Wiring of analytics."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import TypedDict

from libs.common import app as common
from libs.common.events.envelope import EventEmitter
from libs.common.platform import Platform
from libs.common.redis import create_redis
from libs.common.tasks import end
from services.analytics.adapters.alert_store import AlertStore
from services.analytics.adapters.audit_log import AuditLogReader
from services.analytics.adapters.charts import ChartRenderer
from services.analytics.adapters.gemini import ATTEMPTS_MAX, GeminiWriter
from services.analytics.adapters.maintenance import Maintenance
from services.analytics.adapters.quota import Quota
from services.analytics.adapters.rebuild import Rebuilder
from services.analytics.adapters.report_cache import ReportCache
from services.analytics.adapters.rollup_writer import RollupWriter, utc_now
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

# The lock is renewed every third of this; a holder that died frees it within it (ADR 0013).
LOCK_TTL_S = 10.0
# The waits between four attempts, and some more: a loser waits for as long as a holder may work.
LOCK_WAIT_BEYOND_ATTEMPTS_S = 20.0
# A flight lasts seconds, so its own commands may wait longer on Redis than a request does: a slow
# moment must not look like a lost quota, which closes Gemini for a minute.
FLIGHT_REDIS_TIMEOUT_S = 0.5


class State(TypedDict):
    """What routes find under `request.state`."""

    analytics: Analytics
    reports: Reports
    statistics: Statistics
    charts: Charts
    alerts: Alerts
    rebuilder: Rebuilder
    clock: Callable[[], datetime]


def create_app(
    settings: AnalyticsSettings,
    *,
    events: EventEmitter | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> common.ServiceApp:
    """Build the service.

    Args:
        settings: its settings.
        events: replaces the write-ahead log, in tests.
        clock: the time by which requests choose their windows.
    """

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[State]:
        store = RollupStore(platform.postgres)
        thresholds = ThresholdStore(platform.postgres, platform.events)
        statistics = Statistics(store)
        async with AsyncExitStack() as closing:
            # Ended in the reverse order: first what runs by itself, then what it uses.
            reports = _reports(settings, platform, store, thresholds, closing)
            renderer = ChartRenderer(settings.state_dir / "matplotlib")
            closing.callback(renderer.close)
            reader = AuditLogReader(platform.client("audit"))
            rebuilder = Rebuilder(platform.postgres, reader, batch=settings.tail_batch)
            closing.push_async_callback(rebuilder.close)
            alerts = _alerts(settings, platform, store, thresholds, closing)
            _follow(settings, platform, reader, closing)
            yield State(
                analytics=Analytics(store, thresholds, started_at=clock()),
                reports=reports,
                statistics=statistics,
                charts=Charts(store, thresholds, statistics, renderer),
                alerts=alerts,
                rebuilder=rebuilder,
                clock=clock,
            )

    return common.create_app(
        "analytics", settings, lifespan, routers=[native], v1_routers=[router], events=events
    )


def _follow(
    settings: AnalyticsSettings,
    platform: Platform,
    reader: AuditLogReader,
    closing: AsyncExitStack,
) -> None:
    """Start following the log, and the retention of what is made of it."""
    tailer = Tailer(
        platform.postgres,
        RollupWriter(),
        reader,
        TailMetrics(platform.registry),
        batch=settings.tail_batch,
        poll_s=settings.tail_poll_s,
    )
    maintenance = Maintenance(
        platform.postgres,
        minutes_kept=timedelta(days=settings.minutes_kept_days),
        hours_kept=timedelta(days=settings.hours_kept_days),
    )
    platform.health.add_check("log_tail", tailer.health)
    for running in (tailer.run(), maintenance.run()):
        closing.push_async_callback(end, asyncio.create_task(running))


def _alerts(
    settings: AnalyticsSettings,
    platform: Platform,
    store: RollupStore,
    thresholds: ThresholdStore,
    closing: AsyncExitStack,
) -> Alerts:
    """Start judging and sending; give what the alert routes call."""
    alerts = AlertStore(platform.postgres, platform.events)
    metrics = AlertMetrics(platform.registry)
    destinations = Destinations(settings.webhook_origins, settings.webhook_private_origins)
    master = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
    tasks = [Alerting(platform.postgres, store, thresholds, alerts, metrics).run()]
    if master is not None:
        sender = WebhookSender(destinations)
        tasks.append(Deliveries(alerts, sender, metrics, master=master).run())
    for running in tasks:
        closing.push_async_callback(end, asyncio.create_task(running))
    return Alerts(alerts, destinations, master=master)


def _reports(
    settings: AnalyticsSettings,
    platform: Platform,
    store: RollupStore,
    thresholds: ThresholdStore,
    closing: AsyncExitStack,
) -> Reports:
    """Put the written analysis together: writer, quota, cache."""
    metrics = ReportMetrics(platform.registry)
    patient = create_redis(settings.redis_dsn or "", timeout_s=FLIGHT_REDIS_TIMEOUT_S)
    quota = Quota(patient, limit=settings.gemini_rate_limit, replicas=settings.replicas)
    writer = GeminiWriter(
        settings,
        quota,
        on_attempt=lambda outcome: metrics.attempts.labels(outcome).inc(),
        on_usage=metrics.used,
    )
    cache = ReportCache(
        patient,
        looking=platform.redis,
        lock_ttl_s=LOCK_TTL_S,
        wait_s_max=ATTEMPTS_MAX * settings.gemini_timeout_s + LOCK_WAIT_BEYOND_ATTEMPTS_S,
    )
    closing.push_async_callback(patient.aclose)
    closing.push_async_callback(writer.close)
    closing.push_async_callback(cache.close)
    return Reports(settings, store, thresholds, writer, cache, metrics)
