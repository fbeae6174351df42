"""The applier: tails the log of the partitions it leases and writes the rings.

A notice from Postgres wakes it, a poll backs that up. It is the only writer of a partition while
its connection lives; a stale one is harmless, because ring writes are idempotent. When Redis comes
back empty or older, readers are told not to trust it, the log is replayed, then they are told that
they may.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from libs.common.errors import UnavailableError
from libs.common.features.layout import VIEWS
from libs.common.health import Component
from libs.common.logging import get_logger
from libs.common.postgres import UNAVAILABLE as POSTGRES_UNAVAILABLE
from libs.common.postgres import Postgres
from libs.common.redis import UNAVAILABLE as REDIS_UNAVAILABLE
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.log import (
    CHANNEL,
    Head,
    acquire_leases,
    note_applied,
    read_entity,
    read_heads,
    read_rows,
)
from services.features.adapters.ring_writer import Lease
from services.features.adapters.rings import Progress, RedisRings
from services.features.domain.events import PARTITIONS, partition_of
from services.features.errors import StoreLostError

log = get_logger()

_STORE_GONE: tuple[type[BaseException], ...] = (
    UnavailableError,
    *POSTGRES_UNAVAILABLE,
    *REDIS_UNAVAILABLE,
)
_RETRY_S = 0.5
_LEASE_RETRY_S = 2.0
_NOTE_S = 1.0
# Arrivals further back are backfills; they say nothing about the pipeline's delay.
_LIVE_MS = 600_000


class ApplierMetrics:
    """How far the rings are behind the log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.unreadable = Counter(
            "gatehouse_features_unreadable_rings_total",
            "Rings that could not be read and were written anew from the log.",
            ("view",),
            registry=registry,
        )
        self.lag = Gauge(
            "gatehouse_features_log_lag_events",
            "Log rows that no ring has yet.",
            registry=registry,
        )
        self.delay = Histogram(
            "gatehouse_features_ingest_to_readable_seconds",
            "From arrival of the oldest event of a batch until the batch is readable.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300),
            registry=registry,
        )


