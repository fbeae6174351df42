"""The streaming proxy to one service: bytes through in both directions, one judgement per call.

The caller's headers are copied by name from what may pass, ours are set anew, and the head goes out
as one piece of bytes. The answer's connection is released in `finally` here, not in a body
generator: a generator that is never started would leak it.
"""

import asyncio
import random
import time

from libs.common.catalog import Route
from libs.common.errors import DeadlineExceededError, InternalError, ServiceError
from libs.common.identity import IDENTITY_HEADER, Signer
from libs.common.telemetry import mark_failed, traceparent_of
from services.gateway.adapters.exchange import Exchange, too_large
from services.gateway.adapters.gate import JUDGED_TIMEOUT_S, Gate
from services.gateway.adapters.streamed_body import CallerWatch, StreamedBody
from services.gateway.adapters.wire import (
    Answer,
    BrokenOffError,
    ConnectFailedError,
    Connection,
    Pool,
)
from services.gateway.domain import retries
from services.gateway.domain.headers import for_caller, for_upstream
from services.gateway.errors import UpstreamError, UpstreamUnavailableError

# Bodies up to this size are read before the call, so that the call can be repeated.
BUFFERED_BODY_BYTES_MAX = 64 * 1024
# What this hop keeps for itself of the remaining deadline.
HOP_MARGIN_S = 0.005
_NO_DEADLINE_S = 5.0
# 501 is an honest answer and 503 a shed: neither means that the service is broken.
_FAILURE_STATUSES = frozenset({500, 502, 504})
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
_IDENTITY_NAME = IDENTITY_HEADER.encode()

