"""`POST /get-online-features`: every view of every entity in one MGET, statuses told truthfully.

Computed views are evaluated at the moment of the read; without an event inside the view's horizon
they are NOT_FOUND. What a request names is resolved once per set of features and definitions.
"""

import time
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Histogram

from libs.common.errors import UnavailableError
from libs.common.features.computed import entity_key
from libs.common.features.layout import VIEWS
from libs.common.features.shipped import SHIPPED
from libs.common.redis import UNAVAILABLE
from services.features.adapters.definitions import Catalog, DefinitionStore
from services.features.adapters.ring_writer import vector_prefix
from services.features.adapters.rings import RedisRings
from services.features.domain.vectors import heads_of
from services.features.feast.plans import TENANTS, Part, Plan, plan_of
from services.features.feast.views import Shown, show_built_in, show_defined, show_pushed
from services.features.feast.wire import EPOCH, ReadRequest, join_value, refuse

_PLANS_MAX = 1000
# Keys without the view's name, by join keys: the views of one entity differ in it only.
_Prefixes = dict[tuple[str, ...], list[str]]


class FeastReader:
    """Answers online reads of Feast clients."""

    def __init__(
        self, definitions: DefinitionStore, rings: RedisRings, registry: CollectorRegistry
    ) -> None:
        self._definitions, self._rings = definitions, rings
        self._plans: dict[tuple[str, str | None, tuple[str, ...]], Plan] = {}
        freshness = Histogram(
            "gatehouse_feature_freshness_seconds",
            "Age of the oldest value of a view in one read, from its event time.",
            ("view",),
            buckets=(1, 5, 15, 60, 300, 900, 3600, 21_600, 86_400, 604_800),
            registry=registry,
        )
        # Names of tenants' views are no labels: there is no bound to them.
        self._ages = {name: freshness.labels(name) for name in (*VIEWS, *SHIPPED, TENANTS)}

    async def read(self, tenant: str, request: ReadRequest) -> bytes:
        """Answer one read, as JSON.

        Raises:
            UnavailableError: the online store does not answer, or is being rebuilt.
        """
        catalog = await self._definitions.catalog(tenant)
        plan = self._plan(tenant, catalog, request)
        head = plan.head(request)
        texts = {
            name: [join_value(value, name, row) for row, value in enumerate(column)]
            for name, column in request.entities.items()
        }
        prefixes: _Prefixes = {}
        keys = {
            named: self._keys(tenant, part, texts, prefixes) for named, part in plan.parts.items()
        }
        by_key = await self._fetch(keys)
        if request.rows == 1 and plan.quick is not None:
            blobs = [by_key[key] for [key] in keys.values()]
            now_ms = time.time_ns() // 1_000_000
            answer = plan.quick.render(head, request.entities, blobs, now_ms)
            if answer is not None:
                self._observe(TENANTS, min(answer[1]))
                return answer[0]
        shown = {}
        oldest: dict[str, int] = {}
        for named, part in plan.parts.items():
            mine = [by_key[key] for key in keys[named]]
            shown[named] = view = await self._show(tenant, catalog, part, mine)
            if view.oldest_ms is not None:
                oldest[part.label] = min(oldest.get(part.label, view.oldest_ms), view.oldest_ms)
        for label, oldest_ms in oldest.items():
            self._observe(label, oldest_ms)
        return _answer(head, request, plan, shown)

    def _observe(self, label: str, oldest_ms: int) -> None:
        self._ages[label].observe(max(0.0, time.time() - oldest_ms / 1000))

    async def _fetch(self, keys: Mapping[str, list[str]]) -> dict[str, bytes | None]:
        wanted = list(dict.fromkeys([key for listed in keys.values() for key in listed]))
        try:
            blobs = await self._rings.fetch(wanted)
        except UNAVAILABLE as error:
            raise UnavailableError("The online store does not answer.") from error
        if blobs is None:
            raise UnavailableError("The online store is being rebuilt.", retry_after_s=2)
        return dict(zip(wanted, blobs, strict=True))

    async def _show(
        self, tenant: str, catalog: Catalog, part: Part, blobs: Sequence[bytes | None]
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

    def _plan(self, tenant: str, catalog: Catalog, request: ReadRequest) -> Plan:
        """Resolve what a request names, or find it resolved."""
        asked = (tenant, request.feature_service, tuple(request.features or ()))
        plan = self._plans.get(asked)
        if plan is not None and plan.catalog is catalog:
            return plan
        plan = plan_of(catalog, request)
        if len(self._plans) >= _PLANS_MAX:
            self._plans.clear()
        self._plans[asked] = plan
        return plan

    def _keys(
        self, tenant: str, part: Part, texts: Mapping[str, list[str]], known: "_Prefixes"
    ) -> list[str]:
        is_built_in = part.pushed is None and part.defined is None
        prefixes = None if is_built_in else known.get(part.join_keys)
        if prefixes is None:
            for key in part.join_keys:
                if key not in texts:
                    raise refuse("/entities", f"lacks {key}, a join key of {part.name}")
            if is_built_in:
                return [VIEWS[part.name].key(tenant, entity) for entity in texts[part.join_keys[0]]]
            columns = [texts[key] for key in part.join_keys]
            prefixes = known[part.join_keys] = [
                vector_prefix(tenant, entity_key(values)) for values in zip(*columns, strict=True)
            ]
        name = part.defined.key if part.defined else part.name
        return [prefix + name for prefix in prefixes]


def _answer(head: bytes, request: ReadRequest, plan: Plan, shown: Mapping[str, Shown]) -> bytes:
    keys = Shown(["PRESENT"] * request.rows, [EPOCH] * request.rows, dict(request.entities.items()))
    results = [keys.render(key) for key in request.entities]
    results += [shown[named].render(feature) for named, feature in plan.order]
    return b"%b%b]}" % (head, b",".join(results))
