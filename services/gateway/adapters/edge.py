"""The gateway's ASGI edge: a request's whole story, in order, in `Edge._serve`.

ids and trace -> raw path check -> route -> admission (identity and limits) -> body cap and
deadline -> own route or proxy -> one metric, one span, one log line. No framework on this path.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace

from libs.common.catalog import Route
from libs.common.errors import (
    BadRequestError,
    InternalError,
    NotFoundError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from libs.common.health import Health
from libs.common.logging import get_logger
from libs.common.routing import Match, RouteTable
from services.gateway.adapters.accounting import Accounting, mark_span
from services.gateway.adapters.admission import Admission
from services.gateway.adapters.arrival import Arrival
from services.gateway.adapters.exchange import ClientGoneError, Exchange, Receive, Scope, Send
from services.gateway.adapters.guard import Guard, pointers_of
from services.gateway.adapters.idempotency import parse_key
from services.gateway.adapters.once import Once
from services.gateway.adapters.proxy import Upstream
from services.gateway.adapters.tenant_directory import TenantDirectory
from services.gateway.adapters.websocket import WebSocketProxy, check_origin
from services.gateway.domain.cors import Cors
from services.gateway.domain.creating import creates
from services.gateway.domain.endpoints import EndpointList
from services.gateway.domain.named_model import implied_model, model_of
from services.gateway.domain.paths import path_problem
from services.gateway.errors import MethodNotAllowedError
from services.gateway.settings import GatewaySettings

log = get_logger()

App = Callable[[Scope, Receive, Send], Awaitable[None]]
_OWN = "gateway"
_CLIENT_CLOSED = 499  # nobody reads it; for metrics and logs, as nginx has it
# Answered to the last moment, so that a prober reads 503 and never a reset.
PROBES = frozenset({"/livez", "/readyz", "/ready", "/health", "/metrics"})
_DEADLINE_HEADER = b"x-request-deadline-ms"


@dataclass(frozen=True)
class Parts:
    """What the edge works with; the wiring builds them."""

    app: App
    table: RouteTable
    endpoints: EndpointList
    accounting: Accounting
    admission: Admission
    upstreams: Mapping[str, Upstream]
    health: Health
    tenants: TenantDirectory
    guard: Guard
    once: Once
    websockets: WebSocketProxy


class Edge:
    """Admits, routes and answers; one instance per process."""

    def __init__(self, settings: GatewaySettings, parts: Parts) -> None:
        self._parts = parts
        self._app = parts.app
        self._table = parts.table
        self._admission = parts.admission
        self._upstreams = parts.upstreams
        self._accounting = parts.accounting
        self._health = parts.health
        self._arrival = Arrival(settings)
        self._cors = Cors(settings.cors_origins)
        self._hosts = frozenset(host.encode() for host in settings.allowed_hosts)
        self._allowed_origins = frozenset(settings.cors_origins)

    @property
    def in_flight(self) -> int:
        """Requests accepted and not answered yet, WebSockets included."""
        return self._accounting.in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP exchange."""
        started = self._accounting.started()
        exchange = Exchange(scope, receive, send)
        self._arrival.identify(exchange)
        try:
            await self._answer(exchange)
        finally:
            self._accounting.finished(exchange, started)

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket; who is refused gets an HTTP answer to the handshake."""

        async def refuse(message: Any) -> None:
            await send({**message, "type": f"websocket.{message['type']}"})

        started = self._accounting.started()
        await receive()  # websocket.connect
        exchange = Exchange({**scope, "method": "WS"}, receive, refuse)
        self._arrival.identify(exchange)
        try:
            upstream = await self._admit_websocket(exchange)
            try:
                await self._parts.websockets.serve(exchange, upstream, receive, send)
            finally:
                self._admission.leave(exchange.credential)
            exchange.status = 101
        except ServiceError as error:
            await exchange.refuse(error)
        except Exception:
            log.exception("unhandled error", route=exchange.template)
            if not exchange.started:
                await exchange.refuse(InternalError("Something went wrong on our side."))
        finally:
            self._accounting.finished(exchange, started)

    async def _admit_websocket(self, exchange: Exchange) -> Upstream:
        exchange.check_fields()
        exchange.path = self._checked_path(exchange)
        match = self._table.match("WS", exchange.path)
        _adopt(exchange, match)
        check_origin(exchange, self._allowed_origins)
        await self._admission.admit(exchange, exchange.route)
        if match is None:
            raise self._no_route(exchange)
        if self._health.is_draining:
            raise UnavailableError("This process is stopping.", code="draining")
        self._admission.enter(exchange.credential)
        return self._upstreams[match.service]

    def _checked_path(self, exchange: Exchange) -> str:
        """Check Host and path; both are refused, never rewritten."""
        if self._hosts and exchange.fields.get(b"host") not in self._hosts:
            raise BadRequestError("This host is not served here.", code="unknown_host")
        raw_path: bytes = exchange.scope["raw_path"].partition(b"?")[0]
        problem = path_problem(raw_path)
        if problem:
            raise BadRequestError(f"The path holds {problem}.", code="invalid_path")
        return raw_path.decode("ascii")

    async def _answer(self, exchange: Exchange) -> None:
        """Serve, and turn what goes wrong into a problem while that is still possible."""
        try:
            await self._serve(exchange)
        except ClientGoneError:
            exchange.status = _CLIENT_CLOSED
        except ServiceError as error:
            if exchange.started:
                # Status and headers are out: only breaking the connection tells the truth.
                log.warning("answer cut", route=exchange.template, reason=error.problem_code)
                mark_span(exchange, error.problem_code)
                exchange.status = error.status
                return  # the server closes a connection whose answer is not complete
            if isinstance(error, UnauthenticatedError) and _wants_login(exchange):
                await exchange.start(
                    303, [(b"location", b"/console/login"), (b"content-length", b"0")]
                )
                await exchange.body(b"")
                return
            await exchange.refuse(error)
        except Exception:
            log.exception("unhandled error", route=exchange.template)
            mark_span(exchange, "unhandled error")
            if exchange.started:
                raise
            await exchange.refuse(
                InternalError(
                    "Something went wrong on our side.",
                    hint="The request id leads to the log line.",
                )
            )

    async def _serve(self, exchange: Exchange) -> None:
        exchange.check_fields()
        exchange.path = self._checked_path(exchange)
        origin = exchange.fields.get(b"origin")
        if origin is not None:
            exchange.extra_headers = self._cors.headers(origin)
            if self._cors.is_preflight(exchange.method, exchange.fields):
                await exchange.reply(204, self._cors.preflight(), b"")
                exchange.template = "preflight"
                return
        match = self._match(exchange.method, exchange.path)
        _adopt(exchange, match)
        if self._health.is_refusing and exchange.template not in PROBES:
            raise UnavailableError("This process is stopping.", code="draining")
        await self._admission.admit(exchange, exchange.route)
        if match is None:
            raise self._no_route(exchange)
        exchange.context.deadline = _deadline(exchange, match.route)
        self._admission.enter(exchange.credential)
        try:
            await self._forward(exchange, match)
        finally:
            self._admission.leave(exchange.credential)

    def _match(self, method: str, path: str) -> Match | None:
        match = self._table.match(method, path)
        if match is None and method == "HEAD":
            match = self._table.match("GET", path)
        return match

    def _no_route(self, exchange: Exchange) -> ServiceError:
        """Tell an unknown path from an unknown method; list what this caller may call."""
        allowed = self._table.methods(exchange.path) - {"WS"}
        if allowed:
            return MethodNotAllowedError(
                "This path does not answer that method.",
                headers={"Allow": ", ".join(sorted(allowed))},
            )
        caller = exchange.context.caller
        return NotFoundError(
            "No such path.",
            hint="The endpoints that this caller may use are listed.",
            endpoints=self._parts.endpoints.for_scopes(caller.scopes if caller else frozenset()),
        )

    async def _forward(self, exchange: Exchange, match: Match) -> None:
        """Hand the admitted exchange to the own app or to the service."""
        route = match.route
        query: bytes = exchange.scope.get("query_string", b"")
        if match.service == _OWN:
            if route.path == "/metrics" and query:
                service = await self._admission.metrics_of(exchange, query)
                if service:
                    await self._upstreams[service].call(exchange, "/metrics", route)
                    return
            await self._own(exchange, route)
            return
        if self._health.is_draining and route.lane == "batch":
            raise UnavailableError("This process is stopping.", code="draining")
        target = exchange.path + ("?" + query.decode("latin-1") if query else "")
        body = await self._guarded(exchange, route)
        upstream = self._upstreams[match.service]
        key, caller = exchange.text(b"idempotency-key"), exchange.context.caller
        if key and caller and creates(match.service, route):
            key = parse_key(key)
            whole = body if body is not None else await exchange.read_body(route.body_bytes_max)
            await self._parts.once.run(
                exchange, route, caller, key, whole,
                lambda: upstream.call(exchange, target, route, whole),
            )  # fmt: skip
        else:
            await upstream.call(exchange, target, route, body)

    async def _guarded(self, exchange: Exchange, route: Route) -> bytes | None:
        """Give the checked body of a guarded tenant's text, or None where nothing is checked."""
        caller = exchange.context.caller
        if caller is None or not pointers_of(route):
            return None
        rule = (await self._parts.tenants.of(caller.tenant)).guard
        if rule.mode == "off":
            return None
        body = await exchange.read_body(route.body_bytes_max)
        return await self._parts.guard.checked(exchange, route, rule, body)

    async def _own(self, exchange: Exchange, route: Route) -> None:
        """Run a route of the gateway itself, with its body read and bounded beforehand."""
        body = await exchange.read_body(route.body_bytes_max)
        exchange.scope["gatehouse.network"] = exchange.network
        exchange.scope["gatehouse.credential"] = exchange.credential
        caller, key = exchange.context.caller, exchange.text(b"idempotency-key")
        if key and caller and creates(_OWN, route):
            await self._parts.once.run(
                exchange, route, caller, parse_key(key), body,
                lambda: self._run_app(exchange, route, body),
            )  # fmt: skip
        else:
            await self._run_app(exchange, route, body)

    async def _run_app(self, exchange: Exchange, route: Route, body: bytes) -> None:
        scope = exchange.scope
        if route.also_v1 and exchange.path.startswith("/v1/"):
            scope = {**scope, "path": route.path, "raw_path": route.path.encode()}
        given = False

        async def receive() -> Any:
            nonlocal given
            if given:
                return await exchange.receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        with trace.use_span(
            exchange.span or trace.INVALID_SPAN, end_on_exit=False, record_exception=False
        ):
            await self._app(scope, receive, exchange.app_send)


def _adopt(exchange: Exchange, match: Match | None) -> None:
    """Note the matched route on the exchange, before anybody may refuse it."""
    if match is not None:
        exchange.route, exchange.service = match.route, match.service
        exchange.template = match.route.path
        named = model_of(match.route, match.params) if match.params else None
        exchange.model = named or implied_model(match.route)


def _wants_login(exchange: Exchange) -> bool:
    """Say whether a person opened the console without a session."""
    is_page = exchange.method == "GET" and exchange.template.startswith("/console")
    return is_page and b"text/html" in exchange.fields.get(b"accept", b"")


def _deadline(exchange: Exchange, route: Route) -> float:
    """Give the monotonic time at which the caller stops waiting: its own wish, capped."""
    asked = exchange.text(_DEADLINE_HEADER)
    milliseconds = route.deadline_ms
    if asked.isdigit() and len(asked) <= 9:
        milliseconds = min(int(asked), route.deadline_ms_max)
    return time.monotonic() + milliseconds / 1e3
