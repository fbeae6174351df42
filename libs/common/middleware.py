"""The edge of every service, as one pure ASGI layer: ids, caller, limits, span, metrics, log.

In the order of a request: accept or make ids; refuse draining work; find the catalogue's route;
verify the caller's signed identity and scope; bound the body; set the deadline; answer inside a
server span, by a plain endpoint directly and by the app otherwise; turn a stray exception into a
problem; count and log one line.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from starlette.requests import ClientDisconnect, Request

from libs.common.context import Caller, RequestContext, bind
from libs.common.errors import (
    ForbiddenError,
    InternalError,
    PayloadTooLargeError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from libs.common.health import Health
from libs.common.identity import IDENTITY_HEADER, Verifier
from libs.common.ids import acceptable_request_id, parse_traceparent, uuid7
from libs.common.logging import get_logger
from libs.common.metrics import HttpMetrics
from libs.common.plain import PlainTable
from libs.common.problems import problem_response
from libs.common.routing import Match, RouteTable
from libs.common.telemetry import get_telemetry, mark_failed, traceparent_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = get_logger()

# Reached by the kubelet, Prometheus and the gateway's background fetches, without an identity.
OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/ready", "/health", "/metrics", "/openapi.json"})
_DEFAULT_BODY_MAX = 64 * 1024
_DEFAULT_DEADLINE_MS, _DEFAULT_DEADLINE_MS_MAX = 5_000, 30_000
_DEADLINE_HEADER = "x-request-deadline-ms"
# Paths polled all day: counted, but logged only when they fail.
_QUIET_PATHS = OPEN_PATHS
# Answered to the last moment, so that a prober reads 503 and never a reset.
_PROBES = OPEN_PATHS | {"/v2/health/live", "/v2/health/ready"}


def defect() -> InternalError:
    """Give the answer to a stray exception; what it was stands in the log alone."""
    return InternalError(
        "Something went wrong on our side.", hint="The request id leads to the log line."
    )


class _Exchange:
    """One request and what became of it; `send` puts the request id on the answer."""

    def __init__(
        self,
        scope: Scope,
        send: Send,
        headers: dict[str, str],
        context: RequestContext,
        template: str,
    ) -> None:
        self.scope = scope
        self.headers = headers
        self.context = context
        self.template = template
        self.status = 500
        self.has_started = False
        self.span = get_telemetry().start_server_span(
            f"{scope['method']} {template}", headers.get("traceparent")
        )
        self._send = send
        _adopt_span(context, self.span)

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on."""
        if message["type"] == "http.response.start":
            self.has_started = True
            self.status = message["status"]
            own = (b"x-request-id", self.context.request_id.encode())
            message["headers"] = [*message.get("headers", ()), own]
        await self._send(message)


