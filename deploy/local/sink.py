"""Traces without Jaeger: a bounded OTLP/HTTP receiver in the runner, with a JSON read API.

`POST /v1/traces` takes protobuf, gzip accepted, and answers as OTLP asks. The newest spans are kept
in a ring. Reading: `GET /traces?limit=` lists the newest traces, `GET /traces/{trace_id}` gives the
spans of one, `GET /spans?limit=` the newest spans. It listens on loopback only and keeps nothing.
"""

import asyncio
import contextlib
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import orjson

SPANS_MAX = 20_000
BODY_BYTES_MAX = 4 * 1024 * 1024
# What a compressed body may grow to; a small body that expands without end is refused.
EXPANDED_BYTES_MAX = 16 * 1024 * 1024
_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES = ("unset", "ok", "error")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class TooLargeError(Exception):
    """A body, as sent or once expanded, is over its bound."""


class SpanStore:
    """The newest spans, oldest dropped first."""

    def __init__(self, spans_max: int = SPANS_MAX) -> None:
        self._spans: deque[dict[str, Any]] = deque(maxlen=spans_max)

    def add(self, body: bytes) -> int:
        """Take one OTLP export request and give the number of its spans.

        Raises:
            ValueError: the body is not an ExportTraceServiceRequest.
        """
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        request = ExportTraceServiceRequest()
        try:
            request.ParseFromString(body)
        except DecodeError as error:
            raise ValueError("not an ExportTraceServiceRequest") from error
        count = 0
        for resource in request.resource_spans:
            service = _attributes(resource.resource.attributes).get("service.name", "")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self._spans.append(_span(span, str(service)))
                    count += 1
        return count

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """Give the newest spans, newest first."""
        return list(reversed(self._spans))[:limit]

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Give the spans of a trace by start time."""
        spans = [span for span in self._spans if span["trace_id"] == trace_id]
        return sorted(spans, key=lambda span: int(span["start_unix_ns"]))

    def traces(self, limit: int) -> list[dict[str, Any]]:
        """Give the newest traces: id, number of spans, services, name and duration of the root."""
        grouped: dict[str, list[dict[str, Any]]] = {}
        for span in reversed(self._spans):
            grouped.setdefault(span["trace_id"], []).append(span)
        return [_summary(trace_id, spans) for trace_id, spans in list(grouped.items())[:limit]]


def _span(span: Any, service: str) -> dict[str, Any]:
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent_span_id.hex() or None,
        "service": service,
        "name": span.name,
        "kind": _KINDS[span.kind] if span.kind < len(_KINDS) else "unspecified",
        "start_unix_ns": str(span.start_time_unix_nano),
        "duration_ms": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
        "status": _STATUSES[span.status.code] if span.status.code < len(_STATUSES) else "unset",
        "attributes": _attributes(span.attributes),
        "links": [
            {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()} for link in span.links
        ],
    }


def _attributes(pairs: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind) if kind else None
        values[pair.key] = value if isinstance(value, str | int | float | bool) else str(value)
    return values


def _summary(trace_id: str, spans: list[dict[str, Any]]) -> dict[str, Any]:
    root = next((span for span in spans if span["parent_span_id"] is None), spans[-1])
    return {
        "trace_id": trace_id,
        "spans": len(spans),
        "services": sorted({span["service"] for span in spans}),
        "name": root["name"],
        "duration_ms": root["duration_ms"],
    }


def expand(body: bytes, encoding: str) -> bytes:
    """Undo a content encoding within the bound.

    Raises:
        TooLargeError: more than the bound comes out.
        ValueError: the encoding is unknown or the data broken.
    """
    if encoding in {"", "identity"}:
        return body
    if encoding != "gzip":
        raise ValueError("content encoding is neither gzip nor identity")
    decoder = zlib.decompressobj(wbits=31)
    try:
        expanded = decoder.decompress(body, EXPANDED_BYTES_MAX + 1)
    except zlib.error as error:
        raise ValueError("broken gzip data") from error
    if len(expanded) > EXPANDED_BYTES_MAX:
        raise TooLargeError
    if not decoder.eof:
        raise ValueError("the gzip data ends early")
    return expanded


class TraceSink:
    """The ASGI app over a store."""

    def __init__(self, store: SpanStore) -> None:
        self._store = store

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request."""
        method, path = scope["method"], scope["path"]
        if method == "POST" and path == "/v1/traces":
            await self._take(scope, receive, send)
            return
        limit = _limit(scope)
        if method == "GET" and path == "/traces":
            await _answer(send, 200, {"items": self._store.traces(limit), "next": None})
        elif method == "GET" and path == "/spans":
            await _answer(send, 200, {"items": self._store.newest(limit), "next": None})
        elif method == "GET" and path.startswith("/traces/"):
            spans = self._store.trace(path.removeprefix("/traces/"))
            await _answer(send, 200 if spans else 404, {"items": spans, "next": None})
        else:
            await _answer(
                send, 404, {"error": "POST /v1/traces; GET /traces, /traces/{trace_id}, /spans"}
            )

    async def _take(self, scope: Any, receive: Receive, send: Send) -> None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        if not headers.get("content-type", "").startswith("application/x-protobuf"):
            await _answer(send, 415, {"error": "content type must be application/x-protobuf"})
            return
        try:
            body = await _body(receive)
            self._store.add(expand(body, headers.get("content-encoding", "")))
        except TooLargeError:
            await _answer(send, 413, {"error": "the body is too large"})
        except ValueError as error:
            await _answer(send, 400, {"error": str(error)})
        else:
            # An empty ExportTraceServiceResponse: everything was accepted.
            await _send(send, 200, b"", b"application/x-protobuf")


def _limit(scope: Any) -> int:
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("limit", [""])[0]
    return min(int(asked), SPANS_MAX) if asked.isdigit() else 100


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ValueError("the sender went away")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES_MAX:
            raise TooLargeError
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(send: Send, status: int, document: Any) -> None:
    await _send(send, status, orjson.dumps(document), b"application/json")


async def _send(send: Send, status: int, body: bytes, content_type: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serve_sink(host: str, port: int) -> Any:
    """Serve a sink while the block runs; yields its store."""
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn that leaves signals to the runner."""

        @contextlib.contextmanager
        def capture_signals(self):  # type: ignore[no-untyped-def] # uvicorn's signature, a generator
            yield

    store = SpanStore()
    server = Server(
        uvicorn.Config(
            TraceSink(store),
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    running = asyncio.create_task(server.serve())
    try:
        while not server.started and not running.done():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.01)
        yield store
    finally:
        server.should_exit = True
        await running
