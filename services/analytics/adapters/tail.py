"""The tailer: follows the audit log by index and adds it to the roll-ups, exactly once.

One tailer at a time over all replicas: it holds a session advisory lock on the very connection it
writes with, so a tailer that lost its lock has lost its writes as well. The offset moves in the
transaction of the sums; a batch that was read twice is added once.
"""

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from libs.common.errors import ServiceError
from libs.common.health import Component
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from libs.common.tasks import end
from services.analytics.adapters.rollup_writer import RollupWriter, utc_now
from services.analytics.domain.fold import fold
from services.analytics.domain.ports import LogBatch, LogReader

log = get_logger()

_TRY_LOCK = "SELECT pg_try_advisory_lock($1)"
_LOCK_KEY = 0x74_61_69_6C  # "tail"
# How long a replica without the lock waits before it tries again.
_STANDBY_S = 2.0
_RETRY_S_MAX = 5.0
# The end of the log is recorded this often while nothing happens.
_CAUGHT_UP_EVERY_S = 2.0


class TailMetrics:
    """How far and how fast the tailer is."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "gatehouse_analytics_tail_events_total",
            "Log entries read and rolled up.",
            registry=registry,
        )
        self.lag = Gauge(
            "gatehouse_analytics_tail_lag_entries",
            "Log entries that are not rolled up yet.",
            registry=registry,
        )
        self.skipped = Counter(
            "gatehouse_analytics_tail_skipped_total",
            "Log entries that could not be used: pruned, or without a usable time.",
            registry=registry,
        )


class Tailer:
    """Runs until cancelled; survives the database and the audit service being away."""

    def __init__(
        self,
        postgres: Postgres,
        writer: RollupWriter,
        reader: LogReader,
        metrics: TailMetrics,
        *,
        batch: int,
        poll_s: float,
    ) -> None:
        self._postgres = postgres
        self._writer = writer
        self._reader = reader
        self._metrics = metrics
        self._batch = batch
        self._poll_s = poll_s
        self._state = ""
        self._marked_at = 0.0
        self._ahead: tuple[int, asyncio.Task[LogBatch]] | None = None

    async def run(self) -> None:
        """Follow the log for ever, waiting longer while something is away."""
        wait_s = self._poll_s
        while True:
            try:
                async with self._postgres.connection() as connection:
                    while not await connection.fetchval(_TRY_LOCK, _LOCK_KEY):
                        self._note("standby")
                        await asyncio.sleep(_STANDBY_S)
                    await self._follow(connection)
            except ServiceError as error:
                self._note(f"waiting: {error.problem_code}")
            except Exception as error:  # an unforeseen fault must not end the tail for good
                log.exception("log tail failed", error_type=type(error).__name__)
                self._note("failed")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _RETRY_S_MAX) if self._state != "following" else self._poll_s

    async def _follow(self, connection: Any) -> None:
        try:
            while True:
                progressed = await self.step(connection)
                self._note("following")
                if not progressed:
                    await asyncio.sleep(self._poll_s)
        finally:
            if self._ahead is not None:
                await end(self._ahead[1])
                self._ahead = None

    async def step(self, connection: Any) -> bool:
        """Read and add one batch; say whether there was anything to add."""
        from_index = await self._writer.next_index(connection)
        batch = await self._read(from_index)
        pruned = max(0, min(batch.min_index, batch.size) - from_index)
        next_index = max(batch.next_index, from_index + pruned)
        if next_index <= from_index:
            await self._mark_caught_up(connection, batch.size)
            return False
        if next_index < batch.size:
            # The next batch comes over the wire while PostgreSQL adds this one.
            task = asyncio.create_task(self._reader.read(next_index, self._batch))
            self._ahead = (next_index, task)
        folded = fold(batch.documents)
        applied = await self._writer.apply(
            connection,
            folded,
            from_index=from_index,
            next_index=next_index,
            log_size=batch.size,
            skipped=pruned,
        )
        if applied:
            self._metrics.events.inc(folded.events)
            self._metrics.skipped.inc(folded.skipped + pruned)
            self._metrics.lag.set(max(0, batch.size - next_index))
        return True

    async def _read(self, from_index: int) -> LogBatch:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            index, task = ahead
            if index == from_index:
                return await task
            await end(task)
        return await self._reader.read(from_index, self._batch)

    async def _mark_caught_up(self, connection: Any, size: int) -> None:
        self._metrics.lag.set(0)
        now = asyncio.get_running_loop().time()
        if now - self._marked_at >= _CAUGHT_UP_EVERY_S:
            await self._writer.mark_caught_up(connection, size, utc_now())
            self._marked_at = now

    async def health(self) -> Component:
        """Report the tail for `/health`: following, standing by, or waiting for something."""
        is_well = self._state in {"following", "standby"}
        return Component("ok" if is_well else "degraded", self._state or "starting")

    def _note(self, state: str) -> None:
        if state != self._state:
            self._state = state
            log.info("log tail", state=state)
