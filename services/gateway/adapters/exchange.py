"""One HTTP exchange at the edge: what was asked, what was decided, what has been answered."""

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import orjson
from opentelemetry.trace import Span

from libs.common.catalog import Route
from libs.common.context import RequestContext
from libs.common.errors import BadRequestError, PayloadTooLargeError, ServiceError
from libs.common.feast_errors import feast_error_body
from libs.common.problems import PROBLEM_JSON, problem_body
from libs.common.telemetry import get_telemetry
from services.gateway.adapters.server_protocol import LATE
from services.gateway.domain.limits import Decision, rate_limit_fields
from services.gateway.domain.ports import Credential
from services.gateway.errors import ReceiptTimeoutError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_SECURITY_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    # no-referrer would make browsers send `Origin: null` with our own login form.
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-site"),
]
# Headers of which a second copy could be read differently by the next hop.
_SINGLE = frozenset(
    {
        b"host",
        b"content-length",
        b"content-type",
        b"authorization",
        b"x-api-key",
        b"transfer-encoding",
        b"idempotency-key",
    }
)


_NO_SPAN: AbstractContextManager[object] = nullcontext()


@contextmanager
def _ended(span: Span) -> Iterator[object]:
    try:
        yield span
    finally:
        span.end()


class ClientGoneError(Exception):
    """The caller closed the connection; nobody is left to answer."""


