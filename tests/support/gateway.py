"""A whole gateway in this process: real uvicorn, PostgreSQL and Redis, fake services behind it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from libs.common.events.envelope import Event
from services.gateway.app import GatewayApp, create_app
from services.gateway.bootstrap import ensure_demo_key
from services.gateway.settings import GatewaySettings
from tests.support.fake_upstream import Answer, FakeUpstream, echo, fake_upstream

SERVICES_BEHIND = ("inference", "guardrails", "features", "analytics", "audit")


async def eventually(check: Callable[[], Awaitable[bool]], timeout_s: float = 5.0) -> None:
    """Poll until `check` is true, at most `timeout_s` seconds."""
    async with asyncio.timeout(timeout_s):
        while not await check():  # noqa: ASYNC110 - what is awaited offers no event
            await asyncio.sleep(0.01)


class Recorder:
    """An event emitter that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def emit(self, *events: Event) -> None:
        self.events.extend(events)

    def of(self, kind: str) -> list[Event]:
        """Give the events of one type."""
        return [event for event in self.events if event.type == kind]


@dataclass
class RunningGateway:
    """Where it answers, how to call it, what it emitted and forwarded."""

    app: GatewayApp
    url: str
    port: int
    demo_key: str
    recorder: Recorder
    session: aiohttp.ClientSession
    upstreams: dict[str, FakeUpstream] = field(default_factory=dict)

    async def call(
        self, method: str, path: str, *, key: str | None = "demo", **kwargs: Any
    ) -> tuple[int, Any, dict[str, str]]:
        """Call and give status, parsed body (bytes when it is not JSON) and headers."""
        headers = dict(kwargs.pop("headers", {}))
        if key:
            headers["X-API-Key"] = self.demo_key if key == "demo" else key
        async with self.session.request(method, self.url + path, headers=headers, **kwargs) as got:
            body = await got.read()
            parsed = await got.json(content_type=None) if "json" in got.content_type else body
            return got.status, parsed, {k.lower(): v for k, v in got.headers.items()}

    async def make_key(self, **body: Any) -> str:
        """Make a key through the API and give its text."""
        document = {"name": "test", "scopes": ["predict:fraud"], **body}
        status, made, _ = await self.call("POST", "/v1/auth/keys", json=document)
        assert status == 201, made
        return str(made["key"])


@asynccontextmanager
async def running_gateway(
    state_dir: Path,
    postgres_url: str | None,
    redis_url: str | None,
    *,
    answers: dict[str, Answer] | None = None,
    **overrides: Any,
) -> AsyncIterator[RunningGateway]:
    """Run a gateway for the length of a block; `answers` changes how a fake service answers."""
    async with AsyncExitStack() as stack:
        upstreams = {
            name: await stack.enter_async_context(fake_upstream((answers or {}).get(name, echo)))
            for name in SERVICES_BEHIND
        }
        settings = GatewaySettings.load(
            state_dir=state_dir,
            postgres_url=postgres_url,
            redis_url=redis_url,
            **{
                "redis_timeout_s": 0.5,
                **{f"{name}_url": upstream.url for name, upstream in upstreams.items()},
                **overrides,
            },
        )
        key_file = state_dir / "demo-api-key"
        await ensure_demo_key(settings, key_file)
        recorder = Recorder()
        app = create_app(settings, events=recorder)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=app.http_protocol,
                ssl_certfile=app.tls[0] if app.tls else None,
                ssl_keyfile=app.tls[1] if app.tls else None,
                host="127.0.0.1",
                port=0,
                log_config=None,
                timeout_graceful_shutdown=1,
                server_header=False,
                proxy_headers=False,
            )
        )
        task = asyncio.create_task(server.serve())
        async with asyncio.timeout(10):
            while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
                await asyncio.sleep(0.01)
            while "schema" in app.platform.health.readiness().get("reasons", {}):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        try:
            yield RunningGateway(
                app,
                f"{'https' if app.tls else 'http'}://127.0.0.1:{port}",
                port,
                key_file.read_text().strip(),
                recorder,
                session,
                upstreams,
            )
        finally:
            await session.close()
            server.should_exit = True
            await task
