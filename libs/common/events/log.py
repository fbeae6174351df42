"""What services emit into: group commit to the write-ahead log, fail modes by class, metrics.

| class    | write fails or is too slow | backlog bound                         |
|----------|----------------------------|---------------------------------------|
| required | 503                        | 503 at 100 %                          |
| standard | 503                        | 503 from 80 %                         |
| sampled  | dropped and counted        | dropped and counted from 50 %         |

What was dropped, damaged or rejected becomes an `audit.gap` event as soon as writing works.
"""

import asyncio
import contextlib
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from libs.common.catalog.audit import EVENTS_BATCH_PATH
from libs.common.errors import UnavailableError
from libs.common.events.envelope import Event, EventClass
from libs.common.events.frames import EVENT_BYTES_MAX
from libs.common.events.shipper import Rejection, Shipper
from libs.common.events.wal import WriteAheadLog, node_secret
from libs.common.health import Component, Health
from libs.common.http_client import Reply
from libs.common.logging import get_logger
from libs.common.metrics import DURATION_BUCKETS
from libs.common.platform import Platform

log = get_logger()

# Share of the backlog bound that each class may fill.
BACKLOG_SHARE: dict[EventClass, float] = {"required": 1.0, "standard": 0.8, "sampled": 0.5}
WRITE_TIMEOUT_S = 0.25
GROUP_EVENTS_MAX = 256
DRAIN_S = 5.0


