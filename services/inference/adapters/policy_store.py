"""Decision policies in PostgreSQL: rows are added, never changed."""

from collections.abc import Sequence
from typing import Any

import orjson

from libs.common.errors import ConflictError
from libs.common.postgres import Postgres
from services.inference.domain.policy import DecisionPolicy

_LIST_MAX = 100
_COLUMNS = "tenant, model, version, document::text, reason, changed_by, changed_at"


class PostgresPolicyStore:
    """`PolicyStore` over the schema `inference`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def current(self) -> Sequence[DecisionPolicy]:
        """Give the newest version of every tenant and model; UnavailableError before migrations."""
        rows = await self._postgres.fetch(
            f"SELECT DISTINCT ON (tenant, model) {_COLUMNS} FROM decision_policies "
            "ORDER BY tenant, model, version DESC"
        )
        return [_policy(row) for row in rows]

    async def history(self, tenant: str, model: str) -> Sequence[DecisionPolicy]:
        """Give all versions of one policy, newest first; at most 100."""
        rows = await self._postgres.fetch(
            f"SELECT {_COLUMNS} FROM decision_policies WHERE tenant = $1 AND model = $2 "
            "ORDER BY version DESC LIMIT $3",
            tenant,
            model,
            _LIST_MAX,
        )
        return [_policy(row) for row in rows]

    async def add(self, policy: DecisionPolicy) -> DecisionPolicy:
        """Add a version; ConflictError if somebody else added this number first."""
        row = await self._postgres.fetchrow(
            "INSERT INTO decision_policies "
            "(tenant, model, version, document, reason, changed_by, changed_at) "
            "VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7) ON CONFLICT DO NOTHING "
            f"RETURNING {_COLUMNS}",
            policy.tenant,
            policy.model,
            policy.version,
            orjson.dumps(policy.to_json()).decode(),
            policy.reason,
            policy.changed_by,
            policy.changed_at,
        )
        if row is None:
            raise ConflictError("The policy has changed meanwhile.", hint="Read it again.")
        return _policy(row)


def _policy(row: Any) -> DecisionPolicy:
    bands, review_amount = DecisionPolicy.read(orjson.loads(row["document"]))
    return DecisionPolicy(
        row["tenant"],
        row["model"],
        row["version"],
        bands,
        review_amount,
        row["reason"],
        row["changed_by"],
        row["changed_at"],
    )
