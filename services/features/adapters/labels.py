"""Labels in Postgres: every one that came, with the time at which it became available."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from libs.common.postgres import Postgres
from services.features.adapters.definitions import Catalog, DefinitionStore
from services.features.adapters.log import CHANNEL, LABELS_LOCK, append_rows
from services.features.adapters.view_place import place_of
from services.features.domain.computed import label_touch


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

    def __init__(self, postgres: Postgres, definitions: DefinitionStore) -> None:
        self._postgres, self._definitions = postgres, definitions

    async def keep(self, tenant: str, label: Label) -> bool:
        """Keep a label; False if the newest one of the same thing says the same already."""
        async with self._postgres.transaction() as connection:
            catalog = await self._definitions.held(connection, tenant)
            await connection.execute(LABELS_LOCK, tenant)
            newest = await connection.fetchrow(
                "SELECT label, available_ms FROM labels WHERE tenant = $1 AND kind = $2 "
                "AND subject_id = $3 ORDER BY available_ms DESC LIMIT 1",
                tenant,
                label.kind,
                label.subject_id,
            )
            if newest and newest[0] == label.label:
                return False
            # Two within a millisecond keep their order.
            available_ms = label.available_ms
            if newest:
                available_ms = max(available_ms, newest[1] + 1)
            await connection.execute(
                "INSERT INTO labels (tenant, kind, subject_id, label, occurred_ms, available_ms) "
                "VALUES ($1, $2, $3, $4, $5, $6)",
                tenant,
                label.kind,
                label.subject_id,
                label.label,
                label.occurred_ms,
                available_ms,
            )
            if label.kind == "transaction":
                before = newest[0] if newest else None
                await _write(connection, tenant, catalog, label, available_ms, before)
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


async def _write(
    connection: Any,
    tenant: str,
    catalog: Catalog,
    label: Label,
    available_ms: int,
    before: str | None,
) -> None:
    """Let the rates that the labelled event counts in know it, where the event is here."""
    event = await connection.fetchrow(
        "SELECT event_id, type, event_ms, body::text, definitions, arrival_ms FROM events "
        "WHERE tenant = $1 AND event_id = $2",
        tenant,
        label.subject_id,
    )
    if event is None:
        return
    facts = (event[0], event[1], event[2], orjson.loads(event[3]))
    touches = []
    for view in catalog.written():
        if view.is_late(event[2], event[5]):
            continue
        if event[4] < catalog.building.get(view.key, 0):
            place = await place_of(connection, tenant, view)
            if place is None or (event[5], event[0]) > place:
                continue  # the view's builder comes to this event and finds the label
        touches.append(label_touch(view, facts, available_ms, before=before, after=label.label))
    rows = [(touch, available_ms, "") for touch in touches if touch is not None]
    if rows:
        await append_rows(connection, tenant, rows)
        await connection.execute(f"NOTIFY {CHANNEL}")
