"""Thresholds in PostgreSQL: one immutable row per version and tenant."""

from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson

from libs.common.events.envelope import EventEmitter, event_for_request
from libs.common.postgres import Postgres
from services.analytics.domain.thresholds import Thresholds, crossings
from services.analytics.errors import CrossedThresholdsError, ThresholdsChangedError

_LATEST = "SELECT * FROM thresholds WHERE tenant = $1 ORDER BY version DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class ThresholdsVersion:
    """Limits with their version; version 0 are the defaults."""

    limits: Thresholds = field(default_factory=Thresholds)
    version: int = 0
    changed_at: datetime | None = None
    changed_by: str | None = None


class ThresholdStore:
    """Reads and changes a tenant's thresholds."""

    def __init__(self, postgres: Postgres, events: EventEmitter) -> None:
        self._postgres = postgres
        self._events = events

    async def current(self, tenant: str) -> ThresholdsVersion:
        """Give the thresholds in force."""
        return _version_of(await self._postgres.fetchrow(_LATEST, tenant))

    async def change(
        self, tenant: str, changes: dict[str, Any], *, by: str, expected_version: int | None
    ) -> ThresholdsVersion:
        """Store a new version and record the change, both or neither.

        Raises:
            CrossedThresholdsError: the limits would contradict each other; nothing is written.
            ThresholdsChangedError: `expected_version` is not the current one.
            UnavailableError: the database or the event log cannot take it.
        """
        async with self._postgres.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", tenant)
            before = _version_of(await connection.fetchrow(_LATEST, tenant))
            if expected_version is not None and expected_version != before.version:
                raise ThresholdsChangedError(
                    f"The current version is {before.version}.", hint="Read it and try again."
                )
            limits = replace(before.limits, **changes)
            if wrong := crossings(limits):
                raise CrossedThresholdsError(wrong)
            row = await connection.fetchrow(
                "INSERT INTO thresholds (tenant, version, limits, changed_by) "
                "VALUES ($1, $2, $3::jsonb, $4) RETURNING *",
                tenant,
                before.version + 1,
                orjson.dumps(asdict(limits)).decode(),
                by,
            )
            # The event is durable before the commit: a change without a record cannot happen.
            await self._events.emit(
                event_for_request(
                    "threshold.changed",
                    "analytics",
                    "required",
                    {
                        "what": "thresholds",
                        "from": {"version": before.version, **asdict(before.limits)},
                        "to": {"version": before.version + 1, **asdict(limits)},
                        "by": by,
                    },
                )
            )
        return _version_of(row)


def _version_of(row: Any) -> ThresholdsVersion:
    if row is None:
        return ThresholdsVersion()
    return ThresholdsVersion(
        limits=Thresholds(**orjson.loads(row["limits"])),
        version=row["version"],
        changed_at=row["changed_at"],
        changed_by=row["changed_by"],
    )
