"""Definitions of tenants in Postgres, with a short-lived copy in memory.

Another replica's change is seen within `_STALE_S`; this process's own at once. A vector under a
schema id that the copy does not know reloads it once.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

import orjson

from libs.common.errors import UnavailableError
from libs.common.features.computed import ComputedView
from libs.common.features.shipped import SHIPPED
from libs.common.postgres import Postgres
from services.features.domain.computed import view_of
from services.features.domain.pushed import Change, PushedView, plan
from services.features.domain.vectors import FIRST_SCHEMA_ID, SCHEMA_ID_MAX
from services.features.errors import FeastRequestError

_FRESH_S, _STALE_S = 5.0, 10.0
_TENANTS_MAX = 1000
# Serialises changes of one tenant's definitions, and keeps them apart from its ingestion.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('features:' || $1, 0))"
_SHARE = "SELECT pg_advisory_xact_lock_shared(hashtextextended('features:' || $1, 0))"
_NEWEST = """
SELECT DISTINCT ON (kind, name) kind, name, version, document
FROM tenant_definitions WHERE tenant = $1 ORDER BY kind, name, version DESC
"""
_LAST_SCHEMA_ID = """
SELECT coalesce(max(schema_id), $2 - 1) FROM tenant_definitions WHERE tenant = $1
"""
_KEEP = """
INSERT INTO tenant_definitions (tenant, kind, name, version, schema_id, fingerprint, document,
    state, definitions)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9)
