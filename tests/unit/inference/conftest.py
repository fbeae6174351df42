"""A repository of tiny models, the app over it with a fake reader, and a client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from libs.common.events.envelope import Event
from libs.common.features.contract import FeatureRequest, FeatureRows, FeatureService
from services.inference.app import create_app
from services.inference.settings import InferenceSettings
from tests.support.tabular_models import build_repository, random_rows


class FakeReader:
    """Gives fixed rows, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[FeatureService, str, list[FeatureRequest]]] = []
        self.reasons: list[str] = []
        self.stale: list[str] = []
        self.freshness_s: float | None = 12.4
        self.rows: np.ndarray[Any, Any] | None = None

    async def read(
        self, service: FeatureService, tenant: str, requests: list[FeatureRequest]
    ) -> FeatureRows:
        self.calls.append((service, tenant, requests))
        matrix = self.rows
        if matrix is None:
            matrix = random_rows(service, len(requests))
        if self.reasons:
            matrix = np.full_like(matrix, np.nan)
        return FeatureRows(
            matrix=matrix,
            missing=[["card:count_1h"] if self.reasons else [] for _ in requests],
            stale=[list(self.stale) for _ in requests],
            freshness_s=[None if self.reasons else self.freshness_s for _ in requests],
            degraded_reasons=list(self.reasons),
            read_s=0.001,
        )


class MemoryEvents:
    """Keeps events; fails when told to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.error: Exception | None = None

    async def emit(self, *events: Event) -> None:
        if self.error:
            raise self.error
        self.events.extend(events)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with fraud, relevance and conversion, version 1; do not change it."""
    return build_repository(tmp_path_factory.mktemp("models"))


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader()


@pytest.fixture
def events() -> MemoryEvents:
    return MemoryEvents()


@pytest.fixture
def settings(models: Path, state_dir: Path) -> InferenceSettings:
    return InferenceSettings.load(
        state_dir=state_dir, identity_mode="open", model_path=models, batch_chunk_rows=10
    )


@asynccontextmanager
async def serving(
    settings: InferenceSettings, reader: FakeReader, events: MemoryEvents
) -> AsyncIterator[httpx2.AsyncClient]:
    """Run the whole app in this process."""
    async with serving_with_state(settings, reader, events) as (client, _):
        yield client


@asynccontextmanager
async def serving_with_state(
    settings: InferenceSettings, reader: FakeReader, events: MemoryEvents
) -> AsyncIterator[tuple[httpx2.AsyncClient, dict[str, Any]]]:
    """Run the whole app in this process; gives a client and what the routes find as state."""
    app = create_app(settings, events=events, reader=reader)
    async with (
        app.fastapi.router.lifespan_context(app.fastapi) as state,
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(_with_state(app, state)), base_url="http://inference"
        ) as client,
    ):
        yield client, dict(state or {})


def _with_state(app: Any, state: Any) -> Any:
    async def call(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state or {})}, receive, send)

    return call


@pytest.fixture
async def client(
    settings: InferenceSettings, reader: FakeReader, events: MemoryEvents
) -> AsyncIterator[httpx2.AsyncClient]:
    async with serving(settings, reader, events) as opened:
        yield opened
