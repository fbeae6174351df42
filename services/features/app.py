"""Wiring of the features service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from libs.common import app as common
from libs.common.errors import UnavailableError
from libs.common.events.envelope import EventEmitter
from libs.common.platform import Platform
from libs.common.redis import create_redis
from libs.common.settings import SettingsError
from libs.common.tasks import end
from services.features.adapters.applier import Applier, ApplierMetrics
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.erasure import Eraser
from services.features.adapters.history import History
from services.features.adapters.jobs import JobStore
from services.features.adapters.labels import LabelStore
from services.features.adapters.log import PostgresEventLog
from services.features.adapters.rings import RedisRings
from services.features.adapters.stream_source import RedisStreamSource
from services.features.domain.definitions import documents
from services.features.feast.errors import render
from services.features.feast.read import FeastReader
from services.features.feast.routes import router as feast_router
from services.features.feast.write import FeastWriter
from services.features.history_routes import fixed_router
from services.features.history_routes import router as history_router
from services.features.ingest import Ingestion
from services.features.parity import Parity, ParityMetrics
from services.features.routes import router
from services.features.settings import FeaturesSettings
from services.features.sources import follow

# Batches of ring writes take longer than one read may; nobody waits for them.
_WRITE_TIMEOUT_S = 5.0
# Reads of clients wait longer than scoring does: nobody fills in for them.
_READ_TIMEOUT_S = 0.25


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
    background: set[asyncio.Task[None]]
    history: History
    labels: LabelStore
    parity: Parity
    eraser: Eraser
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
        writer = create_redis(dsn, timeout_s=_WRITE_TIMEOUT_S, connections_max=4)
        reading = create_redis(dsn, timeout_s=_READ_TIMEOUT_S)
        log = PostgresEventLog(platform.postgres)
        applier = Applier(
            platform.postgres,
            RedisRings(writer),
            ApplierMetrics(platform.registry),
            poll_s=settings.poll_ms / 1000,
            batch=settings.apply_batch,
        )
        platform.health.add_check("applier", applier.health)
        platform.health.block("schema", "preparing the event log")
        following = asyncio.create_task(_prepare_and_follow(platform, log, applier))
        rings, definitions = RedisRings(reading), DefinitionStore(platform.postgres)
        jobs, background = JobStore(platform.postgres), set[asyncio.Task[None]]()
        history = History(platform.postgres)
        parity = Parity(platform.postgres, history, ParityMetrics(platform.registry))
        comparing = asyncio.create_task(parity.run(settings.parity_every_s))
        ingestion = Ingestion(
            log,
            platform.registry,
            lag=lambda: applier.lag_events,
            lag_max=settings.lag_max,
            concurrency_max=settings.ingest_concurrency_max,
        )
        owned = [following, comparing]
        if settings.stream:
            source = RedisStreamSource(writer, settings.stream)
            owned.append(asyncio.create_task(follow(source, ingestion, settings.stream_tenant)))
        try:
            yield State(
                ingestion=ingestion,
                log=log,
                rings=rings,
                events_max=settings.events_max,
                definitions=definitions,
                jobs=jobs,
                feast_reader=FeastReader(definitions, rings, platform.registry),
                feast_writer=FeastWriter(definitions, log, rings, jobs),
                background=background,
                history=history,
                labels=LabelStore(platform.postgres),
                parity=parity,
                eraser=Eraser(platform.postgres, reading, rings, definitions),
                events=platform.events,
            )
        finally:
            for task in [*owned, *background]:
                await end(task)
            await writer.aclose()
            await reading.aclose()

    return common.create_app(
        "features",
        settings,
        lifespan,
        routers=[feast_router, fixed_router],
        v1_routers=[router, history_router],
        events=events,
        render_error=render,
    )


async def _prepare_and_follow(platform: Platform, log: PostgresEventLog, applier: Applier) -> None:
    """Make partitions and definitions as soon as Postgres answers, then follow the log."""
    while True:
        try:
            await log.ensure_partitions()
            await log.store_definitions(documents())
            break
        except UnavailableError:
            await asyncio.sleep(1.0)
    platform.health.release("schema")
    await applier.run()
