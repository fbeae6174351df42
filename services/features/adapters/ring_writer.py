"""Batches of log rows into rings, tiles and vectors: one script call per entity, two round trips.

The first reads the tiles that change and writes rings and vectors, the second writes the tiles.
Every write is idempotent: rings know events by tag, tiles by log offset, vectors by time.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import ResponseError

from libs.common.features.computed import ComputedView
from libs.common.features.layout import VIEWS, LayoutError, RingView
from libs.common.features.tiles import Tiles
from libs.common.logging import get_logger
from libs.common.redis import Redis, tag
from libs.common.redis_lean import LeanRedis, arguments, packed
from services.features.domain.events import LogRow
from services.features.domain.vectors import head_of, stamped
from services.features.errors import StoreLostError

log = get_logger()

# Longer than any ttl that a definition may have, so that staleness is said before a key is gone.
VECTOR_EXPIRE_MS = 2 * 400 * 86_400_000
# A batch takes longer than a read may; nobody waits for it.
_TIMEOUT_S = 5.0
# Members of a ring script's call: EVALSHA, sha, 1, key and ten arguments.
_RING_PARTS = 14

# Gives the computed view that log rows of a tenant name by its key; None: nobody defines it.
Computed = Callable[[str, str], ComputedView | None]
# The log rows of one entity in one view, in offset order.
Group = list[LogRow]


@dataclass(frozen=True, slots=True)
class Lease:
    """A partition as its applier holds it: the lease's epoch, and its progress as last read."""

    epoch: int
    progress: bytes

    @property
    def generation(self) -> int:
        """The 32-bit mark of the store's generation that tiles carry."""
        return zlib.crc32(self.progress.rpartition(b":")[0])


@dataclass(slots=True)
class _Batch:
    """What one call writes, sorted by engine; tiles with their key and view."""

    rings: list[tuple[str, RingView, Group]] = field(default_factory=list)
    tiles: list[tuple[str, ComputedView, Group]] = field(default_factory=list)
    vectors: list[Group] = field(default_factory=list)


