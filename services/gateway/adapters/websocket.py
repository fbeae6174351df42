"""WebSocket pass-through: admitted like any request, then two pumps with bounded buffers.

Whoever is refused gets an HTTP answer before the handshake ends. A browser's `Origin` must be ours
or one that settings allow, because a page of another site could use what the browser holds. A
connection ends with the credential that opened it, and with 1012 when this process stops.
"""

import asyncio
import contextlib
import time
from urllib.parse import urlsplit

import aiohttp

from libs.common.errors import DeadlineExceededError, ForbiddenError
from libs.common.health import Health
from libs.common.identity import IDENTITY_HEADER
from services.gateway.adapters.exchange import Exchange, Receive, Send
from services.gateway.adapters.proxy import Upstream
from services.gateway.domain.headers import for_upstream
from services.gateway.errors import UpstreamUnavailableError

MESSAGE_BYTES_MAX = 1024 * 1024
_CONNECT_S = 5.0
_DRAIN_POLL_S = 0.5
# Close codes of RFC 6455 and its registry.
_NORMAL, _AWAY, _POLICY, _TOO_BIG, _INTERNAL, _RESTART = 1000, 1001, 1008, 1009, 1011, 1012
_HANDSHAKE = (b"sec-websocket-", b"connection", b"upgrade", b"origin")


def check_origin(exchange: Exchange, allowed: frozenset[str]) -> None:
    """Refuse pages of other sites; callers that are no browsers send no Origin.

    Raises:
        ForbiddenError: the Origin is neither this host nor allowed.
    """
    origin = exchange.text(b"origin")
    if not origin or origin in allowed:
        return
    if urlsplit(origin).netloc != exchange.text(b"host"):
        raise ForbiddenError("Pages of this origin may not connect.", code="cross_site")


class WebSocketProxy:
    """Connects callers with the WebSocket of a service."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._session: aiohttp.ClientSession | None = None

    async def serve(
        self, exchange: Exchange, upstream: Upstream, receive: Receive, send: Send
    ) -> int:
        """Connect, accept, and pass messages until one side ends; gives the close code.

        Raises:
            UpstreamUnavailableError, DeadlineExceededError: the service did not accept.
        """
        query: bytes = exchange.scope.get("query_string", b"")
        target = exchange.path + ("?" + query.decode("latin-1") if query else "")
        async with await self._connect(exchange, upstream, target) as peer:
            exchange.started = True
            await send({"type": "websocket.accept", "subprotocol": peer.protocol})
            code = await self._pump(exchange, peer, receive, send)
            with contextlib.suppress(RuntimeError, OSError):
                await send({"type": "websocket.close", "code": code})
            await peer.close(code=code)
            return code

    async def _connect(
        self, exchange: Exchange, upstream: Upstream, target: str
    ) -> aiohttp.ClientWebSocketResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        lines = for_upstream(exchange.scope["headers"], None)
        headers = dict(
            line.decode("latin-1").split(": ", 1)
            for line in lines
            if not line.startswith(_HANDSHAKE)
        )
        headers |= {
            "x-request-id": exchange.context.request_id,
            "x-correlation-id": exchange.context.correlation_id,
            "traceparent": exchange.context.traceparent,
            "x-forwarded-for": exchange.address,
        }
        identity = upstream.identity(exchange)
        if identity:
            headers[IDENTITY_HEADER] = identity
        wanted = exchange.scope.get("subprotocols") or ()
        upstream.gate.check_breaker()
        instance = upstream.instances.pick(exchange.model)
        try:
            async with asyncio.timeout(_CONNECT_S):
                peer = await self._session.ws_connect(
                    instance.url + target,
                    headers=headers,
                    protocols=tuple(wanted),
                    max_msg_size=MESSAGE_BYTES_MAX,
                    autoclose=False,
                )
        except TimeoutError as error:
            upstream.gate.failed()
            upstream.instances.failed(instance)
            raise DeadlineExceededError(f"{upstream.service} did not answer.") from error
        except (aiohttp.ClientError, OSError) as error:
            upstream.gate.failed(connect=True)
            upstream.instances.failed(instance)
            raise UpstreamUnavailableError(
                f"{upstream.service} did not accept the connection.", retry_after_s=1
            ) from error
        upstream.gate.abandoned()  # how long a conversation lasts says nothing about health
        return peer

    async def _pump(
        self,
        exchange: Exchange,
        peer: aiohttp.ClientWebSocketResponse,
        receive: Receive,
        send: Send,
    ) -> int:
        """Run both directions and the clock; the first to end decides the code."""
        jobs = [
            asyncio.ensure_future(job)
            for job in (
                _upwards(peer, receive),
                _downwards(peer, send),
                self._until_it_must_end(exchange),
            )
        ]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        except (aiohttp.ClientError, OSError, RuntimeError):
            return _INTERNAL
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _until_it_must_end(self, exchange: Exchange) -> int:
        credential = exchange.credential
        expires = credential.expires_at if credential else None
        while True:
            if self._health.is_draining:
                return _RESTART
            if expires is not None and time.time() >= expires:
                return _POLICY
            await asyncio.sleep(_DRAIN_POLL_S)

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()


async def _upwards(peer: aiohttp.ClientWebSocketResponse, receive: Receive) -> int:
    """Pass the caller's messages on; the next is read when the service took this one."""
    while True:
        message = await receive()
        if message["type"] != "websocket.receive":
            code = message.get("code") or _AWAY
            return code if code not in (1005, 1006) else _NORMAL
        text, data = message.get("text"), message.get("bytes")
        if len(text if text is not None else data or b"") > MESSAGE_BYTES_MAX:
            return _TOO_BIG
        if text is not None:
            await peer.send_str(text)
        elif data is not None:
            await peer.send_bytes(data)


async def _downwards(peer: aiohttp.ClientWebSocketResponse, send: Send) -> int:
    """Pass the service's messages on; the next is read when the caller took this one."""
    while True:
        message = await peer.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            await send({"type": "websocket.send", "text": message.data})
        elif message.type is aiohttp.WSMsgType.BINARY:
            await send({"type": "websocket.send", "bytes": message.data})
        elif message.type is aiohttp.WSMsgType.CLOSE:
            code = int(message.data or _NORMAL)
            return code if code not in (1005, 1006) else _NORMAL
        else:
            return _INTERNAL
