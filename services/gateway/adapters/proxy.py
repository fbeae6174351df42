"""The streaming proxy: one aiohttp session per service, bytes through in both directions.

aiohttp itself repeats an idempotent request once when a pooled connection turns out to be closed
(aiohttp#10790). The response is released in `finally` here, not in a body generator: a generator
that is never started would leak the connection.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from libs.common.catalog import Route
from libs.common.errors import DeadlineExceededError, ServiceError
from libs.common.identity import IDENTITY_HEADER, Signer
from services.gateway.adapters.exchange import ClientGoneError, Exchange, too_large
from services.gateway.adapters.gate import JUDGED_TIMEOUT_S, Gate
from services.gateway.domain import retries
from services.gateway.domain.headers import for_caller, for_upstream
from services.gateway.errors import ReceiptTimeoutError, UpstreamError, UpstreamUnavailableError

# Bodies up to this size are read before the call, so that the call can be repeated.
BUFFERED_BODY_BYTES_MAX = 64 * 1024
# What this hop keeps for itself of the remaining deadline.
HOP_MARGIN_S = 0.005
_CONNECT_TIMEOUT_S = 1.0
# The pool gives a connection up before the services do (they keep one for 75 s).
_KEEPALIVE_S = 30
_SKIP_AUTO = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})
_URLS_MAX = 2_048
_NO_DEADLINE_S = 5.0
# 501 is an honest answer and 503 a shed: neither means that the service is broken.
_FAILURE_STATUSES = frozenset({500, 502, 504})
_NO_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class StreamedBody:
    """A large body, passed on as it comes and counted; `failure` says why it was broken off.

    aiohttp hides what its body iterator raises behind a connection error, hence the attribute.
    """

    def __init__(self, exchange: Exchange, limit: int, timeout_s: float) -> None:
        self._exchange = exchange
        self._limit = limit
        self._timeout_s = timeout_s
        self.failure: ServiceError | ClientGoneError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the parts, at most the limit in all."""
        size, more = 0, True
        give_up_at = time.monotonic() + self._timeout_s
        while more:
            try:
                async with asyncio.timeout(max(0.0, give_up_at - time.monotonic())):
                    message = await self._exchange.receive()
            except TimeoutError:
                self.failure = ReceiptTimeoutError("The body took too long.")
                raise self.failure from None
            part: bytes = message.get("body", b"")
            size += len(part)
            if message["type"] == "http.disconnect":
                self.failure = ClientGoneError()
            elif size > self._limit:
                self.failure = too_large(self._limit)
            if self.failure:
                raise self.failure
            if part:
                yield part
            more = bool(message.get("more_body"))


Body = bytes | StreamedBody | None


def _remaining_s(exchange: Exchange) -> float:
    """Give the seconds of the deadline that the next hop may use."""
    deadline = exchange.context.deadline
    return (deadline - time.monotonic() if deadline else _NO_DEADLINE_S) - HOP_MARGIN_S


