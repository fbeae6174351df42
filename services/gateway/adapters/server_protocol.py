"""The server side of a connection: uvicorn's HTTP protocol with bounds on how requests arrive.

uvicorn bounds neither the head nor the time it takes (uvicorn#157). Here a head has a size, a
number of fields and a time; a body has a time. What is broken off before a request exists is
answered with a problem and the connection closes. Writes of one turn of the loop leave together:
head and body of a small answer are one system call.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import orjson
from prometheus_client import CollectorRegistry, Counter
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from libs.common.problems import PROBLEM_JSON, TYPE_PREFIX

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


class CorkedTransport:
    """Collects the writes of one turn of the loop and sends them together."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.inner = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info
        self.set_protocol = transport.set_protocol

    def write(self, data: bytes) -> None:
        """Send before the loop's next turn."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def close(self) -> None:
        """Send what is held, then close."""
        self.flush()
        self.inner.close()

    def flush(self) -> None:
        """Send what is held."""
        held = self._held
        if held:
            self._held = []
            self.inner.write(held[0] if len(held) == 1 else b"".join(held))


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
        self._clock: asyncio.TimerHandle | None = self.loop.call_later(
            self.header_receipt_s, self._head_is_late
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, and tell who waits on the caller's behalf."""
        self._stop_clock()
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
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Let the request begin, unless its head was refused."""
        if self._is_refused:
            return
        if b"#" in self.url:  # uvicorn would cut the fragment off, and another reader might not
            self._refuse(400)
            return
        self._is_head_open = False
        self._is_body_open = True
        self._stop_clock()
        super().on_headers_complete()

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
        cast(Any, self.transport).flush()
        super().on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand the bare transport over."""
        self._is_body_open = False
        self._stop_clock()
        self.transport = cast(asyncio.Transport, cast(Any, self.transport).inner)
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with a problem."""
        if not self._is_refused:
            self._refuse(400)

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
