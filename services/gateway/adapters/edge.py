"""The gateway's ASGI edge: a request's whole story, in order, in `Edge._serve`.

ids and trace -> raw path check -> route -> admission (identity and limits) -> body cap and
deadline -> own route or proxy -> one metric, one span, one log line. No framework on this path.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from opentelemetry import trace

from libs.common.catalog import Route
from libs.common.context import Caller, bind
from libs.common.errors import (
    BadRequestError,
    InternalError,
    NotFoundError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from libs.common.health import Health
from libs.common.ids import acceptable_request_id, parse_traceparent, random_trace_id, uuid7
from libs.common.logging import access_line, get_logger
from libs.common.metrics import HttpMetrics
from libs.common.routing import Match, RouteTable
from libs.common.telemetry import get_telemetry, mark_failed, traceparent_of
from services.gateway.adapters.admission import Admission
from services.gateway.adapters.exchange import ClientGoneError, Exchange, Receive, Scope, Send
from services.gateway.adapters.guard import Guard, pointers_of
from services.gateway.adapters.idempotency import IdempotentAnswers, parse_key
from services.gateway.adapters.own_answer import Captured
from services.gateway.adapters.proxy import Upstream
from services.gateway.adapters.tenant_directory import TenantDirectory
from services.gateway.adapters.websocket import WebSocketProxy, check_origin
from services.gateway.domain.address import client_address, network_of
from services.gateway.domain.cors import Cors
from services.gateway.domain.endpoints import EndpointList
from services.gateway.domain.paths import path_problem
from services.gateway.domain.traffic import TrafficWindow
from services.gateway.errors import MethodNotAllowedError
from services.gateway.settings import GatewaySettings

log = get_logger()

App = Callable[[Scope, Receive, Send], Awaitable[None]]
_OWN = "gateway"
_CLIENT_CLOSED = 499  # nobody reads it; for metrics and logs, as nginx has it
_DEADLINE_HEADER = b"x-request-deadline-ms"
_NETWORKS_MAX = 10_000


class Edge:
    """Admits, routes and answers; one instance per process."""

    def __init__(
        self,
        app: App,
        settings: GatewaySettings,
        table: RouteTable,
        endpoints: EndpointList,
        admission: Admission,
        upstreams: Mapping[str, Upstream],
        metrics: HttpMetrics,
        traffic: Mapping[str, TrafficWindow],
        health: Health,
        tenants: TenantDirectory,
        guard: Guard,
        idempotency: IdempotentAnswers,
        websockets: WebSocketProxy,
    ) -> None:
        self._app = app
        self._settings = settings
        self._table = table
        self._endpoints = endpoints
        self._admission = admission
        self._upstreams = upstreams
        self._metrics = metrics
        self._traffic = traffic
        self._health = health
        self._tenants = tenants
        self._guard = guard
        self._idempotency = idempotency
        self._cors = Cors(settings.cors_origins)
        self._websockets = websockets
        self._hosts = frozenset(host.encode() for host in settings.allowed_hosts)
        self._allowed_origins = frozenset(settings.cors_origins)
        self._trusted = [ip_network(cidr, strict=False) for cidr in settings.trusted_cidrs]
        self._networks: dict[str, tuple[str, bool]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP exchange."""
        started = time.perf_counter()
        exchange = Exchange(scope, receive, send)
        self._metrics.active.inc()
        self._identify(exchange)
        try:
            await self._answer(exchange)
        finally:
            self._account(exchange, time.perf_counter() - started)

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket; who is refused gets an HTTP answer to the handshake."""

        async def refuse(message: Any) -> None:
            await send({**message, "type": f"websocket.{message['type']}"})

        started = time.perf_counter()
        await receive()  # websocket.connect
        exchange = Exchange({**scope, "method": "WS"}, receive, refuse)
        self._metrics.active.inc()
        self._identify(exchange)
        try:
            upstream = await self._admit_websocket(exchange)
            try:
                await self._websockets.serve(exchange, upstream, receive, send)
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
            self._account(exchange, time.perf_counter() - started)

    async def _admit_websocket(self, exchange: Exchange) -> Upstream:
        exchange.check_fields()
        exchange.path = self._checked_path(exchange)
        match = self._table.match("WS", exchange.path)
        exchange.route = match.route if match else None
        if match:
            exchange.template, exchange.service = match.route.path, match.service
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
                _mark_failed(exchange, error.problem_code)
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
            _mark_failed(exchange, "unhandled error")
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
        route = match.route if match else None
        exchange.route = route
        if route:
            exchange.template = route.path
        if match:
            exchange.service = match.service
        await self._admission.admit(exchange, route)
        if match is None or route is None:
            raise self._no_route(exchange)
        exchange.context.deadline = _deadline(exchange, route)
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
            endpoints=self._endpoints.for_scopes(caller.scopes if caller else frozenset()),
        )

    async def _forward(self, exchange: Exchange, match: Match) -> None:
        """Hand the admitted exchange to the own app or to the service."""
        route = match.route
        query: bytes = exchange.scope.get("query_string", b"")
        if match.service != _OWN:
            if self._health.is_draining and route.lane == "batch":
                raise UnavailableError("This process is stopping.", code="draining")
            target = exchange.path + ("?" + query.decode("latin-1") if query else "")
            body = await self._guarded(exchange, route)
            await self._upstreams[match.service].call(exchange, target, route, body)
            return
        if route.path == "/metrics" and query:
            service = await self._admission.metrics_of(exchange, query)
            if service:
                await self._upstreams[service].call(exchange, "/metrics", route)
                return
        await self._own(exchange, route)

    async def _guarded(self, exchange: Exchange, route: Route) -> bytes | None:
        """Give the checked body of a guarded tenant's text, or None where nothing is checked."""
        caller = exchange.context.caller
        if caller is None or not pointers_of(route):
            return None
        rule = (await self._tenants.of(caller.tenant)).guard
        if rule.mode == "off":
            return None
        body = await exchange.read_body(route.body_bytes_max)
        return await self._guard.checked(exchange, route, rule, body)

    async def _own(self, exchange: Exchange, route: Route) -> None:
        """Run a route of the gateway itself, with its body read and bounded beforehand."""
        body = await exchange.read_body(route.body_bytes_max)
        exchange.scope["gatehouse.network"] = exchange.network
        caller, key = exchange.context.caller, exchange.text(b"idempotency-key")
        if key and caller and route.method == "POST":
            await self._once(exchange, route, caller, parse_key(key), body)
        else:
            await self._run_app(exchange, route, body, exchange.app_send)

    async def _once(
        self, exchange: Exchange, route: Route, caller: Caller, key: str, body: bytes
    ) -> None:
        """Run a creating route once per Idempotency-Key; repeats get the first answer."""
        stored = await self._idempotency.begin(caller, route.path, key, body)
        if stored is not None:
            headers = [
                (b"content-type", stored.media_type.encode("latin-1")),
                (b"content-length", str(len(stored.body)).encode()),
                (b"cache-control", b"no-store"),
                (b"idempotent-replayed", b"true"),
            ]
            await exchange.reply(stored.status, headers, stored.body)
            return
        captured = Captured(exchange)
        try:
            await self._run_app(exchange, route, body, captured.send)
        finally:
            if captured.is_final:
                await self._idempotency.finish(caller, route.path, key, captured.answer())
            else:
                await self._idempotency.give_up(caller, route.path, key)
        await captured.pass_on()

    async def _run_app(self, exchange: Exchange, route: Route, body: bytes, send: Send) -> None:
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
            await self._app(scope, receive, send)

    def _identify(self, exchange: Exchange) -> None:
        """Set ids, address and trace; an untrusted caller gets a trace of its own."""
        fields, context = exchange.fields, exchange.context
        client = exchange.scope.get("client")
        address = client[0] if client else ""
        if self._settings.forwarded_hops:
            address = client_address(
                address, exchange.text(b"x-forwarded-for"), self._settings.forwarded_hops
            )
        exchange.address = address
        exchange.network, is_trusted = self._network(address)
        asked = fields.get(b"x-request-id")
        context.request_id = (
            acceptable_request_id(asked.decode("latin-1")) if asked else None
        ) or uuid7()
        asked = fields.get(b"x-correlation-id")
        context.correlation_id = (
            acceptable_request_id(asked.decode("latin-1")) if asked else None
        ) or context.request_id
        bind(context)
        parent = exchange.text(b"traceparent") if is_trusted else ""
        telemetry = get_telemetry()
        if telemetry.enabled:
            span = telemetry.start_server_span(exchange.method, parent)
            context.traceparent = traceparent_of(span) or ""
            if span.is_recording():
                exchange.span = span
        elif parent and parse_traceparent(parent):
            context.traceparent = parent
        if not context.traceparent:
            made = random_trace_id()
            context.traceparent = f"00-{made}-{made[16:]}-00"
        context.trace_id = context.traceparent[3:35]

    def _network(self, address: str) -> tuple[str, bool]:
        known = self._networks.get(address)
        if known is None:
            network = network_of(address)
            try:
                parsed = ip_address(address)
                is_trusted = any(parsed in trusted for trusted in self._trusted)
            except ValueError:
                is_trusted = False
            if len(self._networks) >= _NETWORKS_MAX:
                self._networks.clear()
            known = self._networks[address] = (network, is_trusted)
        return known

    def _account(self, exchange: Exchange, seconds: float) -> None:
        """Count, trace and log the finished exchange."""
        method, template, status = exchange.method, exchange.template, exchange.status
        if method not in _METHODS:
            method = "OTHER"
        self._metrics.active.dec()
        span = exchange.span
        self._metrics.observe(
            method, template, status, seconds, exchange.context.trace_id if span else ""
        )
        if span:
            _describe(exchange, span, method)
            span.end()
        is_quiet = template in _QUIET
        if not is_quiet:
            now, is_error = time.monotonic(), status >= 500
            self._traffic["all"].record(now, seconds, is_error=is_error)
            self._traffic[exchange.service].record(now, seconds, is_error=is_error)
        if not is_quiet or status >= 500:
            access_line(method, template, status, seconds, exchange.context)


