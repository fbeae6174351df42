"""The point-in-time join as a stream: rows in, NDJSON, Arrow or Parquet out, with progress.

A feature service of a model is evaluated by the code that serves; one that a tenant defined, over
computed views, by its definitions' SQL. Some rows at a time, so memory stays bounded whatever is
asked.
"""

import importlib.util
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from libs.common.errors import InvalidInputError, NotFoundError
from libs.common.features.computed import ComputedView, entity_key
from libs.common.features.contract import FeatureService
from libs.common.ids import uuid7
from services.features.adapters.computed_history import ComputedHistory
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.history import History
from services.features.adapters.jobs import JobStore
from services.features.adapters.labels import LabelStore
from services.features.domain.definitions import FEATURE_SERVICES
from services.features.rows_in import HistoricalBody, Row, milliseconds

_CHUNK = 500
_ARROW = "application/vnd.apache.arrow.stream"
_PARQUET = "application/vnd.apache.parquet"
_NDJSON = "application/x-ndjson"
_SERVICES = {service.name: service for service in FEATURE_SERVICES}

Chunk = dict[str, list[Any]]
Encode = Callable[[AsyncIterator[Chunk]], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Columns:
    """What a feature service means: a model's own, or (view, features) of a tenant's."""

    service: FeatureService | None
    views: tuple[tuple[ComputedView, tuple[str, ...]], ...] = ()


class Join:
    """Evaluates rows of a request, some at a time."""

    def __init__(
        self,
        history: History,
        computed: ComputedHistory,
        definitions: DefinitionStore,
        labels: LabelStore,
        jobs: JobStore,
    ) -> None:
        self._history, self._computed = history, computed
        self._definitions, self._labels, self._jobs = definitions, labels, jobs

    async def columns(self, tenant: str, body: HistoricalBody) -> Columns:
        """Resolve the feature service, and check that every row names its entities.

        Raises:
            NotFoundError: nobody defines it.
            InvalidInputError: it has a view that history cannot give, or a row lacks a join key.
        """
        if body.feature_service in _SERVICES:
            return Columns(_SERVICES[body.feature_service])
        catalog = await self._definitions.catalog(tenant)
        references = catalog.services.get(body.feature_service)
        if references is None:
            raise NotFoundError("There is no feature service of this name.")
        found: dict[str, list[str]] = {}
        for reference in references:
            name, _, feature = reference.partition(":")
            if name not in catalog.computed:
                raise InvalidInputError.field(
                    "/feature_service", f"reads {name}, which is not computed by definition"
                )
            found.setdefault(name, []).append(feature)
        views = tuple((catalog.computed[name], tuple(names)) for name, names in found.items())
        for view, _ in views:
            for index, row in enumerate(body.rows):
                for key in view.join_keys:
                    if getattr(row.entities, key) is None:
                        raise InvalidInputError.field(
                            f"/rows/{index}/entities/{key}", f"is a join key of {view.name}"
                        )
        return Columns(None, views)

    async def begin(self, tenant: str, rows: int) -> str:
        """Note a join as running and give its job's id."""
        job_id = uuid7()
        await self._jobs.keep(tenant, job_id, "historical", {}, rows)
        return job_id

    async def chunks(
        self, tenant: str, body: HistoricalBody, columns: Columns, job_id: str
    ) -> AsyncIterator[Chunk]:
        """Evaluate some rows at a time, in the order of the request, and note the progress."""
        done, state = 0, "failed"
        try:
            for first in range(0, len(body.rows), _CHUNK):
                rows = body.rows[first : first + _CHUNK]
                chunk = await self._chunk(tenant, body, columns, rows)
                yield {"row": list(range(first, first + len(rows))), **chunk}
                done = first + len(rows)
                await self._jobs.note(tenant, job_id, done)
            state = "done"
        finally:
            await self._jobs.end(tenant, job_id, state, done)

    async def _chunk(
        self, tenant: str, body: HistoricalBody, columns: Columns, rows: list[Row]
    ) -> Chunk:
        chunk: Chunk = {"as_of_ms": [milliseconds(row.as_of) for row in rows]}
        if body.labels_known_by is not None:
            ids = [str(row.event_id) for row in rows]
            known = await self._labels.known_by(tenant, ids, milliseconds(body.labels_known_by))
            chunk["label"] = [known.get(name) for name in ids]
        if columns.service is not None:
            requests = [row.request() for row in rows]
            read = await self._history.read(columns.service, tenant, requests)
            is_raw = body.include == "raw" and read.raw is not None
            table = read.raw if is_raw and read.raw is not None else read.matrix.astype(np.float64)
            names = columns.service.raw if is_raw else columns.service.names
            for column, name in enumerate(names):
                chunk[name] = _nulls(table[:, column].tolist())
        for view, features in columns.views:
            entities = [
                entity_key([getattr(row.entities, key) for key in view.join_keys]) for row in rows
            ]
            values = await self._computed.read(tenant, view, entities, chunk["as_of_ms"])
            order = [item.name for item in view.aggregates]
            for name in features:
                place = order.index(name)
                chunk[f"{view.name}:{name}"] = _nulls([row[place] for row in values])
        return chunk


def _nulls(values: list[float]) -> list[float | None]:
    return [None if value != value else value for value in values]


def encoding_of(accept: str) -> tuple[Encode, str]:
    """Choose how rows are written, by the request's `Accept`.

    Raises:
        InvalidInputError: Arrow or Parquet is asked for and pyarrow is not installed.
    """
    for media_type, encode in ((_ARROW, as_arrow), (_PARQUET, as_parquet)):
        if media_type in accept:
            if importlib.util.find_spec("pyarrow") is None:
                raise InvalidInputError(
                    "Arrow and Parquet need pyarrow.", hint="pip install 'gatehouse[arrow]'"
                )
            return encode, media_type
    return as_lines, _NDJSON


async def as_lines(chunks: AsyncIterator[Chunk]) -> AsyncIterator[bytes]:
    """Write one JSON object per row, and one at the end that says it is the end."""
    done = 0
    async for chunk in chunks:
        names = list(chunk)
        lines = [
            orjson.dumps(dict(zip(names, values, strict=True)))
            for values in zip(*chunk.values(), strict=True)
        ]
        done += len(lines)
        yield b"\n".join(lines) + b"\n"
    yield orjson.dumps({"rows": done, "complete": True}) + b"\n"


class _Sink(io.RawIOBase):
    """A file that only grows; what was written is taken away as it is sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        """Say that it can be written."""
        return True

    def write(self, data: Any) -> int:
        """Keep bytes until they are taken."""
        self._parts.append(bytes(data))
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        """Give how much was ever written."""
        return self._written

    def take(self) -> bytes:
        """Give what was written since the last time."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _table(chunk: Chunk) -> Any:
    import pyarrow as arrow

    types = {"row": arrow.int64(), "as_of_ms": arrow.int64(), "label": arrow.string()}
    schema = arrow.schema([(name, types.get(name, arrow.float64())) for name in chunk])
    return arrow.table(chunk, schema=schema)


async def as_arrow(chunks: AsyncIterator[Chunk]) -> AsyncIterator[bytes]:
    """Write an Arrow stream, a record batch per chunk."""
    import pyarrow as arrow

    sink, writer = _Sink(), None
    async for chunk in chunks:
        table = _table(chunk)
        writer = writer or arrow.ipc.new_stream(sink, table.schema)
        writer.write_table(table)
        yield sink.take()
    if writer is not None:
        writer.close()
    yield sink.take()


async def as_parquet(chunks: AsyncIterator[Chunk]) -> AsyncIterator[bytes]:
    """Write a Parquet file, a row group per chunk."""
    import pyarrow.parquet as parquet

    sink, writer = _Sink(), None
    async for chunk in chunks:
        table = _table(chunk)
        writer = writer or parquet.ParquetWriter(sink, table.schema)
        writer.write_table(table)
        yield sink.take()
    if writer is not None:
        writer.close()
    yield sink.take()
