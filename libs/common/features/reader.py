"""The online reader: one MGET for every entity of every row, then windows at the request's time.

Failure policy: degrade. Redis slow or gone, emptied and not rebuilt yet, or an unreadable blob
makes features missing and says why; nothing is raised and Postgres is never asked.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from libs.common.features import rows
from libs.common.features.contract import FeatureRequest, FeatureRows, FeatureService
from libs.common.features.layout import SERVING_KEY, VIEWS, LayoutError, Ring, tag_of, unpack_ring
from libs.common.features.windows import DAY_MS, HOUR_MS
from libs.common.redis import UNAVAILABLE, Redis

REDIS_UNAVAILABLE = "redis_unavailable"
# Redis answers but does not hold what the log says: it came back empty and is being rebuilt.
STORE_NOT_READY = "store_not_ready"
BLOB_UNREADABLE = "blob_unreadable"

_NAN = rows.NAN


@dataclass(slots=True)
class _Store:
    """What one MGET brought: rings by key, or the reason why there are none."""

    rings: dict[str, Ring | None] = field(default_factory=dict)
    reasons: set[str] = field(default_factory=set)


class OnlineFeatureReader:
    """Implements `FeatureReader` for `fraud_v1` and `personalization_v1`.

    What a request carries besides its entities, in `FeatureRequest.values`:
        fraud: `amount_minor` (int), `mcc_code`, `country_code` (text, optional);
        personalization: `price_minor` (int, optional), `item_category` (text, optional).
    """

    def __init__(self, redis: Redis, *, timeout_s: float = 0.05) -> None:
        """Take a client and the longest time that a read may wait for it, in seconds."""
        self._redis = redis
        self._timeout_s = timeout_s

    async def read(
        self, service: FeatureService, tenant: str, requests: list[FeatureRequest]
    ) -> FeatureRows:
        """Read the rows of `service`; see the protocol for the failure policy."""
        started = time.perf_counter()
        views, compute = _SERVICES[service.name]
        keys = [
            {
                view: VIEWS[view].key(tenant, request.entities[view])
                for view in views
                if view in request.entities
            }
            for request in requests
        ]
        store = await self._fetch({key: view for row in keys for view, key in row.items()})
        table = np.full((len(requests), len(service.raw)), _NAN)
        result = FeatureRows(np.empty(0, np.float32), [], [], [], [], 0.0)
        for index, (request, named) in enumerate(zip(requests, keys, strict=True)):
            rings = {view: store.rings[key] for view, key in named.items() if key in store.rings}
            found = compute(request, rings)
            table[index] = [found.get(name, _NAN) for name in service.raw]
            result.missing.append(
                [name for name in service.raw if (value := found.get(name, _NAN)) != value]
            )
            stale, freshness_s = _freshness(rings, request.now_ms)
            result.stale.append(stale)
            result.freshness_s.append(freshness_s)
        columns = {name: table[:, position] for position, name in enumerate(service.raw)}
        result.matrix = service.derive(columns).astype(np.float32)
        result.degraded_reasons = sorted(store.reasons)
        result.read_s = time.perf_counter() - started
        return result

    async def _fetch(self, wanted: Mapping[str, str]) -> _Store:
        """Read and decode the rings of `wanted` (key to view)."""
        store = _Store()
        if not wanted:
            return store
        keys = list(wanted)
        try:
            async with asyncio.timeout(self._timeout_s):
                # The client does not decode, so answers are bytes; its types allow text as well.
                answer = cast(list[bytes | None], await self._redis.mget([SERVING_KEY, *keys]))
        except UNAVAILABLE:
            store.reasons.add(REDIS_UNAVAILABLE)
            return store
        if answer[0] is None:
            store.reasons.add(STORE_NOT_READY)
            return store
        for key, blob in zip(keys, answer[1:], strict=True):
            try:
                store.rings[key] = unpack_ring(VIEWS[wanted[key]], blob) if blob else None
            except LayoutError:
                store.reasons.add(BLOB_UNREADABLE)
        return store


Rings = dict[str, Ring | None]


def _freshness(rings: Rings, now_ms: int) -> tuple[list[str], float | None]:
    """Name the stale views and give the age of the newest event among all, in seconds."""
    newest = {view: ring.event_ms for view, ring in rings.items() if ring is not None}
    stale = [view for view, at_ms in newest.items() if now_ms - at_ms > VIEWS[view].ttl_ms]
    if not newest:
        return stale, None
    return stale, max(0, now_ms - max(newest.values())) / 1000.0


def _fraud(request: FeatureRequest, rings: Rings) -> rows.Values:
    values = {**request.values, "merchant": request.entities.get("merchant")}
    amount_minor = _integer(values, "amount_minor")
    mcc = values.get("mcc_code")
    found: rows.Values = {
        **_clock(request.now_ms),
        "request:amount": _NAN if amount_minor is None else amount_minor / 100.0,
        "request:mcc": _NAN if mcc is None else float(str(mcc)),
    }
    if amount_minor is None:
        return found
    tag = None if request.event_id is None else tag_of(request.event_id)
    if "card" in rings:
        events = rows.Events(rings["card"], request.now_ms, tag)
        found |= rows.card_row(events, amount_minor, values)
    if "merchant" in rings:
        events = rows.Events(rings["merchant"], request.now_ms, tag)
        found |= rows.merchant_row(events, amount_minor)
    return found


def _personalization(request: FeatureRequest, rings: Rings) -> rows.Values:
    values = {**request.values, "item": request.entities.get("item")}
    price_minor = _integer(values, "price_minor")
    found: rows.Values = {
        **_clock(request.now_ms),
        "request:price": _NAN if price_minor is None else price_minor / 100.0,
    }
    if "user" in rings:
        found |= rows.user_row(rows.Events(rings["user"], request.now_ms), values)
    if "session" in rings:
        found |= rows.session_row(rows.Events(rings["session"], request.now_ms))
    if "item" in rings:
        found |= rows.item_row(rows.Events(rings["item"], request.now_ms))
    return found


def _clock(now_ms: int) -> rows.Values:
    return {
        "request:hour": float(now_ms // HOUR_MS % 24),
        "request:weekday": float((now_ms // DAY_MS + 3) % 7),
    }


def _integer(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


_Compute = Callable[[FeatureRequest, Rings], rows.Values]
_SERVICES: dict[str, tuple[tuple[str, ...], _Compute]] = {
    "fraud_v1": (("card", "merchant"), _fraud),
    "personalization_v1": (("user", "session", "item"), _personalization),
}
