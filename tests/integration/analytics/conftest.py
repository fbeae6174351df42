"""The analytics app over real stores and a served audit log."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from libs.common.app import ServiceApp
from libs.common.events.envelope import Event
from services.analytics.adapters.rollup_writer import utc_now
from services.analytics.app import create_app
from services.analytics.settings import AnalyticsSettings
from tests.support.audit_log import AuditLog, serve_audit_log


@dataclass
class RecordedEvents:
    """An EventEmitter that keeps what it was given."""

    events: list[Event] = field(default_factory=list)

    async def emit(self, *events: Event) -> None:
        self.events.extend(events)


@dataclass
class Running:
    """A started app with a client that speaks to it in process."""

    app: ServiceApp
    client: httpx2.AsyncClient
    log: AuditLog
    events: RecordedEvents

    async def until(self, check: Callable[[], Awaitable[Any]], *, within_s: float = 30.0) -> Any:
        """Poll until `check` gives something true."""
        deadline = time.monotonic() + within_s
        while True:
            value = await check()
            if value:
                return value
            assert time.monotonic() < deadline, "the effect did not come in time"
            await asyncio.sleep(0.02)

    async def total(self) -> int:
        return int((await self.client.get("/metrics/count")).json()["total_predictions"])

    async def counted(self, n: int) -> None:
        """Wait until n predictions are rolled up."""

        async def reached() -> bool:
            return await self.total() >= n

        await self.until(reached)
        assert await self.total() == n


class _WithState:
    """Runs the lifespan of an app and gives its state to each request, as a server does."""

    def __init__(self, app: ServiceApp) -> None:
        self._app = app
        self.state: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, "state": dict(self.state)}, receive, send)


@asynccontextmanager
async def started(app: ServiceApp) -> AsyncIterator[_WithState]:
    wrapped = _WithState(app)
    async with app.fastapi.router.lifespan_context(app.fastapi) as state:
        wrapped.state = dict(state or {})
        yield wrapped


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(clean_postgres: str, redis_url: str, state_dir: Path) -> Start:
    """Start the app: `async with start(**settings) as running`."""

    @asynccontextmanager
    async def run(
        log: AuditLog | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        **overrides: Any,
    ) -> AsyncIterator[Running]:
        if log is None:
            async with serve_audit_log() as own, run(own, clock=clock, **overrides) as running:
                yield running
            return
        values = {
            "postgres_url": clean_postgres,
            "redis_url": redis_url,
            "state_dir": state_dir,
            "identity_mode": "open",
            "audit_url": log.url,
            "traces_exporter": "none",
            "tail_poll_s": 0.02,
            **overrides,
        }
        events = RecordedEvents()
        app = create_app(AnalyticsSettings.load(**values), events=events, clock=clock)
        async with started(app) as served:
            transport = httpx2.ASGITransport(app=served)
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://analytics"
            ) as client:
                yield Running(app, client, log, events)

    return run