"""
_COUNT = "SELECT count(*) FROM tenant_definitions WHERE tenant = $1"
_ALL = (
    "SELECT kind, name, version, schema_id, document, state, definitions "
    "FROM tenant_definitions WHERE tenant = $1 ORDER BY kind, name, version"
)
# Versions of a computed view that events are written for: the newest and the one before it.
_VERSIONS_WRITTEN = 2


@dataclass
class Catalog:
    """What one tenant has defined.

    Attributes:
        views: newest version by name.
        versions: every version, by (name, version).
        by_schema: every version, by schema id.
        services: references by name of the service.
        computed: computed views by name, the newest version that is ready.
        computed_versions: every version of them, by (name, version).
        by_key: every version of them, by its key in the log.
        building: keys of versions that are still filled from history.
        count: how many definitions the tenant had.
    """

    views: dict[str, PushedView] = field(default_factory=dict)
    versions: dict[tuple[str, int], PushedView] = field(default_factory=dict)
    by_schema: dict[int, PushedView] = field(default_factory=dict)
    services: dict[str, list[str]] = field(default_factory=dict)
    documents: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    computed: dict[str, ComputedView] = field(default_factory=lambda: dict(SHIPPED))
    computed_versions: dict[tuple[str, int], ComputedView] = field(
        default_factory=lambda: {(view.name, view.version): view for view in SHIPPED.values()}
    )
    by_key: dict[str, ComputedView] = field(
        default_factory=lambda: {view.key: view for view in SHIPPED.values()}
    )
    building: dict[str, int] = field(default_factory=dict)
    count: int = 0
    rows: Sequence[Sequence[Any]] = ()
    loaded_at: float = 0.0

    def written(self) -> list[ComputedView]:
        """Give the computed views that an event is written for."""
        newest: dict[str, list[ComputedView]] = {}
        for (name, _), view in self.computed_versions.items():
            newest.setdefault(name, []).append(view)
        return [view for views in newest.values() for view in views[-_VERSIONS_WRITTEN:]]

    def take(self, row: Sequence[Any]) -> None:
        """Add one stored definition."""
        kind, name, version, schema_id, text, state, definitions = row
        document = orjson.loads(text)
        self.documents[kind, name] = document
        if kind == "feature_service":
            self.services[name] = list(document["features"])
        elif "source" in document:
            computed = view_of(document, version, schema_id)
            self.computed_versions[name, version] = self.by_key[computed.key] = computed
            if state == "ready":
                self.computed[name] = computed
            else:
                self.building[computed.key] = definitions
        else:
            view = PushedView.of(document, version, schema_id)
            self.views[name] = self.versions[name, version] = view
            self.by_schema[schema_id] = view


_SHIPPED_KEYS = {view.key: view for view in SHIPPED.values()}


class DefinitionStore:
    """Reads and changes definitions."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._catalogs: dict[str, Catalog] = {}
        self._refreshing: dict[str, asyncio.Task[None]] = {}
        # Versions never change and are never deleted, so these outlive their catalog's copy.
        self._of_key: dict[tuple[str, str], ComputedView] = {}

    async def catalog(self, tenant: str, *, is_fresh: bool = False) -> Catalog:
        """Give the tenant's definitions.

        Args:
            tenant: from the credential.
            is_fresh: read Postgres now.
        """
        known = self._catalogs.get(tenant)
        if known and not is_fresh:
            age_s = time.monotonic() - known.loaded_at
            if age_s < _FRESH_S:
                return known
            if age_s < _STALE_S:
                # No read waits for it; the next ones see it.
                self._refresh(tenant)
                return known
        try:
            rows = await self._postgres.fetch(_ALL, tenant)
        except UnavailableError:
            if known is None:
                raise
            return known  # reads go on without Postgres
        return self._loaded(tenant, rows)

    def _refresh(self, tenant: str) -> None:
        if tenant not in self._refreshing:
            task = asyncio.create_task(self._load(tenant), context=Context())
            self._refreshing[tenant] = task
            task.add_done_callback(lambda _: self._refreshing.pop(tenant, None))

    async def _load(self, tenant: str) -> None:
        with contextlib.suppress(UnavailableError):
            self._loaded(tenant, await self._postgres.fetch(_ALL, tenant))

    def _loaded(self, tenant: str, rows: Sequence[Sequence[Any]]) -> Catalog:
        known = self._catalogs.get(tenant)
        if known is not None and known.rows == rows:
            known.loaded_at = time.monotonic()  # and what was resolved with it stays
            return known
        catalog = Catalog(loaded_at=time.monotonic(), count=len(rows), rows=rows)
        for row in rows:
            catalog.take(row)
        if len(self._catalogs) >= _TENANTS_MAX:
            self._catalogs.clear()
        self._catalogs[tenant] = catalog
        return catalog

    async def held(self, connection: Any, tenant: str) -> Catalog:
        """Give the tenant's definitions and keep them as they are until the transaction ends."""
        await connection.execute(_SHARE, tenant)
        count = await connection.fetchval(_COUNT, tenant)
        known = self._catalogs.get(tenant)
        if known and known.count == count:
            return known
        return self._loaded(tenant, await connection.fetch(_ALL, tenant))

    def known(self, tenant: str, key: str) -> ComputedView | None:
        """Give what `of_key` has brought before."""
        return self._of_key.get((tenant, key))

    async def of_key(self, tenant: str, key: str) -> ComputedView | None:
        """Give the version of a computed view that log rows name by `key`."""
        known = self._of_key.get((tenant, key)) or _SHIPPED_KEYS.get(key)
        if known is None:
            known = (await self.catalog(tenant, is_fresh=True)).by_key.get(key)
        if known is not None:
            self._of_key[tenant, key] = known
        return known

    async def mark_ready(self, tenant: str, schema_id: int) -> None:
        """Say that a version of a computed view holds its history."""
        await self._postgres.execute(
            "UPDATE tenant_definitions SET state = 'ready' WHERE tenant = $1 AND schema_id = $2",
            tenant,
            schema_id,
        )
        self._catalogs.pop(tenant, None)

    async def building(self) -> list[tuple[str, str, int]]:
        """Give versions that are not ready, of all tenants: tenant, key, definitions before."""
        rows = await self._postgres.fetch(
            "SELECT tenant, name || '@' || schema_id, definitions FROM tenant_definitions "
            "WHERE state = 'building' ORDER BY tenant, schema_id"
        )
        return [(row[0], row[1], row[2]) for row in rows]

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
            rows = await connection.fetch(_NEWEST, tenant)
            current = {(row[0], row[1]): orjson.loads(row[3]) for row in rows}
            versions = {(row[0], row[1]): row[2] for row in rows}
            changes = plan(current, wanted)
            if is_dry:
                return changes
            count = await connection.fetchval(_COUNT, tenant)
            count += sum(change.action != "unchanged" for change in changes)
            schema_id = await connection.fetchval(_LAST_SCHEMA_ID, tenant, FIRST_SCHEMA_ID)
            for change, document in zip(changes, wanted, strict=True):
                if change.action == "unchanged":
                    continue
                is_view = change.kind == "feature_view"
                schema_id += is_view
                if schema_id > SCHEMA_ID_MAX:
                    raise FeastRequestError("Too many versions of feature views.")
                version = versions.get((change.kind, change.name), 0) + 1
                place = (tenant, change.kind, change.name, version)
                state = "building" if "source" in document else "ready"
                text = orjson.dumps(document).decode()
                facts = (schema_id if is_view else None, change.to_fingerprint, text, state, count)
                await connection.execute(_KEEP, *place, *facts)
        self._catalogs.pop(tenant, None)
        return changes