class RingWriter:
    """Writes what appliers give it; one per process."""

    def __init__(self, redis: Redis, computed: Computed) -> None:
        self._redis, self._computed = redis, computed
        self._lean = LeanRedis(redis, timeout_s=_TIMEOUT_S)
        self._sha: dict[str, str] = {}
        # Entities whose bytes cannot be read; the applier rebuilds them from the log.
        self.unreadable: list[tuple[str, str, str]] = []

    async def write(
        self, groups: Sequence[Group], leases: Mapping[int, Lease], written_ms: int
    ) -> None:
        """Write groups of log rows; `leases` by partition.

        Raises:
            StoreLostError: the server forgot the scripts, or somebody else wrote meanwhile.
        """
        batch = self._sorted(groups)
        held = batch.rings
        commands = [packed("MGET", *[key for key, _, _ in batch.tiles])] if batch.tiles else []
        commands += await self._ring_calls(held, leases, written_ms)
        commands += await self._vector_calls(batch.vectors, leases, written_ms)
        if not commands:
            return
        answers = await self._lean.call(commands)
        blobs = _checked(answers.pop(0)) if batch.tiles else []
        for (_, _, group), answer in zip(held, answers, strict=False):
            if isinstance(answer, ResponseError) and "UNREADABLE" in str(answer):
                self._note_unreadable(group[-1], "ring")
            else:
                self._done(answer)
        for answer in answers[len(held) :]:
            self._done(answer)
        if batch.tiles:
            await self._write_tiles(batch.tiles, blobs, leases, written_ms)

    def _sorted(self, groups: Sequence[Group]) -> _Batch:
        batch = _Batch()
        for group in groups:
            last = group[-1]
            if last.view in VIEWS:
                ring = VIEWS[last.view]
                batch.rings.append((ring.key(last.tenant, last.entity), ring, group))
                continue
            if not is_windowed(last.view):
                batch.vectors.append(group)
                continue
            view = self._computed(last.tenant, last.view)
            if view is None:
                continue  # an older version that nobody reads any more
            key = view.redis_key(last.tenant, last.entity)
            if view.is_tiled:
                batch.tiles.append((key, view, group))
            else:
                batch.rings.append((key, view.layout, group))
        return batch

    async def _ring_calls(
        self,
        rings: Sequence[tuple[str, RingView, Group]],
        leases: Mapping[int, Lease],
        written_ms: int,
    ) -> list[bytes]:
        if not rings:
            return []
        sha = await self._script("ring")
        start = b"*%d\r\n%b" % (_RING_PARTS, arguments("EVALSHA", sha, 1))
        facts = {view.schema_id: _ring_facts(view, written_ms) for _, view, _ in rings}
        calls = []
        for key, view, group in rings:
            last = group[-1]
            epoch = leases[last.partition].epoch
            records = b"".join([row.record for row in group])
            rest = arguments(epoch, last.partition, last.offset, records)
            calls.append(b"%b%b%b%b" % (start, arguments(key), facts[view.schema_id], rest))
        return calls

    async def _vector_calls(
        self, groups: Sequence[Group], leases: Mapping[int, Lease], written_ms: int
    ) -> list[bytes]:
        """Write the newest vector of each entity in the batch; the script keeps a newer one."""
        if not groups:
            return []
        sha, calls = await self._script("vector"), []
        for group in groups:
            row = max(group, key=lambda row: (head_of(row.record).stamp, row.offset))
            blob = stamped(
                row.record,
                written_ms=written_ms,
                epoch=leases[row.partition].epoch,
                partition=row.partition,
                offset=row.offset,
            )
            key = vector_key(row.tenant, row.view, row.entity)
            calls.append(packed("EVALSHA", sha, 1, key, blob, VECTOR_EXPIRE_MS))
        return calls

    async def _write_tiles(
        self,
        tiles: Sequence[tuple[str, ComputedView, Group]],
        blobs: Sequence[bytes | None],
        leases: Mapping[int, Lease],
        written_ms: int,
    ) -> None:
        """Add rows that the tiles do not hold yet; a row is known by its log offset."""
        sha, calls = await self._script("tiles"), []
        for (key, view, group), blob in zip(tiles, blobs, strict=True):
            last = group[-1]
            lease = leases[last.partition]
            try:
                state = Tiles.decode(view, blob) if blob else Tiles.empty(view)
            except LayoutError:
                self._note_unreadable(last, "tiles")
                continue
            if state.generation != lease.generation:
                state = Tiles.empty(view)
                state.generation = lease.generation
            before = state.offset
            new = [row.record for row in group if row.offset > before]
            if not new:
                continue
            state.add(view, b"".join(new), last.offset)
            encoded = state.encode(
                view, written_ms=written_ms, epoch=lease.epoch, partition=last.partition
            )
            calls.append(packed("EVALSHA", sha, 1, key, before, encoded, view.layout.expire_ms))
        for answer in await self._lean.call(calls) if calls else []:
            if not self._done(answer):
                raise StoreLostError("tiles were written by somebody else meanwhile")

    async def advance(self, moves: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Move progress, given as (key, expected text, new text).

        Raises:
            StoreLostError: some progress is not the expected one any more.
        """
        sha = await self._script("advance")
        answers = await self._lean.call([packed("EVALSHA", sha, 1, *move) for move in moves])
        moved = [self._done(answer) for answer in answers]
        if not all(moved):
            raise StoreLostError("the store was emptied or rolled back")

    def _note_unreadable(self, row: LogRow, kind: str) -> None:
        log.error("unreadable bytes; rebuilding them", kind=kind)
        self.unreadable.append((row.tenant, row.view, row.entity))

    def _done(self, answer: Any) -> Any:
        """Give a script's answer."""
        if isinstance(answer, ResponseError) and str(answer).startswith("NOSCRIPT"):
            self._sha.clear()
            raise StoreLostError("the server does not know the scripts any more")
        return _checked(answer)

    async def _script(self, name: str) -> str:
        if name not in self._sha:
            text = Path(__file__).with_name(f"{name}.lua").read_text()
            self._sha[name] = str(await self._redis.script_load(text))
        return self._sha[name]

    async def close(self) -> None:
        """Close the connections."""
        await self._lean.aclose()


def _checked(answer: Any) -> Any:
    if isinstance(answer, ResponseError):
        raise answer
    return answer


def _ring_facts(view: RingView, written_ms: int) -> bytes:
    facts = (view.schema_id, view.dtype.itemsize, view.keep_ms, view.records_max)
    return arguments(*facts, view.expire_ms, written_ms)


def is_windowed(view: str) -> bool:
    """Say whether log rows of a view are records of windows, not pushed vectors."""
    return view in VIEWS or "@" in view


def vector_key(tenant: str, view: str, entity: str) -> str:
    """Build the key of a pushed vector; the views of one entity share a hash slot."""
    return vector_prefix(tenant, entity) + view


def vector_prefix(tenant: str, entity: str) -> str:
    """Build such a key up to the view's name."""
    return f"features:{tag(tenant, 'vector', entity)}:"
