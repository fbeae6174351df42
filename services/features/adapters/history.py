"""Point-in-time reads: the rings as they would have been at a moment, from the log in Postgres.

A row sees an event if it had arrived by the row's time (`arrival_ms <= as-of`) and lies inside its
windows; late events are in no ring, online or here. The windows themselves are evaluated by the
code that serves (`libs.common.features.reader.evaluate`), so there is one definition of each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.common.features.computed import ComputedView
from libs.common.features.contract import FeatureRequest, FeatureRows, FeatureService
from libs.common.features.evaluation import evaluate
from libs.common.features.laid import Arena
from libs.common.features.layout import AHEAD_MS, HEADER, MAGIC, PAST, VIEWS, RingView
from libs.common.features.plans import entities_of, shipped_of, views_of
from libs.common.postgres import Postgres
from services.features.adapters.computed_history import ComputedHistory

_ENTITIES_PER_QUERY = 500
# Rows at a time: an entity may have a million, and only their bytes are kept.
_ROWS = 20_000
_HISTORY = """
SELECT entity, "offset", arrival_ms, record FROM log
WHERE view = $1 AND tenant = $2 AND entity = ANY($3) AND length(record) > 0 AND arrival_ms >= $4
ORDER BY entity, "offset"
"""


@dataclass(frozen=True, slots=True)
class EntityLog:
    """Everything that the log holds of one entity, in (time, arrival) order.

    Attributes:
        records: structured array of the view's dtype.
        arrival_ms / offset: shape (n,), when each became known, and its place in the log.
    """

    records: NDArray[np.void]
    arrival_ms: NDArray[np.int64]
    offset: NDArray[np.int64]

    def chosen(self, is_visible: NDArray[np.bool_]) -> bytes:
        """Give the records that are visible, as bytes."""
        return self.records[is_visible].tobytes()


class History:
    """Reads rows of feature services as of any moment."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres, self._computed = postgres, ComputedHistory(postgres)

    async def read(
        self,
        service: FeatureService,
        tenant: str,
        requests: Sequence[FeatureRequest],
        *,
        offsets: Sequence[Mapping[str, int]] | None = None,
    ) -> FeatureRows:
        """Evaluate rows as of their `now_ms`.

        Args:
            service: what is read.
            tenant: from the credential.
            requests: rows; `now_ms` is the as-of time.
            offsets: per row and view, the last log offset that the row may see, -1 for none;
                default: what had arrived by the row's time.
        """
        keys: dict[str, list[str | None]] = {}
        blobs: dict[str, bytes | None] = {}
        for view in views_of(service):
            named = [request.entities.get(view) for request in requests]
            since_ms = _since(VIEWS[view], [request.now_ms for request in requests])
            entities = sorted({name for name in named if name})
            logs = await self._logs(tenant, view, entities, since_ms)
            keys[view] = []
            for index, (request, entity) in enumerate(zip(requests, named, strict=True)):
                if entity is None:
                    keys[view].append(None)
                    continue
                until = None if offsets is None else offsets[index].get(view, -1)
                key = _visible(VIEWS[view], entity, logs.get(entity), request.now_ms, until, blobs)
                keys[view].append(key)
        given = {}
        for shipped in shipped_of(service):
            keys[shipped.name] = [None] * len(requests)
            given[shipped.name] = await self._given(tenant, shipped, requests, offsets)
        return evaluate(service, list(requests), keys, blobs, Arena(), given)

    async def _given(
        self,
        tenant: str,
        view: ComputedView,
        requests: Sequence[FeatureRequest],
        offsets: Sequence[Mapping[str, int]] | None,
    ) -> list[list[float]]:
        """Read a shipped view by its definition's SQL."""
        entities = entities_of(view, requests)
        chosen = [row for row, entity in enumerate(entities) if entity is not None]
        values = [[math.nan] * len(view.aggregates) for _ in requests]
        found = await self._computed.read(
            tenant,
            view,
            [str(entities[row]) for row in chosen],
            [requests[row].now_ms for row in chosen],
            until=None if offsets is None else [offsets[row].get(view.name, -1) for row in chosen],
        )
        for row, mine in zip(chosen, found, strict=True):
            values[row] = mine
        return values

    async def _logs(
        self, tenant: str, view: str, entities: list[str], since_ms: int
    ) -> dict[str, EntityLog]:
        found: dict[str, list[EntityLog]] = {}
        for first in range(0, len(entities), _ENTITIES_PER_QUERY):
            asked = entities[first : first + _ENTITIES_PER_QUERY]
            async with self._postgres.transaction() as connection:
                cursor = await connection.cursor(_HISTORY, view, tenant, asked, since_ms)
                while rows := await cursor.fetch(_ROWS):
                    for entity, mine in groupby(rows, key=itemgetter(0)):
                        found.setdefault(entity, []).append(_part(VIEWS[view], list(mine)))
        return {entity: _arranged(parts) for entity, parts in found.items()}


def _since(view: RingView, as_of_ms: Sequence[int]) -> int:
    """Give the earliest arrival that can matter to windows that end at these moments."""
    if view.name == "card":
        return 0  # deviations are from all amounts ever
    return min(as_of_ms) - view.horizon_ms - AHEAD_MS


def _part(view: RingView, rows: Sequence[Any]) -> EntityLog:
    return EntityLog(
        np.frombuffer(b"".join([row[3] for row in rows]), view.dtype),
        np.array([row[2] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.int64),
    )


def _arranged(parts: Sequence[EntityLog]) -> EntityLog:
    """Join parts in log order and sort by (time, arrival)."""
    records = np.concatenate([part.records for part in parts])
    order = np.argsort(records["event_ms"], kind="stable")
    arrivals = np.concatenate([part.arrival_ms for part in parts])
    offsets = np.concatenate([part.offset for part in parts])
    return EntityLog(records[order], arrivals[order], offsets[order])


def _visible(
    view: RingView,
    entity: str,
    log: EntityLog | None,
    now_ms: int,
    until: int | None,
    blobs: dict[str, bytes | None],
) -> str:
    """Put the ring that a row may see into `blobs` and give its key; rows share what they can."""
    if log is None:
        blobs[entity] = None
        return entity
    is_visible = log.arrival_ms <= now_ms if until is None else log.offset <= until
    hidden = np.flatnonzero(~is_visible & (log.records["event_ms"] <= now_ms))
    # Later events are cut by the windows, so most rows of an entity share one ring.
    key = entity if not len(hidden) else f"{entity}\0{np.packbits(is_visible).tobytes().hex()}"
    if key not in blobs:
        body = log.records.tobytes() if key is entity else log.chosen(is_visible)
        blobs[key] = _ring(view, body) if body else None
    return key


def _ring(view: RingView, body: bytes) -> bytes:
    newest = int.from_bytes(body[-view.dtype.itemsize :][:8], "little")
    header = HEADER.pack(MAGIC, view.schema_id, 0, newest, 0, 0, 0, 0, 0)
    return header + PAST.pack(0, 0, 0, 0, 0) + body
