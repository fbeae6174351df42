"""Wiring of analytics."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypedDict

from libs.common import app as common
from libs.common.events.envelope import EventEmitter
from libs.common.platform import Platform
from services.analytics.adapters.audit_log import AuditLogReader
from services.analytics.adapters.rollups import RollupStore
from services.analytics.adapters.tail import Tailer, TailMetrics
from services.analytics.routes import router
from services.analytics.service import Analytics
from services.analytics.settings import AnalyticsSettings


class State(TypedDict):
    """What routes find under `request.state`."""

    analytics: Analytics


def create_app(
    settings: AnalyticsSettings, *, events: EventEmitter | None = None
) -> common.ServiceApp:
    """Build the service.

    Args:
        settings: its settings.
        events: replaces the write-ahead log, in tests.
    """

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[State]:
        store = RollupStore(platform.postgres)
        tailer = Tailer(
            platform.postgres,
            store,
            AuditLogReader(platform.client("audit")),
            TailMetrics(platform.registry),
            batch=settings.tail_batch,
            poll_s=settings.tail_poll_s,
        )
        platform.health.add_check("log_tail", tailer.health)
        following = asyncio.create_task(tailer.run())
        try:
            yield State(analytics=Analytics(store, started_at=datetime.now(UTC)))
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    return common.create_app("analytics", settings, lifespan, v1_routers=[router], events=events)
