"""The console as one more caller: a request through the gateway's own edge, without a socket.

The console's pages show what the API answers to the person who is signed in. They ask it here, so
that scopes, limits, guarded text, idempotency, events and metrics hold for them as for anybody.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from libs.common.ids import random_trace_id

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
App = Callable[
    [Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

# Where admission notes whose exchange this is; a socket cannot set it.
CREDENTIAL = "gatehouse.credential"
# What decides on hosts and addresses; the cookie above all stays behind.
_CARRIED = frozenset({b"host", b"x-forwarded-for"})


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer of the API, as a page shows it."""

    status: int
    headers: dict[str, str]
    body: bytes
    took_ms: float

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return 200 <= self.status < 300

    @property
    def document(self) -> Any:
        """The parsed JSON; an empty object where there is none."""
        if "json" not in self.headers.get("content-type", ""):
            return {}
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}

    @property
    def items(self) -> list[Any]:
        """The entries of a list, none when the call failed."""
        found = self.document
        return list(found.get("items", [])) if isinstance(found, dict) else []

    @property
    def pretty(self) -> str:
        """The body for reading."""
        if self.document:
            return orjson.dumps(self.document, option=orjson.OPT_INDENT_2).decode()
        return self.body.decode("utf-8", "replace")


class Backstage:
    """Implements ApiDoor."""

    def __init__(self, edge: App) -> None:
        self._edge = edge

    async def call(
        self,
        asking: Scope,
        method: str,
        path: str,
        *,
        query: str = "",
        document: Any = None,
        is_traced: bool = False,
    ) -> Seen:
        """Call a route of the API as the person behind a console request.

        Args:
            asking: scope of the console request, with its credential.
            method: HTTP method.
            path: path of the route, its parameters percent-encoded.
            query: query without the question mark.
            document: body, sent as JSON.
            is_traced: record every hop, whatever share of traces is recorded otherwise.
        """
        body = b"" if document is None else orjson.dumps(document)
        scope = _scope(asking, method, path, query, body)
        if is_traced:
            scope["headers"].append((b"traceparent", _sampled().encode()))
        started = time.monotonic()
        answer = _Answer(body)
        # A task of its own: the request's context must not become the page's.
        await asyncio.create_task(self._serve(scope, answer))
        return Seen(
            answer.status,
            answer.headers,
            b"".join(answer.parts),
            round((time.monotonic() - started) * 1e3, 2),
        )

    async def _serve(self, scope: Scope, answer: "_Answer") -> None:
        await self._edge(scope, answer.receive, answer.send)


class _Answer:
    """The caller's end of the exchange."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.status = 500
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []

    async def receive(self) -> Message:
        """Give the body once; this caller never leaves early."""
        if self._body is None:
            await asyncio.Event().wait()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Take a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message["headers"]
            }
        elif message["type"] == "http.response.body":
            self.parts.append(message.get("body", b""))


def _sampled() -> str:
    trace_id = random_trace_id()
    return f"00-{trace_id}-{trace_id[:16]}-01"


def _scope(asking: Scope, method: str, path: str, query: str, body: bytes) -> Scope:
    headers = [(b"accept", b"application/json, image/svg+xml")]
    headers += [pair for pair in asking["headers"] if pair[0] in _CARRIED]
    if body:
        headers.append((b"content-type", b"application/json"))
        headers.append((b"content-length", str(len(body)).encode()))
    return {
        "type": "http",
        "asgi": asking["asgi"],
        "http_version": "1.1",
        "method": method,
        "scheme": asking["scheme"],
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": headers,
        "client": asking["client"],
        "server": asking["server"],
        "state": asking.get("state", {}),
        CREDENTIAL: asking[CREDENTIAL],
    }
