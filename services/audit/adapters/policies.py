"""Changes of retention policies and legal holds, each on record before it counts."""

from datetime import datetime
from typing import Any

from libs.common.context import Caller
from libs.common.events.envelope import EventEmitter, event_for_request
from libs.common.ids import uuid7
from libs.common.postgres import Postgres
from libs.common.transparency.leaf import rfc3339
from services.audit.domain.retention import DEFAULTS


class Policies:
    """Writes policies and holds."""

    def __init__(self, postgres: Postgres, events: EventEmitter) -> None:
        self._postgres = postgres
        self._events = events

    async def set(self, caller: Caller, tenant: str, event_class: str, days: int) -> dict[str, Any]:
        """Keep a class for so many days from now on; `tenant` `""` is everybody's policy."""
        async with self._postgres.transaction() as connection:
            before = await connection.fetchval(
                "SELECT keep_days FROM retention_policy WHERE tenant = $1 AND event_class = $2 "
                "FOR UPDATE",
                tenant,
                event_class,
            )
            version = await connection.fetchval(
                "INSERT INTO retention_policy (tenant, event_class, keep_days, version, "
                "changed_by) VALUES ($1, $2, $3, 1, $4) ON CONFLICT (tenant, event_class) "
                "DO UPDATE SET keep_days = excluded.keep_days, changed_by = excluded.changed_by, "
                "version = retention_policy.version + 1, changed_at = now() RETURNING version",
                tenant,
                event_class,
                days,
                caller.principal,
            )
            facts = {
                "what": "keep_days",
                "from": before,
                "to": days,
                "by": caller.principal,
                "event_class": event_class,
                "tenant": tenant or "*",
            }
            await self._events.emit(
                event_for_request("retention.changed", "audit", "required", facts)
            )
        return {
            "tenant": tenant or "*",
            "event_class": event_class,
            "keep_days": days,
            "version": version,
        }

    async def hold(
        self,
        caller: Caller,
        tenant: str,
        event_class: str | None,
        since: datetime | None,
        until: datetime | None,
        reason: str,
    ) -> dict[str, Any]:
        """Keep what the hold names until it is released."""
        hold_id = uuid7()
        async with self._postgres.transaction() as connection:
            await connection.execute(
                "INSERT INTO legal_hold (id, tenant, event_class, since, until, reason, placed_by) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7)",
                hold_id,
                tenant,
                event_class,
                since,
                until,
                reason,
                caller.principal,
            )
            await self._emit_hold(caller, hold_id, tenant, event_class, "placed")
        return {"id": hold_id, "tenant": tenant or "*", "event_class": event_class}

    async def release(self, caller: Caller, hold_id: str) -> bool:
        """End a hold; False when there is none in force."""
        async with self._postgres.transaction() as connection:
            row = await connection.fetchrow(
                "UPDATE legal_hold SET released_by = $2, released_at = now() "
                "WHERE id = $1 AND released_at IS NULL AND tenant IN ('', $3) "
                "RETURNING tenant, event_class",
                hold_id,
                caller.principal,
                caller.tenant,
            )
            if row is None:
                return False
            await self._emit_hold(caller, hold_id, row["tenant"], row["event_class"], "released")
        return True

    async def _emit_hold(
        self, caller: Caller, hold_id: str, tenant: str, event_class: str | None, to: str
    ) -> None:
        facts = {
            "what": "legal_hold",
            "to": to,
            "by": caller.principal,
            "hold_id": hold_id,
            "event_class": event_class or "*",
            "tenant": tenant or "*",
        }
        await self._events.emit(event_for_request("legal_hold.changed", "audit", "required", facts))

    async def describe(self, tenant: str) -> dict[str, Any]:
        """Give the policies, holds and removals that concern a tenant."""
        policies = await self._postgres.fetch(
            "SELECT tenant, event_class, keep_days, version, changed_by, changed_at "
            "FROM retention_policy WHERE tenant IN ('', $1) ORDER BY event_class, tenant",
            tenant,
        )
        stated = {row["event_class"] for row in policies if not row["tenant"]}
        defaults = [
            {"tenant": "*", "event_class": item.event_class, "keep_days": item.keep_days}
            for item in DEFAULTS
            if item.event_class not in stated
        ]
        holds = await self._postgres.fetch(
            "SELECT id, tenant, event_class, since, until, reason, placed_by, placed_at, "
            "released_by, released_at FROM legal_hold WHERE tenant IN ('', $1) ORDER BY placed_at",
            tenant,
        )
        pruned = await self._postgres.fetch(
            "SELECT name, from_index, to_index, rows, announced_at, detached_at, dropped_at "
            "FROM pruned_partition ORDER BY announced_at"
        )
        return {
            "policies": [*defaults, *(_shown(row) for row in policies)],
            "holds": [_shown(row) for row in holds],
            "pruned": [_shown(row) for row in pruned],
        }


def _shown(row: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {
        name: rfc3339(value) if isinstance(value, datetime) else value
        for name, value in row.items()
    }
    if shown.get("tenant") == "":
        shown["tenant"] = "*"
    return shown