class Exchange:
    """State of one request; lives as long as its answer."""

    __slots__ = (
        "address",
        "context",
        "credential",
        "decisions",
        "extra_headers",
        "fields",
        "method",
        "model",
        "network",
        "opened",
        "path",
        "receive",
        "route",
        "scope",
        "send",
        "service",
        "span",
        "started",
        "status",
        "template",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.context = RequestContext()
        self.route: Route | None = None
        self.model: str | None = None  # the model that the path names
        self.opened: str | None = None  # a scope that a narrower one opened for this call
        self.template = "unknown"
        self.service = "gateway"
        self.address = ""
        self.network = ""
        self.credential: Credential | None = None
        self.decisions: list[Decision] = []
        self.extra_headers: list[tuple[bytes, bytes]] = []
        self.span: Span | None = None
        self.started = False
        self.status = 500
        self.fields: dict[bytes, bytes] = dict(scope["headers"])  # the last one of a name

    def check_fields(self) -> None:
        """Refuse what another parser could read differently.

        Raises:
            BadRequestError: a field that must be single is repeated, or two framings are given.
        """
        fields, headers = self.fields, self.scope["headers"]
        if len(fields) != len(headers):
            seen = set()
            for name, _ in headers:
                if name in seen and name in _SINGLE:
                    raise BadRequestError(f"The header {name.decode('latin-1')} is repeated.")
                seen.add(name)
        if b"transfer-encoding" in fields and b"content-length" in fields:
            raise BadRequestError("Content-Length and Transfer-Encoding exclude each other.")

    def child(self, name: str, *, client: bool = False) -> Span | None:
        """Open a child span, or give None when this request is not recorded."""
        if self.span is None:
            return None
        return get_telemetry().start_child_span(name, self.span, client=client)

    def part(self, name: str) -> AbstractContextManager[object]:
        """Measure a part of the request with a child span, when it is recorded."""
        if self.span is None:
            return _NO_SPAN
        return _ended(get_telemetry().start_child_span(name, self.span))

    def text(self, name: bytes) -> str:
        """Give a header field as text, empty when absent."""
        value = self.fields.get(name)
        return value.decode("latin-1") if value else ""

    def cookie(self, name: str) -> str:
        """Give the value of a cookie, empty when absent."""
        for part in self.text(b"cookie").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
        return ""

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers, with ids, limits and security fields added."""
        self.status = status
        self.started = True
        context = self.context
        headers += _SECURITY_HEADERS
        headers += self.extra_headers
        request_id = context.request_id.encode()
        correlation_id = context.correlation_id
        headers.append((b"x-request-id", request_id))
        headers.append(
            (
                b"x-correlation-id",
                request_id if correlation_id is context.request_id else correlation_id.encode(),
            )
        )
        if context.traceparent:
            headers.append((b"traceresponse", context.traceparent.encode()))
        if self.decisions:
            headers += rate_limit_fields(self.decisions)
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def reply(self, status: int, headers: list[tuple[bytes, bytes]], data: bytes) -> None:
        """Send a whole answer."""
        await self.start(status, headers)
        await self.send({"type": "http.response.body", "body": data, "more_body": False})

    async def body(self, data: bytes, *, more: bool = False) -> None:
        """Send a part of the body."""
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def app_send(self, message: Message) -> None:
        """Be the `send` of the own routes: adds our fields to what the app answers."""
        if message["type"] == "http.response.start":
            await self.start(message["status"], list(message.get("headers", ())))
        else:
            await self.send(message)

    async def refuse(self, error: ServiceError) -> None:
        """Answer with an error, in the shape of the route's protocol."""
        shape = self.route.error_shape if self.route else "problem"
        data, media = render_error(error, f"urn:gatehouse:request:{self.context.request_id}", shape)
        headers = [
            (b"content-type", media),
            (b"content-length", str(len(data)).encode()),
            (b"cache-control", b"no-store"),
        ]
        headers += [(k.lower().encode(), v.encode()) for k, v in error.headers.items()]
        if not self._body_was_read():
            # What is left of the body would be read as the next request otherwise.
            headers.append((b"connection", b"close"))
        await self.reply(error.status, headers, b"" if self.method == "HEAD" else data)

    def _body_was_read(self) -> bool:
        if LATE in self.scope:
            return False
        length = self.fields.get(b"content-length", b"0")
        return b"transfer-encoding" not in self.fields and length.isdigit() and int(length) <= 65536

    async def read_body(self, limit: int) -> bytes:
        """Read the whole body.

        Raises:
            PayloadTooLargeError: it is larger than `limit` bytes.
            ReceiptTimeoutError: it took too long; the server's protocol keeps the clock.
            ClientGoneError: the caller left.
        """
        message = await self.receive()
        first = self.part_of(message, 0, limit)
        if not message.get("more_body"):
            return first
        parts = [first]
        size = len(first)
        while message.get("more_body"):
            message = await self.receive()
            parts.append(self.part_of(message, size, limit))
            size += len(parts[-1])
        return b"".join(parts)

    def part_of(self, message: Message, size: int, limit: int) -> bytes:
        """Give the bytes of one message; `size` came before it. Raises as `read_body`."""
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part: bytes = message.get("body", b"")
        if size + len(part) > limit:
            raise too_large(limit)
        if LATE in self.scope and message.get("more_body"):
            raise ReceiptTimeoutError("The body took too long.")
        return part


def too_large(limit: int) -> PayloadTooLargeError:
    """Build the 413 of a route that takes `limit` bytes."""
    return PayloadTooLargeError(f"This route takes at most {limit} bytes.", limit=limit)


def render_error(error: ServiceError, instance: str, shape: str) -> tuple[bytes, bytes]:
    """Render an error as body and media type, in a protocol's own shape where it has one.

    `instance` names the request, not its path: a path may hold what a caller put there by mistake.
    """
    text = error.detail or error.title
    if shape == "v2" or shape == "presidio":
        return orjson.dumps({"error": text}), b"application/json"
    if shape == "openai":
        document = {
            "error": {
                "message": text,
                "type": "invalid_request_error" if error.status < 500 else "server_error",
                "param": None,
                "code": error.problem_code,
            }
        }
        return orjson.dumps(document), b"application/json"
    if shape == "feast":
        return feast_error_body(error), b"application/json"
    return orjson.dumps(problem_body(error, instance)), PROBLEM_JSON.encode()