class Applier:
    """Runs until cancelled; survives the loss of either store."""

    def __init__(
        self,
        postgres: Postgres,
        rings: RedisRings,
        definitions: DefinitionStore,
        metrics: ApplierMetrics,
        *,
        poll_s: float,
        batch: int,
    ) -> None:
        self._postgres = postgres
        self._rings, self._definitions = rings, definitions
        self._metrics = metrics
        self._poll_s = poll_s
        self._batch = batch
        self._wake = asyncio.Event()
        self._epochs: dict[int, int] = {}
        self._noted: dict[int, int] = {}
        self._next_lease = self._next_note = 0.0
        self._state: Component = Component("degraded", "starting")
        self._lag_events = 0
        self._rebuilt_at: dict[int, int] | None = None

    @property
    def lag_events(self) -> int:
        """How many log rows no ring had when the applier last looked."""
        return self._lag_events

    async def health(self) -> Component:
        """Say whether the rings follow the log."""
        return self._state

    async def run(self) -> None:
        """Follow the log for ever."""
        while True:
            try:
                async with self._postgres.connection() as connection:
                    await self._follow(connection)
            except StoreLostError:
                log.warning("online store lost data; replaying", dependency="redis")
            except _STORE_GONE as error:
                self._state = Component("degraded", "a store does not answer")
                log.warning("applier waits", error_type=type(error).__name__)
                await asyncio.sleep(_RETRY_S)

    async def _follow(self, connection: Any) -> None:
        self._epochs, self._next_lease, self._next_note = {}, 0.0, 0.0
        self._noted = {}
        await connection.add_listener(CHANNEL, self._on_notice)
        try:
            while True:
                self._wake.clear()
                await self._lease(connection)
                if not await self._round(connection):
                    await self._wait()
        finally:
            # Ends the leases at once. A statement here could meet the server's answer to our own
            # cancelled query and turn the cancellation into an ordinary error.
            connection.terminate()

    def _on_notice(self, *_: object) -> None:
        self._wake.set()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._poll_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _lease(self, connection: Any) -> None:
        """Try for the partitions that nobody holds; now and then, as owners come and go."""
        if len(self._epochs) == PARTITIONS or time.monotonic() < self._next_lease:
            return
        self._next_lease = time.monotonic() + _LEASE_RETRY_S
        free = [number for number in range(PARTITIONS) if number not in self._epochs]
        self._epochs |= await acquire_leases(connection, free)

    async def _round(self, connection: Any) -> bool:
        """Apply one batch per partition that is behind; say whether anything was applied."""
        heads = await read_heads(connection)
        progress = await self._rings.progress()
        progress = await self._reconcile(heads, progress)
        await self._serve_when_rebuilt(heads, progress)
        texts = dict(progress.texts)
        behind = {
            partition: head.last_offset - progress.offset(partition)
            for partition, head in heads.items()
        }
        self._lag_events = sum(behind.values())
        self._metrics.lag.set(self._lag_events)
        mine = {number: behind[number] for number in self._epochs if behind.get(number, 0) > 0}
        for part in _parts(mine, self._batch):
            leases = {n: Lease(self._epochs[n], progress.texts[n]) for n in part}
            after = {number: progress.offset(number) for number in part}
            rows = await read_rows(connection, after, self._batch)
            for tenant, view in {(row.tenant, row.view) for row in rows}:
                if "@" in view:
                    await self._definitions.of_key(tenant, view)
            now_ms = time.time_ns() // 1_000_000
            texts |= await self._rings.apply(rows, leases, written_ms=now_ms)
            self._observe(min(row.arrival_ms for row in rows))
            await self._rebuild_unreadable(connection, texts)
        self._state = Component("ok", facts={"lag_events": sum(behind.values())})
        await self._note(connection, Progress(texts, progress.is_serving), heads)
        return bool(mine)

    async def _rebuild_unreadable(self, connection: Any, texts: Mapping[int, bytes]) -> None:
        """Write rings anew whose bytes could not be read, from all that the log has of them."""
        while self._rings.unreadable:
            tenant, view, entity = self._rings.unreadable.pop()
            self._metrics.unreadable.labels(view if view in VIEWS else "computed").inc()
            number = partition_of(tenant, view, entity)
            lease = Lease(self._epochs[number], texts[number])
            rows = await read_entity(connection, number, tenant, view, entity)
            await self._rings.forget(tenant, view, entity)
            now_ms = time.time_ns() // 1_000_000
            for first in range(0, len(rows), self._batch):
                part = rows[first : first + self._batch]
                await self._rings.rewrite(part, lease, written_ms=now_ms)

    async def _reconcile(self, heads: dict[int, Head], progress: Progress) -> Progress:
        """Notice a store that is older than it was, or newer than the log."""
        foreign = [p for p, head in heads.items() if progress.offset(p) > head.last_offset]
        for partition in foreign:
            log.warning("store ahead of the log; replaying", partition=partition)
            await self._rings.restart(partition)
        is_older = any(progress.offset(p) < head.applied_offset for p, head in heads.items())
        if progress.is_serving and (foreign or is_older):
            await self._rings.stop_serving()
        if foreign or (progress.is_serving and is_older):
            return await self._rings.progress()
        return progress

    async def _serve_when_rebuilt(self, heads: dict[int, Head], progress: Progress) -> None:
        """Let readers trust the store once it holds what the log had when they were told not to.

        What came since is the ordinary lag; waiting for it too would never end under load.
        """
        if progress.is_serving:
            self._rebuilt_at = None
            return
        if self._rebuilt_at is None:
            self._rebuilt_at = {p: head.last_offset for p, head in heads.items()}
        if all(progress.offset(p) >= offset for p, offset in self._rebuilt_at.items()) and (
            await self._rings.start_serving(progress)
        ):
            log.info("online store serves")

    async def _note(self, connection: Any, progress: Progress, heads: dict[int, Head]) -> None:
        if time.monotonic() < self._next_note:
            return
        applied = {partition: progress.offset(partition) for partition in heads}
        if applied != self._noted:
            await note_applied(connection, applied)
            self._noted = applied
        self._next_note = time.monotonic() + _NOTE_S

    def _observe(self, arrival_ms: int) -> None:
        age_ms = time.time_ns() // 1_000_000 - arrival_ms
        if 0 <= age_ms < _LIVE_MS:
            self._metrics.delay.observe(age_ms / 1000.0)


def _parts(behind: Mapping[int, int], batch: int) -> Iterator[list[int]]:
    """Put partitions together whose rows fit into one batch: few round trips, none of them long."""
    part: list[int] = []
    size = 0
    for number, count in sorted(behind.items(), key=lambda item: item[1]):
        if part and size + count > batch:
            yield part
            part, size = [], 0
        part.append(number)
        size += count
    if part:
        yield part
