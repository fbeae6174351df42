"""The audit service: wiring only."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from libs.common.app import ServiceApp
from libs.common.app import create_app as create_service_app
from libs.common.errors import UnavailableError
from libs.common.http_client import ServiceClient
from libs.common.logging import get_logger
from libs.common.platform import Platform
from services.audit.adapters.anonymizer import Anonymizer
from services.audit.adapters.checkpoints import Checkpointer
from services.audit.adapters.erasures import Erasures
from services.audit.adapters.keys import LogKeys
from services.audit.adapters.log_reader import LogReader
from services.audit.adapters.monitor import Monitor
from services.audit.adapters.policies import Policies
from services.audit.adapters.reports import ReportFacts
from services.audit.adapters.retention import Retention
from services.audit.adapters.sequencer import Sequencer, running
from services.audit.adapters.subjects import SubjectKeys
from services.audit.adapters.witness import WitnessClient
from services.audit.routes import router
from services.audit.routes_export import router as export_router
from services.audit.routes_log import router as log_router
from services.audit.routes_report import router as report_router
from services.audit.routes_retention import router as retention_router
from services.audit.settings import AuditSettings
from services.audit.state import AuditMetrics, AuditState

log = get_logger()

READY_POLL_S = 0.2
# With any of these off, a crash of the server shrinks the log below what was acknowledged.
DURABILITY = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


def create_app(settings: AuditSettings) -> ServiceApp:
    """Build the audit service."""

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[Mapping[str, Any]]:
        keys = LogKeys.open(settings.audit_keys_path, settings.audit_origin)
        postgres = platform.postgres
        subjects, reader = SubjectKeys(keys), LogReader(postgres)
        sequencer = Sequencer(postgres, subjects)
        monitor = Monitor(postgres, platform.events, platform.registry)
        retention = Retention(postgres, sequencer)
        caller = _witness_caller(settings)
        witness = WitnessClient(caller, reader, settings.witness_verifier) if caller else None
        checkpoints = Checkpointer(
            postgres, reader, keys, platform.health, witness=witness, on_fork=sequencer.halt
        )
        state = AuditState(
            postgres=postgres,
            keys=keys,
            subjects=subjects,
            sequencer=sequencer,
            reader=reader,
            checkpoints=checkpoints,
            erasures=Erasures(postgres, subjects, platform.events),
            retention=retention,
            policies=Policies(postgres, platform.events),
            facts=ReportFacts(postgres, reader),
            metrics=AuditMetrics(platform.registry),
            anonymizer=Anonymizer(platform.client("guardrails"), platform.registry)
            if settings.audit_anonymize
            else None,
        )
        state.metrics.watch(checkpoints)
        platform.health.block("durability", "the database was not asked yet whether it is durable")
        async with running(sequencer):
            tasks = {
                asyncio.create_task(checkpoints.run(), name="checkpoints"),
                asyncio.create_task(monitor.run(), name="monitor"),
                asyncio.create_task(retention.run(), name="retention"),
                asyncio.create_task(_turn_ready(platform), name="readiness"),
            }
            try:
                yield {"audit": state}
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                if caller:
                    await caller.close()

    routers = [router, log_router, export_router, retention_router, report_router]
    return create_service_app("audit", settings, lifespan, routers=routers)


def _witness_caller(settings: AuditSettings) -> ServiceClient | None:
    """Give the connection to the witness; it needs no identity, the checkpoint is signed."""
    return ServiceClient("witness", settings.witness_url, None) if settings.witness_url else None


async def _turn_ready(platform: Platform) -> None:
    """Turn ready when the server is known to keep what it commits."""
    while True:
        with contextlib.suppress(UnavailableError):
            for name, wanted in DURABILITY.items():
                if await platform.postgres.fetchval(f"SHOW {name}") != wanted:
                    platform.health.block(name, f"PostgreSQL runs without {name}")
                    log.error("database is not durable", name=name)
            platform.health.release("durability")
            return
        await asyncio.sleep(READY_POLL_S)
