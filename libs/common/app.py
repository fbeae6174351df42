"""The app factory: every service gets the same edge, health, metrics, problems and 501s.

    app = create_app("features", settings, lifespan, routers=[...], v1_routers=[...])

`lifespan(platform)` opens what the service owns and yields its typed state; routes find it under
`request.state`. Planned routes of the catalogue that no router serves answer 501.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from libs.common.catalog.model import Route as CatalogRoute
from libs.common.context import Caller
from libs.common.corked import CorkedProtocol
from libs.common.errors import NotBuiltError, NotFoundError, ServiceError
from libs.common.events.envelope import EventEmitter
from libs.common.logging import get_logger
from libs.common.metrics import HttpMetrics, render
from libs.common.middleware import ServiceEdge, defect
from libs.common.plain import PlainTable
from libs.common.platform import VERSION, Platform, build_platform
from libs.common.problems import from_pydantic, problem_response
from libs.common.routing import RouteTable
from libs.common.schema_gate import schema_gate
from libs.common.settings import ServiceSettings
from libs.common.telemetry import configure_telemetry, install

log = get_logger()

Lifespan = Callable[[Platform], AbstractAsyncContextManager[Mapping[str, Any]]]
# Who a call without an identity is in open mode (loopback only): the default tenant, every scope.
OPEN_CALLER = Caller(tenant="default", principal="open", scopes=frozenset({"*"}))


class ServiceApp:
    """The finished ASGI app, with the parts that the server and the tests need.

    `http_protocol` is uvicorn's `http` option: a protocol class. `tls` names
    certificate chain and key as PEM files; None serves plain HTTP.
    """

    http_protocol: Any = CorkedProtocol
    tls: tuple[Path, Path] | None = None

    def __init__(
        self, fastapi: FastAPI, edge: ServiceEdge, platform: Platform, metrics: HttpMetrics
    ) -> None:
        self.fastapi = fastapi
        self.platform = platform
        self.metrics = metrics
        self._edge = edge

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        await self._edge(scope, receive, send)

    @property
    def in_flight(self) -> int:
        """Requests that the service's edge has accepted and not yet answered."""
        return self._edge.in_flight

    def openapi(self) -> dict[str, Any]:
        """Give the OpenAPI document of the service."""
        return self.fastapi.openapi()


def create_app(
    service: str,
    settings: ServiceSettings,
    lifespan: Lifespan,
    *,
    routers: Sequence[APIRouter] = (),
    v1_routers: Sequence[APIRouter] = (),
    events: EventEmitter | None = None,
    render_error: Callable[[ServiceError, Any], Response] | None = None,
) -> ServiceApp:
    """Build a service.

    Args:
        service: catalogue name.
        settings: its settings.
        lifespan: opens and closes what the service owns; yields the state for its routes.
        routers: routes served as written.
        v1_routers: routes served as written and under `/v1` as well.
        events: replaces the write-ahead log, in tests.
        render_error: renders errors of protocol endpoints; default problem+json.
    """
    platform = build_platform(service, settings, events=events)
    telemetry = configure_telemetry(
        service,
        endpoint=settings.trace_endpoint,
        ratio=settings.trace_ratio,
        environment=settings.environment,
    )
    install(telemetry)

    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        try:
            async with (
                _event_log(platform, owned=events is None),
                schema_gate(platform),
                lifespan(platform) as state,
            ):
                platform.health.started()
                yield {"platform": platform, **state}
        finally:
            await platform.close()
            telemetry.shutdown()

    app = FastAPI(
        title=f"Gatehouse {service}",
        version=VERSION,
        lifespan=run,
        docs_url=None,
        redoc_url=None,
        summary=platform.entry.summary,
    )
    _add_operations(app, platform)
    for router in [*routers, *v1_routers]:
        app.include_router(router)
    for router in v1_routers:
        app.include_router(router, prefix="/v1", include_in_schema=False)
    served = _served(routers) | _served(v1_routers) | _served(v1_routers, prefix="/v1")
    _add_planned(app, platform, served)
    as_response = render_error or (lambda error, scope: problem_response(error, scope["path"]))
    _add_error_handlers(app, as_response, sorted(f"{method} {path}" for method, path in served))
    metrics = HttpMetrics(service, platform.registry)
    edge = ServiceEdge(
        app,
        service=service,
        routes=RouteTable(
            (service, route) for route in (*platform.entry.routes, *platform.entry.internal)
        ),
        verifier=platform.verifier,
        metrics=metrics,
        open_caller=OPEN_CALLER if settings.identity_mode == "open" else None,
        render_error=as_response,
        health=platform.health,
        plain=PlainTable(routers).with_v1(v1_routers),
    )
    return ServiceApp(app, edge, platform, metrics)


