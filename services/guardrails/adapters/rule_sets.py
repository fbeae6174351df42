"""Uploaded rule sets: kept in PostgreSQL, served as validators that can be swapped and tried."""

from concurrent.futures import Executor
from dataclasses import dataclass

import orjson

from libs.common.errors import ConflictError, NotFoundError
from libs.common.postgres import Postgres
from services.guardrails.adapters.local import LocalValidator
from services.guardrails.domain.rulesets import RuleSet, RuleSetDetector


@dataclass(frozen=True)
class RuleSetVersion:
    """A stored version and whose it is."""

    rule_set: RuleSet
    tenant: str

    @property
    def name(self) -> str:
        """Of the validator."""
        return self.rule_set.name

    @property
    def version(self) -> str:
        """Semantic version."""
        return self.rule_set.version

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return self.rule_set.digest

    @property
    def labels(self) -> tuple[str, ...]:
        """What it can report."""
        return self.rule_set.labels


class RuleSetValidator(LocalValidator):
    """One version in service. It has no process: its expressions run in linear time."""

    is_disabled = False

    def __init__(self, version: RuleSetVersion, pool: Executor) -> None:
        """Compile the version.

        Raises:
            RuleSetError: it cannot run; a stored version could when it was stored.
        """
        super().__init__(RuleSetDetector(version.rule_set), pool)

    async def retire(self) -> None:
        """Nothing to stop: calls that run keep their reference."""

    async def close(self) -> None:
        """Nothing to stop."""


class PostgresRuleSets:
    """The table of versions; a name belongs to the tenant that first used it."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def add(self, version: RuleSetVersion, by: str) -> bool:
        """Store a version; say whether it is new. The same content again changes nothing.

        Raises:
            ConflictError: the version exists with other content, or the name is another tenant's.
        """
        async with self._postgres.transaction() as connection:
            # One upload of a name at a time: the first row decides whose it is.
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", version.name
            )
            rows = await connection.fetch(
                "SELECT tenant, version, digest FROM rule_sets WHERE name = $1", version.name
            )
            if any(row["tenant"] != version.tenant for row in rows):
                raise ConflictError("The name is taken.")
            for row in rows:
                if row["version"] == version.version:
                    if row["digest"] != version.digest:
                        raise ConflictError("This version exists with other rules.")
                    return False
            await connection.execute(
                "INSERT INTO rule_sets (tenant, name, version, digest, body, uploaded_by) "
                "VALUES ($1, $2, $3, $4, $5, $6)",
                version.tenant,
                version.name,
                version.version,
                version.digest,
                version.rule_set.model_dump_json(),
                by,
            )
        return True

    async def get(self, tenant: str, name: str, version: str) -> RuleSetVersion:
        """Give a version of the tenant's.

        Raises:
            NotFoundError: the tenant has no such version.
        """
        row = await self._postgres.fetchrow(
            "SELECT tenant, body FROM rule_sets WHERE tenant = $1 AND name = $2 AND version = $3",
            tenant,
            name,
            version,
        )
        if row is None:
            raise NotFoundError("No such rule set version.")
        return _version(row["tenant"], row["body"])

    async def unknown(self, known: set[tuple[str, str]]) -> list[RuleSetVersion]:
        """Give the versions of all tenants that are not among the known ones."""
        rows = await self._postgres.fetch("SELECT name, version FROM rule_sets")
        found = []
        for row in rows:
            if (row["name"], row["version"]) not in known:
                full = await self._postgres.fetchrow(
                    "SELECT tenant, body FROM rule_sets WHERE name = $1 AND version = $2",
                    row["name"],
                    row["version"],
                )
                found.append(_version(full["tenant"], full["body"]))
        return found


def _version(tenant: str, body: str) -> RuleSetVersion:
    return RuleSetVersion(RuleSet.model_validate(orjson.loads(body)), tenant)
