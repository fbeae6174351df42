"""Definitions of tenants in Postgres, with a short-lived copy in memory.

Another replica's change is seen within `_FRESH_S`; this process's own at once. A vector under a
schema id that the copy does not know reloads it once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from libs.common.errors import UnavailableError
from libs.common.postgres import Postgres
from services.features.domain.pushed import Change, PushedView, plan
from services.features.domain.vectors import FIRST_SCHEMA_ID, SCHEMA_ID_MAX
from services.features.errors import FeastRequestError

_FRESH_S = 5.0
_TENANTS_MAX = 1000
# Serialises changes of one tenant's definitions.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('features:' || $1, 0))"


@dataclass
class Catalog:
    """What one tenant has defined.

    Attributes:
        views: newest version by name.
        versions: every version, by (name, version).
        by_schema: every version, by schema id.
        services: references by name of the service.
    """

    views: dict[str, PushedView] = field(default_factory=dict)
    versions: dict[tuple[str, int], PushedView] = field(default_factory=dict)
    by_schema: dict[int, PushedView] = field(default_factory=dict)
    services: dict[str, list[str]] = field(default_factory=dict)
    documents: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    loaded_at: float = 0.0


class DefinitionStore:
    """Reads and changes definitions."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._catalogs: dict[str, Catalog] = {}

    async def catalog(self, tenant: str, *, is_fresh: bool = False) -> Catalog:
        """Give the tenant's definitions.

        Args:
            tenant: from the credential.
            is_fresh: read Postgres now.
        """
        known = self._catalogs.get(tenant)
        if known and not is_fresh and time.monotonic() - known.loaded_at < _FRESH_S:
            return known
        try:
            rows = await self._postgres.fetch(
                "SELECT kind, name, version, schema_id, document FROM tenant_definitions "
                "WHERE tenant = $1 ORDER BY kind, name, version",
                tenant,
            )
        except UnavailableError:
            if known is None:
                raise
            return known  # reads go on without Postgres
        catalog = Catalog(loaded_at=time.monotonic())
        for kind, name, version, schema_id, text in rows:
            document = orjson.loads(text)
            catalog.documents[kind, name] = document
            if kind == "feature_service":
                catalog.services[name] = list(document["features"])
                continue
            view = PushedView.of(document, version, schema_id)
            catalog.views[name] = catalog.versions[name, version] = view
            catalog.by_schema[schema_id] = view
        if len(self._catalogs) >= _TENANTS_MAX:
            self._catalogs.clear()
        self._catalogs[tenant] = catalog
        return catalog

    async def apply(
        self, tenant: str, wanted: Sequence[Mapping[str, Any]], *, is_dry: bool
    ) -> list[Change]:
        """Keep the documents that differ, as new versions, all or none; say what changes.

        Args:
            tenant: from the credential.
            wanted: checked documents.
            is_dry: only say it.

        Raises:
            DefinitionError: the documents contradict what serves.
        """
        async with self._postgres.transaction() as connection:
            await connection.execute(_LOCK, tenant)
            rows = await connection.fetch(
                "SELECT DISTINCT ON (kind, name) kind, name, version, document "
                "FROM tenant_definitions WHERE tenant = $1 ORDER BY kind, name, version DESC",
                tenant,
            )
            current = {(row[0], row[1]): orjson.loads(row[3]) for row in rows}
            versions = {(row[0], row[1]): row[2] for row in rows}
            changes = plan(current, wanted)
            if is_dry:
                return changes
            schema_id = await connection.fetchval(
                "SELECT coalesce(max(schema_id), $2 - 1) FROM tenant_definitions WHERE tenant = $1",
                tenant,
                FIRST_SCHEMA_ID,
            )
            for change, document in zip(changes, wanted, strict=True):
                if change.action == "unchanged":
                    continue
                is_view = change.kind == "feature_view"
                schema_id += is_view
                if schema_id > SCHEMA_ID_MAX:
                    raise FeastRequestError("Too many versions of feature views.")
                await connection.execute(
                    "INSERT INTO tenant_definitions "
                    "(tenant, kind, name, version, schema_id, fingerprint, document) "
                    "VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb)",
                    tenant,
                    change.kind,
                    change.name,
                    versions.get((change.kind, change.name), 0) + 1,
                    schema_id if is_view else None,
                    change.to_fingerprint,
                    orjson.dumps(document).decode(),
                )
        self._catalogs.pop(tenant, None)
        return changes