@asynccontextmanager
async def _event_log(platform: Platform, *, owned: bool) -> AsyncIterator[None]:
    """Open the write-ahead log and its shipper around the life of the service."""
    if not owned or not platform.entry.emits:
        yield
        return
    from libs.common.events.log import open_event_log

    async with open_event_log(platform) as emitter:
        platform._events = emitter
        yield


def _add_operations(app: FastAPI, platform: Platform) -> None:
    """Add /livez, /readyz, /ready, /health and /metrics."""
    health = platform.health

    @app.get("/livez", tags=["operations"], summary="Liveness: the process answers")
    async def livez() -> dict[str, Any]:
        return {"live": True, "service": health.service}

    async def readyz(response: Response) -> dict[str, Any]:
        response.status_code = 200 if health.is_ready else 503
        return health.readiness()

    app.get("/readyz", tags=["operations"], summary="Readiness")(readyz)
    app.get("/ready", tags=["operations"], summary="Alias of /readyz")(readyz)

    @app.get("/health", tags=["operations"], summary="Components, versions, uptime")
    async def health_report(response: Response) -> dict[str, Any]:
        report = await health.report()
        response.status_code = 503 if report["status"] == "unavailable" else 200
        return report

    @app.get("/metrics", tags=["operations"], summary="Prometheus metrics")
    async def metrics(request: Request) -> Response:
        # A gauge of a dependency is only as true as its last check.
        await platform.refresh_dependencies()
        body, content_type = render(platform.registry, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})


def _served(routers: Iterable[APIRouter], prefix: str = "") -> set[tuple[str, str]]:
    """List (method, path) of the routers' own routes."""
    return {
        (method, prefix + route.path)
        for router in routers
        for route in router.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }


def _add_planned(app: FastAPI, platform: Platform, served: set[tuple[str, str]]) -> None:
    """Answer 501 for each catalogue route that no router serves, built or not."""
    for route in (*platform.entry.routes, *platform.entry.internal):
        for path in route.paths:
            if route.method != "WS" and (route.method, path) not in served:
                app.add_route(path, _not_built(route), methods=[route.method])


def _not_built(route: CatalogRoute) -> Callable[[Request], Any]:
    async def answer(_: Request) -> Response:
        raise NotBuiltError(
            f"{route.method} {route.path} is announced but not built yet.",
            hint="The status table in README.md lists what is built.",
        )

    return answer


def _add_error_handlers(
    app: FastAPI, as_response: Callable[[ServiceError, Any], Response], endpoints: list[str]
) -> None:
    @app.exception_handler(ServiceError)
    async def on_service_error(request: Request, error: ServiceError) -> Response:
        return as_response(error, request.scope)

    @app.exception_handler(RequestValidationError)
    async def on_validation(request: Request, error: RequestValidationError) -> Response:
        return as_response(from_pydantic(error.errors()), request.scope)

    @app.exception_handler(Exception)
    async def on_defect(request: Request, _: Exception) -> Response:
        # Starlette raises the error again after this answer; the edge logs it.
        return as_response(defect(), request.scope)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, ServiceError):
            # FastAPI wraps whatever the reading of the body raised, our own size limit included.
            return as_response(error.__cause__, request.scope)
        if error.status_code == 404:
            return as_response(NotFoundError("No such path.", endpoints=endpoints), request.scope)
        translated = ServiceError(
            str(error.detail), code=f"http_{error.status_code}", headers=error.headers
        )
        translated.status = error.status_code  # type: ignore[misc] # one instance, not the class
        translated.title = str(error.detail)  # type: ignore[misc] # as above
        return as_response(translated, request.scope)