def _mark_failed(exchange: Exchange, reason: str) -> None:
    if exchange.span:
        mark_failed(exchange.span, reason)


def _describe(exchange: Exchange, span: trace.Span, method: str) -> None:
    """Put on the span what a reader of the trace looks for."""
    span.update_name(f"{method} {exchange.template}")
    span.set_attribute("http.request.method", method)
    span.set_attribute("http.route", exchange.template)
    span.set_attribute("http.response.status_code", exchange.status)
    span.set_attribute("request.id", exchange.context.request_id)
    span.set_attribute("correlation.id", exchange.context.correlation_id)
    if exchange.context.caller:
        span.set_attribute("tenant.id", exchange.context.caller.tenant)
    if exchange.decisions:
        last = exchange.decisions[-1]
        span.set_attribute("ratelimit.policy", last.policy.name)
        span.set_attribute("ratelimit.remaining", last.remaining)
    if exchange.status >= 500:
        mark_failed(span, str(exchange.status))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
# Polled all day: counted, but neither logged nor shown as traffic.
_QUIET = frozenset({"/livez", "/readyz", "/ready", "/health", "/metrics", "/console/events"})


def _wants_login(exchange: Exchange) -> bool:
    """Say whether a person opened the console without a session."""
    return exchange.template == "/console" and b"text/html" in exchange.fields.get(b"accept", b"")


def _deadline(exchange: Exchange, route: Route) -> float:
    """Give the monotonic time at which the caller stops waiting: its own wish, capped."""
    asked = exchange.text(_DEADLINE_HEADER)
    milliseconds = route.deadline_ms
    if asked.isdigit() and len(asked) <= 9:
        milliseconds = min(int(asked), route.deadline_ms_max)
    return time.monotonic() + milliseconds / 1e3
