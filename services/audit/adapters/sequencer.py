"""The one sequencer: gap-free indices, leaves, payloads, tiles and size in one transaction.

Several processes may run; the row lock on `log_state` and an advisory lock fence them, and a writer
that finds another's name bumps the epoch and rebuilds its right edge from the tiles: two sequencers
are slow, not wrong. Concurrent batches share a commit. Nothing is answered before COMMIT.
"""

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import asyncpg

from libs.common.errors import UnavailableError
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from libs.common.transparency import leaf as leaves
from libs.common.transparency.tiles import Edge, edge_coordinates
from libs.common.transparency.tree import EMPTY_ROOT, leaf_hash
from services.audit.adapters.partitions import ensure_partitions, month_start
from services.audit.adapters.subjects import Subject, SubjectKeys, stored_body
from services.audit.domain.events import Accepted
from services.audit.errors import LogHaltedError, SequencerBusyError

log = get_logger()

GROUP_EVENTS_MAX = 1_000
# After so many events others get their turn, foremost the group that commits.
BREATH_EVENTS = 64
_ADVISORY_KEY = 0x61756469  # "audi"; any constant, the same in every sequencer
LOCK_LOG = f"SET LOCAL lock_timeout = '2s'; SELECT pg_advisory_xact_lock({_ADVISORY_KEY})"
_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event."""

    status: Literal["appended", "duplicate", "rejected"]
    index: int | None = None
    error: str | None = None


@dataclass(slots=True)
class _Row:
    """One event on its way into the tables; the fields are filled from top to bottom."""

    event: Accepted
    salt: bytes
    subject: Subject | None = None
    body: bytes = b""
    commitment: str = ""
    is_sealed: bool = False
    index: int = -1
    leaf: bytes = b""

    def seal(self, subject: Subject | None) -> None:
        """Make the stored bytes and commit to them."""
        self.subject = subject
        self.body = stored_body(self.event, subject)
        self.commitment = leaves.payload_hash(self.salt, self.body)


@dataclass(slots=True)
class _Waiting:
    rows: Sequence[_Row]
    done: asyncio.Future[list[Outcome]]


class Sequencer:
    """Appends batches; one instance per process."""

    def __init__(
        self,
        postgres: Postgres,
        subjects: SubjectKeys,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._postgres = postgres
        self._subjects = subjects
        self._now = now
        self._writer = uuid.uuid4().hex
        self._edge: tuple[int, Edge] | None = None  # epoch and the edge it belongs to
        self._months: set[datetime] = set()
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(maxsize=256)
        self._spare: _Waiting | None = None
        self._is_halted = False

    def halt(self) -> None:
        """Refuse everything from now on: the log contradicts what was signed."""
        self._is_halted = True

    async def append(self, events: Sequence[Accepted]) -> list[Outcome]:
        """Append events and give their outcomes after COMMIT, in order.

        Raises:
            LogHaltedError: the log contradicts a signed checkpoint.
            SequencerBusyError: the log is locked or the queue is full.
            UnavailableError: the database does not answer; perhaps committed, so send again.
        """
        if self._is_halted:
            raise LogHaltedError(
                "The log does not extend its last checkpoint; appending is stopped.",
                hint="docs/runbooks/blocked-audit.md says what to do.",
            )
        if not events:
            return []
        rows = await self._sealed(events)
        waiting = _Waiting(rows, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise SequencerBusyError("Too many batches are waiting.") from None
        return await waiting.done

    async def _sealed(self, events: Sequence[Accepted]) -> list[_Row]:
        """Make the stored bytes where the subject is known, while another group commits."""
        known: dict[tuple[str, str], Subject] = {}
        if any(event.data_subject is not None for event in events):
            async with self._postgres.connection() as connection:
                known = await self._subjects.known(connection, events)
        salts = os.urandom(leaves.SALT_BYTES * len(events))
        rows = []
        for number, event in enumerate(events):
            at = number * leaves.SALT_BYTES
            row = _Row(event, salts[at : at + leaves.SALT_BYTES])
            subject = known.get((event.tenant, event.data_subject or ""))
            if subject or event.data_subject is None:
                row.seal(subject)
                row.is_sealed = True
            rows.append(row)
            if number % BREATH_EVENTS == 0:
                await asyncio.sleep(0)
        return rows

    async def run(self) -> None:
        """Commit group after group until cancelled; while one commits, the next one fills up."""
        while True:
            group = await self._next_group()
            try:
                await self._commit_group(group)
            finally:
                for waiting in group:
                    waiting.done.cancel()  # no effect where an outcome was set

    async def _next_group(self) -> list[_Waiting]:
        first = self._spare or await self._queue.get()
        self._spare = None
        group, count = [first], len(first.rows)
        while not self._queue.empty():
            waiting = self._queue.get_nowait()
            if count + len(waiting.rows) > GROUP_EVENTS_MAX:
                self._spare = waiting
                break
            group.append(waiting)
            count += len(waiting.rows)
        return group

    async def _commit_group(self, group: list[_Waiting]) -> None:
        rows = [row for waiting in group for row in waiting.rows]
        try:
            outcomes = await self._commit(rows)
        except Exception as error:  # every caller gets an answer, whatever went wrong
            self._forget()
            if not isinstance(error, UnavailableError):
                log.error("append failed", error_type=type(error).__name__)
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        start = 0
        for waiting in group:
            end = start + len(waiting.rows)
            if not waiting.done.done():
                waiting.done.set_result(outcomes[start:end])
            start = end

    async def _commit(self, rows: Sequence[_Row]) -> list[Outcome]:
        try:
            return await self._transact(rows)
        except asyncpg.LockNotAvailableError:
            raise SequencerBusyError("Another sequencer holds the log.") from None
        except (asyncpg.DataError, ValueError):
            # Something in the batch cannot be stored: find it, so that it blocks nobody else.
            self._forget()
            if len(rows) == 1:
                return [Outcome("rejected", error="the event cannot be stored")]
            half = len(rows) // 2
            return await self._commit(rows[:half]) + await self._commit(rows[half:])

    def _forget(self) -> None:
        """After a failure nothing is known about what was committed: read it again."""
        self._edge = None
        self._months.clear()

    async def _transact(self, rows: Sequence[_Row]) -> list[Outcome]:
        async with self._postgres.transaction() as connection:
            await connection.execute(LOCK_LOG)
            size, epoch, previous = await self._take_over(connection)
            edge = await self._edge_at(connection, size, epoch)
            outcomes, fresh = await self._number(connection, rows, size)
            if not fresh:
                self._edge = (epoch, edge)
                return outcomes
            moment = leaves.next_moment(previous, self._now())
            await self._ensure_month(connection, moment)
            await self._complete(connection, fresh, moment)
            grown = edge.copy()
            touched = grown.append(leaf_hash(row.leaf) for row in fresh)
            await _copy(connection, fresh, moment, self._subjects)
            await connection.execute(
                "INSERT INTO tile (level, n, hashes) "
                "SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[]) "
                "ON CONFLICT (level, n) DO UPDATE SET hashes = excluded.hashes",
                [level for level, _ in touched],
                [number for _, number in touched],
                list(touched.values()),
            )
            await connection.execute(
                "UPDATE log_state SET size = $1, root = $2, ingested_at = $3",
                grown.size,
                grown.root(),
                moment,
            )
        self._edge = (epoch, grown)
        return outcomes

    async def _take_over(self, connection: Any) -> tuple[int, int, datetime]:
        """Lock the state and make sure that this process is its writer."""
        row = await connection.fetchrow(
            "SELECT size, epoch, writer, ingested_at FROM log_state FOR UPDATE"
        )
        if row is None:
            await connection.execute(
                "INSERT INTO log_state (size, root, epoch, writer, ingested_at) "
                "VALUES (0, $1, 1, $2, $3)",
                EMPTY_ROOT,
                self._writer,
                _EPOCH_START,
            )
            return 0, 1, _EPOCH_START
        if row["writer"] == self._writer:
            return row["size"], row["epoch"], row["ingested_at"]
        epoch = row["epoch"] + 1
        await connection.execute(
            "UPDATE log_state SET epoch = $1, writer = $2", epoch, self._writer
        )
        log.info("sequencer took over", epoch=epoch, tree_size=row["size"])
        return row["size"], epoch, row["ingested_at"]

    async def _edge_at(self, connection: Any, size: int, epoch: int) -> Edge:
        if self._edge and self._edge[0] == epoch and self._edge[1].size == size:
            return self._edge[1]
        wanted = edge_coordinates(size)
        rows = await connection.fetch(
            "SELECT level, n, hashes FROM tile WHERE (level, n) IN "
            "(SELECT * FROM unnest($1::smallint[], $2::bigint[]))",
            [level for level, _ in wanted],
            [number for _, number in wanted],
        )
        return Edge.from_tiles(size, {(row["level"], row["n"]): row["hashes"] for row in rows})

    async def _number(
        self, connection: Any, rows: Sequence[_Row], size: int
    ) -> tuple[list[Outcome], list[_Row]]:
        """Give each event its outcome and the new ones their contiguous indices.

        The lock makes reading first safe: nobody else can add a key before this commits.
        """
        found = await connection.fetch(
            "SELECT id, source, index FROM event_dedup WHERE (id, source) IN "
            "(SELECT * FROM unnest($1::text[], $2::text[]))",
            [row.event.id for row in rows],
            [row.event.source for row in rows],
        )
        known = {(item["id"], item["source"]): item["index"] for item in found}
        outcomes: list[Outcome] = []
        fresh: list[_Row] = []
        for row in rows:
            key = (row.event.id, row.event.source)
            if key in known:
                outcomes.append(Outcome("duplicate", known[key]))
                continue
            row.index = known[key] = size + len(fresh)
            fresh.append(row)
            outcomes.append(Outcome("appended", row.index))
        return outcomes, fresh

    async def _ensure_month(self, connection: Any, moment: datetime) -> None:
        month = month_start(moment)
        if month not in self._months:
            await ensure_partitions(connection, moment)
            self._months.add(month)

    async def _complete(self, connection: Any, rows: Sequence[_Row], moment: datetime) -> None:
        """Seal what has waited for its subject's key, and make the leaves."""
        # Sealed anew at each attempt: keys that a broken transaction made are gone with it.
        late = [row for row in rows if not row.is_sealed]
        subjects = await self._subjects.load(connection, (row.event for row in late))
        for row in late:
            assert row.event.data_subject is not None
            row.seal(subjects[row.event.tenant, row.event.data_subject])
        stamp = leaves.rfc3339(moment)
        for row in rows:
            row.leaf = leaves.leaf_bytes(
                event_id=row.event.id,
                source=row.event.source,
                event_type=row.event.type,
                ingested_at=stamp,
                retention=row.event.event_class,
                subject=row.subject.pseudonym if row.subject else None,
                commitment=row.commitment,
            )


