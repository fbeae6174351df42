"""The online reader: one MGET for every entity of every row, then windows at the request's time.

Failure policy: degrade. Redis slow or gone, emptied and not rebuilt yet, or an unreadable blob
makes features missing and says why; nothing is raised and Postgres is never asked. Rows of one call
that name the same entity share its key, its bytes and their decoding.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from libs.common.features import columns as columns_of
from libs.common.features import rows as one_row
from libs.common.features.cache import BlobCache
from libs.common.features.computed import ComputedView, Reading, entity_key
from libs.common.features.contract import FeatureRequest, FeatureRows, FeatureService
from libs.common.features.laid import Arena, IntArray, LaidRings, Rows
from libs.common.features.layout import (
    SERVING_KEY,
    VIEWS,
    LayoutError,
    Ring,
    code_of,
    country_code,
    mcc_code,
    tag_of,
    unpack_ring,
)
from libs.common.features.shipped import SHIPPED
from libs.common.features.shipped import read as read_shipped
from libs.common.features.windows import DAY_MS, HOUR_MS, NULL_CODE, hour_and_weekday
from libs.common.redis import UNAVAILABLE, Redis
from libs.common.shared_reads import SharedReads

REDIS_UNAVAILABLE = "redis_unavailable"
# Redis answers but does not hold what the log says: it came back empty and is being rebuilt.
STORE_NOT_READY = "store_not_ready"
BLOB_UNREADABLE = "blob_unreadable"

_NAN = float("nan")
# A row whose request does not name the entity, or whose ring cannot be read.
_ABSENT = -1


# Up to here one row after the other is faster than columns (benchmarks/feature_reader.py).
_SINGLE_ROWS_MAX = 12


@dataclass(slots=True)
class _Store:
    """What one MGET brought: blobs by key (None: no such ring), or why there are none."""

    blobs: Mapping[str, bytes | None] = field(default_factory=dict)
    reasons: set[str] = field(default_factory=set)


Keys = dict[str, list[str | None]]
Places = list[tuple[int, int]]


class OnlineFeatureReader:
    """Implements `FeatureReader` for services over the built-in and the shipped views.

    What a request carries besides its entities, in `FeatureRequest.values`:
        fraud: `amount_minor` (int), `mcc_code`, `country_code`, `device_id` (text, optional);
        personalization: `price_minor` (int, optional), `item_category` (text, optional).
    """

    def __init__(
        self, redis: Redis, *, timeout_s: float = 0.05, cache: BlobCache | None = None
    ) -> None:
        """Take a client and the longest time that a read may wait for it, in seconds.

        Args:
            redis: the online store.
            timeout_s: of one read.
            cache: keeps the blobs of the views that it names.
        """
        self._reads = SharedReads(redis, timeout_s=timeout_s)
        self._cache = cache if cache is not None and cache.views else None
        self._arena = Arena()

    async def read(
        self, service: FeatureService, tenant: str, requests: list[FeatureRequest]
    ) -> FeatureRows:
        """Read the rows of `service`; see the protocol for the failure policy."""
        started = time.perf_counter()
        plan = _plan_of(service)
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


def views_of(service: FeatureService) -> tuple[str, ...]:
    """Name the built-in views whose rings a feature service reads."""
    return _plan_of(service).views


def shipped_of(service: FeatureService) -> tuple[ComputedView, ...]:
    """Give the shipped views that a feature service reads."""
    return _plan_of(service).shipped


def entities_of(view: ComputedView, requests: Sequence[FeatureRequest]) -> list[str | None]:
    """Give each request's entity of a shipped view, None where it names none."""
    name = view.join_keys[0].removesuffix("_id")
    return [
        None if (entity := request.entities.get(name)) is None else entity_key([entity])
        for request in requests
    ]


