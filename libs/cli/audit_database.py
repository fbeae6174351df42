"""Reads a whole log from PostgreSQL for the check, in one snapshot, while the log grows on."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from libs.common.transparency.check import (
    Findings,
    Head,
    LogCheck,
    StoredCheckpoint,
    tiles_over,
)
from libs.common.transparency.crypto import verify_ed25519
from libs.common.transparency.policy import Policy
from libs.common.transparency.records import Pruned, Record
from libs.common.transparency.tiles import Coordinate, Edge, edge_coordinates
from libs.common.transparency.tree import VerificationError

BATCH = 2048
_SEARCH = (
    "tenant",
    "type",
    "source",
    "decision",
    "model",
    "subject",
    "request_id",
    "ingested_at",
)
_RECORDS = (
    "SELECT l.index, l.ingested_at, l.leaf, p.salt, p.body, p.retention, "
    + ", ".join(f"s.{name} AS s_{name}" for name in _SEARCH)
    + " FROM leaf l LEFT JOIN (SELECT * FROM payload WHERE index >= $1 AND index < $2) p "
    "ON p.index = l.index "
    "LEFT JOIN (SELECT * FROM search_row WHERE index >= $1 AND index < $2) s ON s.index = l.index "
    "WHERE l.index >= $1 AND l.index < $2 ORDER BY l.index"
)


async def check_database(
    connection: Any,
    policy: Policy,
    *,
    kept: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Check every row of a log.

    Args:
        connection: asyncpg connection in a REPEATABLE READ transaction, search path on the schema.
        policy: whom to trust.
        kept: checkpoints kept outside of the log.
        progress: told how many of how many leaves are done.

    Raises:
        VerificationError: the log was tampered with; names the first bad index.
    """
    row = await connection.fetchrow("SELECT size, root, min_index FROM log_state")
    if row is None:
        raise VerificationError("the log has no state", expected="log_state", index=0)
    head = Head(row["size"], row["root"], row["min_index"])
    check = LogCheck(
        policy,
        verify_ed25519,
        head,
        checkpoints=await _checkpoints(connection),
        pruned=await _pruned(connection),
        kept=kept,
        edge=await _edge(connection, head.min_index),
    )
    start = head.min_index
    last = await connection.fetchval("SELECT max(index) FROM leaf")
    end = max(head.size, (last or 0) + 1 if last is not None else 0)
    while start < end:
        stop = min(end, start + BATCH)
        rows = await connection.fetch(_RECORDS, start, stop)
        keys = await _keys(connection, rows)
        wanted = tiles_over(start, stop)
        check.feed(
            [_record(item, keys) for item in rows],
            await _tiles(connection, wanted),
        )
        start = stop
        progress(min(start, head.size), head.size)
    await _no_orphans(connection)
    subjects = await connection.fetch(
        "SELECT pseudonym, wrapped_dek IS NOT NULL AS is_alive FROM subject_key"
    )
    shapes = await connection.fetch(
        "SELECT level, n, octet_length(hashes) AS size FROM tile ORDER BY level, n"
    )
    return check.finish(
        {item["pseudonym"]: item["is_alive"] for item in subjects},
        ((item["level"], item["n"], item["size"]) for item in shapes),
    )


async def _checkpoints(connection: Any) -> list[StoredCheckpoint]:
    rows = await connection.fetch(
        "SELECT size, root, note, witnessed_at IS NOT NULL AS seen FROM checkpoint ORDER BY size"
    )
    return [StoredCheckpoint(r["size"], r["root"], r["note"], r["seen"]) for r in rows]


async def _pruned(connection: Any) -> list[Pruned]:
    """Read from the leaves what was announced as removed; they are checked like all others."""
    rows = await connection.fetch(
        "SELECT l.leaf FROM event_dedup d JOIN leaf l ON l.index = d.index "
        "WHERE d.source = 'audit' AND d.id LIKE 'retention:%'"
    )
    return [found for row in rows if (found := Pruned.of_leaf(row["leaf"]))]


async def _edge(connection: Any, size: int) -> Edge:
    return Edge.from_tiles(size, await _tiles(connection, edge_coordinates(size)))


async def _tiles(connection: Any, wanted: Sequence[Coordinate]) -> dict[Coordinate, bytes]:
    rows = await connection.fetch(
        "SELECT level, n, hashes FROM tile WHERE (level, n) IN "
        "(SELECT * FROM unnest($1::smallint[], $2::bigint[]))",
        [level for level, _ in wanted],
        [number for _, number in wanted],
    )
    return {(row["level"], row["n"]): row["hashes"] for row in rows}


async def _keys(connection: Any, rows: Sequence[Any]) -> dict[int, tuple[str, str]]:
    names: list[tuple[str, str]] = []
    for row in rows:
        try:
            leaf = orjson.loads(row["leaf"])
            names.append((str(leaf["id"]), str(leaf["source"])))
        except (ValueError, KeyError, TypeError):
            continue  # the check names it
    found = await connection.fetch(
        "SELECT id, source, index FROM event_dedup WHERE (id, source) IN "
        "(SELECT * FROM unnest($1::text[], $2::text[]))",
        [name for name, _ in names],
        [source for _, source in names],
    )
    return {row["index"]: (row["id"], row["source"]) for row in found}


async def _no_orphans(connection: Any) -> None:
    """Check that no row lies beside the log."""
    for table in ("payload", "search_row", "event_dedup"):
        index = await connection.fetchval(
            f"SELECT min(t.index) FROM {table} t LEFT JOIN leaf l ON l.index = t.index "
            "WHERE l.index IS NULL AND t.index >= (SELECT min_index FROM log_state)"
        )
        if index is not None:
            raise VerificationError(f"a row of {table} belongs to no leaf", index=index)
        size = await connection.fetchval(
            f"SELECT min(index) FROM (SELECT index FROM {table} WHERE index >= "
            "(SELECT min_index FROM log_state) GROUP BY index HAVING count(*) > 1) t"
        )
        if size is not None:
            raise VerificationError(f"{table} holds an index twice", index=size)


def _record(row: Any, keys: dict[int, tuple[str, str]]) -> Record:
    has_search = row["s_tenant"] is not None
    return Record(
        index=row["index"],
        leaf=row["leaf"],
        ingested_at=row["ingested_at"],
        salt=row["salt"],
        body=row["body"],
        retention=row["retention"],
        search={name: row[f"s_{name}"] for name in _SEARCH} if has_search else None,
        key=keys.get(row["index"]),
    )
