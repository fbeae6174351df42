"""`POST /get-online-features`: every view of every entity in one MGET, statuses told truthfully.

Computed views are evaluated at the moment of the read; without an event inside the view's horizon
they are NOT_FOUND. What a request names is resolved once per set of features and definitions.
"""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Histogram

from libs.common.errors import UnavailableError
from libs.common.features import columns as ring_columns
from libs.common.features.computed import ComputedView, entity_key
from libs.common.features.layout import VIEWS
from libs.common.features.shipped import SHIPPED
from libs.common.redis import UNAVAILABLE
from services.features.adapters.definitions import Catalog, DefinitionStore
from services.features.adapters.ring_writer import vector_prefix
from services.features.adapters.rings import RedisRings
from services.features.domain.definitions import FEATURE_SERVICES
from services.features.domain.pushed import PushedView
from services.features.domain.vectors import heads_of
from services.features.errors import UnknownServiceError, UnknownViewError
from services.features.feast.views import Shown, show_built_in, show_defined, show_pushed
from services.features.feast.wire import EPOCH, ReadRequest, join_value, refuse

_RING_VERSION = 1
# Per built-in view, the features that need no request.
_STORED = {
    view: [name.partition(":")[2] for name in ring_columns.STORED if name.startswith(f"{view}:")]
    for view in VIEWS
}
_VERSION = re.compile(r"^v[0-9]{1,6}$")
_PLANS_MAX = 1000
_TENANTS = "tenant"