def evaluate(
    service: FeatureService,
    requests: list[FeatureRequest],
    keys: Keys,
    blobs: Mapping[str, bytes | None],
    arena: Arena,
    given: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> FeatureRows:
    """Evaluate rows over rings that are at hand, read from Redis or rebuilt from history.

    Args:
        service: what is read.
        requests: n rows.
        keys: per view, the key of each row's ring in `blobs`, None where the row names no entity.
        blobs: rings by key; None is an entity without events, a key that lacks is unknown.
        arena: memory for many rows.
        given: by shipped view, each row's values where they do not come from its bytes.
    """
    plan, store = _plan_of(service), _Store(blobs)
    rings = {view: keys[view] for view in plan.views}
    if len(requests) <= _SINGLE_ROWS_MAX:
        found = _read_singly(service.raw, plan, requests, rings, store)
    else:
        arena.reset()
        found = _read_together(service.raw, plan, requests, rings, store, arena)
    for view in plan.shipped:
        if given is not None and view.name in given:
            _place_values(plan.places[view.name], given[view.name], found.table)
        else:
            places = plan.places[view.name]
            _read_shipped(view, places, requests, keys[view.name], store, found)
    raw = dict(zip(service.raw, found.table.T, strict=True))
    stale, freshness_s = _freshness(found.event_ms, requests)
    return FeatureRows(
        matrix=service.derive(raw).astype(np.float32),
        missing=_missing(found.table, service.raw),
        stale=stale,
        freshness_s=freshness_s,
        degraded_reasons=sorted(store.reasons),
        read_s=0.0,
        raw=found.table,
        offsets=found.offsets,
    )


@dataclass(slots=True)
class _Found:
    """What the rings gave.

    Attributes:
        table: raw features, shape (n, k), NaN where missing.
        event_ms: per view, the newest event of each row's ring, 0 without one.
        offsets: per view, the log offset of each row's blob, -1 without one.
    """

    table: NDArray[np.float64]
    event_ms: dict[str, list[int]]
    offsets: dict[str, list[int]]


def _read_singly(
    names: Sequence[str],
    plan: "_Plan",
    requests: list[FeatureRequest],
    keys: Keys,
    store: _Store,
) -> _Found:
    """Evaluate one row after the other."""
    rings: dict[str, Ring | None] = {}
    for view, listed in keys.items():
        for key in listed:
            if key is not None and key in store.blobs and key not in rings:
                blob = store.blobs[key]
                try:
                    rings[key] = unpack_ring(VIEWS[view], blob) if blob else None
                except LayoutError:
                    store.reasons.add(BLOB_UNREADABLE)
    found = _Found(np.empty(0), {view: [] for view in keys}, {view: [] for view in keys})
    evaluated = []
    for index, request in enumerate(requests):
        named = {view: listed[index] for view, listed in keys.items()}
        mine = {view: rings[key] for view, key in named.items() if key in rings}
        for view in keys:
            ring = mine.get(view)
            found.event_ms[view].append(ring.event_ms if ring else 0)
            found.offsets[view].append(ring.offset if ring else -1)
        values = plan.one(request, mine)
        evaluated.append([values.get(name, _NAN) for name in names])
    found.table = np.array(evaluated).reshape(len(requests), len(names))
    return found


def _read_together(
    names: Sequence[str],
    plan: "_Plan",
    requests: list[FeatureRequest],
    keys: Keys,
    store: _Store,
    arena: Arena,
) -> _Found:
    """Evaluate all rows at once."""
    now_ms = np.array([request.now_ms for request in requests], dtype=np.int64)
    batch = _Batch(requests, now_ms, {}, {})
    found = _Found(np.full((len(requests), len(names)), _NAN), {}, {})
    for view, listed in keys.items():
        laid = LaidRings(VIEWS[view], arena)
        numbers: dict[str | None, int] = {}
        for key in dict.fromkeys(listed):
            blob = store.blobs.get(key) if key else None
            try:
                if key in store.blobs:
                    numbers[key] = laid.add(blob) if blob else 0
            except LayoutError:
                store.reasons.add(BLOB_UNREADABLE)
        mine = [numbers.get(key, _ABSENT) for key in listed]
        found.event_ms[view] = [laid.event_ms[max(number, 0)] for number in mine]
        found.offsets[view] = [laid.offset[max(number, 0)] for number in mine]
        batch.rings[view], batch.numbers[view] = laid, np.array(mine, dtype=np.int64)
    columns = plan.together(batch)
    for column, name in enumerate(names):
        if name in columns:
            found.table[:, column] = columns[name]
    return found


def _read_shipped(
    view: ComputedView,
    places: Places,
    requests: Sequence[FeatureRequest],
    keys: Sequence[str | None],
    store: _Store,
    found: _Found,
) -> None:
    """Evaluate a shipped view for each row; rows of one entity and moment share the work."""
    known: dict[tuple[str, int, str | None], Reading] = {}
    values: list[Sequence[float]] = []
    nothing = Reading(0, -1, [_NAN] * len(view.aggregates))
    found.event_ms[view.name], found.offsets[view.name] = [], []
    for request, key in zip(requests, keys, strict=True):
        reading = nothing
        if key is not None and key in store.blobs:
            place = (key, request.now_ms, request.event_id)
            if place not in known:
                tag = None if request.event_id is None else tag_of(request.event_id)
                try:
                    known[place] = read_shipped(view, store.blobs[key], request.now_ms, tag)
                except LayoutError:
                    store.reasons.add(BLOB_UNREADABLE)
                    known[place] = nothing
            reading = known[place]
        values.append(reading.values)
        found.event_ms[view.name].append(reading.event_ms)
        found.offsets[view.name].append(reading.offset)
    _place_values(places, values, found.table)


def _place_values(
    places: Places,
    values: Sequence[Sequence[float]],
    table: NDArray[np.float64],
) -> None:
    """Put a shipped view's values into the columns that the service names."""
    for place, column in places:
        table[:, column] = [row[place] for row in values]


@dataclass(slots=True)
class _Batch:
    """The rows of one call.

    Attributes:
        rings: laid rings by view.
        numbers: by view, the ring of each row, `_ABSENT` for none.
    """

    requests: list[FeatureRequest]
    now_ms: IntArray
    rings: dict[str, LaidRings]
    numbers: dict[str, NDArray[np.int64]]

    def integers(self, name: str) -> IntArray:
        """Take whole numbers from the requests, `NULL_CODE` where there is none."""
        given = (request.values.get(name) for request in self.requests)
        return np.array(
            [value if isinstance(value, int) else NULL_CODE for value in given], dtype=np.int64
        )

    def codes(self, name: str, encode: Callable[[str | None], int]) -> IntArray:
        """Encode one text of the requests' values, `NULL_CODE` where there is none."""
        given = (request.values.get(name) for request in self.requests)
        return np.array(
            [NULL_CODE if value is None else encode(str(value)) for value in given], dtype=np.int64
        )

    def entity_codes(self, view: str) -> IntArray:
        """Encode the entities of the requests, `NULL_CODE` where there is none."""
        return np.array([code_of(request.entities.get(view)) for request in self.requests])

    def clock(self) -> columns_of.Values:
        """Give hour and weekday of each row."""
        hour, weekday = hour_and_weekday(self.now_ms)
        return {"request:hour": hour, "request:weekday": weekday}

    def without_current(self, view: str) -> None:
        """Leave out of each row's ring the event that the row itself is."""
        numbers, laid = self.numbers[view], self.rings[view]
        for index, request in enumerate(self.requests):
            if request.event_id is not None and numbers[index] > 0:
                numbers[index] = laid.without(int(numbers[index]), tag_of(request.event_id))

    def compute(
        self, view: str, columns: Callable[..., columns_of.Values], *arguments: IntArray
    ) -> columns_of.Values:
        """Compute a view's columns for the rows that have a ring; the others are NaN."""
        numbers = self.numbers[view]
        chosen = np.flatnonzero(numbers != _ABSENT)
        if not len(chosen):
            return {}
        is_all = len(chosen) == len(numbers)
        taken = slice(None) if is_all else chosen
        rows = Rows(self.rings[view], numbers[taken], self.now_ms[taken], columns_of.WINDOWS[view])
        found = columns(rows, *(argument[taken] for argument in arguments))
        if is_all:
            return found
        spread: columns_of.Values = {}
        for name, values in found.items():
            spread[name] = np.full(len(numbers), _NAN)
            spread[name][chosen] = values
        return spread


def _fraud(batch: _Batch) -> columns_of.Values:
    amount, mcc = batch.integers("amount_minor"), batch.codes("mcc_code", mcc_code)
    found = batch.clock()
    found["request:amount"] = np.where(amount == NULL_CODE, _NAN, amount / 100.0)
    found["request:mcc"] = np.where(mcc == NULL_CODE, _NAN, mcc)
    # Without an amount no window can include the current payment.
    for view in ("card", "merchant"):
        batch.without_current(view)
        batch.numbers[view] = np.where(amount == NULL_CODE, _ABSENT, batch.numbers[view])
    country, merchant = batch.codes("country_code", country_code), batch.entity_codes("merchant")
    device = batch.codes("device_id", code_of)
    card = (amount, mcc, country, merchant, device)
    found |= batch.compute("card", columns_of.card_columns, *card)
    found |= batch.compute("merchant", columns_of.merchant_columns, amount)
    return found


def _personalization(batch: _Batch) -> columns_of.Values:
    price, category = batch.integers("price_minor"), batch.codes("item_category", code_of)
    found = batch.clock()
    found["request:price"] = np.where(price == NULL_CODE, _NAN, price / 100.0)
    found |= batch.compute("user", columns_of.user_columns, category, batch.entity_codes("item"))
    found |= batch.compute("session", columns_of.session_columns)
    found |= batch.compute("item", columns_of.item_columns)
    return found


Rings = Mapping[str, Ring | None]


def _fraud_row(request: FeatureRequest, rings: Rings) -> one_row.Values:
    values = {**request.values, "merchant": request.entities.get("merchant")}
    amount_minor = _integer(values, "amount_minor")
    mcc = values.get("mcc_code")
    found: one_row.Values = {
        **_clock(request.now_ms),
        "request:amount": _NAN if amount_minor is None else amount_minor / 100.0,
        "request:mcc": _NAN if mcc is None else float(str(mcc)),
    }
    if amount_minor is None:
        return found
    tag = None if request.event_id is None else tag_of(request.event_id)
    if "card" in rings:
        events = one_row.Events(rings["card"], request.now_ms, tag)
        found |= one_row.card_row(events, amount_minor, values)
    if "merchant" in rings:
        events = one_row.Events(rings["merchant"], request.now_ms, tag)
        found |= one_row.merchant_row(events, amount_minor)
    return found


def _personalization_row(request: FeatureRequest, rings: Rings) -> one_row.Values:
    values = {**request.values, "item": request.entities.get("item")}
    price_minor = _integer(values, "price_minor")
    found: one_row.Values = {
        **_clock(request.now_ms),
        "request:price": _NAN if price_minor is None else price_minor / 100.0,
    }
    if "user" in rings:
        found |= one_row.user_row(one_row.Events(rings["user"], request.now_ms), values)
    if "session" in rings:
        found |= one_row.session_row(one_row.Events(rings["session"], request.now_ms))
    if "item" in rings:
        found |= one_row.item_row(one_row.Events(rings["item"], request.now_ms))
    return found


def _clock(now_ms: int) -> one_row.Values:
    return {
        "request:hour": float(now_ms // HOUR_MS % 24),
        "request:weekday": float((now_ms // DAY_MS + 3) % 7),
    }


def _integer(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


def _missing(table: NDArray[np.float64], names: Sequence[str]) -> list[list[str]]:
    """Name, per row, the raw features without a value."""
    missing: list[list[str]] = [[] for _ in range(len(table))]
    for row, column in np.argwhere(np.isnan(table)).tolist():
        missing[row].append(names[column])
    return missing


def _freshness(
    event_ms: Mapping[str, Sequence[int]], requests: list[FeatureRequest]
) -> tuple[list[list[str]], list[float | None]]:
    """Name the stale views and give the age of the newest event among all, in seconds, per row."""
    stale: list[list[str]] = []
    ages: list[float | None] = []
    for request, *newest in zip(requests, *event_ms.values(), strict=True):
        pairs = [(view, at_ms) for view, at_ms in zip(event_ms, newest, strict=True) if at_ms]
        stale.append([view for view, at in pairs if request.now_ms - at > _TTL_MS[view]])
        newest_ms = max(newest, default=0)
        ages.append(max(0, request.now_ms - newest_ms) / 1000.0 if newest_ms else None)
    return stale, ages


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a feature service is read: its views, and its columns from their rings.

    Attributes:
        one: for a single row.
        together: for all rows at once, with the same result.
        shipped: computed views besides.
        places: by shipped view, its aggregates' numbers with the columns that name them.
    """

    views: tuple[str, ...]
    one: Callable[[FeatureRequest, Rings], one_row.Values]
    together: Callable[[_Batch], columns_of.Values]
    shipped: tuple[ComputedView, ...] = ()
    places: Mapping[str, Places] = field(default_factory=dict)


_TTL_MS = {view.name: view.ttl_ms for view in VIEWS.values()}
_TTL_MS |= {view.name: view.ttl_ms for view in SHIPPED.values()}
_FRAUD = _Plan(("card", "merchant"), _fraud_row, _fraud)
_PERSONALIZATION = _Plan(("user", "session", "item"), _personalization_row, _personalization)


@cache
def _plan_of(service: FeatureService) -> _Plan:
    """Plan a service by the views that it names."""
    named = {name.partition(":")[0] for name in service.raw}
    base = _PERSONALIZATION if named & set(_PERSONALIZATION.views) else _FRAUD
    shipped = tuple(view for view in SHIPPED.values() if view.name in named)
    places = {view.name: _places(view, service.raw) for view in shipped}
    return replace(base, shipped=shipped, places=places)


def _places(view: ComputedView, names: Sequence[str]) -> Places:
    listed = [f"{view.name}:{item.name}" for item in view.aggregates]
    return [(place, names.index(name)) for place, name in enumerate(listed) if name in names]
