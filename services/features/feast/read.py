"""`POST /get-online-features`: every view of every entity in one MGET, statuses told truthfully.

Order of the statuses: no value NOT_FOUND; bytes that cannot be read INVALID; older than the ttl
OUTSIDE_MAX_AGE; null NULL_VALUE; else PRESENT. Computed views are evaluated at the moment of the
read; without an event inside the view's horizon they are NOT_FOUND.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Histogram

from libs.common.errors import UnavailableError
from libs.common.features import columns as ring_columns
from libs.common.features.laid import Arena, LaidRings, Rows
from libs.common.features.layout import VIEWS, LayoutError
from libs.common.redis import UNAVAILABLE
from services.features.adapters.definitions import Catalog, DefinitionStore
from services.features.adapters.rings import RedisRings, vector_prefix
from services.features.domain.definitions import FEATURE_SERVICES
from services.features.domain.pushed import PushedView, entity_key
from services.features.domain.vectors import Stamp, heads_of, schema_id_of
from services.features.errors import UnknownServiceError, UnknownViewError
from services.features.feast.wire import EPOCH, ReadRequest, join_value, refuse, rfc3339

_RING_VERSION = 1
_VERSION = re.compile(r"^v[0-9]{1,6}$")


@dataclass(slots=True)
class _Part:
    """What one view contributes to a read.

    Attributes:
        pushed: the version that was asked for; None for a computed view.
        features: names of the asked features.
        join_keys: of the view, sorted.
    """

    name: str
    pushed: PushedView | None
    features: list[str]
    join_keys: tuple[str, ...]

    @property
    def version(self) -> int:
        """The version that is read."""
        return self.pushed.version if self.pushed else _RING_VERSION


@dataclass(frozen=True, slots=True)
class _Column:
    """One feature's answer, a value per entity row."""

    values: list[Any]
    statuses: list[str]
    event_timestamps: list[str]

    def document(self) -> dict[str, Any]:
        return {
            "values": self.values,
            "statuses": self.statuses,
            "event_timestamps": self.event_timestamps,
        }


# Keys without the view's name, by join keys: the views of one entity differ in it only.
_Prefixes = dict[tuple[str, ...], list[str]]


