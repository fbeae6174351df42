"""Alerts in PostgreSQL: present states, what was heard of them, webhooks and the outbox."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from libs.common.events.envelope import EventEmitter, event_for_request
from libs.common.ids import uuid7
from libs.common.postgres import Postgres
from services.analytics.domain.alerts import Alert, Transition, Watched
from services.analytics.domain.webhooks import wait_after

# A claimed delivery comes back after this when its sender died.
LEASE = timedelta(minutes=1)
CLAIM_MAX = 20

_UPSERT = (
    "INSERT INTO alerts VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) "
    "ON CONFLICT (tenant, model, release, metric, kind) DO UPDATE SET state = EXCLUDED.state, "
    "since = EXCLUDED.since, severity = EXCLUDED.severity, value = EXCLUDED.value, "
    "limit_value = EXCLUDED.limit_value, n = EXCLUDED.n, baseline_end = EXCLUDED.baseline_end, "
    "unknown_since = EXCLUDED.unknown_since"
)
_DELETE = (
    "DELETE FROM alerts WHERE tenant = $1 AND model = $2 AND release = $3 AND metric = $4 "
    "AND kind = $5"
)
_TENANTS = (
    "SELECT DISTINCT s.tenant FROM series s JOIN rollup_minutes r ON r.series_id = s.id "
    "WHERE r.period >= $1 UNION SELECT DISTINCT tenant FROM alerts ORDER BY tenant"
)
_CLAIM = (
    "UPDATE alert_deliveries d SET attempts = attempts + 1, next_at = now() + $1 "
    "FROM alert_webhooks w WHERE w.tenant = d.tenant AND w.url IS NOT NULL AND d.id IN ("
    "SELECT id FROM alert_deliveries WHERE state = 'waiting' AND next_at <= now() "
    "ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED) "
    "RETURNING d.id, d.tenant, d.body, d.attempts, w.url, w.version"
)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a tenant's alerts go; version 0 was never set."""

    url: str | None = None
    version: int = 0
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that is to be sent now."""

    id: str
    tenant: str
    body: bytes
    attempts: int
    url: str
    version: int


class AlertStore:
    """Reads and writes alerts; deliveries may be claimed by several processes."""

    def __init__(self, postgres: Postgres, events: EventEmitter) -> None:
        self._postgres = postgres
        self._events = events

    async def tenants(self, since: datetime) -> list[str]:
        """List tenants with traffic since then, or with open alerts."""
        return [row["tenant"] for row in await self._postgres.fetch(_TENANTS, since)]

    async def open_alerts(self, tenant: str) -> list[Alert]:
        """List pending and firing alerts, firing first, then the oldest."""
        rows = await self._postgres.fetch(
            "SELECT * FROM alerts WHERE tenant = $1 ORDER BY state, since, metric", tenant
        )
        return [_alert_of(row) for row in rows]

    async def save(
        self,
        tenant: str,
        moved: Mapping[Watched, Alert | None],
        heard: Sequence[Transition],
        *,
        window_minutes: int,
    ) -> None:
        """Store new states with what is to be heard of them, in one transaction."""
        quiet = [(tenant, *watched) for watched, alert in moved.items() if alert is None]
        kept = [_row_of(tenant, alert) for alert in moved.values() if alert is not None]
        async with self._postgres.transaction() as connection:
            await connection.executemany(_DELETE, quiet)
            await connection.executemany(_UPSERT, kept)
            for transition in heard:
                await _record(connection, tenant, transition, window_minutes)

    async def mark_evaluated(self, until: datetime) -> None:
        """Record up to which minute alerts were judged."""
        await self._postgres.execute(
            "INSERT INTO alert_state VALUES ('evaluation', $1) "
            "ON CONFLICT (name) DO UPDATE SET evaluated_until = EXCLUDED.evaluated_until",
            until,
        )

    async def evaluated_until(self) -> datetime | None:
        """Say up to which minute alerts were judged."""
        found: datetime | None = await self._postgres.fetchval(
            "SELECT evaluated_until FROM alert_state WHERE name = 'evaluation'"
        )
        return found

    async def transitions(self, tenant: str, before: str | None, limit: int) -> list[Any]:
        """List what was heard, newest first, older than the entry `before`."""
        return await self._postgres.fetch(
            "SELECT t.*, d.state AS delivery, d.attempts, d.last_outcome "
            "FROM alert_transitions t LEFT JOIN alert_deliveries d USING (id) "
            "WHERE t.tenant = $1 AND ($2::uuid IS NULL OR t.id < $2) ORDER BY t.id DESC LIMIT $3",
            tenant,
            before,
            limit,
        )

    async def firing(self) -> list[tuple[str, str, int]]:
        """Count firing alerts of all tenants by (metric, severity)."""
        rows = await self._postgres.fetch(
            "SELECT metric, severity, count(*) AS n FROM alerts WHERE state = 'firing' "
            "GROUP BY metric, severity"
        )
        return [(row["metric"], row["severity"], int(row["n"])) for row in rows]

    async def webhook(self, tenant: str) -> Webhook:
        """Give a tenant's webhook."""
        row = await self._postgres.fetchrow(
            "SELECT url, version, changed_at FROM alert_webhooks WHERE tenant = $1", tenant
        )
        return Webhook(**dict(row)) if row else Webhook()

    async def set_webhook(self, tenant: str, url: str | None, *, by: str) -> Webhook:
        """Set or remove a tenant's webhook, as a new version, and record the change."""
        async with self._postgres.transaction() as connection:
            row = await connection.fetchrow(
                "INSERT INTO alert_webhooks (tenant, url, version, changed_by) "
                "VALUES ($1, $2, 1, $3) ON CONFLICT (tenant) DO UPDATE SET url = EXCLUDED.url, "
                "version = alert_webhooks.version + 1, changed_at = now(), "
                "changed_by = EXCLUDED.changed_by RETURNING url, version, changed_at",
                tenant,
                url,
                by,
            )
            change = {"version": row["version"], "is_set": url is not None}
            await self._events.emit(
                event_for_request(
                    "threshold.changed",
                    "analytics",
                    "required",
                    {"what": "alert_webhook", "to": change, "by": by},
                )
            )
        return Webhook(**dict(row))

    async def claim_deliveries(self) -> list[Delivery]:
        """Take what is due for sending now; it comes back when it is not settled."""
        rows = await self._postgres.fetch(_CLAIM, LEASE, CLAIM_MAX)
        return [
            Delivery(
                str(row["id"]), row["tenant"], row["body"].encode(), row["attempts"], row["url"],
                row["version"],
            )
            for row in rows
        ]  # fmt: skip

    async def settle(self, delivery: Delivery, outcome: str) -> str:
        """Record how a sending went; give the state: delivered, waiting or dead."""
        wait = wait_after(delivery.attempts)
        state = "delivered" if outcome == "delivered" else "dead" if wait is None else "waiting"
        await self._postgres.execute(
            "UPDATE alert_deliveries SET state = $2, last_outcome = $3, next_at = now() + $4 "
            "WHERE id = $1",
            delivery.id,
            state,
            outcome,
            wait or timedelta(0),
        )
        return state


