"""From an emitting process to the log, with audit killed and restarted in between."""

import asyncio
from pathlib import Path
from typing import ClassVar

import asyncpg
import pytest

from libs.common.events.log import open_event_log
from libs.common.platform import build_platform
from libs.common.settings import ServiceSettings
from tests.integration.audit.process import AuditProcess, prediction

pytestmark = pytest.mark.anyio


class EmitterSettings(ServiceSettings):
    service: ClassVar[str] = "inference"


async def test_every_acknowledged_event_is_in_the_log_once_although_audit_was_killed(
    own_state: Path, clean_postgres: str
):
    audit = AuditProcess(own_state, clean_postgres)
    settings = EmitterSettings.load(state_dir=own_state, audit_url=audit.url)
    platform = build_platform("inference", settings)
    platform.health.started()
    emitted: list[str] = []

    async def emit(count: int) -> None:
        for i in range(count):
            event = prediction(i, data_subject=f"card:{i % 7}")
            await events.emit(event)
            emitted.append(event.id)

    try:
        async with open_event_log(platform) as events:
            await emit(200)  # audit is not there yet
            await asyncio.to_thread(audit.start)
            for _ in range(2):
                running = asyncio.create_task(emit(300))
                await asyncio.sleep(0)
                await asyncio.to_thread(audit.kill)
                await asyncio.to_thread(audit.start)
                await running
            async with asyncio.timeout(20):
                while (await events.check()).facts["backlog_events"]:  # noqa: ASYNC110 - a thread empties it
                    await asyncio.sleep(0.02)
        connection = await asyncpg.connect(clean_postgres)
        rows = await connection.fetch("SELECT id, index FROM audit.event_dedup ORDER BY index")
        await connection.close()
    finally:
        audit.kill()
        await platform.close()
    assert [row["id"] for row in rows] == emitted
    assert [row["index"] for row in rows] == list(range(len(emitted)))
