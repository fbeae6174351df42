"""Alerting: judges each closed minute of each tenant, and sends what is to be heard of it.

One process judges at a time (advisory lock); judging a minute twice changes nothing, because
patience is counted in time, not in looks. A minute is judged only when all its events are counted:
a log that stands still is no drop of traffic. Messages leave through an outbox, at least once;
receivers recognise a repeated one by its `webhook-id`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from libs.common.errors import ServiceError
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from services.analytics.adapters.alert_store import AlertStore, Delivery
from services.analytics.adapters.rollups import RollupStore
from services.analytics.adapters.thresholds import ThresholdStore
from services.analytics.adapters.webhooks import WebhookSender
from services.analytics.domain.aggregate import Aggregate, aggregate, by_key
from services.analytics.domain.alerts import (
    Alert,
    Observation,
    Transition,
    Watched,
    baseline_end_of,
    observe,
    step,
)
from services.analytics.domain.ports import Filters, SeriesFigures
from services.analytics.domain.thresholds import Thresholds
from services.analytics.domain.webhooks import headers_of, secret_of
from services.analytics.domain.windows import MINUTE, SETTLE, Window, closed_window

log = get_logger()

_LOCK_KEY = 0x61_6C_65_72  # "aler"
_POLL_S = 1.0
# Model versions watched by themselves, the busiest first.
SCOPES_MAX = 50
Scope = tuple[str, str]
_ALL: Scope = ("", "")


class AlertMetrics:
    """What alerts are and what became of the messages about them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.firing = Gauge(
            "gatehouse_analytics_alerts_firing",
            "Firing alerts of all tenants by metric and severity.",
            ("metric", "severity"),
            registry=registry,
        )
        self.transitions = Counter(
            "gatehouse_analytics_alert_transitions_total",
            "Alerts that fired, got graver or ended, by metric and reason.",
            ("metric", "reason"),
            registry=registry,
        )
        self.evaluated = Gauge(
            "gatehouse_analytics_alerts_evaluated_timestamp_seconds",
            "End of the last minute that was judged; it stands still while the log is not read.",
            registry=registry,
        )
        self.deliveries = Counter(
            "gatehouse_analytics_webhook_attempts_total",
            "Webhook attempts by outcome.",
            ("outcome",),
            registry=registry,
        )


class Alerting:
    """Judges and sends until cancelled; one per process."""

    def __init__(
        self,
        postgres: Postgres,
        store: RollupStore,
        thresholds: ThresholdStore,
        alerts: AlertStore,
        metrics: AlertMetrics,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._postgres = postgres
        self._store = store
        self._thresholds = thresholds
        self._alerts = alerts
        self._metrics = metrics
        self._clock = clock

    async def run(self) -> None:
        """Judge each minute once it is closed and counted."""
        while True:
            try:
                async with self._postgres.connection() as connection:
                    while await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY):
                        await self.judge_if_due()
                        await asyncio.sleep(_POLL_S)
            except ServiceError as error:
                log.info("alerts wait", reason=error.problem_code)
            except Exception as error:  # an unforeseen fault must not end the alerts for good
                log.exception("alerts failed", error_type=type(error).__name__)
            await asyncio.sleep(_POLL_S)

    async def judge_if_due(self) -> bool:
        """Judge the last closed minute of all tenants, if it is new and wholly counted."""
        end = closed_window(self._clock(), 1).end
        until = await self._alerts.evaluated_until()
        reached = (await self._store.watermark()).caught_up_at
        if (until is not None and until >= end) or reached is None or reached < end + SETTLE:
            return False
        for tenant in await self._alerts.tenants(end - 120 * MINUTE):
            await self._judge(tenant, end)
        await self._alerts.mark_evaluated(end)
        self._metrics.evaluated.set(end.timestamp())
        self._metrics.firing.clear()
        for metric, severity, n in await self._alerts.firing():
            self._metrics.firing.labels(metric, severity).set(n)
        return True

    async def _judge(self, tenant: str, end: datetime) -> None:
        limits = (await self._thresholds.current(tenant)).limits
        window = Window(end - limits.alert_window_minutes * MINUTE, end)
        held = {alert.watched: alert for alert in await self._alerts.open_alerts(tenant)}
        current = await self._figures(tenant, window)
        baselines = {window.start: await self._figures(tenant, window.previous())}
        moved: dict[Watched, Alert | None] = {}
        heard: list[Transition] = []
        for scope in _scopes(current, baselines[window.start], held):
            mine = [alert for watched, alert in held.items() if watched[:2] == scope]
            at = baseline_end_of(mine, window.start)
            if at not in baselines:
                length = window.end - window.start
                baselines[at] = await self._figures(tenant, Window(at - length, at))
            seen = observe(
                current.get(scope, Aggregate()), baselines[at].get(scope, Aggregate()), limits
            )
            _step_all(scope, seen, held, limits, window, moved, heard)
        await self._alerts.save(tenant, moved, heard, window_minutes=window.minutes)
        for transition in heard:
            self._metrics.transitions.labels(
                transition.alert.watched.metric, transition.reason
            ).inc()

    async def _figures(self, tenant: str, window: Window) -> dict[Scope, Aggregate]:
        """Give the figures of all traffic (with the verdicts' actions) and of each release."""
        series = await self._store.read(tenant, window, Filters())
        verdicts = aggregate(
            await self._store.read(tenant, window, Filters("verdict", histograms=()))
        )
        everything = aggregate(series)
        if "action" in verdicts.categories:
            everything.categories["action"] = verdicts.categories["action"]
        found: dict[Scope, Aggregate] = {_ALL: everything}
        for (model, release), figures in by_key(series, _release).items():
            found[model, release] = figures
        return found


