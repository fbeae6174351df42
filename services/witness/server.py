"""HTTP of the witness: httptools on plain asyncio, four routes, bounded in every direction.

`POST /add-checkpoint`, `GET /<hex SHA-256 of origin>/checkpoint`, `GET /livez`, `GET /readyz`.
"""

import asyncio
import json
import re
import signal
import sys
from collections.abc import Callable
from typing import cast

import httptools

from services.witness.domain import RefusalError
from services.witness.settings import WitnessSettings
from services.witness.witness import Witness

BODY_BYTES_MAX = 64 * 1024
_IDLE_S = 30.0
_LATEST = re.compile(r"/([0-9a-f]{64})/checkpoint")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    422: "Unprocessable Content",
    503: "Service Unavailable",
}

Answer = tuple[int, str, str]  # status, content type, text


def say(event: str, **fields: object) -> None:
    """Write one log line."""
    print(json.dumps({"service": "witness", "event": event, **fields}), flush=True)  # noqa: T201 - the process's log


def answer(witness: Witness, method: str, path: str, body: bytes) -> Answer:
    """Give the answer to one request."""
    if path in ("/livez", "/readyz"):
        return 200, "application/json", '{"status":"ok"}'
    match = _LATEST.fullmatch(path)
    if match:
        note = witness.latest(match.group(1)) if method == "GET" else None
        return (200, "text/plain; charset=utf-8", note) if note else (404, "text/plain", "none\n")
    if path != "/add-checkpoint":
        return 404, "text/plain", "not found\n"
    if method != "POST":
        return 405, "text/plain", "POST only\n"
    try:
        return 200, "text/plain; charset=utf-8", witness.add(body)
    except RefusalError as refusal:
        if refusal.status != 409:
            say("checkpoint refused", status=refusal.status, reason=str(refusal).strip())
        return refusal.status, refusal.content_type, str(refusal)
    except OSError as error:
        say("state not written", error_type=type(error).__name__)
        return 503, "text/plain", "state not written\n"


class Connection(asyncio.Protocol):
    """One client; requests are answered in order, each within one turn of the loop."""

    def __init__(self, respond: Callable[[str, str, bytes], Answer]) -> None:
        self._respond = respond
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url, self._body = b"", bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is not HTTP ends the connection."""
        self._wait()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._send((400, "text/plain", "not HTTP\n"), keep=False)

    def on_url(self, url: bytes) -> None:
        """Collect the target; a long one arrives in pieces."""
        self._url += url
        if len(self._url) > 1024:
            self._send((400, "text/plain", "the target is too long\n"), keep=False)

    def on_body(self, data: bytes) -> None:
        """Collect the body up to its bound."""
        if len(self._body) + len(data) > BODY_BYTES_MAX:
            self._send((413, "text/plain", "the body is too large\n"), keep=False)
        else:
            self._body += data

    def on_message_complete(self) -> None:
        """Answer."""
        if self._transport is None or self._transport.is_closing():
            return
        path = self._url.partition(b"?")[0].decode("latin-1")
        method = self._parser.get_method().decode("latin-1")
        result = self._respond(method, path, bytes(self._body))
        self._url, self._body = b"", bytearray()
        self._send(result, keep=self._parser.should_keep_alive())

    def _send(self, result: Answer, *, keep: bool) -> None:
        status, content_type, text = result
        body = text.encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {content_type}\r\n"
            f"content-length: {len(body)}\r\ncache-control: no-store\r\n"
            f"connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(head.encode() + body)
            if not keep:
                self._transport.close()

    def _wait(self) -> None:
        if self._timer:
            self._timer.cancel()
        assert self._transport is not None
        self._timer = asyncio.get_running_loop().call_later(_IDLE_S, self._transport.close)


async def serve(settings: WitnessSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    try:
        witness = Witness.open(settings)
    except OSError as error:
        print(f"witness: {error}", file=sys.stderr)  # noqa: T201 - read by a person at start-up
        sys.exit(2)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    def respond(method: str, path: str, body: bytes) -> Answer:
        return answer(witness, method, path, body)

    server = await loop.create_server(
        lambda: Connection(respond), settings.host, settings.port, backlog=64
    )
    say("starting", port=settings.port, key=str(witness.verifier))
    await stopping.wait()
    server.close()
    say("stopped")
