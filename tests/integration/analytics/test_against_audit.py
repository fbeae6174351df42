"""The tailer against the real audit service, over HTTP, with signed identities."""

import asyncio
from pathlib import Path

import pytest
import uvicorn

from deploy.local.ports import free_port
from libs.common.catalog.audit import EVENTS_BATCH_PATH
from libs.common.http_client import ServiceClient
from libs.common.identity import Signer
from services.audit.app import create_app as create_audit
from services.audit.settings import AuditSettings
from tests.integration.analytics.conftest import Start
from tests.support.audit_log import AuditLog
from tests.support.predictions import prediction

pytestmark = pytest.mark.anyio


async def test_events_delivered_to_audit_are_counted(
    start: Start, clean_postgres: str, state_dir: Path
):
    port = free_port()
    settings = AuditSettings.load(
        postgres_url=clean_postgres, state_dir=state_dir, port=port, traces_exporter="none"
    )
    server = uvicorn.Server(
        uvicorn.Config(create_audit(settings), port=port, log_config=None, lifespan="on")
    )
    serving = asyncio.create_task(server._serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.02)
    log = AuditLog()
    log.url = f"http://127.0.0.1:{port}"
    signer = Signer.from_directory("inference", state_dir / "keys")
    emitter = ServiceClient("audit", log.url, signer)
    try:
        async with start(log) as running:
            events = [prediction().to_wire() for _ in range(20)]
            reply = await emitter.request(
                "POST",
                EVENTS_BATCH_PATH,
                json=events,
                tenant="",
                scopes=("audit:write",),
            )
            assert reply.status in {200, 202}, reply.body
            await running.counted(20)
    finally:
        await emitter.close()
        server.should_exit = True
        await serving
