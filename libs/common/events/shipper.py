"""Carries the write-ahead log to audit: one ordered stream, at least once, without end.

A batch is acknowledged in the log only after audit answered 200, which it does after COMMIT. What
audit refuses for good is parked, sealed, and counted; it never blocks the queue.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from libs.common.errors import ServiceError
from libs.common.events.wal import WriteAheadLog
from libs.common.http_client import Reply
from libs.common.logging import get_logger

log = get_logger()

BATCH_EVENTS_MAX = 1_000
BATCH_BYTES_MAX = 8 << 20  # half of what the route accepts
BATCH_WAIT_S = 0.2
REQUEST_TIMEOUT_S = 10.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
# A batch that audit cannot take as a whole, whoever sends it: split it until one record is left.
_UNACCEPTABLE = frozenset({400, 413, 422})

Send = Callable[[bytes, float], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Rejection:
    """One record that audit will never take, and why."""

    body: bytes
    event_id: str
    reason: str


class _NotDeliveredError(Exception):
    """Audit did not confirm the batch; it stays in the log."""


class Shipper:
    """Reads the log in a thread and delivers; `run` ends only by cancellation."""

    def __init__(
        self,
        wal: WriteAheadLog,
        send: Send,
        on_rejected: Callable[[list[Rejection]], Awaitable[None]],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._wal = wal
        self._send = send
        self._on_rejected = on_rejected
        self._jitter = jitter
        self._written = asyncio.Event()
        self._turn = asyncio.Lock()
        self.failures = 0

    def notify(self) -> None:
        """Say that records were written."""
        self._written.set()

    async def run(self) -> None:
        """Ship for ever, in batches, backing off with full jitter while audit does not answer."""
        while True:
            await self._gather()
            try:
                await self.ship_once()
                self.failures = 0
            except (_NotDeliveredError, OSError) as error:
                self.failures += 1
                if self.failures == 1:
                    log.warning("event delivery failing", reason=str(error))
                bound = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self.failures, 16))
                await asyncio.sleep(bound * self._jitter())

    async def drain(self, seconds: float) -> bool:
        """Ship what is left, without retries, within a bound; say whether all is delivered."""
        with contextlib.suppress(_NotDeliveredError, OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                while await self.ship_once():
                    pass
        return self._wal.backlog_events == 0

    async def ship_once(self) -> bool:
        """Deliver one batch and acknowledge it; False when the log is empty.

        Raises:
            _NotDeliveredError: audit did not answer 200.
        """
        async with self._turn:
            bodies, position = await asyncio.to_thread(
                self._wal.read, BATCH_EVENTS_MAX, BATCH_BYTES_MAX
            )
            if position is None:
                return self._wal.backlog_events > 0
            rejected = await self._deliver(bodies)
            if rejected:
                await asyncio.to_thread(self._wal.park, [item.body for item in rejected])
                await self._on_rejected(rejected)
            await asyncio.to_thread(self._wal.ack, position)
            if self.failures:
                log.info("event delivery resumed", backlog_events=self._wal.backlog_events)
            return True

    async def _gather(self) -> None:
        """Wait for a first record, then for a full batch or the end of its wait."""
        while self._wal.backlog_events == 0:
            self._written.clear()
            await self._written.wait()
        deadline = asyncio.get_running_loop().time() + BATCH_WAIT_S
        while self._wal.backlog_events < BATCH_EVENTS_MAX:
            self._written.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._written.wait()
            except TimeoutError:
                return

    async def _deliver(self, bodies: list[bytes]) -> list[Rejection]:
        try:
            reply = await self._send(b"[" + b",".join(bodies) + b"]", REQUEST_TIMEOUT_S)
        except ServiceError as error:
            raise _NotDeliveredError(error.detail) from error
        if reply.status in _UNACCEPTABLE:
            if len(bodies) == 1:
                return [Rejection(bodies[0], _id_of(bodies[0]), f"status {reply.status}")]
            half = len(bodies) // 2
            return await self._deliver(bodies[:half]) + await self._deliver(bodies[half:])
        if reply.status != 200:
            raise _NotDeliveredError(f"audit answered {reply.status}")
        results = _results(reply, len(bodies))
        return [
            Rejection(body, str(result.get("id", "")), str(result.get("error", "")))
            for body, result in zip(bodies, results, strict=True)
            if result.get("status") == "rejected"
        ]


def _results(reply: Reply, count: int) -> list[dict[str, Any]]:
    try:
        results = reply.json()["results"]
        if len(results) == count and all(isinstance(item, dict) for item in results):
            return list(results)
    except (ValueError, KeyError, TypeError):
        pass
    raise _NotDeliveredError("audit's answer does not fit the batch")


def _id_of(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["id"])
    except (ValueError, KeyError, TypeError):
        return ""
