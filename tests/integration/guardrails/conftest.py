"""The guardrails app over real Redis and PostgreSQL, with events kept in a list."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from libs.common.events.envelope import Event
from libs.common.events.registry import problems_of
from services.guardrails.app import create_app
from services.guardrails.settings import GuardrailsSettings


class Recorder:
    """Keeps events and holds each to the registry."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def emit(self, *events: Event) -> None:
        for event in events:
            assert problems_of(event.to_wire(), "guardrails") is None
        self.events += events


@asynccontextmanager
async def serving(
    settings: GuardrailsSettings, recorder: Recorder
) -> AsyncIterator[httpx2.AsyncClient]:
    """Run the app's lifespan and give a client of it."""
    app = create_app(settings, events=recorder)
    async with (
        app.fastapi.router.lifespan_context(app.fastapi) as state,
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=_with_state(app, state)), base_url="http://test"
        ) as client,
    ):
        yield client


def _with_state(app: Any, state: Any) -> Any:
    async def run(scope, receive, send):
        scope["state"] = dict(state)
        await app(scope, receive, send)

    return run


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def settings(state_dir: Path, clean_postgres: str, redis_url: str) -> GuardrailsSettings:
    return GuardrailsSettings(
        state_dir=state_dir,
        identity_mode="open",
        postgres_url=SecretStr(clean_postgres),
        redis_url=SecretStr(redis_url),
        redis_timeout_s=1.0,
    )


@pytest.fixture
async def client(
    settings: GuardrailsSettings, recorder: Recorder
) -> AsyncIterator[httpx2.AsyncClient]:
    async with serving(settings, recorder) as client:
        yield client
