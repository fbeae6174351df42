"""A real boto3, in its own environment, applies a policy over HTTP."""

import asyncio
import json
import os
from pathlib import Path

import pytest
import uvicorn

from services.guardrails.app import create_app
from services.guardrails.settings import GuardrailsSettings

ROOT = Path(__file__).resolve().parents[3]
PYTHON = Path(os.environ.get("BOTO3_PYTHON", ROOT / ".venv" / "peers" / "boto3" / "bin" / "python"))

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not PYTHON.exists(), reason="boto3's environment is not there: run make peers"
    ),
]


async def test_boto3_applies_a_policy_reads_the_full_scope_and_raises_its_own_errors(
    tmp_path, recorder
):
    settings = GuardrailsSettings(state_dir=tmp_path, identity_mode="open")
    app = create_app(settings, events=recorder)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:  # noqa: ASYNC110 # a flag of uvicorn
            await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        process = await asyncio.create_subprocess_exec(
            str(PYTHON),
            str(ROOT / "benchmarks" / "peers" / "bedrock_client.py"),
            f"http://127.0.0.1:{port}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "GATEHOUSE_API_KEY": "any"},
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        server.should_exit = True
        await serving
    assert process.returncode == 0, err.decode()[-3000:]
    found = json.loads(out.splitlines()[-1])
    assert found["action"] == "GUARDRAIL_INTERVENED"
    assert found["outputs"] == ["mail <EMAIL_ADDRESS>"]
    assert found["types"] == ["EMAIL"]
    assert found["calm"] == ["NONE", []]
    assert found["full_detected"] == [False]
    assert found["filters"] == ["PROMPT_ATTACK"]
    assert found["units"] == 1
    assert found["errors"] == {
        "unknown": "ResourceNotFoundException",
        "too_long": "ValidationException",
    }
