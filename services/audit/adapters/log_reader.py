"""Reads of the log: search, single events, the tail, tiles, bundles, proofs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from libs.common.postgres import Postgres
from libs.common.transparency import tree
from libs.common.transparency.leaf import rfc3339
from libs.common.transparency.tiles import (
    TILE_WIDTH,
    Coordinate,
    node_from_tiles,
    tile_of,
)

ENTRIES_MAX = 5_000
_BISECT = """
WITH RECURSIVE bounds (low, high) AS (
    SELECT min_index, size FROM log_state
    UNION ALL
    SELECT CASE WHEN l.ingested_at < $1 THEN b.middle + 1 ELSE b.low END,
           CASE WHEN l.ingested_at < $1 THEN b.high ELSE b.middle END
    FROM (SELECT low, high, (low + high) / 2 AS middle FROM bounds WHERE low < high) b
    CROSS JOIN LATERAL (SELECT ingested_at FROM leaf WHERE index = b.middle) l
)
SELECT low FROM bounds WHERE low >= high
"""


@dataclass(frozen=True, slots=True)
class State:
    """Size, root and minimum index at one moment, read in one query."""

    size: int
    root: bytes
    min_index: int
    epoch: int
    ingested_at: datetime | None


@dataclass(frozen=True, slots=True)
class Search:
    """Filters of a search; None or empty means any."""

    tenant: str
    limit: int
    below: int | None = None
    from_index: int | None = None
    type: str | None = None
    source: str | None = None
    decision: str | None = None
    model: str | None = None
    actor: str | None = None
    subject: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> tuple[str, list[Any]]:
        """Give the WHERE text and its arguments."""
        texts, values = ["s.tenant = $1"], [self.tenant]
        rows: list[tuple[str, Any]] = [
            ("s.index <", self.below),
            ("s.index >=", self.from_index),
            ("s.type =", self.type),
            ("s.source =", self.source),
            ("s.decision =", self.decision),
            ("s.model =", self.model),
            ("s.actor =", self.actor),
            ("s.subject =", self.subject),
            ("s.request_id =", self.request_id),
            ("s.ingested_at >=", self.since),
            ("s.ingested_at <", self.until),
        ]
        for text, value in rows:
            if value is not None:
                values.append(value)
                texts.append(f"{text} ${len(values)}")
        return " AND ".join(texts), values


class LogReader:
    """Queries over committed rows; holds no state."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def state(self) -> State:
        """Give the present size and root."""
        row = await self._postgres.fetchrow(
            "SELECT size, root, min_index, epoch, ingested_at FROM log_state"
        )
        if row is None:
            return State(0, tree.EMPTY_ROOT, 0, 0, None)
        return State(row["size"], row["root"], row["min_index"], row["epoch"], row["ingested_at"])

    async def bounded(self, search: Search) -> Search:
        """Turn the times of a search into indices: time order is index order.

        Without it a search of long ago would walk back over everything newer.
        """
        low, high = search.from_index, search.below
        if search.since is not None:
            low = max(low or 0, await self.index_at(search.since))
        if search.until is not None:
            end = await self.index_at(search.until)
            high = end if high is None else min(high, end)
        return replace(search, from_index=low, below=high)

    async def index_at(self, moment: datetime) -> int:
        """Give the first index whose ingestion time is not before `moment`, by bisection.

        It runs in the server: one round trip, about twenty index look-ups for a million leaves.
        """
        found = await self._postgres.fetchval(_BISECT, moment)
        return int(found) if found is not None else 0

    async def count(self, search: Search) -> int:
        """Give how many events match."""
        where, values = (await self.bounded(search)).conditions()
        query = f"SELECT count(*) FROM search_row s WHERE {where}"
        return int(await self._postgres.fetchval(query, *values))

    async def payloads(self, tenant: str, start: int, end: int) -> list[tuple[int, bytes, bytes]]:
        """Give index, salt and body of a tenant's events in `[start, end)`."""
        rows = await self._postgres.fetch(
            "SELECT p.index, p.salt, p.body FROM search_row s JOIN payload p ON p.index = s.index "
            "WHERE s.tenant = $1 AND s.index >= $2 AND s.index < $3 ORDER BY s.index",
            tenant,
            start,
            end,
        )
        return [(row["index"], row["salt"], row["body"]) for row in rows]

    async def search(self, search: Search) -> list[dict[str, Any]]:
        """Give matching events, newest first."""
        where, values = (await self.bounded(search)).conditions()
        rows = await self._postgres.fetch(
            "SELECT s.index, s.ingested_at, p.body FROM search_row s LEFT JOIN payload p "
            "ON p.index = s.index AND p.ingested_at = s.ingested_at "
            f"WHERE {where} ORDER BY s.index DESC LIMIT {int(search.limit)}",
            *values,
        )
        return [_item(row["index"], row["ingested_at"], row["body"]) for row in rows]

    async def find(self, tenant: str, event_id: str) -> dict[str, Any] | None:
        """Give one event of a tenant by id; the oldest if several services used the id."""
        row = await self._postgres.fetchrow(
            "SELECT s.index, s.ingested_at, p.body FROM event_dedup d "
            "JOIN search_row s ON s.index = d.index AND s.tenant = $1 "
            "LEFT JOIN payload p ON p.index = s.index AND p.ingested_at = s.ingested_at "
            "WHERE d.id = $2 ORDER BY d.index LIMIT 1",
            tenant,
            event_id,
        )
        return None if row is None else _item(row["index"], row["ingested_at"], row["body"])

    async def leaves(self, start: int, end: int) -> list[bytes]:
        """Give the exact leaf bytes of `[start, end)`, in order."""
        rows = await self._postgres.fetch(
            "SELECT leaf FROM leaf WHERE index >= $1 AND index < $2 ORDER BY index", start, end
        )
        return [row["leaf"] for row in rows]

    async def entries(self, start: int, limit: int) -> dict[str, Any]:
        """Give leaves with payloads by index, oldest first; personal fields stay sealed."""
        state = await self.state()
        start = max(start, state.min_index)
        rows = await self._postgres.fetch(
            "SELECT l.index, l.leaf, p.body FROM leaf l LEFT JOIN payload p "
            "ON p.index = l.index AND p.ingested_at = l.ingested_at "
            "WHERE l.index >= $1 AND l.index < $2 ORDER BY l.index",
            start,
            min(start + limit, state.size),
        )
        items = [
            {
                "index": row["index"],
                "leaf": orjson.Fragment(row["leaf"]),
                "payload": orjson.Fragment(row["body"] or b"null"),
            }
            for row in rows
        ]
        return {
            "items": items,
            "next_index": rows[-1]["index"] + 1 if rows else start,
            "size": state.size,
            "min_index": state.min_index,
        }

    async def tile(self, level: int, number: int) -> bytes | None:
        """Give the widest stored form of a tile."""
        value = await self._postgres.fetchval(
            "SELECT hashes FROM tile WHERE level = $1 AND n = $2", level, number
        )
        return None if value is None else bytes(value)

    async def proof(self, ranges: Iterable[tree.Range]) -> list[bytes]:
        """Give the hashes of leaf ranges, from tiles, in one query."""
        spans = list(ranges)
        nodes = [node for span in spans for node in tree.perfect_nodes(span)]
        tiles = await self._tiles({tile_of(*node)[0] for node in nodes})
        return [
            tree.range_hash(span, lambda height, index: node_from_tiles(tiles, height, index))
            for span in spans
        ]

    async def _tiles(self, wanted: Iterable[Coordinate]) -> Mapping[Coordinate, bytes]:
        coordinates = sorted(wanted)
        rows = await self._postgres.fetch(
            "SELECT level, n, hashes FROM tile WHERE (level, n) IN "
            "(SELECT * FROM unnest($1::smallint[], $2::bigint[]))",
            [level for level, _ in coordinates],
            [number for _, number in coordinates],
        )
        return {(row["level"], row["n"]): row["hashes"] for row in rows}

    async def bundle_entries(self, number: int, width: int) -> list[bytes]:
        """Give the leaves of an entry bundle."""
        start = number * TILE_WIDTH
        return await self.leaves(start, start + width)


def _item(index: int, ingested_at: datetime, body: bytes | None) -> dict[str, Any]:
    """Shape one event; personal fields are still sealed."""
    item: dict[str, Any] = {"index": index, "ingested_at": rfc3339(ingested_at)}
    if body is None:
        return {**item, "pruned": True}
    return {**orjson.loads(body), **item}