class Upstream:
    """Calls one service on behalf of callers."""

    def __init__(
        self,
        service: str,
        base_url: str,
        signer: Signer | None,
        gate: Gate,
        *,
        connections_max: int,
        stream_idle_s: float,
        body_receipt_s: float,
        forwarded_hops: int,
    ) -> None:
        self.service = service
        self._base = base_url.rstrip("/")
        self._signer = signer
        self.gate = gate
        self._connections_max = connections_max
        self._stream_idle_s = stream_idle_s
        self._body_receipt_s = body_receipt_s
        self._forwarded_hops = forwarded_hops
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    async def call(self, exchange: Exchange, target: str, route: Route) -> None:
        """Send the request on and stream the answer back.

        Args:
            exchange: the admitted request.
            target: raw path with query, exactly as sent.
            route: its caps and lane.

        Raises:
            PayloadTooLargeError, ReceiptTimeoutError: the body.
            UpstreamUnavailableError, UpstreamError, DeadlineExceededError: the service.
            ClientGoneError: the caller left.
        """
        body = await self._body(exchange, route.body_bytes_max)
        if isinstance(body, StreamedBody):
            await self._exchange(exchange, target, body, route)
            return
        await self._watched(exchange, target, body, route)

    async def _watched(
        self, exchange: Exchange, target: str, body: bytes | None, route: Route
    ) -> None:
        """Run the exchange; a caller who leaves cancels it."""
        task = asyncio.current_task()
        assert task is not None
        gone = False

        def on_message(watch: asyncio.Task[object]) -> None:
            nonlocal gone
            if not watch.cancelled():
                gone = True
                task.cancel()

        # After the body only http.disconnect can arrive.
        watch: asyncio.Task[object] = asyncio.ensure_future(exchange.receive())
        watch.add_done_callback(on_message)
        try:
            await self._exchange(exchange, target, body, route)
        except asyncio.CancelledError:
            if not gone:
                raise
            task.uncancel()
            raise ClientGoneError from None
        finally:
            watch.remove_done_callback(on_message)
            watch.cancel()

    async def _exchange(self, exchange: Exchange, target: str, body: Body, route: Route) -> None:
        """Hold a turn at the gate from the first try to the last byte of the answer."""
        remaining = _remaining_s(exchange)
        await self.gate.enter(is_batch=route.lane == "batch", wait_s=remaining)
        try:
            response = await self._open_with_retry(exchange, target, body, route)
            try:
                await self._relay(exchange, response)
            finally:
                # A fully read answer gives its connection back; anything else closes it.
                if response.content.at_eof() and not response.content.exception():
                    response.release()
                else:
                    response.close()
        finally:
            self.gate.leave()

    async def _open_with_retry(
        self, exchange: Exchange, target: str, body: Body, route: Route
    ) -> aiohttp.ClientResponse:
        """Call; once more where that is safe, in the budget, and time is left."""
        self.gate.budget.request(time.monotonic())
        may_retry = retries.may_retry(
            exchange.method,
            retry_safe=route.retry_safe,
            replayable=not isinstance(body, StreamedBody),
        )
        try:
            response = await self._judged(exchange, target, body)
            if response.status not in retries.RETRIED_STATUSES or not (
                may_retry and self.gate.may_retry()
            ):
                return response
            response.close()
        except (UpstreamError, UpstreamUnavailableError) as error:
            is_refusal = error.problem_code == "breaker_open"
            if is_refusal or not (may_retry and self.gate.may_retry()):
                raise
        await asyncio.sleep(min(retries.delay_s(random.random()), _remaining_s(exchange)))
        return await self._judged(exchange, target, body)

    async def _judged(self, exchange: Exchange, target: str, body: Body) -> aiohttp.ClientResponse:
        """Call once, and let the breaker and the concurrency limit learn from the outcome."""
        self.gate.check_breaker()
        granted = _remaining_s(exchange)
        started = time.monotonic()
        try:
            response = await self._open(exchange, target, body)
        except UpstreamUnavailableError:
            self.gate.failed(connect=True)
            raise
        except UpstreamError:
            self.gate.failed()
            raise
        except DeadlineExceededError:
            if granted >= JUDGED_TIMEOUT_S:
                self.gate.failed()
            else:
                self.gate.abandoned()
            raise
        except BaseException:
            self.gate.abandoned()
            raise
        if response.status in _FAILURE_STATUSES:
            self.gate.failed()
        else:
            self.gate.succeeded(time.monotonic() - started)
        return response

    async def _open(self, exchange: Exchange, target: str, body: Body) -> aiohttp.ClientResponse:
        remaining = _remaining_s(exchange)
        if remaining <= 0:
            raise DeadlineExceededError(f"No time left to call {self.service}.")
        try:
            async with asyncio.timeout(remaining):
                return await self.session().request(
                    exchange.method,
                    self._url(target),
                    data=body,
                    headers=self._headers(exchange, remaining, body),
                    allow_redirects=False,
                    skip_auto_headers=_SKIP_AUTO,
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if isinstance(body, StreamedBody) and body.failure:
                raise body.failure from error
            raise self._translated(error, remaining) from error

    def _translated(self, error: Exception, waited_s: float) -> ServiceError:
        """Turn a failed call into what the caller may see."""
        if isinstance(error, (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError)):
            return UpstreamUnavailableError(f"{self.service} cannot be reached.", retry_after_s=1)
        if isinstance(error, TimeoutError):
            return DeadlineExceededError(
                f"{self.service} did not answer within {waited_s * 1e3:.0f} ms."
            )
        return UpstreamError(f"{self.service} broke the connection off.")

    async def _relay(self, exchange: Exchange, response: aiohttp.ClientResponse) -> None:
        headers = for_caller(response.raw_headers)
        length = response.headers.get("content-length", "")
        has_body = exchange.method != "HEAD" and response.status not in (204, 304)
        try:
            if not has_body:
                await exchange.start(response.status, headers)
                await exchange.body(b"")
                return
            if length.isdigit() and int(length) <= BUFFERED_BODY_BYTES_MAX:
                async with asyncio.timeout(self._stream_idle_s):
                    data = await response.content.read()
                await exchange.start(response.status, headers)
                await exchange.body(data)
                return
            await exchange.start(response.status, headers)
            stream = response.content
            while True:
                async with asyncio.timeout(self._stream_idle_s):
                    chunk = await stream.readany()
                if not chunk:
                    break
                await exchange.body(chunk, more=True)
            await exchange.body(b"")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamError(f"{self.service} broke its answer off.") from error

    async def _body(self, exchange: Exchange, limit: int) -> bytes | StreamedBody | None:
        fields = exchange.fields
        length = fields.get(b"content-length")
        if length is None and b"transfer-encoding" not in fields:
            await exchange.receive()  # the empty body, so that the next message is a disconnect
            return None
        if length is not None:
            if int(length) > limit:
                raise too_large(limit)
            if int(length) <= BUFFERED_BODY_BYTES_MAX:
                body = await exchange.read_body(limit, self._body_receipt_s)
                return body or (None if exchange.method in _NO_BODY else b"")
        return StreamedBody(exchange, limit, self._body_receipt_s)

    def _headers(self, exchange: Exchange, remaining: float, body: object) -> CIMultiDict[str]:
        headers = CIMultiDict(for_upstream(exchange.scope["headers"]))
        context, scope = exchange.context, exchange.scope
        length = exchange.fields.get(b"content-length")
        if length is not None and body is not None:
            headers["content-length"] = length.decode("latin-1")
        chain = exchange.text(b"x-forwarded-for") if self._forwarded_hops else ""
        peer = scope["client"][0] if scope.get("client") else exchange.address
        headers["x-forwarded-for"] = f"{chain}, {peer}" if chain else peer
        headers["x-forwarded-proto"] = (
            exchange.text(b"x-forwarded-proto") if self._forwarded_hops else ""
        ) or scope["scheme"]
        headers["x-forwarded-host"] = exchange.text(b"host")
        headers["x-request-id"] = context.request_id
        headers["x-correlation-id"] = context.correlation_id
        headers["x-request-deadline-ms"] = str(int(remaining * 1000))
        if context.traceparent:
            headers["traceparent"] = context.traceparent
        caller = context.caller
        if self._signer:
            headers[IDENTITY_HEADER] = self._signer.header(
                self.service,
                tenant=caller.tenant if caller else "",
                principal=caller.principal if caller else "anonymous",
                scopes=caller.scopes if caller else (),
            )
        return headers

    def _url(self, target: str) -> URL:
        url = self._urls.get(target)
        if url is None:
            url = URL(self._base + target, encoded=True)
            if len(self._urls) < _URLS_MAX and "?" not in target:
                self._urls[target] = url
        return url

    def session(self) -> aiohttp.ClientSession:
        """Give the session, opened on first use."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections_max, keepalive_timeout=_KEEPALIVE_S
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            with contextlib.suppress(OSError):
                await self._session.close()
            self._session = None