class FeastReader:
    """Answers online reads of Feast clients."""

    def __init__(
        self, definitions: DefinitionStore, rings: RedisRings, registry: CollectorRegistry
    ) -> None:
        self._definitions, self._rings = definitions, rings
        self._freshness = Histogram(
            "gatehouse_feature_freshness_seconds",
            "Age of the oldest value of a view in one read, from its event time.",
            ("view",),
            buckets=(1, 5, 15, 60, 300, 900, 3600, 21_600, 86_400, 604_800),
            registry=registry,
        )

    async def read(self, tenant: str, request: ReadRequest) -> dict[str, Any]:
        """Answer one read.

        Raises:
            UnavailableError: the online store does not answer, or is being rebuilt.
        """
        catalog = await self._definitions.catalog(tenant)
        references = request.features or self._references(catalog, str(request.feature_service))
        parts, order = _parts(catalog, references)
        texts = {
            name: [join_value(value, f"/entities/{name}/{row}") for row, value in enumerate(column)]
            for name, column in _known_entities(request.entities, catalog, parts).items()
        }
        prefixes: _Prefixes = {}
        keys = {part.name: self._keys(tenant, part, texts, prefixes) for part in parts.values()}
        wanted = list(dict.fromkeys(key for listed in keys.values() for key in listed))
        try:
            blobs = await self._rings.fetch(wanted)
        except UNAVAILABLE as error:
            raise UnavailableError("The online store does not answer.") from error
        if blobs is None:
            raise UnavailableError("The online store is being rebuilt.", retry_after_s=2)
        by_key = dict(zip(wanted, blobs, strict=True))
        found: dict[tuple[str, str], _Column] = {}
        for reference, part in parts.items():
            mine = [by_key[key] for key in keys[part.name]]
            if part.pushed is None:
                columns = _computed(part, mine)
            else:
                catalog = await self._knowing(tenant, catalog, mine)
                columns = _pushed(part, part.pushed, catalog, mine)
            found |= {(reference, name): column for name, column in columns.items()}
            self._observe(part.name, columns)
        return _answer(request, parts, order, found)

    def _observe(self, view: str, columns: Mapping[str, _Column]) -> None:
        """Count how old what we served is; all features of a view share their times."""
        stamps = next(iter(columns.values())).event_timestamps
        oldest = min((stamp for stamp in set(stamps) if stamp != EPOCH), default=None)
        if oldest is not None:
            age_s = time.time() - datetime.fromisoformat(oldest).timestamp()
            # Names of tenants' views are no labels: there is no bound to them.
            label = view if view in VIEWS else "pushed"
            self._freshness.labels(label).observe(max(0.0, age_s))

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
        if part.pushed is None:
            return [VIEWS[part.name].key(tenant, entity) for entity in texts[part.join_keys[0]]]
        if part.join_keys not in known:
            columns = [texts[key] for key in part.join_keys]
            known[part.join_keys] = [
                vector_prefix(tenant, entity_key(values)) for values in zip(*columns, strict=True)
            ]
        return [prefix + part.name for prefix in known[part.join_keys]]

    async def _knowing(
        self, tenant: str, catalog: Catalog, blobs: Sequence[bytes | None]
    ) -> Catalog:
        """Reload the definitions once if a blob has a schema id that nobody told us of."""
        for schema_id in {schema_id_of(blob) for blob in blobs if blob}:
            if schema_id is not None and schema_id not in catalog.by_schema:
                return await self._definitions.catalog(tenant, is_fresh=True)
        return catalog


def _known_entities(
    entities: Mapping[str, list[Any]], catalog: Catalog, parts: Mapping[str, _Part]
) -> Mapping[str, list[Any]]:
    known = {f"{name}_id" for name in VIEWS}
    known |= {key for view in catalog.versions.values() for key in view.join_keys}
    known |= {key for part in parts.values() for key in part.join_keys}
    for name in entities:
        if name not in known:
            raise refuse(f"/entities/{name[:64]}", "is no entity")
    return entities


def _parts(
    catalog: Catalog, references: Sequence[str]
) -> tuple[dict[str, _Part], list[tuple[str, str]]]:
    """Group references by view (and version), keeping the order of the features."""
    parts: dict[str, _Part] = {}
    order = []
    for index, reference in enumerate(references):
        named, _, feature = reference.partition(":")
        if named not in parts:
            parts[named] = _part(catalog, named)
        part = parts[named]
        known = (
            [name for name, _ in part.pushed.layout.features]
            if part.pushed
            else [
                name.partition(":")[2]
                for name in ring_columns.STORED
                if name.startswith(f"{part.name}:")
            ]
        )
        if feature not in known:
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
        raise unknown
    return _Part(name, view, [], view.join_keys)


