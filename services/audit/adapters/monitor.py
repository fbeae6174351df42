"""Runs the security rules over the log by index; alerts are events of the log themselves.

The offset is stored after the alerts are durable, and an alert's id names its cause, so that a
crash in between raises it again under the same id and the log keeps one. Several processes take
turns by an advisory lock; the window of a taken-over rule starts empty.
"""

import asyncio
import uuid
from datetime import datetime

import asyncpg
import orjson
from prometheus_client import CollectorRegistry, Counter

from libs.common.errors import ServiceError
from libs.common.events.envelope import Event, EventEmitter
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from services.audit.domain.rules import Alert, Rules

log = get_logger()

INTERVAL_S = 1.0
_BATCH = 2_000
_LOCK_KEY = 0x72756C65  # any constant, the same in every process
_NAMESPACE = uuid.UUID("5f6f0c34-7c51-4f0e-9a4e-3f1f3f9a7f10")
_WATCHED = (
    "auth.failed",
    "auth.revoked",
    "limit.exceeded",
    "verdict.given",
    "verdict.blocked",
    "model.changed",
)


class Monitor:
    """Feeds the rules and emits what they raise."""

    def __init__(
        self, postgres: Postgres, events: EventEmitter, registry: CollectorRegistry
    ) -> None:
        self._postgres = postgres
        self._events = events
        self._rules = Rules()
        self._alerts = Counter(
            "gatehouse_audit_security_alerts_total",
            "Security alerts raised by rule.",
            ("rule",),
            registry=registry,
        )

    async def run(self) -> None:
        """Read on every second until cancelled."""
        while True:
            try:
                while await self.step():
                    pass
            except (ServiceError, asyncpg.PostgresError, OSError) as error:
                log.warning("security rules not applied", error_type=type(error).__name__)
            await asyncio.sleep(INTERVAL_S)

    async def step(self) -> bool:
        """Judge the next events; say whether there may be more.

        Raises:
            ServiceError: database or event log do not answer; nothing is skipped.
        """
        async with self._postgres.transaction() as connection:
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK_KEY):
                return False
            size = await connection.fetchval("SELECT size FROM log_state") or 0
            start = await connection.fetchval("SELECT next_index FROM monitor_state")
            if start is None:
                # What happened before the first start is history, not news.
                await connection.execute("INSERT INTO monitor_state (next_index) VALUES ($1)", size)
                return False
            end = min(size, start + _BATCH)
            if end <= start:
                return False
            rows = await connection.fetch(
                "SELECT p.index, p.ingested_at, p.body FROM search_row s JOIN payload p "
                "ON p.index = s.index AND p.ingested_at = s.ingested_at "
                "WHERE s.index >= $1 AND s.index < $2 AND s.type = ANY($3) ORDER BY p.index",
                start,
                end,
                list(_WATCHED),
            )
            for row in rows:
                await self._judge(row["index"], row["ingested_at"], orjson.loads(row["body"]))
            await connection.execute("UPDATE monitor_state SET next_index = $1", end)
            return bool(end < size)

    async def _judge(self, index: int, moment: datetime, document: dict[str, object]) -> None:
        for alert in self._rules.see(document, moment.timestamp()):
            await self._events.emit(_event(alert, index))
            self._alerts.labels(alert.rule).inc()
            log.warning("security alert", rule=alert.rule, index=index)


def _event(alert: Alert, index: int) -> Event:
    return Event(
        id=str(uuid.uuid5(_NAMESPACE, f"{alert.rule}:{index}")),
        type="security.alert",
        source="audit",
        event_class="required",
        tenant=alert.tenant,
        principal="service:audit",
        data={
            "rule": alert.rule,
            "severity": alert.severity,
            "evidence": {**alert.evidence, "index": index},
        },
    )
