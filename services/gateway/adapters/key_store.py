"""API keys and tenants in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from libs.common.context import Caller
from libs.common.postgres import Postgres
from services.gateway.domain.ports import Credential, StoredKey

_VERIFY_COLUMNS = (
    "key_id, tenant, principal, mac, scopes, requests_max, window_s, burst, concurrency_max, "
    "exempt_ip, exempt_routes, expires_at, revoked_at"
)
_LIST_COLUMNS = (
    "key_id, tenant, principal, name, scopes, requests_max, window_s, burst, concurrency_max, "
    "exempt_ip, exempt_routes, created_by, created_at, expires_at, revoked_at, last_used_at, "
    "rotated_to"
)
# Longest wait for the look-up of an unknown key; then the caller gets 503.
_FIND_TIMEOUT_S = 1.0


class PostgresKeyStore:
    """Implements KeyStore, and the administration of keys."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def find(self, key_id: str) -> StoredKey | None:
        """Give the row of a key, or None."""
        row = await self._postgres.fetchrow(
            f"SELECT {_VERIFY_COLUMNS} FROM api_keys WHERE key_id = $1",
            key_id,
            timeout_s=_FIND_TIMEOUT_S,
        )
        return None if row is None else _stored(row)

    async def revoked_lately(self, seconds: float) -> list[str]:
        """List ids of keys revoked within the last `seconds`."""
        rows = await self._postgres.fetch(
            "SELECT key_id FROM api_keys WHERE revoked_at > now() - make_interval(secs => $1)",
            seconds,
            timeout_s=_FIND_TIMEOUT_S,
        )
        return [row["key_id"] for row in rows]

    async def ensure_tenant(self, tenant: str, name: str) -> None:
        """Make the tenant if it is missing."""
        await self._postgres.execute(
            "INSERT INTO tenants (tenant, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            tenant,
            name,
        )

    async def add(
        self,
        *,
        credential: Credential,
        name: str,
        mac: bytes,
        pepper: str,
        created_by: str,
        expires_at: datetime | None,
    ) -> dict[str, Any]:
        """Store a new key and give its public row."""
        row = await self._postgres.fetchrow(
            "INSERT INTO api_keys (key_id, tenant, principal, name, pepper_id, mac, scopes, "
            "requests_max, window_s, burst, concurrency_max, exempt_ip, exempt_routes, created_by, "
            "expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
            f" RETURNING {_LIST_COLUMNS}",
            credential.key_id,
            credential.caller.tenant,
            credential.caller.principal,
            name,
            pepper,
            mac,
            sorted(credential.caller.scopes),
            credential.requests_max,
            credential.window_s,
            credential.burst,
            credential.concurrency_max,
            credential.exempt_ip,
            credential.exempt_routes,
            created_by,
            expires_at,
        )
        return dict(row)

    async def list(
        self, tenant: str, limit: int, before: tuple[datetime, str] | None
    ) -> list[dict[str, Any]]:
        """List a tenant's keys, newest first, at most `limit`, older than `before`."""
        created_at, key_id = before or (None, None)
        rows = await self._postgres.fetch(
            f"SELECT {_LIST_COLUMNS} FROM api_keys WHERE tenant = $1 "
            "AND ($3::timestamptz IS NULL OR (created_at, key_id) < ($3, $4)) "
            "ORDER BY created_at DESC, key_id DESC LIMIT $2",
            tenant,
            limit,
            created_at,
            key_id,
        )
        return [dict(row) for row in rows]

    async def revoke(self, tenant: str, key_id: str) -> bool:
        """Revoke a key of the tenant; False when the tenant has no such key."""
        found = await self._postgres.fetchval(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) "
            "WHERE tenant = $1 AND key_id = $2 RETURNING key_id",
            tenant,
            key_id,
        )
        return found is not None

    async def rotate(
        self,
        tenant: str,
        key_id: str,
        successor: str,
        mac: bytes,
        *,
        overlap_s: int,
        by: str,
        pepper: str,
    ) -> dict[str, Any] | None:
        """Store a successor with all that the old key holds; the old one ends after the overlap.

        None when the tenant has no such live key, or two keys of its principal are live already.
        """  # fmt: skip
        async with self._postgres.transaction() as connection:
            live = await connection.fetch(
                "SELECT k.key_id FROM api_keys k JOIN api_keys o USING (tenant, principal) "
                "WHERE o.tenant = $1 AND o.key_id = $2 AND k.revoked_at IS NULL "
                "AND (k.expires_at IS NULL OR k.expires_at > now()) FOR UPDATE OF k",
                tenant,
                key_id,
            )
            if [row["key_id"] for row in live] != [key_id]:
                return None
            row = await connection.fetchrow(
                "INSERT INTO api_keys (key_id, tenant, principal, name, pepper_id, mac, scopes, "
                "requests_max, window_s, burst, concurrency_max, exempt_ip, exempt_routes, "
                "created_by, expires_at) SELECT $3, tenant, principal, name, $4, $5, scopes, "
                "requests_max, window_s, burst, concurrency_max, exempt_ip, exempt_routes, $6, "
                f"expires_at FROM api_keys WHERE tenant = $1 AND key_id = $2 "
                f"RETURNING {_LIST_COLUMNS}",
                tenant,
                key_id,
                successor,
                pepper,
                mac,
                by,
            )
            await connection.execute(
                "UPDATE api_keys SET rotated_to = $3, expires_at = "
                "least(expires_at, now() + make_interval(secs => $4)) "
                "WHERE tenant = $1 AND key_id = $2",
                tenant,
                key_id,
                successor,
                float(overlap_s),
            )
            return dict(row)

    async def touched(self, key_ids: Sequence[str]) -> None:
        """Note that keys were used just now."""
        await self._postgres.execute(
            "UPDATE api_keys SET last_used_at = now() WHERE key_id = ANY($1)",
            [*key_ids],
            timeout_s=_FIND_TIMEOUT_S,
        )

    async def revoke_named(self, tenant: str, name: str) -> None:
        """Revoke every live key of that name."""
        await self._postgres.execute(
            "UPDATE api_keys SET revoked_at = now() "
            "WHERE tenant = $1 AND name = $2 AND revoked_at IS NULL",
            tenant,
            name,
        )


def _stored(row: Any) -> StoredKey:
    expires = row["expires_at"]
    return StoredKey(
        credential=Credential(
            key_id=row["key_id"],
            caller=Caller(row["tenant"], row["principal"], frozenset(row["scopes"])),
            requests_max=row["requests_max"],
            window_s=row["window_s"],
            burst=row["burst"],
            concurrency_max=row["concurrency_max"],
            exempt_ip=row["exempt_ip"],
            exempt_routes=row["exempt_routes"],
            expires_at=expires.timestamp() if expires else None,
        ),
        mac=bytes(row["mac"]),
        revoked=row["revoked_at"] is not None,
    )
