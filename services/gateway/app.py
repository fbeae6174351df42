"""Wiring of the gateway: what is built from what, and how long it lives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from fastapi import FastAPI

from libs.common.app import ServiceApp
from libs.common.app import create_app as create_service_app
from libs.common.catalog import SERVICES
from libs.common.errors import ServiceError, UnavailableError
from libs.common.events.envelope import EventEmitter
from libs.common.logging import get_logger
from libs.common.migrations import head_revision
from libs.common.platform import Platform
from libs.common.routing import RouteTable
from libs.common.settings import SettingsError
from services.gateway.adapters.administration import AdminDesk
from services.gateway.adapters.admission import Admission
from services.gateway.adapters.console_feed import ALL, ConsoleFeed
from services.gateway.adapters.edge import Edge
from services.gateway.adapters.erasure_jobs import ErasureJobs
from services.gateway.adapters.gate import Gate, GateMetrics
from services.gateway.adapters.guard import Guard
from services.gateway.adapters.idempotency import IdempotentAnswers
from services.gateway.adapters.identity import Identity, open_identity
from services.gateway.adapters.ip_limiter import PostgresIpLimiter
from services.gateway.adapters.key_limiter import RedisKeyLimiter
from services.gateway.adapters.keyring import Keyring
from services.gateway.adapters.monitor import Monitor
from services.gateway.adapters.proxy import Upstream
from services.gateway.adapters.security_events import SecurityEvents
from services.gateway.adapters.server_protocol import bounded_protocol
from services.gateway.adapters.sessions import Sessions
from services.gateway.adapters.tenant_directory import TenantDirectory
from services.gateway.adapters.token_desk import TokenDesk
from services.gateway.adapters.token_keys import TokenKeys
from services.gateway.adapters.websocket import WebSocketProxy
from services.gateway.domain.endpoints import EndpointList
from services.gateway.domain.traffic import TrafficWindow
from services.gateway.routes import admin, console, keys, site, tokens
from services.gateway.settings import GatewaySettings

log = get_logger()

_READY_POLL_S = 0.2
_REVOCATION_POLL_S = 2.0
_SWEEP_EVERY_S = 60.0
# At start everything counts as changed lately.
_ALL_S = 1e9
_LONGEST_TOKEN_S = 2 * 3_600.0


class GatewayState(TypedDict):
    """What routes find under `request.state`."""

    keyring: Keyring
    monitor: Monitor
    figures: ConsoleFeed
    desk: Sessions
    tokens: TokenDesk
    token_keys: TokenKeys
    administration: AdminDesk
    erasures: ErasureJobs


class GatewayApp(ServiceApp):
    """The service app with the gateway's own edge in front of it."""

    edge: Edge | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope; the lifespan opens the edge before the first request."""
        if scope["type"] == "lifespan":
            await self.fastapi(scope, receive, send)
        elif self.edge is None:
            raise RuntimeError("the gateway's lifespan has not run")
        elif scope["type"] == "websocket":
            await self.edge.websocket(scope, receive, send)
        else:
            await self.edge(scope, receive, send)


def create_app(settings: GatewaySettings, *, events: EventEmitter | None = None) -> GatewayApp:
    """Build the gateway.

    Args:
        settings: its settings.
        events: replaces the write-ahead log, in tests.
    """
    holder: list[GatewayApp] = []

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[GatewayState]:
        async with _opened(holder[0], platform, settings) as state:
            yield state

    base = create_service_app(
        "gateway",
        settings,
        lifespan,
        routers=[site.router, keys.router, tokens.router, admin.router, console.router],
        events=events,
    )
    _drop_own_description(base.fastapi)
    app = GatewayApp(base.fastapi, base._edge, base.platform, base.metrics)
    if settings.tls_cert and settings.tls_key:
        app.tls = settings.tls_cert, settings.tls_key
    elif settings.tls_cert or settings.tls_key:
        raise SettingsError("gateway: TLS_CERT and TLS_KEY are set together or not at all")
    app.http_protocol = bounded_protocol(
        app.platform.registry,
        header_receipt_s=settings.header_receipt_s,
        body_receipt_s=settings.body_receipt_s,
    )
    holder.append(app)
    return app


def _drop_own_description(fastapi: FastAPI) -> None:
    """Remove FastAPI's own `/openapi.json`, the first of that path: ours is the merged one."""
    paths = [getattr(route, "path", "") for route in fastapi.routes]
    del fastapi.router.routes[paths.index("/openapi.json")]


