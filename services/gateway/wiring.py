"""Wiring of the gateway: what is built from what, in which order it is opened and closed."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

from libs.common.catalog import SERVICES
from libs.common.metrics import HttpMetrics
from libs.common.platform import Platform
from libs.common.routing import RouteTable
from services.gateway.adapters.accounting import Accounting
from services.gateway.adapters.administration import AdminDesk
from services.gateway.adapters.admission import Admission
from services.gateway.adapters.backstage import Backstage
from services.gateway.adapters.console_feed import ALL, ConsoleFeed
from services.gateway.adapters.edge import App, Edge, Parts
from services.gateway.adapters.erasure_jobs import ErasureJobs
from services.gateway.adapters.gate import Gate, GateMetrics
from services.gateway.adapters.guard import Guard
from services.gateway.adapters.idempotency import IdempotentAnswers
from services.gateway.adapters.identity import Identity, open_identity
from services.gateway.adapters.instances import InstanceMetrics, Instances
from services.gateway.adapters.ip_limiter import PostgresIpLimiter
from services.gateway.adapters.key_limiter import RedisKeyLimiter
from services.gateway.adapters.keyring import Keyring
from services.gateway.adapters.monitor import Monitor
from services.gateway.adapters.once import Once
from services.gateway.adapters.proxy import Upstream
from services.gateway.adapters.security_events import SecurityEvents
from services.gateway.adapters.served_models import SERVICE, ServedModels
from services.gateway.adapters.sessions import Sessions
from services.gateway.adapters.tenant_directory import TenantDirectory
from services.gateway.adapters.tickets import Tickets
from services.gateway.adapters.token_desk import TokenDesk
from services.gateway.adapters.token_keys import TokenKeys
from services.gateway.adapters.trace_reader import TraceReader
from services.gateway.adapters.websocket import WebSocketProxy
from services.gateway.background import poll_changes, sweep, turn_ready
from services.gateway.domain.endpoints import EndpointList
from services.gateway.domain.ports import UpstreamChooser
from services.gateway.domain.traffic import TrafficWindow
from services.gateway.settings import GatewaySettings


class GatewayState(TypedDict):
    """What routes find under `request.state`."""

    keyring: Keyring
    monitor: Monitor
    figures: ConsoleFeed
    backstage: Backstage
    traces: TraceReader
    desk: Sessions
    tickets: Tickets
    tokens: TokenDesk
    token_keys: TokenKeys
    administration: AdminDesk
    erasures: ErasureJobs


@dataclass
class _Stores:
    """What stands on PostgreSQL and Redis; a store that is not configured is None."""

    security: SecurityEvents
    identity: Identity
    tenants: TenantDirectory
    idempotency: IdempotentAnswers
    erasures: ErasureJobs
    sessions: Sessions
    tickets: Tickets
    ip_limiter: PostgresIpLimiter | None
    key_limiter: RedisKeyLimiter | None


def _stores(platform: Platform, settings: GatewaySettings) -> _Stores:
    security = SecurityEvents(platform.events)
    identity = open_identity(platform, settings, security)
    redis = platform.redis if settings.redis_dsn else None
    url = settings.postgres_url
    return _Stores(
        security=security,
        identity=identity,
        tenants=TenantDirectory(platform.postgres),
        idempotency=IdempotentAnswers(platform.postgres, identity.pepper),
        erasures=ErasureJobs(platform.postgres, platform.clients, identity.pepper),
        sessions=Sessions(redis, identity.keys, identity.desk, identity.authenticator, security),
        tickets=Tickets(redis, identity.authenticator, identity.pepper),
        ip_limiter=PostgresIpLimiter(url.get_secret_value(), "gateway") if url else None,
        key_limiter=RedisKeyLimiter(redis) if redis else None,
    )


def _upstreams(
    platform: Platform, settings: GatewaySettings, chooser: UpstreamChooser
) -> dict[str, Upstream]:
    gates, instances = GateMetrics(platform.registry), InstanceMetrics(platform.registry)
    return {
        name: Upstream(
            Instances(name, settings.urls_of(name), chooser, instances),
            platform.signer,
            Gate(name, gates, calls_max=settings.upstream_connections_max),
            stream_idle_s=settings.stream_idle_s,
            forwarded_hops=settings.forwarded_hops,
            hedge_after_s=settings.hedge_after_ms / 1e3,
        )
        for name in SERVICES["gateway"].calls
    }


def _edge(
    platform: Platform,
    settings: GatewaySettings,
    stores: _Stores,
    upstreams: dict[str, Upstream],
    websockets: WebSocketProxy,
    accounting: Accounting,
    app: App,
) -> Edge:
    routes = [(name, route) for name, entry in SERVICES.items() for route in entry.routes]
    admission = Admission(
        settings,
        stores.identity.authenticator,
        stores.ip_limiter,
        stores.key_limiter,
        stores.security,
        stores.sessions,
        stores.tickets,
        platform.registry,
        stores.tenants,
    )
    parts = Parts(
        app=app,
        table=RouteTable(routes),
        endpoints=EndpointList(route for _, route in routes),
        accounting=accounting,
        admission=admission,
        upstreams=upstreams,
        health=platform.health,
        tenants=stores.tenants,
        guard=Guard(platform.client("guardrails"), platform.registry),
        once=Once(stores.idempotency),
        websockets=websockets,
    )
    return Edge(settings, parts)


@asynccontextmanager
async def open_gateway(
    platform: Platform, settings: GatewaySettings, app: App, metrics: HttpMetrics
) -> AsyncIterator[tuple[Edge, GatewayState]]:
    """Open what the gateway owns, and close it in reverse.

    Args:
        platform: of the service.
        settings: of the gateway.
        app: serves the gateway's own routes.
        metrics: of requests.
    """
    stores = _stores(platform, settings)
    identity = stores.identity
    served = ServedModels(settings.urls_of(SERVICE), platform.signer)
    upstreams = _upstreams(platform, settings, served)
    websockets = WebSocketProxy(platform.health)
    monitor = Monitor(platform.clients, platform.health)
    traffic = {name: TrafficWindow() for name in (ALL, *SERVICES)}
    accounting = Accounting(metrics, traffic)
    edge = _edge(platform, settings, stores, upstreams, websockets, accounting, app)
    state = GatewayState(
        keyring=Keyring(identity.keys, identity.pepper, stores.security, identity.authenticator),
        monitor=monitor,
        figures=ConsoleFeed(monitor, traffic, platform.health),
        backstage=Backstage(edge),
        traces=TraceReader(settings.console_traces_url, settings.console_trace_link),
        desk=stores.sessions,
        tickets=stores.tickets,
        tokens=identity.desk,
        token_keys=identity.token_keys,
        administration=AdminDesk(stores.tenants, identity.tokens, identity.desk, stores.security),
        erasures=stores.erasures,
    )
    async with _working(platform, settings, stores, monitor, served):
        try:
            yield edge, state
        finally:
            for upstream in upstreams.values():
                upstream.close()
            await websockets.close()
            await identity.fetcher.close()


@asynccontextmanager
async def _working(
    platform: Platform,
    settings: GatewaySettings,
    stores: _Stores,
    monitor: Monitor,
    served: ServedModels,
) -> AsyncIterator[None]:
    """Run the background work around a block."""
    if settings.ready_file:
        platform.health.block("seed", "waiting for the ready file")
    work: list[Coroutine[Any, Any, None]] = [
        monitor.run(),
        served.run(),
        turn_ready(platform, settings),
        poll_changes(stores.identity, stores.tenants),
        sweep(stores.identity, stores.idempotency),
        stores.erasures.run(),
    ]
    limiter = stores.ip_limiter
    if limiter:
        await limiter.connect()
        work.append(limiter.sweep_forever(settings.ip_limit_window_s))
    tasks = [asyncio.create_task(job) for job in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if limiter:
            await limiter.close()
