"""The gateway as an application: its routes, its server protocol, its life."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from libs.common.app import ServiceApp
from libs.common.app import create_app as create_service_app
from libs.common.events.envelope import EventEmitter
from libs.common.platform import Platform
from libs.common.settings import SettingsError
from services.gateway.adapters.edge import Edge
from services.gateway.adapters.server_protocol import bounded_protocol
from services.gateway.routes import (
    admin,
    console,
    console_pages,
    console_request,
    keys,
    site,
    tickets,
    tokens,
)
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import GatewayState, open_gateway


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

    @property
    def in_flight(self) -> int:
        """Requests that the gateway's edge has accepted and not yet answered."""
        return self.edge.in_flight if self.edge else 0


def create_app(settings: GatewaySettings, *, events: EventEmitter | None = None) -> GatewayApp:
    """Build the gateway.

    Args:
        settings: its settings.
        events: replaces the write-ahead log, in tests.
    """
    holder: list[GatewayApp] = []

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[GatewayState]:
        app = holder[0]
        async with open_gateway(platform, settings, app.fastapi, app.metrics) as (edge, state):
            app.edge = edge
            yield state

    base = create_service_app(
        "gateway",
        settings,
        lifespan,
        routers=[
            site.router, keys.router, tokens.router, tickets.router, admin.router, console.router,
            console_pages.router, console_request.router,
        ],
        events=events,
    )  # fmt: skip
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