@asynccontextmanager
async def _opened(
    app: GatewayApp, platform: Platform, settings: GatewaySettings
) -> AsyncIterator[GatewayState]:
    """Open what the gateway owns, in order, and close it in reverse."""
    security = SecurityEvents(platform.events)
    identity = open_identity(platform, settings, security)
    store, authenticator, pepper = identity.keys, identity.authenticator, identity.pepper
    tenants = TenantDirectory(platform.postgres)
    idempotency = IdempotentAnswers(platform.postgres, pepper)
    erasures = ErasureJobs(platform.postgres, platform.clients, pepper)
    ip_limiter = (
        PostgresIpLimiter(settings.postgres_url.get_secret_value(), "gateway")
        if settings.postgres_url
        else None
    )
    key_limiter = RedisKeyLimiter(platform.redis) if settings.redis_dsn else None
    sessions = Sessions(
        platform.redis if settings.redis_dsn else None, store, authenticator, security
    )
    admission = Admission(
        settings,
        authenticator,
        ip_limiter,
        key_limiter,
        security,
        sessions,
        platform.registry,
        tenants,
    )
    upstreams = _upstreams(platform, settings)
    websockets = WebSocketProxy(platform.health)
    monitor = Monitor(platform.clients, platform.health)
    traffic = {name: TrafficWindow() for name in (ALL, *SERVICES)}
    routes = [(name, route) for name, entry in SERVICES.items() for route in entry.routes]
    app.edge = Edge(
        app.fastapi,
        settings,
        RouteTable(routes),
        EndpointList(route for _, route in routes),
        admission,
        upstreams,
        app.metrics,
        traffic,
        platform.health,
        tenants,
        Guard(platform.client("guardrails"), platform.registry),
        idempotency,
        websockets,
    )
    platform.health.block("schema", "the schema is not migrated yet")
    if settings.ready_file:
        platform.health.block("seed", "waiting for the ready file")
    work = [
        monitor.run(),
        _turn_ready(platform, settings),
        _poll_changes(identity, tenants),
        _sweep(identity, idempotency),
        erasures.run(),
    ]
    if ip_limiter:
        await ip_limiter.connect()
        work.append(ip_limiter.sweep_forever(settings.ip_limit_window_s))
    tasks = [asyncio.create_task(job) for job in work]
    try:
        yield GatewayState(
            keyring=Keyring(store, pepper, security, authenticator),
            monitor=monitor,
            figures=ConsoleFeed(monitor, traffic, platform.health),
            desk=sessions,
            tokens=identity.desk,
            token_keys=identity.token_keys,
            administration=AdminDesk(tenants, identity.tokens, identity.desk, security),
            erasures=erasures,
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for upstream in upstreams.values():
            upstream.close()
        await websockets.close()
        await identity.fetcher.close()
        if ip_limiter:
            await ip_limiter.close()


def _upstreams(platform: Platform, settings: GatewaySettings) -> dict[str, Upstream]:
    metrics = GateMetrics(platform.registry)
    return {
        name: Upstream(
            name,
            settings.url_of(name),
            platform.signer,
            Gate(name, metrics, calls_max=settings.upstream_connections_max),
            stream_idle_s=settings.stream_idle_s,
            forwarded_hops=settings.forwarded_hops,
        )
        for name in SERVICES["gateway"].calls
    }


async def _turn_ready(platform: Platform, settings: GatewaySettings) -> None:
    """Release readiness when the schema is at its head and the ready file, if any, exists."""
    expected = head_revision("gateway")
    while True:
        with contextlib.suppress(UnavailableError):
            if await platform.postgres.schema_version() == expected:
                platform.health.release("schema")
                break
        await asyncio.sleep(_READY_POLL_S)
    while settings.ready_file:  # written by another process: only looking tells
        if await asyncio.to_thread(settings.ready_file.exists):
            break
        await asyncio.sleep(_READY_POLL_S)
    platform.health.release("seed")


async def _poll_changes(identity: Identity, tenants: TenantDirectory) -> None:
    """Learn within seconds what other replicas changed: revocations and tenants."""
    window_s = _ALL_S
    while True:
        with contextlib.suppress(ServiceError, OSError):
            await tenants.refresh(window_s)
            await identity.learn_revocations(min(window_s, _LONGEST_TOKEN_S))
            window_s = _REVOCATION_POLL_S * 15
        await asyncio.sleep(_REVOCATION_POLL_S)


async def _sweep(identity: Identity, idempotency: IdempotentAnswers) -> None:
    """Write last-use times once a minute, and delete what has expired."""
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        with contextlib.suppress(ServiceError, OSError):
            await identity.note_use()
            await identity.tokens.sweep()
            await idempotency.sweep()