def _release(one: SeriesFigures) -> tuple[str, ...]:
    return one.series.model, one.series.release or one.series.version


def _scopes(
    current: dict[Scope, Aggregate],
    baseline: dict[Scope, Aggregate],
    held: Iterable[Watched],
) -> list[Scope]:
    """All traffic; each release beside it when there are several; what has an open alert."""
    releases = ({*current, *baseline} - {_ALL}) if len({*current, *baseline}) > 2 else set()
    busiest = sorted(releases, key=lambda scope: (-current.get(scope, Aggregate()).requests, scope))
    open_ones = {(watched.model, watched.release) for watched in held}
    return list(dict.fromkeys([_ALL, *busiest[:SCOPES_MAX], *sorted(open_ones)]))


def _step_all(
    scope: Scope,
    seen: dict[Any, Observation],
    held: dict[Watched, Alert],
    limits: Thresholds,
    window: Window,
    moved: dict[Watched, Alert | None],
    heard: list[Transition],
) -> None:
    for (metric, kind), observation in seen.items():
        watched = Watched(*scope, metric, kind)
        before = held.get(watched)
        after, transition = step(before, watched, observation, window.end, limits, window.start)
        if after != before:
            moved[watched] = after
        if transition:
            heard.append(transition)


class Deliveries:
    """Sends what the outbox holds; every process may."""

    def __init__(
        self, alerts: AlertStore, sender: WebhookSender, metrics: AlertMetrics, *, master: str
    ) -> None:
        self._alerts = alerts
        self._sender = sender
        self._metrics = metrics
        self._master = master

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            try:
                await self.send_due()
            except ServiceError as error:
                log.info("webhooks wait", reason=error.problem_code)
            except Exception as error:  # as above
                log.exception("webhooks failed", error_type=type(error).__name__)
            await asyncio.sleep(_POLL_S)

    async def send_due(self) -> int:
        """Send what is due now, all at once; give how many attempts were made."""
        due = await self._alerts.claim_deliveries()
        await asyncio.gather(*(self._send(delivery) for delivery in due))
        return len(due)

    async def _send(self, delivery: Delivery) -> None:
        secret = secret_of(self._master, delivery.tenant, delivery.version)
        headers = headers_of(secret, delivery.id, int(time.time()), delivery.body)
        outcome = await self._sender.send(delivery.url, headers, delivery.body)
        self._metrics.deliveries.labels(outcome).inc()
        state = await self._alerts.settle(delivery, outcome)
        if state == "dead":
            log.warning("webhook given up", outcome=outcome, attempts=delivery.attempts)
