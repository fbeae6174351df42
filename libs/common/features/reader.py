"""The online reader: one MGET for every entity of every row, then windows at the request's time.

Failure policy: degrade. Redis slow or gone, emptied and not rebuilt yet, or an unreadable blob
makes features missing and says why; nothing is raised and Postgres is never asked.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from libs.common.features.cache import BlobCache
from libs.common.features.contract import FeatureRequest, FeatureRows, FeatureService
from libs.common.features.evaluation import Keys, evaluate
from libs.common.features.laid import Arena
from libs.common.features.layout import SERVING_KEY, VIEWS
from libs.common.features.plans import entities_of, plan_of
from libs.common.redis import UNAVAILABLE
from libs.common.shared_reads import KeyStore, SharedReads

REDIS_UNAVAILABLE = "redis_unavailable"
# Redis answers but does not hold what the log says: it came back empty and is being rebuilt.
STORE_NOT_READY = "store_not_ready"


@dataclass(slots=True)
class _Store:
    """What one MGET brought: blobs by key (None: no such ring), or why there are none."""

    blobs: Mapping[str, bytes | None] = field(default_factory=dict)
    reasons: set[str] = field(default_factory=set)


class OnlineFeatureReader:
    """Implements `FeatureReader` for services over the built-in and the shipped views.

    What a request carries besides its entities, in `FeatureRequest.values`:
        fraud: `amount_minor` (int), `mcc_code`, `country_code`, `device_id` (text, optional);
        personalization: `price_minor` (int, optional), `item_category` (text, optional).
    """

    def __init__(
        self, store: KeyStore, *, timeout_s: float = 0.05, cache: BlobCache | None = None
    ) -> None:
        """Take a store and the longest time that a read may wait for it, in seconds.

        Args:
            store: the online store, for example by `LeanRedis`.
            timeout_s: of one read.
            cache: keeps the blobs of the views that it names.
        """
        self._reads = SharedReads(store, timeout_s=timeout_s)
        self._cache = cache if cache is not None and cache.views else None
        self._arena = Arena()

    async def read(
        self, service: FeatureService, tenant: str, requests: list[FeatureRequest]
    ) -> FeatureRows:
        """Read the rows of `service`; see the protocol for the failure policy."""
        started = time.perf_counter()
        plan = plan_of(service)
        keys: Keys = {
            view: VIEWS[view].keys(tenant, [request.entities.get(view) for request in requests])
            for view in plan.views
        }
        keys |= {
            view.name: [
                None if entity is None else view.redis_key(tenant, entity)
                for entity in entities_of(view, requests)
            ]
            for view in plan.shipped
        }
        store = await self._fetch(keys)
        rows = evaluate(service, requests, keys, store.blobs, self._arena)
        rows.degraded_reasons = sorted({*store.reasons, *rows.degraded_reasons})
        rows.read_s = time.perf_counter() - started
        return rows

    async def _fetch(self, keys: Keys) -> _Store:
        """Read the blobs of all keys, each key once."""
        store = _Store()
        wanted = list({key: None for listed in keys.values() for key in listed if key})
        if not wanted:
            return store
        cache, mark = self._cache, None
        if cache is not None:
            cache.start()
            kept = [view for view in keys if view in cache.views]
            mine = [SERVING_KEY, *{key for view in kept for key in keys[view] if key}]
            held = {key: entry[0] for key in mine if (entry := cache.get(key)) is not None}
            if held.get(SERVING_KEY) is not None:
                wanted = [key for key in wanted if key not in held]
                store.blobs = held
                if not wanted:
                    return store
            mark = cache.mark([key for key in mine if key not in held])
        try:
            blobs = await self._reads.get([SERVING_KEY, *wanted])
        except UNAVAILABLE:
            store.reasons.add(REDIS_UNAVAILABLE)
            return store
        if blobs[SERVING_KEY] is None:
            store.reasons.add(STORE_NOT_READY)
            return store
        found = {key: blobs[key] for key in wanted}
        if cache is not None and mark is not None:
            cache.put(mark, [(SERVING_KEY, blobs[SERVING_KEY]), *found.items()])
        store.blobs = {**store.blobs, **found}
        return store
