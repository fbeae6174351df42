"""The rings in Redis: batches of log rows in, one script call per ring.

Progress of a partition is the text `<generation>:<offset>` under `features:applied:<partition>`.
It moves only after the effects and only from the expected text, so a crash repeats effects
(harmless, by tag) and a flush is noticed (the generation is gone).
"""

import secrets
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from redis.exceptions import NoScriptError, ResponseError, WatchError

from libs.common.features.computed import ComputedView
from libs.common.features.layout import SERVING_KEY, VIEWS, LayoutError, RingView
from libs.common.features.tiles import Tiles
from libs.common.logging import get_logger
from libs.common.redis import Redis, tag
from libs.common.redis_reads import LeanReads
from services.features.domain.events import PARTITIONS, LogRow
from services.features.domain.vectors import head_of, stamped
from services.features.errors import StoreLostError

log = get_logger()

# Longer than any ttl that a definition may have, so that staleness is said before a key is gone.
VECTOR_EXPIRE_MS = 2 * 400 * 86_400_000

# Reads of clients wait longer than scoring does: nobody fills in for them.
FETCH_TIMEOUT_S = 0.25

_KEYS = [f"features:applied:{partition}" for partition in range(PARTITIONS)]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far Redis is: per partition generation and offset; whether readers may trust it."""

    texts: Mapping[int, bytes]
    is_serving: bool

    def offset(self, partition: int) -> int:
        """Give the last applied offset of a partition."""
        return int(self.texts[partition].rpartition(b":")[2])


# Gives the computed view that log rows of a tenant name by its key; None: nobody defines it.
Computed = Callable[[str, str], ComputedView | None]


class RedisRings:
    """Implements `RingStore`; one instance per process, idempotent throughout."""

    def __init__(self, redis: Redis, computed: Computed = lambda tenant, key: None) -> None:
        self._redis, self._computed = redis, computed
        self._reads: LeanReads | None = None
        self._sha: dict[str, str] = {}
        # Rings whose bytes the script refused; the applier rebuilds them from the log.
        self.unreadable: list[tuple[str, str, str]] = []

    async def progress(self) -> Progress:
        """Read the progress; partitions that Redis does not know start over at 0."""
        serving, *texts = await self._redis.mget([SERVING_KEY, *_KEYS])
        if None in texts:
            # Readers must not take an emptied store for cards without history.
            await self._redis.delete(SERVING_KEY)
            serving = None
            for key, text in zip(_KEYS, texts, strict=True):
                if text is None:
                    await self._redis.set(key, f"{secrets.token_hex(8)}:0", nx=True)
            texts = await self._redis.mget(_KEYS)
        if None in texts:
            raise StoreLostError("the store was emptied while its progress was read")
        return Progress(cast(Any, dict(enumerate(texts))), serving is not None)

    async def restart(self, partition: int) -> None:
        """Make a partition start over at offset 0."""
        await self._redis.set(_KEYS[partition], f"{secrets.token_hex(8)}:0")

    async def stop_serving(self) -> None:
        """Make readers mark stored features as missing."""
        await self._redis.delete(SERVING_KEY)

    async def start_serving(self, expected: Progress) -> bool:
        """Let readers trust the store if its progress is still the expected one."""
        async with self._redis.pipeline() as pipeline:
            await pipeline.watch(*_KEYS)
            texts = await pipeline.mget(_KEYS)
            if dict(enumerate(texts)) != expected.texts:
                return False
            pipeline.multi()  # type: ignore[no-untyped-call] # redis-py leaves it untyped
            pipeline.set(SERVING_KEY, b"1")
            try:
                await pipeline.execute()
            except WatchError:
                return False
        return True

    async def apply(
        self, rows: Sequence[LogRow], *, epoch: int, written_ms: int, expected: bytes
    ) -> bytes:
        """Apply rows of one partition in offset order and move its progress; give the new text.

        Raises:
            StoreLostError: the progress is not the expected one any more.
        """
        by_ring: dict[tuple[str, str, str], list[LogRow]] = {}
        for row in rows:
            if row.record:  # an erased row only keeps its offset
                by_ring.setdefault((row.tenant, row.view, row.entity), []).append(row)
        groups = list(by_ring.values())
        windows = [group for group in groups if is_windowed(group[0].view)]
        await self.write(windows, epoch, written_ms, expected)
        vectors = [group for group in groups if not is_windowed(group[0].view)]
        if vectors:
            await self._write_vectors(vectors, epoch, written_ms)
        await self._note_newest(rows)
        last = rows[-1]
        moved = expected.rpartition(b":")[0] + b":%d" % last.offset
        sha = await self._script("advance")
        if not await self._redis.evalsha(sha, 1, _KEYS[last.partition], expected, moved):
            raise StoreLostError("the store was emptied or rolled back")
        return moved

    async def write(
        self, groups: list[list[LogRow]], epoch: int, written_ms: int, expected: bytes
    ) -> None:
        """Write records into rings and tiles, one group of log rows each; progress stays."""
        rings: list[tuple[str, RingView, list[LogRow]]] = []
        tiles: list[tuple[str, ComputedView, list[LogRow]]] = []
        for group in groups:
            last = group[-1]
            if last.view in VIEWS:
                ring = VIEWS[last.view]
                rings.append((ring.key(last.tenant, last.entity), ring, group))
                continue
            view = self._computed(last.tenant, last.view)
            if view is None:
                continue  # an older version that nobody reads any more
            key = view.redis_key(last.tenant, last.entity)
            if view.is_tiled:
                tiles.append((key, view, group))
            else:
                rings.append((key, view.layout, group))
        if rings:
            await self._write_rings(rings, epoch, written_ms)
        if tiles:
            await self._write_tiles(tiles, epoch, written_ms, _generation(expected))

    async def _write_tiles(
        self,
        groups: Sequence[tuple[str, ComputedView, list[LogRow]]],
        epoch: int,
        written_ms: int,
        generation: int,
    ) -> None:
        """Add rows that the tiles do not hold yet; a row is known by its log offset."""
        sha = await self._script("tiles")
        blobs = cast(list[bytes | None], await self._redis.mget([key for key, _, _ in groups]))
        async with self._redis.pipeline(transaction=False) as pipeline:
            for (key, view, group), blob in zip(groups, blobs, strict=True):
                last = group[-1]
                try:
                    state = Tiles.decode(view, blob) if blob else Tiles.empty(view)
                except LayoutError:
                    log.error("unreadable tiles; rebuilding them", kind="tiles")
                    self.unreadable.append((last.tenant, last.view, last.entity))
                    continue
                if state.generation != generation:
                    state = Tiles.empty(view)
                    state.generation = generation
                before = state.offset
                new = [row.record for row in group if row.offset > before]
                if not new:
                    continue
                state.add(view, b"".join(new), last.offset)
                encoded = state.encode(
                    view, written_ms=written_ms, epoch=epoch, partition=last.partition
                )
                pipeline.evalsha(sha, 1, key, before, encoded, view.layout.expire_ms)
            answers = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, NoScriptError):
                self._sha.clear()
                raise StoreLostError("the server does not know the scripts any more")
            if isinstance(answer, Exception):
                raise answer
            if not answer:
                raise StoreLostError("tiles were written by somebody else meanwhile")

    async def _write_rings(
        self, groups: Sequence[tuple[str, RingView, list[LogRow]]], epoch: int, written_ms: int
    ) -> None:
        sha = await self._script("ring")
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key, view, group in groups:
                last = group[-1]
                pipeline.evalsha(
                    sha,
                    1,
                    key,
                    view.schema_id,
                    view.dtype.itemsize,
                    view.keep_ms,
                    view.records_max,
                    view.expire_ms,
                    written_ms,
                    epoch,
                    last.partition,
                    last.offset,
                    b"".join(row.record for row in group),
                )
            answers = await pipeline.execute(raise_on_error=False)
        for (_, _, group), answer in zip(groups, answers, strict=True):
            if isinstance(answer, NoScriptError):
                self._sha.clear()
                raise StoreLostError("the server does not know the scripts any more")
            if isinstance(answer, ResponseError) and "UNREADABLE" in str(answer):
                log.error("unreadable ring; rebuilding it", kind="ring")
                self.unreadable.append((group[0].tenant, group[0].view, group[0].entity))
            elif isinstance(answer, Exception):
                raise answer

    async def forget(self, tenant: str, view: str, entity: str) -> None:
        """Drop a ring that cannot be read, so that its history can be applied again."""
        await self._redis.delete(self.key_of(tenant, view, entity))

    def key_of(self, tenant: str, view: str, entity: str) -> str:
        """Give the key under which log rows of a view and an entity are written."""
        return (
            VIEWS[view].key(tenant, entity) if view in VIEWS else vector_key(tenant, view, entity)
        )

    async def _write_vectors(self, groups: list[list[LogRow]], epoch: int, written_ms: int) -> None:
        """Write the newest vector of each entity in the batch; the script keeps a newer one."""
        sha = await self._script("vector")
        async with self._redis.pipeline(transaction=False) as pipeline:
            for group in groups:
                row = max(group, key=lambda row: (head_of(row.record).stamp, row.offset))
                blob = stamped(
                    row.record,
                    written_ms=written_ms,
                    epoch=epoch,
                    partition=row.partition,
                    offset=row.offset,
                )
                key = vector_key(row.tenant, row.view, row.entity)
                pipeline.evalsha(sha, 1, key, blob, VECTOR_EXPIRE_MS)
            answers = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, NoScriptError):
                self._sha.clear()
                raise StoreLostError("the server does not know the scripts any more")
            if isinstance(answer, Exception):
                raise answer

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None] | None:
        """Read blobs in one round trip; None while the store does not hold what the log says."""
        if self._reads is None:
            self._reads = LeanReads(self._redis, timeout_s=FETCH_TIMEOUT_S)
        serving, *blobs = await self._reads.mget([SERVING_KEY, *keys])
        return None if serving is None else blobs

    async def close(self) -> None:
        """Close the connections of `fetch`."""
        if self._reads is not None:
            await self._reads.close()

    async def _note_newest(self, rows: Sequence[LogRow]) -> None:
        """Keep the newest event time per tenant and view, for the freshness report."""
        newest: dict[tuple[str, str], int] = {}
        for row in rows:
            if not row.record:
                continue
            key = (row.tenant, row.view.partition("@")[0])
            at_ms = (
                int.from_bytes(row.record[:8], "little")
                if is_windowed(row.view)
                else head_of(row.record).stamp.event_ms
            )
            newest[key] = max(newest.get(key, 0), at_ms)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for (tenant, view), at_ms in newest.items():
                pipeline.zadd(_newest_key(tenant), {view: at_ms}, gt=True)
            await pipeline.execute()

    async def newest_ms(self, tenant: str) -> dict[str, int]:
        """Give the newest applied event time of each view of a tenant."""
        pairs = cast(
            list[tuple[bytes, float]],
            await self._redis.zrange(_newest_key(tenant), 0, -1, withscores=True),
        )
        return {view.decode(): int(score) for view, score in pairs}

    async def _script(self, name: str) -> str:
        if name not in self._sha:
            text = Path(__file__).with_name(f"{name}.lua").read_text()
            self._sha[name] = str(await self._redis.script_load(text))
        return self._sha[name]


def is_windowed(view: str) -> bool:
    """Say whether log rows of a view are records of windows, not pushed vectors."""
    return view in VIEWS or "@" in view


def _generation(expected: bytes) -> int:
    """Give the 32-bit mark of the store's generation that tiles carry."""
    return zlib.crc32(expected.rpartition(b":")[0])


def vector_key(tenant: str, view: str, entity: str) -> str:
    """Build the key of a pushed vector; the views of one entity share a hash slot."""
    return vector_prefix(tenant, entity) + view


def vector_prefix(tenant: str, entity: str) -> str:
    """Build such a key up to the view's name."""
    return f"features:{tag(tenant, 'vector', entity)}:"


def _newest_key(tenant: str) -> str:
    return f"features:{tag(tenant, 'newest')}"