async def _copy(
    connection: Any, rows: Sequence[_Row], moment: datetime, subjects: SubjectKeys
) -> None:
    """Write the rows of all tables by COPY."""

    async def copy(table: str, columns: str, records: list[tuple[Any, ...]]) -> None:
        await connection.copy_records_to_table(table, records=records, columns=columns.split())

    await copy(
        "event_dedup", "id source index", [(r.event.id, r.event.source, r.index) for r in rows]
    )
    await copy("leaf", "index ingested_at leaf", [(r.index, moment, r.leaf) for r in rows])
    await copy(
        "payload",
        "index ingested_at retention salt body",
        [(r.index, moment, r.event.event_class, r.salt, r.body) for r in rows],
    )
    await copy(
        "search_row",
        "index ingested_at tenant type source decision model actor subject request_id trace_id",
        [
            (
                r.index,
                moment,
                r.event.tenant,
                r.event.type,
                r.event.source,
                r.event.decision,
                r.event.model,
                subjects.actor_of(r.event.tenant, r.event.principal),
                r.subject.pseudonym if r.subject else None,
                r.event.request_id,
                r.event.trace_id,
            )
            for r in rows
        ],
    )


@contextlib.asynccontextmanager
async def running(sequencer: Sequencer) -> Any:
    """Run a sequencer for the length of a block."""
    task = asyncio.create_task(sequencer.run(), name="sequencer")
    try:
        yield sequencer
    finally:
        task.cancel()
        await asyncio.wait({task})
