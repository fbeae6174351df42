"""Plain routes in front of the router: one look-up instead of matching every route in turn.

FastAPI's middleware, route matching and exit stacks cost as much as a cached verdict. Plain routes
need none of them; they stay in the router as well, where the OpenAPI document finds them.
"""

from collections.abc import Iterable

from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from libs.common.errors import ServiceError
from services.guardrails import protocol_errors
from services.guardrails.plain import PlainRoute


class FastRoutes:
    """ASGI middleware that answers plain routes itself and passes everything else on."""

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute]) -> None:
        """Wrap an app.

        Args:
            app: answers what is no plain route.
            routes: of which the plain ones without path parameters are taken.
        """
        self._app = app
        self._endpoints = {
            (method, route.path): route.endpoint
            for route in routes
            if isinstance(route, PlainRoute) and "{" not in route.path
            for method in route.methods
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        endpoint = None
        if scope["type"] == "http":
            endpoint = self._endpoints.get((scope["method"], scope["path"]))
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await endpoint(Request(scope, receive))
        except ServiceError as error:
            response = protocol_errors.render(error, scope)
        await response(scope, receive, send)
