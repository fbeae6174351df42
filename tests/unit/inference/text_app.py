"""The app over tiny text models, for the tests of the text routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from services.inference.app import create_app
from services.inference.settings import InferenceSettings
from tests.support.text_models import (
    build_guard_version,
    build_simple_version,
    build_text_version,
)
from tests.unit.inference.conftest import FakeReader, MemoryEvents, _with_state


def build_texts(root: Path) -> Path:
    """Sentiment, guard, simple and a reference model that refuses long texts."""
    build_text_version(root)
    build_guard_version(root)
    build_simple_version(root)
    build_text_version(
        root,
        "short",
        task="text-classification",
        labels=("a", "b"),
        engine="reference",
        truncation={"max_tokens": 8, "policy": "refuse"},
    )
    return root


@asynccontextmanager
async def text_app(
    models: Path, state_dir: Path, events: MemoryEvents, **settings: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, Any]]:
    """Run the whole app in this process; gives a client and the routes' state."""
    loaded = InferenceSettings.load(
        state_dir=state_dir,
        identity_mode="open",
        model_path=models,
        text_loading="eager",
        **settings,
    )
    app = create_app(loaded, events=events, reader=FakeReader())
    async with (
        app.fastapi.router.lifespan_context(app.fastapi) as state,
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(_with_state(app, state)), base_url="http://inference"
        ) as client,
    ):
        yield client, state