async def _record(
    connection: Any, tenant: str, transition: Transition, window_minutes: int
) -> None:
    alert, event_id = transition.alert, uuid7()
    await connection.execute(
        "INSERT INTO alert_transitions (id, tenant, model, release, metric, kind, at, before, "
        "state, reason, severity, value, limit_value, n, window_minutes) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        event_id, tenant, *alert.watched, transition.at, transition.before, alert.state,
        transition.reason, alert.severity, alert.value, alert.limit, alert.n, window_minutes,
    )  # fmt: skip
    body = orjson.dumps(message_of(tenant, transition, window_minutes)).decode()
    await connection.execute(
        "INSERT INTO alert_deliveries (id, tenant, body) SELECT $1, $2, $3 "
        "FROM alert_webhooks WHERE tenant = $2 AND url IS NOT NULL",
        event_id,
        tenant,
        body,
    )


def message_of(tenant: str, transition: Transition, window_minutes: int) -> dict[str, Any]:
    """Give the body of a webhook."""
    alert = transition.alert
    return {
        "type": "alert.resolved" if alert.state == "quiet" else "alert.firing",
        "timestamp": transition.at.isoformat().replace("+00:00", "Z"),
        "data": {
            "tenant": tenant,
            **alert.watched._asdict(),
            "state": alert.state,
            "reason": transition.reason,
            "severity": alert.severity,
            "value": alert.value,
            "limit": alert.limit,
            "n": alert.n,
            "window_minutes": window_minutes,
        },
    }


def _alert_of(row: Any) -> Alert:
    return Alert(
        Watched(row["model"], row["release"], row["metric"], row["kind"]),
        row["state"], row["since"], row["severity"], row["value"], row["limit_value"], row["n"],
        row["baseline_end"], row["unknown_since"],
    )  # fmt: skip


def _row_of(tenant: str, alert: Alert) -> tuple[Any, ...]:
    return (
        tenant, *alert.watched, alert.state, alert.since, alert.severity, alert.value,
        alert.limit, alert.n, alert.baseline_end, alert.unknown_since,
    )  # fmt: skip
