"""Tenants in PostgreSQL, with a cache that the request path reads without I/O.

A change is seen within the polling interval; a tenant that is not known yet is fetched. While the
store is down what is known stays, and an unknown tenant raises: a guarded text must not pass
because nobody could look up that it is guarded.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from libs.common.postgres import Postgres
from services.gateway.domain.tenants import Tenant, tenant_of

_COLUMNS = "tenant, name, guard::text, limits::text, erasure_contact, generation, created_at"
_TENANTS_MAX = 20_000
_TIMEOUT_S = 1.0


class TenantDirectory:
    """Reads and changes tenants."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._known: dict[str, Tenant] = {}

    def peek(self, tenant: str) -> Tenant | None:
        """Give what is known of a tenant, without I/O."""
        return self._known.get(tenant)

    async def of(self, tenant: str) -> Tenant:
        """Give a tenant; an unknown name is a tenant with the defaults.

        Raises:
            UnavailableError: not known yet, and the store is down.
        """
        known = self._known.get(tenant)
        if known is None:
            row = await self._postgres.fetchrow(
                f"SELECT {_COLUMNS} FROM tenants WHERE tenant = $1", tenant, timeout_s=_TIMEOUT_S
            )
            known = self._keep(row) if row else Tenant(tenant, tenant)
        return known

    async def refresh(self, seconds: float) -> None:
        """Take over what changed within the last `seconds`."""
        rows = await self._postgres.fetch(
            f"SELECT {_COLUMNS} FROM tenants WHERE changed_at > now() - make_interval(secs => $1)",
            seconds,
            timeout_s=_TIMEOUT_S,
        )
        for row in rows:
            self._keep(row)

    async def read(self, tenant: str) -> dict[str, Any] | None:
        """Give the row of a tenant for the admin API, or None."""
        row = await self._postgres.fetchrow(
            f"SELECT {_COLUMNS} FROM tenants WHERE tenant = $1", tenant
        )
        return _shown(row) if row else None

    async def list(self, limit: int, after: str) -> list[dict[str, Any]]:
        """List tenants by name, after the given one."""
        rows = await self._postgres.fetch(
            f"SELECT {_COLUMNS} FROM tenants WHERE tenant > $1 ORDER BY tenant LIMIT $2",
            after,
            limit,
        )
        return [_shown(row) for row in rows]

    async def add(self, tenant: str, name: str) -> dict[str, Any] | None:
        """Make a tenant with the defaults; None when it exists."""
        row = await self._postgres.fetchrow(
            "INSERT INTO tenants (tenant, name) VALUES ($1, $2) ON CONFLICT DO NOTHING "
            f"RETURNING {_COLUMNS}",
            tenant,
            name,
        )
        return self._changed(row)

    async def change(
        self, tenant: str, generation: int, values: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Replace what may change, if the row is still of `generation`; None when it is not."""
        row = await self._postgres.fetchrow(
            "UPDATE tenants SET name = $3, guard = $4::jsonb, limits = $5::jsonb, "
            "erasure_contact = $6, generation = generation + 1, changed_at = now() "
            f"WHERE tenant = $1 AND generation = $2 RETURNING {_COLUMNS}",
            tenant,
            generation,
            values["name"],
            orjson.dumps(values["guard"]).decode(),
            orjson.dumps(values["limits"]).decode(),
            values["erasure_contact"],
        )
        return self._changed(row)

    def _changed(self, row: Any) -> dict[str, Any] | None:
        if row is None:
            return None
        self._keep(row)
        return _shown(row)

    def _keep(self, row: Any) -> Tenant:
        if len(self._known) >= _TENANTS_MAX:
            self._known.clear()
        made = tenant_of(row, orjson.loads(row["guard"]), orjson.loads(row["limits"]))
        self._known[made.tenant] = made
        return made


def _shown(row: Any) -> dict[str, Any]:
    shown = dict(row)
    return {
        **shown,
        "guard": orjson.loads(shown["guard"]),
        "limits": orjson.loads(shown["limits"]),
    }
