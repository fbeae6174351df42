"""Wiring of the features service."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

from libs.common import app as common
from libs.common.errors import UnavailableError
from libs.common.events.envelope import EventEmitter
from libs.common.platform import Platform
from libs.common.redis import Redis, create_redis
from libs.common.settings import SettingsError
from libs.common.tasks import end
from services.features.adapters.applier import Applier, ApplierMetrics
from services.features.adapters.computed_history import ComputedHistory
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.erasure import Eraser
from services.features.adapters.history import History
from services.features.adapters.jobs import JobStore
from services.features.adapters.kafka_source import KafkaSource, consumer_of
from services.features.adapters.labels import LabelStore
from services.features.adapters.log import PostgresEventLog
from services.features.adapters.rings import FETCH_TIMEOUT_S, RedisRings
from services.features.adapters.stream_source import RedisStreamSource
from services.features.adapters.view_builder import ViewBuilder
from services.features.domain.definitions import documents
from services.features.feast.errors import render
from services.features.feast.read import FeastReader
from services.features.feast.routes import plain as feast_reads
from services.features.feast.routes import router as feast_router
from services.features.feast.write import FeastWriter
from services.features.historical import Join
from services.features.history_routes import fixed_router
from services.features.history_routes import router as history_router
from services.features.ingest import Ingestion
from services.features.parity import Parity, ParityMetrics
from services.features.routes import router
from services.features.settings import FeaturesSettings
from services.features.sources import follow

# Batches of ring writes take longer than one read may; nobody waits for them.
_WRITE_TIMEOUT_S = 5.0

# How often views are looked for whose definition another replica took.
_BUILD_EVERY_S = 5.0


Task = asyncio.Task[None]


class State(TypedDict):
    """What routes find under `request.state`."""

    ingestion: Ingestion
    log: PostgresEventLog
    rings: RedisRings
    events_max: int
    definitions: DefinitionStore
    jobs: JobStore
    feast_reader: FeastReader
    feast_writer: FeastWriter
    background: set[Task]
    history: History
    builder: ViewBuilder
    computed_history: ComputedHistory
    join: Join
    labels: LabelStore
    parity: Parity
    eraser: Eraser
    labels_redis: Redis
    events: EventEmitter


def create_app(
    settings: FeaturesSettings, *, events: EventEmitter | None = None
) -> common.ServiceApp:
    """Build the service.

    Args:
        settings: its settings.
        events: replaces the write-ahead log, in tests.

    Raises:
        SettingsError: no Redis is configured.
    """
    dsn = settings.redis_dsn
    if dsn is None:
        raise SettingsError("features: set REDIS_URL; the online store has no other home")

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[State]:
        async with _stores(platform, dsn) as stores:
            state, owned = _start(platform, settings, stores)
            try:
                yield state
            finally:
                for task in [*owned, *state["background"]]:
                    await end(task)

    return common.create_app(
        "features",
        settings,
        lifespan,
        routers=[feast_reads, feast_router, fixed_router],
        v1_routers=[router, history_router],
        events=events,
        render_error=render,
    )


@dataclass(frozen=True, slots=True)
class _Stores:
    """The clients of the online store, one for batches and one for reads, and who uses them.

    Attributes:
        written: rings as appliers write them.
        rings: rings as routes read them.
    """

    writer: Redis
    reading: Redis
    definitions: DefinitionStore
    written: RedisRings
    rings: RedisRings


@asynccontextmanager
async def _stores(platform: Platform, dsn: str) -> AsyncIterator[_Stores]:
    writer = create_redis(dsn, timeout_s=_WRITE_TIMEOUT_S, connections_max=4)
    reading = create_redis(dsn, timeout_s=FETCH_TIMEOUT_S)
    definitions = DefinitionStore(platform.postgres)
    written, rings = RedisRings(writer, definitions.known), RedisRings(reading)
    try:
        yield _Stores(writer, reading, definitions, written, rings)
    finally:
        for closing in (written.close, rings.close, writer.aclose, reading.aclose):
            await closing()


def _start(
    platform: Platform, settings: FeaturesSettings, stores: _Stores
) -> tuple[State, list[Task]]:
    """Build what routes use and start what runs beside them."""
    postgres, definitions, rings = platform.postgres, stores.definitions, stores.rings
    log, jobs = PostgresEventLog(postgres, definitions), JobStore(postgres)
    applier = _applier(platform, settings, stores)
    ingestion = _ingestion(platform, settings, log, applier)
    history, computed = History(postgres), ComputedHistory(postgres)
    labels = LabelStore(postgres, definitions)
    parity = Parity(postgres, history, ParityMetrics(platform.registry))
    builder = ViewBuilder(postgres, definitions, rings)
    platform.health.block("event_log", "preparing the event log")
    running = [
        _prepare_and_follow(platform, log, applier),
        parity.run(settings.parity_every_s),
        builder.run(_BUILD_EVERY_S),
        *_sources(settings, stores, ingestion),
    ]
    state = State(
        ingestion=ingestion,
        log=log,
        rings=rings,
        events_max=settings.events_max,
        definitions=definitions,
        jobs=jobs,
        feast_reader=FeastReader(definitions, rings, platform.registry),
        feast_writer=FeastWriter(definitions, log, rings, jobs),
        background=set(),
        builder=builder,
        computed_history=computed,
        join=Join(history, computed, definitions, labels, jobs),
        history=history,
        labels=labels,
        parity=parity,
        eraser=Eraser(postgres, stores.reading, rings, definitions),
        events=platform.events,
        labels_redis=stores.reading,
    )
    return state, [asyncio.create_task(part) for part in running]


def _applier(platform: Platform, settings: FeaturesSettings, stores: _Stores) -> Applier:
    applier = Applier(
        platform.postgres,
        stores.written,
        stores.definitions,
        ApplierMetrics(platform.registry),
        poll_s=settings.poll_ms / 1000,
        batch=settings.apply_batch,
    )
    platform.health.add_check("applier", applier.health)
    return applier


def _ingestion(
    platform: Platform, settings: FeaturesSettings, log: PostgresEventLog, applier: Applier
) -> Ingestion:
    return Ingestion(
        log,
        platform.registry,
        lag=lambda: applier.lag_events,
        lag_max=settings.lag_max,
        concurrency_max=settings.ingest_concurrency_max,
    )


def _sources(
    settings: FeaturesSettings, stores: _Stores, ingestion: Ingestion
) -> Iterator[Coroutine[Any, Any, None]]:
    """Follow the sources besides HTTP that are configured."""
    if settings.stream:
        source = RedisStreamSource(stores.writer, settings.stream)
        yield follow(source, ingestion, settings.stream_tenant)
    if settings.kafka_servers:
        kafka = KafkaSource(consumer_of(settings.kafka_servers, settings.kafka_topic))
        yield follow(kafka, ingestion, settings.kafka_tenant)


async def _prepare_and_follow(platform: Platform, log: PostgresEventLog, applier: Applier) -> None:
    """Make partitions and definitions as soon as the schema is there, then follow the log."""
    await platform.migrated.wait()
    while True:
        try:
            await log.ensure_partitions()
            await log.store_definitions(documents())
            break
        except UnavailableError:
            await asyncio.sleep(1.0)
    platform.health.release("event_log")
    await applier.run()
