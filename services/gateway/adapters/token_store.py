"""Refresh families, revocations, users and roles in PostgreSQL."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.postgres import Postgres

# A repeat within this is a lost reply and gets a sibling, once; any later one is theft.
LOST_REPLY_S = 10.0
_TIMEOUT_S = 1.0
_KEEP_USED_DAYS = 31


@dataclass(frozen=True, slots=True)
class Family:
    """The tokens that descend from one login."""

    family: str
    tenant: str
    principal: str
    client_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class User:
    """A person who may log in."""

    tenant: str
    username: str
    password_hash: str
    roles: tuple[str, ...]
    is_disabled: bool


class TokenStore:
    """All SQL of tokens, users and roles."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def open_family(
        self, family: Family, mac: bytes, *, idle_s: float, life_s: float
    ) -> None:
        """Store a new family with its first refresh token."""
        async with self._postgres.transaction() as connection:
            await connection.execute(
                "INSERT INTO token_families (family, tenant, principal, client_id, ends_at) "
                "VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))",
                uuid.UUID(family.family),
                family.tenant,
                family.principal,
                family.client_id,
                life_s,
            )
            await _add_token(connection, family.family, mac, family.scopes, idle_s)

    async def rotate(
        self, mac: bytes, successor: bytes, *, idle_s: float
    ) -> tuple[Family | None, str | None]:
        """Use up a refresh token and store its successor, in one transaction.

        Returns:
            The family, or None when the token gives nothing; and the id of a family that was
            revoked just now, because the token had been used before.
        """
        async with self._postgres.transaction() as connection:
            row = await connection.fetchrow(
                "SELECT t.family, t.scopes, t.used_at, t.siblings, "
                "t.expires_at > now() AS is_fresh, "
                "f.tenant, f.principal, f.client_id, f.revoked_at, f.ends_at > now() AS is_live, "
                "t.used_at > now() - make_interval(secs => $2) AS is_recent "
                "FROM refresh_tokens t JOIN token_families f USING (family) "
                "WHERE t.mac = $1 FOR UPDATE OF t, f",
                mac,
                LOST_REPLY_S,
            )
            if row is None or row["revoked_at"] or not (row["is_fresh"] and row["is_live"]):
                return None, None
            if row["used_at"] and (row["siblings"] or not row["is_recent"]):
                await _revoke_family(connection, row["family"], "reuse")
                return None, str(row["family"])
            await connection.execute(
                "UPDATE refresh_tokens SET siblings = siblings + (used_at IS NOT NULL)::int, "
                "used_at = coalesce(used_at, now()) WHERE mac = $1",
                mac,
            )
            family = Family(
                str(row["family"]),
                row["tenant"],
                row["principal"],
                row["client_id"],
                frozenset(row["scopes"]),
            )
            await _add_token(connection, family.family, successor, family.scopes, idle_s)
            return family, None

    async def revoke_by_token(self, mac: bytes) -> str | None:
        """Revoke the family of a refresh token; gives it, or None when there is none."""
        async with self._postgres.transaction() as connection:
            family = await connection.fetchval(
                "SELECT family FROM refresh_tokens WHERE mac = $1", mac
            )
            if family is None:
                return None
            await _revoke_family(connection, family, "requested")
            return str(family)

    async def revoke_families_of(self, tenant: str, principal: str, reason: str) -> list[str]:
        """Revoke every live family of a principal."""
        rows = await self._postgres.fetch(
            "UPDATE token_families SET revoked_at = now(), reason = $3 "
            "WHERE tenant = $1 AND principal = $2 AND revoked_at IS NULL RETURNING family",
            tenant,
            principal,
            reason,
        )
        return [str(row["family"]) for row in rows]

    async def revoke_access(self, jti: str, expires_at: datetime) -> None:
        """Remember a revoked access token until it would have expired."""
        await self._postgres.execute(
            "INSERT INTO revoked_tokens (jti, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            jti,
            expires_at,
        )

    async def revoked_lately(self, seconds: float) -> set[str]:
        """Give families and token ids revoked within the last `seconds`."""
        rows = await self._postgres.fetch(
            "SELECT family::text AS mark FROM token_families "
            "WHERE revoked_at > now() - make_interval(secs => $1) "
            "UNION ALL SELECT jti FROM revoked_tokens "
            "WHERE revoked_at > now() - make_interval(secs => $1)",
            seconds,
            timeout_s=_TIMEOUT_S,
        )
        return {row["mark"] for row in rows}

    async def sweep(self) -> None:
        """Delete what can no longer matter."""
        await self._postgres.execute("DELETE FROM revoked_tokens WHERE expires_at < now()")
        await self._postgres.execute(
            "DELETE FROM token_families WHERE ends_at < now() - make_interval(days => $1)",
            _KEEP_USED_DAYS,
        )

    async def user(self, username: str) -> User | None:
        """Find a person."""
        row = await self._postgres.fetchrow(
            "SELECT tenant, username, password_hash, roles, disabled_at IS NOT NULL AS is_disabled "
            "FROM users WHERE username = $1",
            username,
            timeout_s=_TIMEOUT_S,
        )
        return User(**{**dict(row), "roles": tuple(row["roles"])}) if row else None

    async def add_user(
        self, tenant: str, username: str, password_hash: str, roles: list[str]
    ) -> bool:
        """Store a person; False when the name is taken."""
        found = await self._postgres.fetchval(
            "INSERT INTO users (tenant, username, password_hash, roles) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT DO NOTHING RETURNING username",
            tenant,
            username,
            password_hash,
            roles,
        )
        return found is not None

    async def change_user(
        self, tenant: str, username: str, roles: list[str] | None, *, disable: bool
    ) -> bool:
        """Give a person other roles, or disable them; False when the tenant has no such person."""
        found = await self._postgres.fetchval(
            "UPDATE users SET roles = coalesce($3, roles), "
            "disabled_at = CASE WHEN $4 THEN coalesce(disabled_at, now()) END "
            "WHERE tenant = $1 AND username = $2 RETURNING username",
            tenant,
            username,
            roles,
            disable,
        )
        return found is not None

    async def users(self, tenant: str) -> list[dict[str, Any]]:
        """List the people of a tenant."""
        rows = await self._postgres.fetch(
            "SELECT username, roles, created_at, disabled_at FROM users WHERE tenant = $1 "
            "ORDER BY username",
            tenant,
        )
        return [dict(row) for row in rows]

    async def roles(self, tenant: str) -> list[dict[str, Any]]:
        """List the roles of a tenant."""
        rows = await self._postgres.fetch(
            "SELECT role, scopes, generation FROM roles WHERE tenant = $1 ORDER BY role", tenant
        )
        return [dict(row) for row in rows]

    async def put_role(
        self, tenant: str, role: str, scopes: list[str], generation: int
    ) -> dict[str, Any] | None:
        """Make a role (generation 0) or replace it; None when it has another generation."""
        row = await self._postgres.fetchrow(
            "INSERT INTO roles (tenant, role, scopes) SELECT $1, $2, $3 WHERE $4 = 0 "
            "ON CONFLICT DO NOTHING RETURNING role, scopes, generation"
            if generation == 0
            else "UPDATE roles SET scopes = $3, generation = generation + 1 "
            "WHERE tenant = $1 AND role = $2 AND generation = $4 "
            "RETURNING role, scopes, generation",
            tenant,
            role,
            scopes,
            generation,
        )
        return dict(row) if row else None

    async def delete_role(self, tenant: str, role: str) -> bool:
        """Delete a role; False when there is none."""
        found = await self._postgres.fetchval(
            "DELETE FROM roles WHERE tenant = $1 AND role = $2 RETURNING role", tenant, role
        )
        return found is not None


async def _add_token(
    connection: Any, family: str, mac: bytes, scopes: frozenset[str], idle_s: float
) -> None:
    await connection.execute(
        "INSERT INTO refresh_tokens (mac, family, scopes, expires_at) "
        "VALUES ($1, $2, $3, now() + make_interval(secs => $4))",
        mac,
        uuid.UUID(family),
        sorted(scopes),
        idle_s,
    )


async def _revoke_family(connection: Any, family: Any, reason: str) -> None:
    await connection.execute(
        "UPDATE token_families SET revoked_at = now(), reason = $2 "
        "WHERE family = $1 AND revoked_at IS NULL",
        family,
        reason,
    )
