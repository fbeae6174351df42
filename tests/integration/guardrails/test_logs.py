"""A running service with structlog configured never writes a user's text, whatever fails."""

import os
import subprocess
import sys
from pathlib import Path

SECRET = "jane.unmistakable@example.com"
# Runs the service's app over ASGI with the log configuration of production; makes things fail with
# the text in the message of the exception, in local variables and in the exception's arguments.
PROGRAM = """
import asyncio, json, sys, pathlib
import httpx2
from libs.common.logging import configure_logging, get_logger
from services.guardrails.app import create_app
from services.guardrails.settings import GuardrailsSettings
from services.guardrails.domain.pii import PiiValidator
from services.guardrails import checker as checker_module

SECRET = sys.argv[1]
configure_logging("guardrails", level="debug", log_format="json")
settings = GuardrailsSettings(state_dir=pathlib.Path(sys.argv[2]), identity_mode="open")

class Events:
    async def emit(self, *events):
        for event in events:
            assert SECRET not in json.dumps(event.to_wire())

app = create_app(settings, events=Events())

async def main():
    async with app.fastapi.router.lifespan_context(app.fastapi) as state:
        async def run(scope, receive, send):
            scope["state"] = dict(state)
            await app(scope, receive, send)
        transport = httpx2.ASGITransport(app=run, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            async def post(path, **more):
                reply = await client.post(path, **more)
                print(reply.status_code, path, flush=True)
                return reply
            text = {"text": "mail " + SECRET}
            await post("/v1/guardrails/validate", json=text)
            await post("/v1/guardrails/validate", json={**text, "policy": "strict"})
            await post("/v1/guardrails/validate", json={"text": [SECRET]})
            await post("/v1/guardrails/validate", json={"text": "a", SECRET: 1})
            await post("/v1/guardrails/validate", content=SECRET.encode())
            await post("/v1/guardrails/validate?q=" + SECRET, json=text)
            image = [{"type": "image_url", "image_url": SECRET}]
            await post("/v1/moderations", json={"input": image})
            await post("/presidio/analyze", json={"text": SECRET, "language": "en",
                       "allow_list": ["(" + SECRET], "allow_list_match": "regex"})
            def broken(self, document, params):
                text = document.text
                raise ValueError(f"cannot read {text}")
            PiiValidator.detect = broken
            await post("/v1/guardrails/validate", json={**text, "cache_ttl": 0})
            def worse(*args, **kwargs):
                get_logger().warning("odd", text=SECRET, detail=1)
                raise RuntimeError(f"lost {SECRET}", SECRET)
            checker_module.Checker._event = worse
            await post("/v1/guardrails/validate", json=text)

asyncio.run(main())
"""


def test_no_log_line_holds_a_users_text_even_when_its_check_raises(tmp_path: Path):
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, SECRET, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    statuses = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert statuses == [200, 200, 422, 422, 400, 200, 400, 422, 200, 500], done.stdout
    logged = done.stderr
    assert "validator failed" in logged
    assert "RuntimeError" in logged
    assert "jane.unmistakable" not in logged + done.stdout.replace(f"?q={SECRET}", "")
