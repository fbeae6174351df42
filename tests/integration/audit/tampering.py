"""`python -m tests.integration.audit.tampering`: random edits of a log by a superuser, all caught?

Each edit happens in a transaction that is rolled back after the check, so thousands fit into
minutes. Every kind says which index must be named, when the edit leaves that open to no doubt.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from deploy.local.servers import EmbeddedPostgres
from libs.cli.audit_database import check_database
from libs.common.events.envelope import Event
from libs.common.migrations import migrate
from libs.common.postgres import Postgres
from libs.common.transparency.leaf import payload_hash
from libs.common.transparency.note import COSIGNATURE, Checkpoint, VerifierKey, cosign, sign_note
from libs.common.transparency.policy import Policy
from libs.common.transparency.tiles import Edge
from libs.common.transparency.tree import VerificationError, leaf_hash
from services.audit.adapters.erasures import Erasures
from services.audit.adapters.keys import LogKeys
from services.audit.adapters.log_reader import LogReader
from services.audit.adapters.sequencer import Sequencer, running
from services.audit.adapters.subjects import SubjectKeys
from services.audit.domain.events import Accepted, accept
from tests.integration.audit.process import prediction

SIZE, STEP = 330, 40
ORIGIN = "tampering.example/log"


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


@dataclass
class World:
    """A log in a database, and what an auditor outside of it knows."""

    keys: LogKeys
    witness_key: Ed25519PrivateKey
    size: int = 0
    kept: str = ""

    @property
    def witness(self) -> VerifierKey:
        return VerifierKey.of("witness.example", _public(self.witness_key), COSIGNATURE)

    @property
    def policy(self) -> Policy:
        return Policy(self.keys.verifier, (self.witness,))

    def note(self, size: int, root: bytes) -> str:
        """Sign and cosign, as log and witness did."""
        text = Checkpoint(ORIGIN, size, root).text()
        note = sign_note(text, self.keys.verifier, self.keys.signing.sign)
        return note + cosign(text, self.witness, 1_790_000_000 + size, self.witness_key.sign)


async def build(postgres: Postgres, directory: Path) -> World:
    """Append events of a few data subjects, one of them erased; a checkpoint every few."""
    keys = LogKeys.open(directory, ORIGIN)
    world = World(keys, Ed25519PrivateKey.generate())
    subjects, reader = SubjectKeys(keys), LogReader(postgres)
    sequencer = Sequencer(postgres, subjects)

    async def append(events: list[Event], source: str) -> None:
        taken = [accept(event.to_wire(), source) for event in events]
        await sequencer.append([item for item in taken if isinstance(item, Accepted)])

    class Emitter:
        async def emit(self, *events: Event) -> None:
            self.events = events

    async with running(sequencer):
        for start in range(0, SIZE, STEP):
            events = [
                prediction(i, data_subject=f"card:{i % 9}" if i % 3 else None)
                for i in range(start, min(SIZE, start + STEP))
            ]
            await append(events, "inference")
            state = await reader.state()
            await _publish(postgres, world, state.size, state.root)
        emitter = Emitter()
        await Erasures(postgres, subjects, emitter).erase("default", "card:1")
        await append(list(emitter.events), "audit")
    state = await reader.state()
    world.size, world.kept = state.size, world.note(state.size, state.root)
    await _publish(postgres, world, state.size, state.root)
    return world


async def _publish(postgres: Postgres, world: World, size: int, root: bytes) -> None:
    await postgres.execute(
        "INSERT INTO checkpoint (size, root, note, witnessed_at) VALUES ($1, $2, $3, now())",
        size,
        root,
        world.note(size, root),
    )


# An edit changes rows and gives the index that must be named, or None where several fit.
Edit = Callable[[Any, random.Random, World], Awaitable[int | None]]


def _flipped(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) * 8)
    changed = bytearray(data)
    changed[at // 8] ^= 1 << (at % 8)
    return bytes(changed)


async def flip_leaf(c: Any, draw: random.Random, world: World) -> int | None:
    index = draw.randrange(world.size)
    data = await c.fetchval("SELECT leaf FROM leaf WHERE index = $1", index)
    await c.execute("UPDATE leaf SET leaf = $2 WHERE index = $1", index, _flipped(data, draw))
    return index


async def flip_payload(c: Any, draw: random.Random, world: World) -> int | None:
    index, column = draw.randrange(world.size), draw.choice(["salt", "body"])
    data = await c.fetchval(f"SELECT {column} FROM payload WHERE index = $1", index)
    await c.execute(
        f"UPDATE payload SET {column} = $2 WHERE index = $1", index, _flipped(data, draw)
    )
    return index


async def flip_tile(c: Any, draw: random.Random, world: World) -> int | None:
    row = draw.choice(await c.fetch("SELECT level, n, hashes FROM tile ORDER BY level, n"))
    at = draw.randrange(len(row["hashes"]))
    data = bytearray(row["hashes"])
    data[at] ^= 1 << draw.randrange(8)
    await c.execute(
        "UPDATE tile SET hashes = $3 WHERE level = $1 AND n = $2",
        row["level"],
        row["n"],
        bytes(data),
    )
    return int(((row["n"] * 256) + at // 32) << (8 * row["level"]))


async def change_search_row(c: Any, draw: random.Random, world: World) -> int | None:
    """Hide an event from searches by changing what it is found by."""
    index = draw.randrange(world.size)
    column = draw.choice(["tenant", "type", "source", "decision", "model", "request_id", "subject"])
    await c.execute(f"UPDATE search_row SET {column} = 'other' WHERE index = $1", index)
    return index


async def change_time(c: Any, draw: random.Random, world: World) -> int | None:
    index, table = draw.randrange(world.size), draw.choice(["leaf", "search_row"])
    await c.execute(
        f"UPDATE {table} SET ingested_at = ingested_at + interval '1 ms' * $2 WHERE index = $1",
        index,
        draw.choice([-5, 7]),
    )
    return index


async def change_dedupe_row(c: Any, draw: random.Random, world: World) -> int | None:
    index = draw.randrange(world.size)
    await c.execute("UPDATE event_dedup SET id = 'x' || id WHERE index = $1", index)
    return index


async def swap_leaves(c: Any, draw: random.Random, world: World) -> int | None:
    first, second = sorted(draw.sample(range(world.size), 2))
    await c.execute(
        "UPDATE leaf SET index = CASE index WHEN $1 THEN $2 ELSE $1 END WHERE index IN ($1, $2)",
        first,
        second,
    )
    return first


async def swap_payloads(c: Any, draw: random.Random, world: World) -> int | None:
    first, second = sorted(draw.sample(range(world.size), 2))
    await c.execute(
        "UPDATE payload SET index = CASE index WHEN $1 THEN $2 ELSE $1 END WHERE index IN ($1, $2)",
        first,
        second,
    )
    return first


async def swap_hashes(c: Any, draw: random.Random, world: World) -> int | None:
    first, second = sorted(draw.sample(range(256), 2))
    data = await c.fetchval("SELECT hashes FROM tile WHERE level = 0 AND n = 0")
    parts = [data[i : i + 32] for i in range(0, len(data), 32)]
    parts[first], parts[second] = parts[second], parts[first]
    await c.execute("UPDATE tile SET hashes = $1 WHERE level = 0 AND n = 0", b"".join(parts))
    return first


async def delete_row(c: Any, draw: random.Random, world: World) -> int | None:
    index = draw.randrange(world.size)
    table = draw.choice(["leaf", "payload", "search_row", "event_dedup"])
    await c.execute(f"DELETE FROM {table} WHERE index = $1", index)
    return index


async def delete_tile(c: Any, draw: random.Random, world: World) -> int | None:
    row = draw.choice(await c.fetch("SELECT level, n FROM tile ORDER BY level, n"))
    await c.execute("DELETE FROM tile WHERE level = $1 AND n = $2", row["level"], row["n"])
    return int((row["n"] * 256) << (8 * row["level"]))


async def insert_row(c: Any, draw: random.Random, world: World) -> int | None:
    """Copy an event to another index: one that is taken, or one behind the end."""
    table = draw.choice(["leaf", "payload", "search_row"])
    source, target = draw.randrange(world.size), draw.randrange(world.size + 40)
    names = await c.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 "
        "AND attname <> 'index'",
        table,
    )
    columns = ", ".join(row["attname"] for row in names)
    await c.execute(
        f"INSERT INTO {table} (index, {columns}) SELECT $2, {columns} FROM {table} "
        "WHERE index = $1",
        source,
        target,
    )
    # A copy at a taken index may be read before or after the true row.
    return target if target >= world.size or table != "leaf" else None


async def insert_dedupe_row(c: Any, draw: random.Random, world: World) -> int | None:
    """Claim an id, so that a later event of that id would be swallowed."""
    index = draw.randrange(world.size + 40)
    await c.execute("INSERT INTO event_dedup (id, source, index) VALUES ('x', 'y', $1)", index)
    return index


async def widen_tile(c: Any, draw: random.Random, world: World) -> int | None:
    await c.execute(
        "UPDATE tile SET hashes = hashes || $1 WHERE level = 0 AND n = 1", draw.randbytes(32)
    )
    return world.size


async def truncate_all(c: Any, draw: random.Random, world: World) -> int | None:
    """Cut the log everywhere, checkpoints included: only what was kept elsewhere shows it."""
    size = draw.randrange(1, world.size)
    for table in ("leaf", "payload", "search_row", "event_dedup"):
        await c.execute(f"DELETE FROM {table} WHERE index >= $1", size)
    leaves = await c.fetch("SELECT leaf FROM leaf ORDER BY index")
    await _rebuild(c, [row["leaf"] for row in leaves])
    await c.execute("DELETE FROM checkpoint WHERE size > $1", size)
    return size


async def _rebuild(c: Any, leaves: list[bytes]) -> bytes:
    edge = Edge()
    tiles = edge.append(leaf_hash(leaf) for leaf in leaves)
    await c.execute("DELETE FROM tile")
    await c.executemany(
        "INSERT INTO tile (level, n, hashes) VALUES ($1, $2, $3)",
        [(level, number, content) for (level, number), content in tiles.items()],
    )
    await c.execute("UPDATE log_state SET size = $1, root = $2", edge.size, edge.root())
    return edge.root()


async def drop_partition(c: Any, draw: random.Random, world: World) -> int | None:
    parent = draw.choice(["leaf", "payload_standard", "search_row"])
    name = await c.fetchval(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass($1) "
        "ORDER BY 1 LIMIT 1",
        parent,
    )
    await c.execute(f"DROP TABLE {name}")
    return 0


async def replay_checkpoint(c: Any, draw: random.Random, world: World) -> int | None:
    """Put an older note in the place of the newest."""
    rows = await c.fetch("SELECT size, root, note FROM checkpoint ORDER BY size")
    old = draw.choice(rows[:-1])
    if draw.random() < 0.5:
        await c.execute(
            "UPDATE checkpoint SET note = $2 WHERE size = $1", rows[-1]["size"], old["note"]
        )
    else:
        await c.execute(
            "UPDATE checkpoint SET note = $2, root = $3 WHERE size = $1",
            rows[-1]["size"],
            old["note"],
            old["root"],
        )
    return int(rows[-1]["size"])


async def change_checkpoint(c: Any, draw: random.Random, world: World) -> int | None:
    row = draw.choice(await c.fetch("SELECT size, root, note FROM checkpoint ORDER BY size"))
    if draw.random() < 0.3:
        root = _flipped(row["root"], draw)
        await c.execute("UPDATE checkpoint SET root = $2 WHERE size = $1", row["size"], root)
    else:
        at = draw.randrange(len(row["note"]))
        text = row["note"][:at] + draw.choice("#~^") + row["note"][at + 1 :]
        await c.execute("UPDATE checkpoint SET note = $2 WHERE size = $1", row["size"], text)
    return int(row["size"])


async def change_state(c: Any, draw: random.Random, world: World) -> int | None:
    if draw.random() < 0.5:
        size = world.size + draw.choice([-3, -1, 1, 100])
        await c.execute("UPDATE log_state SET size = $1", size)
        return int(min(size, world.size))
    root = await c.fetchval("SELECT root FROM log_state")
    await c.execute("UPDATE log_state SET root = $1", _flipped(root, draw))
    return None


async def swap_key(c: Any, draw: random.Random, world: World) -> int | None:
    """Sign every checkpoint with another key of the same name."""
    other = Ed25519PrivateKey.from_private_bytes(draw.randbytes(32))
    verifier = VerifierKey.of(ORIGIN, _public(other))
    rows = await c.fetch("SELECT size, root FROM checkpoint")
    for row in rows:
        text = Checkpoint(ORIGIN, row["size"], row["root"]).text()
        note = sign_note(text, verifier, other.sign)
        await c.execute("UPDATE checkpoint SET note = $2 WHERE size = $1", row["size"], note)
    return int(min(row["size"] for row in rows))


async def rewrite_with_the_logs_key(c: Any, draw: random.Random, world: World) -> int | None:
    """Change an event and everything above it, with the stolen key; the witness has none."""
    index = draw.randrange(world.size)
    row = await c.fetchrow("SELECT salt, body FROM payload WHERE index = $1", index)
    document = orjson.loads(row["body"])
    document["principal"] = "key:nobody"
    body = orjson.dumps(document)
    await c.execute("UPDATE payload SET body = $2 WHERE index = $1", index, body)
    rows = await c.fetch("SELECT leaf FROM leaf ORDER BY index")
    leaves = [item["leaf"] for item in rows]
    leaf = orjson.loads(leaves[index])
    old = leaf["payload_hash"].encode()
    leaves[index] = leaves[index].replace(old, payload_hash(row["salt"], body).encode())
    await c.execute("UPDATE leaf SET leaf = $2 WHERE index = $1", index, leaves[index])
    await _rebuild(c, leaves)
    edge, done = Edge(), 0
    for item in await c.fetch("SELECT size, root, note FROM checkpoint ORDER BY size"):
        edge.append(leaf_hash(entry) for entry in leaves[done : item["size"]])
        done = item["size"]
        if done > index:
            text = Checkpoint(ORIGIN, done, edge.root()).text()
            note = sign_note(text, world.keys.verifier, world.keys.signing.sign)
            await c.execute(
                "UPDATE checkpoint SET root = $2, note = $3, witnessed_at = NULL WHERE size = $1",
                done,
                edge.root(),
                note,
            )
    return None


async def destroy_key(c: Any, draw: random.Random, world: World) -> int | None:
    """Erase a data subject off the record."""
    rows = await c.fetch("SELECT pseudonym FROM subject_key WHERE wrapped_dek IS NOT NULL")
    name = draw.choice(sorted(row["pseudonym"] for row in rows))
    if draw.random() < 0.5:
        await c.execute("DELETE FROM subject_key WHERE pseudonym = $1", name)
    else:
        await c.execute("UPDATE subject_key SET wrapped_dek = NULL WHERE pseudonym = $1", name)
    return None


EDITS: tuple[Edit, ...] = (
    flip_leaf,
    flip_payload,
    flip_tile,
    change_search_row,
    change_time,
    change_dedupe_row,
    swap_leaves,
    swap_payloads,
    swap_hashes,
    delete_row,
    delete_tile,
    insert_row,
    insert_dedupe_row,
    widen_tile,
    truncate_all,
    drop_partition,
    replay_checkpoint,
    change_checkpoint,
    change_state,
    swap_key,
    rewrite_with_the_logs_key,
    destroy_key,
)


@dataclass
class Result:
    """What the suite found."""

    tried: Counter[str]
    missed: list[str]
    misnamed: list[str]
    seconds: float


async def run_edits(url: str, world: World, count: int, seed: int) -> Result:
    """Try edits of all kinds in turn and check the log after each."""
    draw = random.Random(seed)
    result = Result(Counter(), [], [], 0.0)
    connection = await asyncpg.connect(url, server_settings={"search_path": "audit"})
    began = time.monotonic()
    try:
        await check(connection, world)
        for number in range(count):
            edit = EDITS[number % len(EDITS)]
            transaction = connection.transaction()
            await transaction.start()
            expected = await edit(connection, draw, world)
            result.tried[edit.__name__] += 1
            try:
                await check(connection, world)
                result.missed.append(f"{edit.__name__} number {number}")
            except VerificationError as error:
                if expected is not None and error.index != expected:
                    found = f"{error} at {error.index}, not {expected}"
                    result.misnamed.append(f"{edit.__name__} number {number}: {found}")
            finally:
                await transaction.rollback()
    finally:
        await connection.close()
    result.seconds = time.monotonic() - began
    return result


async def check(connection: Any, world: World) -> None:
    await check_database(connection, world.policy, kept=[world.kept])


async def _main(count: int, seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        server = EmbeddedPostgres(Path(directory, "pg"))
        url = server.start()
        try:
            await migrate(url, ["audit"])
            postgres = Postgres(url, "audit")
            world = await build(postgres, Path(directory, "keys"))
            await postgres.close()
            result = await run_edits(url, world, count, seed)
        finally:
            server.stop()
    for name, tried in sorted(result.tried.items()):
        print(f"{name:<28} {tried:>6}")
    print(f"{'all':<28} {sum(result.tried.values()):>6}  in {result.seconds:.0f} s, seed {seed}")
    print(f"missed {len(result.missed)}, named wrong {len(result.misnamed)}")
    for line in [*result.missed, *result.misnamed][:20]:
        print(f"  {line}")
    return 1 if result.missed or result.misnamed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    sys.exit(asyncio.run(_main(chosen.count, chosen.seed)))
