"""The features app in process, over real stores; and what its rings should hold."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from libs.common.app import ServiceApp
from services.features.app import create_app
from services.features.settings import FeaturesSettings


class KeptEvents:
    """An EventEmitter that keeps what it was given."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    async def emit(self, *events: Any) -> None:
        self.documents += [event.to_wire() for event in events]


@dataclass
class Running:
    """A started app and a client that speaks to it in process."""

    app: ServiceApp
    client: httpx2.AsyncClient
    events: KeptEvents
    state: dict[str, Any]

    async def until(self, check: Callable[[], Awaitable[Any]], *, within_s: float = 40.0) -> Any:
        """Poll until `check` gives something true."""
        deadline = time.monotonic() + within_s
        while True:
            value = await check()
            if value:
                return value
            assert time.monotonic() < deadline, "the effect did not come in time"
            await asyncio.sleep(0.005)

    async def applied(self) -> None:
        """Wait until the rings hold what the log says."""

        async def done() -> bool:
            body = (await self.client.get("/features/freshness")).json()
            return bool(body.get("is_serving")) and body["lag_events"] == 0

        await self.until(done)


class _WithState:
    """Gives the lifespan's state to each request, as a server does."""

    def __init__(self, app: ServiceApp, state: dict[str, Any]) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, "state": dict(self._state)}, receive, send)


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(clean_postgres: str, redis_url: str, state_dir: Path) -> Start:
    """Start the app: `async with start(**settings) as running`."""

    @asynccontextmanager
    async def run(*, is_whole: bool = True, **overrides: Any) -> AsyncIterator[Running]:
        values = {
            "postgres_url": clean_postgres,
            "redis_url": redis_url,
            "state_dir": state_dir,
            "identity_mode": "open",
            "traces_exporter": "none",
            **overrides,
        }
        kept = KeptEvents()
        app = create_app(FeaturesSettings.load(**values), events=kept)
        async with app.fastapi.router.lifespan_context(app.fastapi) as state:
            served = _WithState(app, dict(state or {}))
            transport = httpx2.ASGITransport(app=served)
            async with httpx2.AsyncClient(transport=transport, base_url="http://f") as client:
                running = Running(app, client, kept, dict(state or {}))
                if is_whole:
                    await running.until(lambda: _is_ready(app))
                yield running

    async def _is_ready(app: ServiceApp) -> bool:
        return app.platform.health.is_ready

    return run
