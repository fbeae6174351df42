"""Replicas of the service in this process, over real stores, with a reader that needs none."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from libs.common.events.registry import problems_of
from services.inference.settings import InferenceSettings
from tests.unit.inference.conftest import FakeReader, MemoryEvents, serving_with_state


class Replica:
    """A client of one replica, with its events and its reader."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        events: MemoryEvents,
        reader: FakeReader,
        state: dict[str, Any],
    ):
        self.client, self.events, self.reader, self.state = client, events, reader, state

    async def post(self, path: str, status: int, **body: Any) -> dict[str, Any]:
        """POST and expect a status."""
        response = await self.client.post(path, json=body or None)
        assert response.status_code == status, response.text
        return dict(response.json())

    async def get(self, path: str) -> dict[str, Any]:
        response = await self.client.get(path)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def score(self, card: str, **more: Any) -> dict[str, Any]:
        body = {"card_id": card, "transaction_amount": 10.0, **more}
        return await self.post("/score/fraud", 200, **body)

    async def serving(self) -> str | None:
        aliases: dict[str, str] = (await self.get("/models/fraud"))["aliases"]
        return aliases.get("stable")

    def changes(self, kind: str) -> list[dict[str, Any]]:
        """Give the data of events of one type."""
        return [dict(event.data) for event in self.events.events if event.type == kind]


@asynccontextmanager
async def replica(
    models: Path, state_dir: Path, postgres_url: str | None, redis_url: str, **settings: Any
) -> AsyncIterator[Replica]:
    """Run one replica."""
    events, reader = MemoryEvents(), FakeReader()
    chosen = InferenceSettings.load(
        state_dir=state_dir,
        model_path=models,
        postgres_url=postgres_url,
        redis_url=redis_url,
        **{"identity_mode": "open", "models_reconcile_s": 0.5, **settings},
    )
    async with serving_with_state(chosen, reader, events) as (client, state):
        yield Replica(client, events, reader, state)
    # Whatever happened, audit would have taken every event.
    assert {problems_of(event.to_wire(), "inference") for event in events.events} <= {None}


async def until(condition: Callable[[], Any], what: str, deadline_s: float = 30.0) -> None:
    """Poll an async or plain condition."""
    give_up_at = time.monotonic() + deadline_s
    while time.monotonic() < give_up_at:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")
