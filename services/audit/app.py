"""The audit service: wiring only."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from libs.common.app import ServiceApp
from libs.common.app import create_app as create_service_app
from libs.common.platform import Platform
from services.audit.adapters.checkpoints import Checkpointer
from services.audit.adapters.erasures import Erasures
from services.audit.adapters.keys import LogKeys
from services.audit.adapters.log_reader import LogReader
from services.audit.adapters.sequencer import Sequencer, running
from services.audit.adapters.subjects import SubjectKeys
from services.audit.routes import router
from services.audit.routes_log import router as log_router
from services.audit.settings import AuditSettings
from services.audit.state import AuditMetrics, AuditState


def create_app(settings: AuditSettings) -> ServiceApp:
    """Build the audit service."""

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[Mapping[str, Any]]:
        keys = LogKeys.open(settings.audit_keys_path, settings.audit_origin)
        postgres = platform.postgres
        subjects, reader = SubjectKeys(keys), LogReader(postgres)
        sequencer = Sequencer(postgres, subjects)
        checkpoints = Checkpointer(postgres, reader, keys, settings.audit_origin, platform.health)
        state = AuditState(
            postgres=postgres,
            keys=keys,
            subjects=subjects,
            sequencer=sequencer,
            reader=reader,
            checkpoints=checkpoints,
            erasures=Erasures(postgres, subjects, platform.events),
            metrics=AuditMetrics(platform.registry),
        )
        async with running(sequencer):
            publishing = asyncio.create_task(checkpoints.run(), name="checkpoints")
            try:
                yield {"audit": state}
            finally:
                publishing.cancel()
                await asyncio.wait({publishing})

    return create_service_app("audit", settings, lifespan, routers=[router, log_router])