@dataclass(slots=True)
class _Part:
    """What one view contributes to a read.

    Attributes:
        pushed: the version that was asked for; None for a view computed from events.
        defined: likewise, of a view that is computed by definition; both None: built in.
        features: names of the asked features.
        join_keys: of the view, sorted.
    """

    name: str
    pushed: PushedView | None
    features: list[str]
    join_keys: tuple[str, ...]
    defined: ComputedView | None = None

    @property
    def version(self) -> int:
        """The version that is read."""
        known = self.pushed or self.defined
        return known.version if known else _RING_VERSION

    @property
    def label(self) -> str:
        """The view's name in metrics."""
        return self.name if self.name in VIEWS or self.name in SHIPPED else _TENANTS

    @property
    def known(self) -> Collection[str]:
        """The features that the view can give."""
        if self.pushed:
            return [name for name, _ in self.pushed.layout.features]
        if self.defined:
            return [item.name for item in self.defined.aggregates]
        return _STORED[self.name]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a set of features means under one state of the definitions.

    Attributes:
        parts: by the view's name as it was asked for.
        order: (view as asked, feature) of each result.
        metadata: the answer's, without the join keys, by whether names are full.
        entities: every name that a request's entities may have.
    """

    catalog: Catalog
    parts: dict[str, _Part]
    order: list[tuple[str, str]]
    names: list[str]
    full_names: list[str]
    entities: frozenset[str]


# Keys without the view's name, by join keys: the views of one entity differ in it only.
_Prefixes = dict[tuple[str, ...], list[str]]


class FeastReader:
    """Answers online reads of Feast clients."""

    def __init__(
        self, definitions: DefinitionStore, rings: RedisRings, registry: CollectorRegistry
    ) -> None:
        self._definitions, self._rings = definitions, rings
        self._plans: dict[tuple[str, str | None, tuple[str, ...]], _Plan] = {}
        freshness = Histogram(
            "gatehouse_feature_freshness_seconds",
            "Age of the oldest value of a view in one read, from its event time.",
            ("view",),
            buckets=(1, 5, 15, 60, 300, 900, 3600, 21_600, 86_400, 604_800),
            registry=registry,
        )
        # Names of tenants' views are no labels: there is no bound to them.
        self._ages = {name: freshness.labels(name) for name in (*VIEWS, *SHIPPED, _TENANTS)}

    async def read(self, tenant: str, request: ReadRequest) -> bytes:
        """Answer one read, as JSON.

        Raises:
            UnavailableError: the online store does not answer, or is being rebuilt.
        """
        catalog = await self._definitions.catalog(tenant)
        plan = self._plan(tenant, catalog, request)
        for name in request.entities:
            if name not in plan.entities:
                raise refuse(f"/entities/{name[:64]}", "is no entity")
        names = plan.full_names if request.full_feature_names else plan.names
        if len(set(names)) < len(names):
            raise refuse("/features", "has two features of one name; set full_feature_names")
        texts = {
            name: [join_value(value, name, row) for row, value in enumerate(column)]
            for name, column in request.entities.items()
        }
        prefixes: _Prefixes = {}
        keys = {
            named: self._keys(tenant, part, texts, prefixes) for named, part in plan.parts.items()
        }
        by_key = await self._fetch(keys)
        shown = {}
        for named, part in plan.parts.items():
            mine = [by_key[key] for key in keys[named]]
            shown[named] = view = await self._show(tenant, catalog, part, mine)
            if view.oldest_ms is not None:
                self._ages[part.label].observe(max(0.0, time.time() - view.oldest_ms / 1000))
        return _answer(request, plan, names, shown)

    async def _fetch(self, keys: Mapping[str, list[str]]) -> dict[str, bytes | None]:
        wanted = list(dict.fromkeys(key for listed in keys.values() for key in listed))
        try:
            blobs = await self._rings.fetch(wanted)
        except UNAVAILABLE as error:
            raise UnavailableError("The online store does not answer.") from error
        if blobs is None:
            raise UnavailableError("The online store is being rebuilt.", retry_after_s=2)
        return dict(zip(wanted, blobs, strict=True))

    async def _show(
        self, tenant: str, catalog: Catalog, part: _Part, blobs: Sequence[bytes | None]
    ) -> Shown:
        if part.defined is not None:
            return show_defined(part.defined, part.features, blobs)
        if part.pushed is None:
            return show_built_in(part.name, part.features, blobs)
        heads = heads_of([blob for blob in blobs if blob is not None])
        if any(head[0] and head[0] not in catalog.by_schema for head in heads):
            # Another replica took a definition that nobody told us of.
            catalog = await self._definitions.catalog(tenant, is_fresh=True)
        return show_pushed(part.pushed, part.features, catalog, blobs, heads)

    def _plan(self, tenant: str, catalog: Catalog, request: ReadRequest) -> _Plan:
        """Resolve what a request names, or find it resolved."""
        asked = (tenant, request.feature_service, tuple(request.features or ()))
        plan = self._plans.get(asked)
        if plan is not None and plan.catalog is catalog:
            return plan
        references = request.features or self._references(catalog, str(request.feature_service))
        parts, order = _parts(catalog, references)
        entities = {f"{name}_id" for name in VIEWS}
        entities |= {key for view in catalog.versions.values() for key in view.join_keys}
        entities |= {key for view in catalog.computed_versions.values() for key in view.join_keys}
        plan = _Plan(
            catalog,
            parts,
            order,
            [feature for _, feature in order],
            [f"{named.removesuffix('@latest')}__{feature}" for named, feature in order],
            frozenset(entities),
        )
        if len(self._plans) >= _PLANS_MAX:
            self._plans.clear()
        self._plans[asked] = plan
        return plan

    def _references(self, catalog: Catalog, name: str) -> list[str]:
        if name in catalog.services:
            return catalog.services[name]
        for service in FEATURE_SERVICES:
            if service.name == name:
                return [raw for raw in service.raw if raw in ring_columns.STORED]
        raise UnknownServiceError("There is no feature service of this name.")

    def _keys(
        self, tenant: str, part: _Part, texts: Mapping[str, list[str]], known: "_Prefixes"
    ) -> list[str]:
        for key in part.join_keys:
            if key not in texts:
                raise refuse("/entities", f"lacks {key}, a join key of {part.name}")
        if part.pushed is None and part.defined is None:
            return [VIEWS[part.name].key(tenant, entity) for entity in texts[part.join_keys[0]]]
        if part.join_keys not in known:
            columns = [texts[key] for key in part.join_keys]
            known[part.join_keys] = [
                vector_prefix(tenant, entity_key(values)) for values in zip(*columns, strict=True)
            ]
        name = part.defined.key if part.defined else part.name
        return [prefix + name for prefix in known[part.join_keys]]


def _parts(
    catalog: Catalog, references: Sequence[str]
) -> tuple[dict[str, _Part], list[tuple[str, str]]]:
    """Group references by view (and version), keeping the order of the features."""
    parts: dict[str, _Part] = {}
    order = []
    for index, reference in enumerate(references):
        if reference.count(":") != 1:
            raise refuse(f"/features/{index}", "must be view:feature")
    if len(set(references)) < len(references):
        raise refuse("/features", "must not repeat a feature")
    for index, reference in enumerate(references):
        named, _, feature = reference.partition(":")
        if named not in parts:
            parts[named] = _part(catalog, named)
        part = parts[named]
        if feature not in part.known:
            raise refuse(f"/features/{index}", "is no feature of its view that a read can give")
        part.features.append(feature)
        order.append((named, feature))
    return parts, order


def _part(catalog: Catalog, named: str) -> _Part:
    name, _, version = named.partition("@")
    unknown = UnknownViewError("There is no feature view of this name and version.")
    number = int(version[1:]) if _VERSION.match(version) else None
    if version not in {"", "latest"} and number is None:
        raise unknown
    if name in VIEWS:
        if number not in {None, _RING_VERSION}:
            raise unknown
        return _Part(name, None, [], (f"{name}_id",))
    view = catalog.views.get(name) if number is None else catalog.versions.get((name, number))
    if view is None:
        return _defined_part(catalog, name, number, unknown)
    return _Part(name, view, [], view.join_keys)


def _defined_part(
    catalog: Catalog, name: str, number: int | None, unknown: UnknownViewError
) -> _Part:
    versions = [number] if number else [v for n, v in catalog.computed_versions if n == name]
    if not versions or (name, versions[-1]) not in catalog.computed_versions:
        raise unknown
    newest = catalog.computed.get(name)
    view = newest if number is None else catalog.computed_versions[name, number]
    if view is None or view.key in catalog.building:
        raise UnavailableError("The view is being filled from history.", retry_after_s=2)
    return _Part(name, None, [], view.join_keys, view)


def _answer(
    request: ReadRequest, plan: _Plan, names: Sequence[str], shown: Mapping[str, Shown]
) -> bytes:
    metadata: dict[str, Any] = {"feature_names": [*request.entities, *names]}
    if request.with_versions:
        metadata["feature_view_metadata"] = [
            {"name": part.name, "version": part.version} for part in plan.parts.values()
        ]
    keys = Shown(["PRESENT"] * request.rows, [EPOCH] * request.rows, dict(request.entities.items()))
    results = [keys.render(key) for key in request.entities]
    results += [shown[named].render(feature) for named, feature in plan.order]
    return b'{"metadata":%b,"results":[%b]}' % (orjson.dumps(metadata), b",".join(results))
