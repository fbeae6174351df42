"""The server side of a connection: uvicorn's HTTP protocol with bounds on how requests arrive.

uvicorn bounds neither the head nor the time it takes (uvicorn#157). Here a head has a size, a
number of fields and a time; a body has a time. What is broken off before a request exists is
answered with a problem and the connection closes. Writes of one turn of the loop leave together:
head and body of a small answer are one system call.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

import httptools
import orjson
from prometheus_client import CollectorRegistry, Counter
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from libs.common.corked import CorkedTransport
from libs.common.problems import PROBLEM_JSON, TYPE_PREFIX
from services.gateway.adapters.lazy_clock import LazyClock
from services.gateway.adapters.server_cycle import Cycle

HEAD_BYTES_MAX = 32 * 1024
HEAD_FIELDS_MAX = 100
# Set on the scope of a request whose body did not arrive in time.
LATE = "gatehouse.late"
# The connection's Leavers, on the scope of each of its requests.
LEAVERS = "gatehouse.leavers"
_TITLES = {
    400: ("malformed_request", "Malformed request", "This is not HTTP."),
    408: ("receipt_timeout", "Request not received in time", "The headers took too long."),
    431: ("headers_too_large", "Headers too large", "The headers are too large or too many."),
}


class Leavers:
    """Who wants to know that the caller of a connection has gone."""

    __slots__ = ("_callbacks", "_is_gone")

    def __init__(self) -> None:
        self._callbacks: set[Callable[[], None]] = set()
        self._is_gone = False

    def add(self, callback: Callable[[], None]) -> None:
        """Call once the caller has gone; at once if it has."""
        if self._is_gone:
            callback()
        else:
            self._callbacks.add(callback)

    def discard(self, callback: Callable[[], None]) -> None:
        """Do not call."""
        self._callbacks.discard(callback)

    def gone(self) -> None:
        """Tell everybody."""
        self._is_gone = True
        for callback in list(self._callbacks):
            callback()


class BoundedProtocol(HttpToolsProtocol):
    """One connection; subclasses made by `bounded_protocol` carry the settings."""

    header_receipt_s = 10.0
    body_receipt_s = 30.0
    refusals: Counter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock of the first head."""
        corked = CorkedTransport(cast(asyncio.Transport, transport))
        super().connection_made(cast(asyncio.Transport, corked))
        self._head_bytes = 0
        self._is_head_open = True
        self._is_body_open = False
        self._is_refused = False
        self._leavers = Leavers()
        self._idle = LazyClock(self.loop, self._is_idle)
        self._clock: asyncio.TimerHandle | None = self.loop.call_later(
            self.header_receipt_s, self._head_is_late
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, and tell who waits on the caller's behalf."""
        self._stop_clock()
        self._idle.close()
        super().connection_lost(exc)
        self._leavers.gone()

    def data_received(self, data: bytes) -> None:
        """Parse, and run a clock only for what did not arrive in one piece."""
        if self._is_refused:
            return
        super().data_received(data)
        if (
            self._clock is None
            and (self._is_head_open or self._is_body_open)
            and not self._is_refused
        ):
            seconds, action = (
                (self.header_receipt_s, self._head_is_late)
                if self._is_head_open
                else (self.body_receipt_s, self._body_is_late)
            )
            self._clock = self.loop.call_later(seconds, action)

    def on_message_begin(self) -> None:
        """Count a new head."""
        self._idle.stop()
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[LEAVERS] = self._leavers
        self._head_bytes = 0
        self._is_head_open = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field, or refuse the head; fields after a body (trailers) are dropped."""
        if not self._is_head_open or self._is_refused:
            return
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_BYTES_MAX or len(self.headers) >= HEAD_FIELDS_MAX:
            self._refuse(431)
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Let the request begin, unless its head was refused."""
        if self._is_refused:
            return
        if b"#" in self.url:  # the fragment would be cut off, and another reader might not
            self._refuse(400)
            return
        self._is_head_open = False
        self._is_body_open = True
        self._stop_clock()
        scope = cast(dict[str, Any], self.scope)
        parser = self.parser
        scope["method"] = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        if version != "1.1":
            scope["http_version"] = version
        if parser.should_upgrade() and self._should_upgrade():
            return
        if self.url.startswith(b"/"):
            path, _, query = self.url.partition(b"?")
        else:
            parts = httptools.parse_url(self.url)
            path, query = parts.path, parts.query or b""
        text = path.decode("ascii")
        scope["path"] = unquote(text) if "%" in text else text
        scope["raw_path"] = path
        scope["query_string"] = query
        self._begin(keep_alive=version != "1.0" and parser.should_keep_alive())

    def _begin(self, *, keep_alive: bool) -> None:
        """Start the request, or queue it behind the one before it on this connection."""
        before = cast(RequestResponseCycle | None, self.cycle)
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock of the body."""
        self._is_body_open = False
        self._stop_clock()
        if not self._is_refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Send the answer now: nothing follows that it could leave together with."""
        transport = cast(Any, self.transport)
        transport.flush()
        self.server_state.total_requests += 1
        if transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self._idle.set(time.monotonic() + self.timeout_keep_alive)

    def handle_websocket_upgrade(self) -> None:
        """Hand the bare transport over."""
        self._is_body_open = False
        self._stop_clock()
        self._idle.close()
        self.transport = cast(asyncio.Transport, cast(Any, self.transport).inner)
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with a problem."""
        if not self._is_refused:
            self._refuse(400)

    def _is_idle(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _head_is_late(self) -> None:
        self._clock = None
        if self._is_head_open:
            self._refuse(408)

    def _body_is_late(self) -> None:
        self._clock = None
        if self._is_body_open and not self.cycle.response_complete:
            # The request is running: it answers itself, in its own shape.
            cast(dict[str, Any], self.cycle.scope)[LATE] = True
            self.cycle.message_event.set()

    def _refuse(self, status: int) -> None:
        """Answer and close; a whole request before it gets its answer first."""
        self._is_refused = True
        self._stop_clock()
        code, title, detail = _TITLES[status]
        self.refusals.labels(code).inc()
        if self.transport.is_closing():
            return
        running = cast(RequestResponseCycle | None, self.cycle)
        if running is not None and not running.response_complete and not self._is_body_open:
            # The request before this one is whole: its answer goes out, then the connection ends.
            running.keep_alive = False
            return
        if running is None or running.response_complete or not running.response_started:
            document = {
                "type": TYPE_PREFIX + code,
                "title": title,
                "status": status,
                "detail": detail,
                "code": code,
            }
            body = orjson.dumps(document)
            self.transport.write(
                STATUS_LINE[status]
                + f"content-type: {PROBLEM_JSON}\r\ncontent-length: {len(body)}\r\n".encode()
                + b"connection: close\r\n\r\n"
                + body
            )
        self.transport.close()

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


def bounded_protocol(
    registry: CollectorRegistry, *, header_receipt_s: float, body_receipt_s: float
) -> type[BoundedProtocol]:
    """Make the protocol class of one process."""
    refusals = Counter(
        "gatehouse_gateway_connections_refused_total",
        "Connections closed before a request existed.",
        ("reason",),
        registry=registry,
    )
    return type(
        "GatewayProtocol",
        (BoundedProtocol,),
        {
            "header_receipt_s": header_receipt_s,
            "body_receipt_s": body_receipt_s,
            "refusals": refusals,
        },
    )