class ServiceEdge:
    """Wraps a service's app; one instance per process."""

    def __init__(
        self,
        app: App,
        *,
        service: str,
        routes: RouteTable,
        verifier: Verifier | None,
        metrics: HttpMetrics,
        open_caller: Caller | None = None,
        render_error: Callable[[ServiceError, Scope], Any] | None = None,
        health: Health | None = None,
        plain: PlainTable | None = None,
    ) -> None:
        self.in_flight = 0
        self._app = app
        self._health = health
        self._service = service
        self._routes = routes
        self._verifier = verifier
        self._metrics = metrics
        self._open_caller = open_caller
        self._render = render_error or (lambda error, scope: problem_response(error, scope["path"]))
        self._plain = plain or PlainTable()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        context = _context(headers)
        bind(context)
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send, headers, context)
            return
        await self._http(scope, receive, send, headers, context)

    async def _http(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: dict[str, str],
        context: RequestContext,
    ) -> None:
        path = scope["path"]
        match = self._routes.match(scope["method"], path)
        template = match.route.path if match else (path if path in OPEN_PATHS else "unknown")
        started = time.perf_counter()
        self._metrics.active.inc()
        self.in_flight += 1
        exchange = _Exchange(scope, send, headers, context, template)
        token = otel_context.attach(trace.set_span_in_context(exchange.span))
        try:
            await self._guarded(exchange, match, receive)
        finally:
            otel_context.detach(token)
            self._metrics.active.dec()
            self.in_flight -= 1
            self._account(exchange, time.perf_counter() - started)

    async def _guarded(self, exchange: _Exchange, match: Match | None, receive: Receive) -> None:
        """Answer, with a problem if need be; nothing is raised but cancellation."""
        scope, send = exchange.scope, exchange.send
        try:
            body_max = self._admit(exchange, match)
            bounded = _bounded(receive, body_max)
            found = self._plain.find(scope["method"], scope["path"])
            if found is None:
                await self._app(scope, bounded, send)
            else:
                endpoint, scope["path_params"] = found
                response = await endpoint(Request(scope, bounded))
                await response(scope, bounded, send)
        except ServiceError as error:
            await self._render(error, scope)(scope, receive, send)
        except ClientDisconnect:
            exchange.status = 499  # nobody reads an answer
        except Exception:
            log.exception("unhandled error", route=exchange.template)
            mark_failed(exchange.span, "unhandled error")
            if not exchange.has_started:
                await self._render(defect(), scope)(scope, receive, send)

    def _admit(self, exchange: _Exchange, match: Match | None) -> int:
        """Refuse what may not run, set the deadline, and give the bound of the body in bytes."""
        path, headers = exchange.scope["path"], exchange.headers
        route = match.route if match else None
        if self._health and self._health.is_refusing and path not in _PROBES:
            raise UnavailableError("This process is stopping.", code="draining")
        body_max = route.body_bytes_max if route else _DEFAULT_BODY_MAX
        self._authorize(path, headers, exchange.context, route.scope if route else None)
        _check_length(headers, body_max)
        exchange.context.deadline = _deadline(
            headers,
            route.deadline_ms if route else _DEFAULT_DEADLINE_MS,
            route.deadline_ms_max if route else _DEFAULT_DEADLINE_MS_MAX,
        )
        return body_max

    def _account(self, exchange: _Exchange, seconds: float) -> None:
        """Count, end the span and write the line of a finished request."""
        method, path = exchange.scope["method"], exchange.scope["path"]
        context, span, status = exchange.context, exchange.span, exchange.status
        exemplar = context.trace_id if span.get_span_context().trace_flags.sampled else ""
        self._metrics.observe(method, exchange.template, status, seconds, exemplar)
        if span.is_recording():
            span.set_attribute("http.response.status_code", status)
            span.set_attribute("request.id", context.request_id)
            if status >= 500:
                mark_failed(span, str(status))
        span.end()
        if status >= 500 or path not in _QUIET_PATHS:
            # The gateway writes the access line that people read; here only faults are loud.
            write = log.warning if status >= 500 else log.debug
            duration_ms = round(seconds * 1e3, 2)
            write(
                "request",
                method=method,
                route=exchange.template,
                status=status,
                duration_ms=duration_ms,
            )

    async def _websocket(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: dict[str, str],
        context: RequestContext,
    ) -> None:
        match = self._routes.match("WS", scope["path"])
        try:
            self._authorize(scope["path"], headers, context, match.route.scope if match else None)
        except ServiceError:
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _authorize(
        self, path: str, headers: dict[str, str], context: RequestContext, scope_needed: str | None
    ) -> None:
        """Find out who calls, and refuse who may not."""
        header = headers.get(IDENTITY_HEADER)
        if header and self._verifier:
            context.caller = self._verifier.verify(header)
        elif path in OPEN_PATHS:
            return
        elif self._open_caller:
            context.caller = self._open_caller
        else:
            raise UnauthenticatedError(
                "This service answers only calls that carry a signed service identity.",
                hint="Call through the gateway.",
            )
        if scope_needed and not context.caller.may(scope_needed):
            raise ForbiddenError(f"The caller lacks the scope {scope_needed}.", scope=scope_needed)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _context(headers: dict[str, str]) -> RequestContext:
    request_id = acceptable_request_id(headers.get("x-request-id")) or uuid7()
    correlation = acceptable_request_id(headers.get("x-correlation-id")) or request_id
    traceparent = headers.get("traceparent", "")
    parsed = parse_traceparent(traceparent)
    return RequestContext(
        request_id=request_id,
        correlation_id=correlation,
        traceparent=traceparent if parsed else "",
        trace_id=parsed[0] if parsed else "",
    )


def _adopt_span(context: RequestContext, span: trace.Span) -> None:
    """Let the span's own ids, when tracing is on, be the ones that logs and problems show."""
    header = traceparent_of(span)
    if header:
        context.traceparent = header
        context.trace_id = header[3:35]
    elif not context.trace_id:
        # Without an exporter the ids are still made, so that logs of two services join.
        random_hex = uuid7().replace("-", "")
        context.trace_id = random_hex
        context.traceparent = f"00-{random_hex}-{random_hex[16:]}-00"


def _check_length(headers: dict[str, str], body_max: int) -> None:
    length = headers.get("content-length")
    if length and length.isdigit() and int(length) > body_max:
        raise PayloadTooLargeError(
            f"The body has {length} bytes; this route takes at most {body_max}."
        )


def _bounded(receive: Receive, body_max: int) -> Receive:
    """Count a streamed body and stop at the cap, whatever Content-Length said."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > body_max:
                raise PayloadTooLargeError(f"The body is larger than {body_max} bytes.")
        return message

    return bounded


def _deadline(headers: dict[str, str], default_ms: int, largest_ms: int) -> float:
    asked = headers.get(_DEADLINE_HEADER, "")
    milliseconds = min(int(asked), largest_ms) if asked.isdigit() else default_ms
    return time.monotonic() + milliseconds / 1e3