Body = bytes | StreamedBody


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
        stream_idle_s: float,
        forwarded_hops: int,
    ) -> None:
        self.service = service
        self.base_url = base_url.rstrip("/")
        self.pool = Pool(base_url)
        self._signer = signer
        self.gate = gate
        self._stream_idle_s = stream_idle_s
        self._forwarded_hops = forwarded_hops

    async def call(
        self, exchange: Exchange, target: str, route: Route, body: bytes | None = None
    ) -> None:
        """Send the request on and stream the answer back.

        Args:
            exchange: the admitted request.
            target: raw path with query, exactly as sent.
            route: its caps and lane.
            body: replaces the caller's body, which has been read then.

        Raises:
            PayloadTooLargeError, ReceiptTimeoutError: the body.
            UpstreamUnavailableError, UpstreamError, DeadlineExceededError: the service.
            ClientGoneError: the caller left.
        """
        sent: Body = await self._body(exchange, route.body_bytes_max) if body is None else body
        watch = CallerWatch(exchange, sent)
        try:
            await self._exchange(exchange, target, sent, route)
        except asyncio.CancelledError:
            watch.raise_if_gone()
            raise
        finally:
            watch.stop()

    async def _exchange(self, exchange: Exchange, target: str, body: Body, route: Route) -> None:
        """Hold a turn at the gate from the first try to the last byte of the answer."""
        await self.gate.enter(is_batch=route.lane == "batch", wait_s=_remaining_s(exchange))
        try:
            answer = await self._open_with_retry(exchange, target, body, route)
            try:
                await self._relay(exchange, answer)
            finally:
                answer.release()
        finally:
            self.gate.leave()

    async def _open_with_retry(
        self, exchange: Exchange, target: str, body: Body, route: Route
    ) -> Answer:
        """Call; once more where that is safe, in the budget, and time is left."""
        self.gate.budget.request(time.monotonic())
        may_retry = retries.may_retry(
            exchange.method, retry_safe=route.retry_safe, replayable=isinstance(body, bytes)
        )
        try:
            answer = await self._judged(exchange, target, body)
            if answer.status not in retries.RETRIED_STATUSES or not (
                may_retry and self.gate.may_retry()
            ):
                return answer
            answer.release()
        except (UpstreamError, UpstreamUnavailableError) as error:
            is_refusal = error.problem_code == "breaker_open"
            if is_refusal or not (may_retry and self.gate.may_retry()):
                raise
        if exchange.span:
            exchange.span.add_event("retry")
        await asyncio.sleep(min(retries.delay_s(random.random()), _remaining_s(exchange)))
        return await self._judged(exchange, target, body)

    async def _judged(self, exchange: Exchange, target: str, body: Body) -> Answer:
        """Call once, and let the breaker and the concurrency limit learn from the outcome."""
        self.gate.check_breaker()
        granted = _remaining_s(exchange)
        started = time.monotonic()
        span = exchange.child(f"upstream {exchange.method}", client=True)
        try:
            parent = traceparent_of(span) if span else None
            answer = await self._open(exchange, target, body, parent)
        except BaseException as error:
            self._blame(error, granted)
            if span:
                mark_failed(span, type(error).__name__)
            raise
        finally:
            if span:
                span.set_attribute("peer.service", self.service)
                span.end()
        if answer.status in _FAILURE_STATUSES:
            self.gate.failed()
        else:
            self.gate.succeeded(time.monotonic() - started)
        return answer

    def _blame(self, error: BaseException, granted_s: float) -> None:
        """Report a failed call; one that ended for the caller's reasons is no evidence."""
        if isinstance(error, UpstreamUnavailableError):
            self.gate.failed(connect=True)
        elif isinstance(error, UpstreamError) or (
            isinstance(error, DeadlineExceededError) and granted_s >= JUDGED_TIMEOUT_S
        ):
            self.gate.failed()
        else:
            self.gate.abandoned()

    async def _open(
        self, exchange: Exchange, target: str, body: Body, traceparent: str | None
    ) -> Answer:
        """Send the request and wait for status and headers of the answer."""
        remaining = _remaining_s(exchange)
        if remaining <= 0:
            raise DeadlineExceededError(f"No time left to call {self.service}.")
        try:
            connection = await self.pool.acquire(remaining)
            head = self._head(exchange, target, remaining, body, traceparent)
            is_head = exchange.method == "HEAD"
            if isinstance(body, bytes):
                answer = connection.send(head, body, is_head_request=is_head)
            else:
                answer = connection.send(head, b"", is_head_request=is_head)
            try:
                if isinstance(body, StreamedBody):
                    async with asyncio.timeout(remaining):
                        await _upload(connection, answer, body)
                await answer.wait_for_head(_remaining_s(exchange))
            except BaseException:
                answer.release()
                raise
        except (OSError, TimeoutError) as error:
            raise self._translated(error, remaining) from error
        return answer

    def _translated(self, error: Exception, waited_s: float) -> ServiceError:
        """Turn a failed call into what the caller may see."""
        if isinstance(error, ConnectFailedError):
            return UpstreamUnavailableError(f"{self.service} cannot be reached.", retry_after_s=1)
        if isinstance(error, TimeoutError):
            return DeadlineExceededError(
                f"{self.service} did not answer within {waited_s * 1e3:.0f} ms."
            )
        return UpstreamError(f"{self.service} broke the connection off.")

    async def _relay(self, exchange: Exchange, answer: Answer) -> None:
        """Pass the answer on: in one piece when it is small, else as it comes."""
        headers = for_caller(answer.headers)
        idle_s = self._stream_idle_s
        try:
            if answer.is_head_request or answer.status in (204, 304):
                await exchange.reply(answer.status, headers, b"")
                return
            if answer.length is not None and answer.length <= BUFFERED_BODY_BYTES_MAX:
                await answer.wait_for_end(idle_s)
            if answer.is_complete:
                await exchange.reply(answer.status, headers, answer.take())
                return
            await exchange.start(answer.status, headers)
            while not answer.is_drained:
                if not answer.parts:
                    await answer.wait(idle_s)
                if answer.parts:
                    await exchange.body(answer.take(), more=True)
            await exchange.body(b"")
        except (OSError, TimeoutError) as error:
            raise UpstreamError(f"{self.service} broke its answer off.") from error

    async def _body(self, exchange: Exchange, limit: int) -> Body:
        """Read a small body whole, so that the call can be repeated; stream any other."""
        fields = exchange.fields
        length = fields.get(b"content-length")
        if length is None and b"transfer-encoding" not in fields:
            await exchange.receive()  # the empty body, so that the next message is a disconnect
            return b""
        if length is not None:
            if int(length) > limit:
                raise too_large(limit)
            if int(length) <= BUFFERED_BODY_BYTES_MAX:
                return await exchange.read_body(limit)
        return StreamedBody(exchange, limit)

    def _head(
        self,
        exchange: Exchange,
        target: str,
        remaining: float,
        body: Body,
        traceparent: str | None,
    ) -> bytes:
        """Give request line and headers as sent.

        Raises:
            InternalError: a line break got into a value; nothing is sent then.
        """
        pool, context, scope, fields = self.pool, exchange.context, exchange.scope, exchange.fields
        lines = for_upstream(scope["headers"], fields.get(b"connection"))
        if isinstance(body, StreamedBody):
            lines.append(body.framing)
        elif body or exchange.method in _BODY_METHODS:
            lines.append(b"content-length: %d" % len(body))
        peer = scope["client"][0] if scope.get("client") else exchange.address
        scheme = scope["scheme"]
        if self._forwarded_hops:
            chain = exchange.text(b"x-forwarded-for")
            peer = f"{chain}, {peer}" if chain else peer
            scheme = exchange.text(b"x-forwarded-proto") or scheme
        own = (
            f"{exchange.method} {pool.prefix}{target} HTTP/1.1\r\nhost: {pool.authority}\r\n"
            f"x-forwarded-for: {peer}\r\nx-forwarded-proto: {scheme}\r\n"
            f"x-request-id: {context.request_id}\r\nx-correlation-id: {context.correlation_id}\r\n"
            f"x-request-deadline-ms: {int(remaining * 1000)}\r\n"
            f"traceparent: {traceparent or context.traceparent}\r\n"
        ).encode("latin-1")
        lines.append(b"x-forwarded-host: " + fields.get(b"host", b""))
        identity = self.identity(exchange)
        if identity:
            lines.append(_IDENTITY_NAME + b": " + identity.encode())
        head = own + b"\r\n".join(lines) + b"\r\n\r\n"
        # Every value came out of a parser that refuses line breaks; this is the second lock.
        if head.count(b"\n") != len(lines) + 9 or head.count(b"\r") != len(lines) + 9:
            raise InternalError("A header value holds a line break.")
        return head

    def identity(self, exchange: Exchange) -> str:
        """Give the signed identity of the caller for this service; empty in open mode."""
        if self._signer is None:
            return ""
        caller = exchange.context.caller
        if caller is None:
            return self._signer.header(self.service, principal="anonymous")
        return self._signer.header(
            self.service, tenant=caller.tenant, principal=caller.principal, scopes=caller.scopes
        )

    def close(self) -> None:
        """Close the connections."""
        self.pool.close()


async def _upload(connection: Connection, answer: Answer, body: StreamedBody) -> None:
    """Send a streamed body; an answer that comes before its end stops it."""
    async for part in body.framed():
        if answer.has_head:
            connection.keep_for_one_answer()
            return
        try:
            await connection.write(part)
        except BrokenOffError:
            # The service may have answered before it stopped reading.
            connection.keep_for_one_answer()
            return
