"""Labels in Postgres: every one that came, with the time at which it became available."""

from collections.abc import Sequence
from dataclasses import dataclass

from libs.common.postgres import Postgres


@dataclass(frozen=True, slots=True)
class Label:
    """One label.

    Attributes:
        kind: `transaction` or `prediction`, what `subject_id` names.
        occurred_ms: when the labelled thing was found out, if the caller knows.
        available_ms: when we learned it; nothing before that time may use it.
    """

    kind: str
    subject_id: str
    label: str
    occurred_ms: int | None
    available_ms: int


class LabelStore:
    """Keeps and gives labels; they are never overwritten."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def keep(self, tenant: str, label: Label) -> bool:
        """Keep a label; False if the newest one of the same thing says the same already."""
        async with self._postgres.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended($1 || chr(31) || $2, 0))",
                f"{tenant}:{label.kind}",
                label.subject_id,
            )
            newest = await connection.fetchrow(
                "SELECT label, available_ms FROM labels WHERE tenant = $1 AND kind = $2 "
                "AND subject_id = $3 ORDER BY available_ms DESC LIMIT 1",
                tenant,
                label.kind,
                label.subject_id,
            )
            if newest and newest[0] == label.label:
                return False
            await connection.execute(
                "INSERT INTO labels (tenant, kind, subject_id, label, occurred_ms, available_ms) "
                "VALUES ($1, $2, $3, $4, $5, $6)",
                tenant,
                label.kind,
                label.subject_id,
                label.label,
                label.occurred_ms,
                # Two within a millisecond keep their order.
                max(label.available_ms, newest[1] + 1) if newest else label.available_ms,
            )
        return True

    async def known_by(
        self, tenant: str, transactions: Sequence[str], at_ms: int
    ) -> dict[str, str]:
        """Give the label of each transaction as it was known at a time."""
        rows = await self._postgres.fetch(
            "SELECT DISTINCT ON (subject_id) subject_id, label FROM labels WHERE tenant = $1 "
            "AND kind = 'transaction' AND subject_id = ANY($2) AND available_ms <= $3 "
            "ORDER BY subject_id, available_ms DESC",
            tenant,
            list(transactions),
            at_ms,
        )
        return {row[0]: row[1] for row in rows}
