"""Policies in PostgreSQL, with a snapshot per tenant in memory.

Checks read the snapshot; it is read again when the epoch in Redis differs from it, and at most once
a second while Redis is gone. With the database down the last snapshot stays in force; a tenant that
was never read then has the built-in policy only if none is named, else UnavailableError.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from libs.common.errors import ConflictError, NotFoundError, UnavailableError
from libs.common.postgres import Postgres
from services.guardrails.domain.policy import BUILTIN, Policy, PolicyBody, builtin

# How old a snapshot may be while Redis cannot say whether it is current.
SNAPSHOT_AGE_MAX_S = 1.0
SNAPSHOTS_MAX = 10_000


@dataclass
class _Snapshot:
    epoch: int
    active: str | None
    policies: dict[str, Policy]
    read_at: float


@dataclass(frozen=True)
class StoredPolicy:
    """A policy as its owner edits it."""

    id: str
    draft: PolicyBody
    revision: int
    latest: int
    active_version: int | None


class PostgresPolicies:
    """Implements the port `PolicySource`, and the editing of policies."""

    def __init__(self, postgres: Postgres, now: Callable[[], float] = time.monotonic) -> None:
        self._postgres = postgres
        self._now = now
        self._snapshots: dict[str, _Snapshot] = {}

    def epoch(self, tenant: str) -> int | None:
        """Give the epoch of the snapshot; None before the first read."""
        snapshot = self._snapshots.get(tenant)
        return snapshot.epoch if snapshot else None

    async def refresh(self, tenant: str, *, forced: bool) -> None:
        """Read the tenant's epoch and pointer again; drop its cached policies when they moved."""
        known = self._snapshots.get(tenant)
        if known and not forced and self._now() - known.read_at < SNAPSHOT_AGE_MAX_S:
            return
        try:
            row = await self._postgres.fetchrow(
                "SELECT epoch, active_policy, active_version FROM tenants WHERE tenant = $1", tenant
            )
        except UnavailableError:
            if known:
                known.read_at = self._now()
            return
        epoch = row["epoch"] if row else 0
        active = (
            f"{row['active_policy']}@{row['active_version']}"
            if row and row["active_policy"]
            else None
        )
        kept = known.policies if known and known.epoch == epoch else {}
        if len(self._snapshots) >= SNAPSHOTS_MAX:
            self._snapshots.clear()
        self._snapshots[tenant] = _Snapshot(epoch, active, kept, self._now())

    async def resolve(self, tenant: str, reference: str | None) -> Policy:
        """Give a policy: `id` means its newest version, None the tenant's active one.

        Raises:
            NotFoundError: no such policy or version.
            UnavailableError: the database is down and the policy is not in memory.
        """
        await self._ensure(tenant)
        snapshot = self._snapshots.get(tenant)
        wanted = reference or (snapshot.active if snapshot else None) or "default"
        if of_service := builtin(wanted):
            return of_service
        if snapshot and wanted in snapshot.policies:
            return snapshot.policies[wanted]
        policy = await self._load(tenant, wanted)
        if snapshot and policy.version != "draft":
            snapshot.policies[wanted] = policy
        return policy

    async def _ensure(self, tenant: str) -> None:
        if tenant not in self._snapshots:
            await self.refresh(tenant, forced=True)

    async def _load(self, tenant: str, reference: str) -> Policy:
        policy_id, _, version = reference.partition("@")
        if version == "draft":
            row = await self._postgres.fetchrow(
                "SELECT draft AS body, 0 AS version FROM policies WHERE tenant = $1 AND id = $2",
                tenant,
                policy_id,
            )
        else:
            row = await self._postgres.fetchrow(
                "SELECT body, version FROM policy_versions WHERE tenant = $1 AND id = $2 "
                "AND ($3::int IS NULL OR version = $3) ORDER BY version DESC LIMIT 1",
                tenant,
                policy_id,
                int(version) if version else None,
            )
        if row is None:
            raise NotFoundError("No such policy or version.")
        return Policy(id=policy_id, version=str(row["version"] or "draft"), body=_body(row["body"]))

    async def list(self, tenant: str) -> list[StoredPolicy]:
        """Give the tenant's policies by id."""
        rows = await self._postgres.fetch(
            "SELECT p.*, t.active_version FROM policies p LEFT JOIN tenants t "
            "ON t.tenant = p.tenant AND t.active_policy = p.id WHERE p.tenant = $1 ORDER BY p.id",
            tenant,
        )
        return [_stored(row) for row in rows]

    async def get(self, tenant: str, policy_id: str) -> StoredPolicy:
        """Give one policy with its draft."""
        row = await self._postgres.fetchrow(
            "SELECT p.*, t.active_version FROM policies p LEFT JOIN tenants t "
            "ON t.tenant = p.tenant AND t.active_policy = p.id WHERE p.tenant = $1 AND p.id = $2",
            tenant,
            policy_id,
        )
        if row is None:
            raise NotFoundError("No such policy.")
        return _stored(row)

    async def create(self, tenant: str, policy_id: str, draft: PolicyBody) -> StoredPolicy:
        """Add a policy with a draft.

        Raises:
            ConflictError: the id is taken, or is a built-in one.
        """
        if policy_id in BUILTIN:
            raise ConflictError("This id belongs to a built-in policy.")
        try:
            await self._postgres.execute(
                "INSERT INTO policies (tenant, id, draft) VALUES ($1, $2, $3)",
                tenant,
                policy_id,
                draft.model_dump_json(),
            )
        except asyncpg.UniqueViolationError:
            raise ConflictError("A policy with this id exists.") from None
        return await self.get(tenant, policy_id)

    async def edit(
        self, tenant: str, policy_id: str, draft: PolicyBody, revision: int
    ) -> StoredPolicy:
        """Replace the draft if it still has the given revision.

        Raises:
            ConflictError: somebody else changed it.
        """
        await self.get(tenant, policy_id)
        status = await self._postgres.execute(
            "UPDATE policies SET draft = $3, revision = revision + 1, updated_at = now() "
            "WHERE tenant = $1 AND id = $2 AND revision = $4",
            tenant,
            policy_id,
            draft.model_dump_json(),
            revision,
        )
        if status == "UPDATE 0":
            raise ConflictError("The draft changed meanwhile.", hint="Read it again and retry.")
        return await self.get(tenant, policy_id)

    async def publish(self, tenant: str, policy_id: str, by: str) -> tuple[int, int]:
        """Freeze the draft as the next version.

        Returns:
            The version and the tenant's new epoch.
        """
        async with self._postgres.transaction() as connection:
            row = await connection.fetchrow(
                "UPDATE policies SET latest = latest + 1 WHERE tenant = $1 AND id = $2 "
                "RETURNING draft, latest",
                tenant,
                policy_id,
            )
            if row is None:
                raise NotFoundError("No such policy.")
            await connection.execute(
                "INSERT INTO policy_versions (tenant, id, version, body, published_by) "
                "VALUES ($1, $2, $3, $4, $5)",
                tenant,
                policy_id,
                row["latest"],
                row["draft"],
                by,
            )
            epoch = await _bump(connection, tenant)
        await self.refresh(tenant, forced=True)
        return int(row["latest"]), epoch

    async def bump(self, tenant: str) -> int:
        """Raise the tenant's epoch; its policies stay as they are."""
        async with self._postgres.transaction() as connection:
            epoch = await _bump(connection, tenant)
        await self.refresh(tenant, forced=True)
        return epoch

    async def activate(self, tenant: str, policy_id: str, version: int) -> tuple[str | None, int]:
        """Point the tenant at a version; a rollback is pointing back.

        Returns:
            What was active before, and the tenant's new epoch.
        """
        before = self._snapshots[tenant].active if tenant in self._snapshots else None
        if builtin(f"{policy_id}@{version}") is None:
            await self._load(tenant, f"{policy_id}@{version}")
        async with self._postgres.transaction() as connection:
            epoch = await _bump(connection, tenant)
            await connection.execute(
                "UPDATE tenants SET active_policy = $2, active_version = $3 WHERE tenant = $1",
                tenant,
                policy_id,
                version,
            )
        await self.refresh(tenant, forced=True)
        return before, epoch


async def _bump(connection: Any, tenant: str) -> int:
    return int(
        await connection.fetchval(
            "INSERT INTO tenants (tenant, epoch) VALUES ($1, 1) "
            "ON CONFLICT (tenant) DO UPDATE SET epoch = tenants.epoch + 1 RETURNING epoch",
            tenant,
        )
    )


def _body(raw: str) -> PolicyBody:
    return PolicyBody.model_validate(orjson.loads(raw))


def _stored(row: Any) -> StoredPolicy:
    return StoredPolicy(
        row["id"], _body(row["draft"]), row["revision"], row["latest"], row["active_version"]
    )