def _pushed(
    part: _Part, view: PushedView, catalog: Catalog, blobs: Sequence[bytes | None]
) -> dict[str, _Column]:
    now_ms = time.time_ns() // 1_000_000
    states = ["NOT_FOUND"] * len(blobs)
    stamps = [EPOCH] * len(blobs)
    by_schema: dict[int, list[int]] = {}
    rendered: dict[tuple[int, int], str] = {}
    held = [(row, blob) for row, blob in enumerate(blobs) if blob is not None]
    heads = heads_of([blob for _, blob in held])
    for (row, _), (schema_id, event_ms, sub_us) in zip(held, heads, strict=True):
        written = catalog.by_schema.get(schema_id)
        if written is None or written.name != view.name:
            states[row] = "INVALID"
            continue
        if (event_ms, sub_us) not in rendered:
            rendered[event_ms, sub_us] = rfc3339(Stamp(event_ms, sub_us))
        stamps[row] = rendered[event_ms, sub_us]
        if now_ms - event_ms > view.ttl_ms:
            states[row] = "OUTSIDE_MAX_AGE"
            continue
        states[row] = "PRESENT"
        by_schema.setdefault(schema_id, []).append(row)
    values: dict[str, list[Any]] = {name: [None] * len(blobs) for name in part.features}
    for schema_id, rows in by_schema.items():
        layout = catalog.by_schema[schema_id].layout
        try:
            decoded = layout.unpack([blobs[row] or b"" for row in rows])
        except (LayoutError, UnicodeDecodeError):
            for row in rows:
                states[row] = "INVALID"
            continue
        kinds, asked = dict(layout.features), dict(view.layout.features)
        for name in part.features:
            # A feature that the older version lacks, or kept as another type, is null.
            if kinds.get(name) == asked[name]:
                _place(values[name], rows, decoded[name])
    return {name: _column(values[name], states, stamps) for name in part.features}


def _place(target: list[Any], rows: list[int], values: list[Any]) -> None:
    if len(rows) == len(target):
        target[:] = values
        return
    for row, value in zip(rows, values, strict=True):
        target[row] = value


def _column(values: list[Any], states: list[str], stamps: list[str]) -> _Column:
    if None not in values:
        return _Column(values, states, stamps)
    told = [
        "NULL_VALUE" if value is None and state == "PRESENT" else state
        for value, state in zip(values, states, strict=True)
    ]
    return _Column(values, told, stamps)


def _computed(part: _Part, blobs: Sequence[bytes | None]) -> dict[str, _Column]:
    view, now_ms = VIEWS[part.name], time.time_ns() // 1_000_000
    laid = LaidRings(view, Arena())
    states, stamps, numbers = ["NOT_FOUND"] * len(blobs), [EPOCH] * len(blobs), []
    for row, blob in enumerate(blobs):
        try:
            numbers.append(laid.add(blob) if blob else 0)
        except LayoutError:
            states[row] = "INVALID"
            numbers.append(0)
    times = np.full(len(blobs), now_ms, dtype=np.int64)
    rows = Rows(laid, np.array(numbers), times, ring_columns.WINDOWS[part.name])
    found = ring_columns.stored_columns(part.name, rows)
    for row, is_found in enumerate(rows.is_found(view.horizon_ms).tolist()):
        if is_found:
            event_ms = laid.event_ms[numbers[row]]
            stamps[row] = rfc3339(Stamp(event_ms))
            states[row] = "OUTSIDE_MAX_AGE" if now_ms - event_ms > view.ttl_ms else "PRESENT"
    columns = {}
    for name in part.features:
        values = [
            value if state == "PRESENT" and value == value else None
            for value, state in zip(found[f"{part.name}:{name}"].tolist(), states, strict=True)
        ]
        columns[name] = _column(values, states, stamps)
    return columns


def _answer(
    request: ReadRequest,
    parts: Mapping[str, _Part],
    order: Sequence[tuple[str, str]],
    found: Mapping[tuple[str, str], _Column],
) -> dict[str, Any]:
    join_keys = list(request.entities)
    full = request.full_feature_names
    names = [
        f"{named.removesuffix('@latest')}__{feature}" if full else feature
        for named, feature in order
    ]
    if len(set(names)) < len(names):
        raise refuse("/features", "has two features of one name; set full_feature_names")
    present, epoch = ["PRESENT"] * request.rows, [EPOCH] * request.rows
    metadata: dict[str, Any] = {"feature_names": [*join_keys, *names]}
    if request.with_versions:
        metadata["feature_view_metadata"] = [
            {"name": part.name, "version": part.version} for part in parts.values()
        ]
    keys = [_Column(request.entities[key], present, epoch).document() for key in join_keys]
    return {
        "metadata": metadata,
        "results": [*keys, *(found[reference].document() for reference in order)],
    }