class EventMetrics:
    """What operators watch: how much is undelivered, how old it is, how long a write takes."""

    def __init__(self, service: str, registry: CollectorRegistry, wal: WriteAheadLog) -> None:
        name = f"gatehouse_{service}_events"

        def gauge(suffix: str, text: str, value: Any) -> None:
            Gauge(f"{name}_{suffix}", text, registry=registry).set_function(value)

        gauge("backlog", "Events not yet committed by audit.", lambda: wal.backlog_events)
        gauge("backlog_bytes", "Bytes of these events on disk.", lambda: wal.backlog_bytes)
        gauge("oldest_age_seconds", "Age of the oldest of them.", lambda: wal.oldest_age_s)
        self.write = Histogram(
            f"{name}_fsync_duration_seconds",
            "Time to write and sync one group.",
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.dropped = Counter(
            f"{name}_dropped_total",
            "Events that were not kept.",
            ("event_class",),
            registry=registry,
        )
        self.refused = Counter(
            f"{name}_refused_total",
            "Events refused with 503.",
            ("event_class", "reason"),
            registry=registry,
        )
        self.rejected = Counter(
            f"{name}_rejected_total", "Events parked because audit refused them.", registry=registry
        )


class _Group:
    """Records that share one write, and the future that their emitters wait for."""

    __slots__ = ("bodies", "classes", "done")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.bodies: list[bytes] = []
        self.classes: list[EventClass] = []
        self.done: asyncio.Future[None] = loop.create_future()


class EventLog:
    """The process's emitter. Its methods belong to one event loop."""

    def __init__(
        self,
        service: str,
        wal: WriteAheadLog,
        health: Health,
        metrics: EventMetrics,
        *,
        bytes_max: int,
        events_max: int,
    ) -> None:
        self._service = service
        self._wal = wal
        self._health = health
        self._metrics = metrics
        self._bytes_max = bytes_max
        self._events_max = events_max
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="event-log")
        self._groups: list[_Group] = []
        self._writer: asyncio.Task[None] | None = None
        self._queued = 0
        self._lost: Tally[tuple[EventClass, str]] = Tally()
        self._lost_since = ""
        self._is_open = True
        self._is_hanging = False
        self._background: set[asyncio.Task[None]] = set()
        self.shipper: Shipper | None = None

    async def emit(self, *events: Event) -> None:
        """Make the events durable; the failure policy depends on their class.

        Raises:
            UnavailableError: required or standard events cannot be made durable.
            ValueError: an event is too large for the log.
        """
        kept = [event for event in events if self._has_room(event.event_class)]
        if not kept:
            return
        bodies = [orjson.dumps(event.to_wire()) for event in kept]
        if max(map(len, bodies)) > EVENT_BYTES_MAX:
            raise ValueError(f"an event has at most {EVENT_BYTES_MAX} bytes")
        group = self._enqueue(bodies, [event.event_class for event in kept])
        if all(event.event_class == "sampled" for event in kept):
            return
        await asyncio.shield(group.done)

    async def report_gap(self, reason: str, dropped: int, **facts: Any) -> None:
        """Put an `audit.gap` event of this process on record."""
        gap = Event(
            type="audit.gap",
            source=self._service,
            event_class="required",
            data={"reason": reason, "dropped": dropped, **facts},
            tenant="",
            principal=f"service:{self._service}",
        )
        with contextlib.suppress(UnavailableError):  # counted and logged where it was noticed
            await self.emit(gap)

    async def rejected(self, items: Sequence[Rejection]) -> None:
        """Count, log and report records that audit will never take."""
        self._metrics.rejected.inc(len(items))
        for item in items[:10]:
            log.error("event rejected by audit", event_id=item.event_id, reason=item.reason)
        await self.report_gap("rejected by audit", len(items))

    async def close(self) -> None:
        """Refuse further events and finish the writes under way."""
        self._is_open = False
        while self._writer is not None:
            await asyncio.wait({self._writer})
        self._thread.shutdown(wait=False)

    def _has_room(self, event_class: EventClass) -> bool:
        """Say whether an event of this class is taken; refuse or drop by the table."""
        share = BACKLOG_SHARE[event_class]
        is_full = (
            self._wal.backlog_events + self._queued >= share * self._events_max
            or self._wal.backlog_bytes >= share * self._bytes_max
        )
        if self._is_open and not is_full and not self._is_hanging:
            return True
        reason = "backlog" if is_full else "write slow" if self._is_hanging else "closing"
        if event_class == "sampled":
            self._drop(event_class, reason)
            return False
        self._metrics.refused.labels(event_class, reason).inc()
        raise UnavailableError(
            "The event log is full: audit has not taken events for a while."
            if is_full
            else "The event log cannot be written.",
            retry_after_s=5,
        )

    def _enqueue(self, bodies: list[bytes], classes: list[EventClass]) -> _Group:
        if not self._groups or len(self._groups[-1].bodies) >= GROUP_EVENTS_MAX:
            self._groups.append(_Group(self._loop))
        group = self._groups[-1]
        group.bodies += bodies
        group.classes += classes
        self._queued += len(bodies)
        if self._writer is None:
            self._writer = self._loop.create_task(self._write_all())
        return group

    async def _write_all(self) -> None:
        """Write group after group; while one is being synced the next one fills up."""
        try:
            while self._groups:
                await self._write(self._groups.pop(0))
        finally:
            self._writer = None

    async def _write(self, group: _Group) -> None:
        started = time.perf_counter()
        timer = self._loop.call_later(WRITE_TIMEOUT_S, self._on_slow, group)
        try:
            await self._loop.run_in_executor(self._thread, self._wal.append, group.bodies)
        except Exception as error:  # whatever it was, nobody may wait for ever
            log.error("event log write failed", error_type=type(error).__name__)
            self._fail(group, "write failed")
        else:
            if not group.done.done():
                group.done.set_result(None)
            self.report_lost()
            if self.shipper:
                self.shipper.notify()
        finally:
            timer.cancel()
            self._is_hanging = False
            self._health.release("event_log")
            self._queued -= len(group.bodies)
            self._metrics.write.observe(time.perf_counter() - started)

    def _on_slow(self, group: _Group) -> None:
        """The disk hangs: release the callers with 503 and take no new work."""
        self._is_hanging = True
        self._health.block("event_log", "the event log's disk does not answer")
        log.error("event log write hangs", wait_s=WRITE_TIMEOUT_S)
        for waiting in [group, *self._groups]:
            self._fail(waiting, "write slow", is_lost=False)

    def _fail(self, group: _Group, reason: str, *, is_lost: bool = True) -> None:
        for event_class in group.classes:
            if event_class != "sampled":
                self._metrics.refused.labels(event_class, reason).inc()
            elif is_lost:
                self._drop(event_class, reason)
        if not group.done.done():
            group.done.set_exception(UnavailableError("The event log cannot be written."))
            group.done.exception()  # sampled events alone have nobody who waits

    def _drop(self, event_class: EventClass, reason: str) -> None:
        self._metrics.dropped.labels(event_class).inc()
        self._lost_since = self._lost_since or _now()
        self._lost[event_class, reason] += 1

    def report_lost(self) -> None:
        """Turn the counts of dropped and damaged records into `audit.gap` events."""
        facts: list[tuple[str, int, dict[str, Any]]] = [
            (reason, count, {"event_class": name, "since": self._lost_since, "until": _now()})
            for (name, reason), count in self._lost.items()
        ]
        self._lost.clear()
        self._lost_since = ""
        while self._wal.gaps:
            gap = self._wal.gaps.popleft()
            facts.append((gap.reason, gap.lost, {"segment": gap.segment}))
        for reason, count, more in facts:
            task = self._loop.create_task(self.report_gap(reason, count, **more))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def check(self) -> Component:
        """Give the health component."""
        failures = self.shipper.failures if self.shipper else 0
        facts = {
            "backlog_events": self._wal.backlog_events,
            "backlog_bytes": self._wal.backlog_bytes,
            "oldest_age_seconds": round(self._wal.oldest_age_s, 1),
        }
        used = max(
            self._wal.backlog_events / self._events_max, self._wal.backlog_bytes / self._bytes_max
        )
        if used >= BACKLOG_SHARE["standard"]:
            return Component("down", "the backlog is full", facts)
        if failures:
            return Component("degraded", "audit does not take events", facts)
        return Component("ok", facts=facts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@asynccontextmanager
async def open_event_log(platform: Platform) -> AsyncIterator[EventLog]:
    """Open the service's log under the state directory, ship while it is open, drain at the end.

    Raises:
        OSError: the directory cannot be used or another process of this service holds it.
    """
    service, settings = platform.entry.name, platform.settings
    secret = node_secret(settings.state_dir)
    wal = WriteAheadLog(settings.state_dir / "wal" / service, secret)
    await asyncio.to_thread(wal.open)
    if wal.cut_bytes or wal.gaps or wal.backlog_events:
        log.info(
            "event log replayed",
            backlog_events=wal.backlog_events,
            bytes=wal.cut_bytes,
            quarantined=len(wal.gaps),
        )
    events = EventLog(
        service,
        wal,
        platform.health,
        EventMetrics(service, platform.registry, wal),
        bytes_max=settings.wal_max_bytes,
        events_max=settings.wal_max_events,
    )

    async def send(body: bytes, timeout_s: float) -> Reply:
        return await platform.client("audit").request(
            "POST",
            EVENTS_BATCH_PATH,
            body=body,
            content_type="application/cloudevents-batch+json",
            timeout_s=timeout_s,
            tenant="",
            scopes=("audit:write",),
        )

    events.shipper = Shipper(wal, send, events.rejected)
    platform.health.add_check("event_log", events.check)
    shipping = asyncio.create_task(events.shipper.run(), name="event-shipper")
    events.report_lost()
    try:
        yield events
    finally:
        await events.close()
        shipping.cancel()
        await asyncio.wait({shipping})
        if not await events.shipper.drain(DRAIN_S):
            log.info("events left for the next start", backlog_events=wal.backlog_events)
        await asyncio.to_thread(wal.close)
