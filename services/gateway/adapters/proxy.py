"""The streaming proxy to one service: bytes through in both directions, one judgement per call.

An instance is chosen for each try; a repeated one goes elsewhere when there is an elsewhere. The
answer's connection is released in `finally` here, not in a body generator: a generator that is
never started would leak it.
"""

import asyncio
import random
import time

from libs.common.catalog import Route
from libs.common.errors import DeadlineExceededError, ServiceError
from libs.common.identity import Signer
from libs.common.telemetry import mark_failed, traceparent_of
from services.gateway.adapters.exchange import Exchange, too_large
from services.gateway.adapters.gate import JUDGED_TIMEOUT_S, Gate
from services.gateway.adapters.instances import Instance, Instances
from services.gateway.adapters.relay import WHOLE_BYTES_MAX, relay
from services.gateway.adapters.streamed_body import CallerWatch, StreamedBody
from services.gateway.adapters.upstream_head import request_head
from services.gateway.adapters.wire import (
    Answer,
    BrokenOffError,
    ConnectFailedError,
    Connection,
)
from services.gateway.domain import retries
from services.gateway.errors import UpstreamError, UpstreamUnavailableError

# Bodies up to this size are read before the call, so that the call can be repeated.
BUFFERED_BODY_BYTES_MAX = WHOLE_BYTES_MAX
# What this hop keeps for itself of the remaining deadline.
HOP_MARGIN_S = 0.005
_NO_DEADLINE_S = 5.0
# 501 is an honest answer and 503 a shed: neither means that the service is broken.
_FAILURE_STATUSES = frozenset({500, 502, 504})
_READS = frozenset({"GET", "HEAD"})

Body = bytes | StreamedBody


def _remaining_s(exchange: Exchange) -> float:
    """Give the seconds of the deadline that the next hop may use."""
    deadline = exchange.context.deadline
    return (deadline - time.monotonic() if deadline else _NO_DEADLINE_S) - HOP_MARGIN_S


class Upstream:
    """Calls one service on behalf of callers."""

    def __init__(
        self,
        instances: Instances,
        signer: Signer | None,
        gate: Gate,
        *,
        stream_idle_s: float,
        forwarded_hops: int,
        hedge_after_s: float = 0.0,
    ) -> None:
        self.service = instances.service
        self.instances = instances
        self._signer = signer
        self.gate = gate
        self._stream_idle_s = stream_idle_s
        self._forwarded_hops = forwarded_hops
        self._hedge_after_s = hedge_after_s if len(instances) > 1 else 0.0

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
        watch = CallerWatch(exchange)
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
                await relay(exchange, answer, self._stream_idle_s)
            except (OSError, TimeoutError) as error:
                raise UpstreamError(f"{self.service} broke its answer off.") from error
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
        first = self.instances.pick(exchange.model)
        try:
            if self._hedge_after_s and exchange.method in _READS and body == b"":
                answer = await self._hedged(exchange, target, first)
            else:
                answer = await self._judged(exchange, target, body, first)
            if answer.status not in retries.RETRIED_STATUSES or not (
                may_retry and self.gate.may_retry()
            ):
                return answer
            answer.release()
        except (UpstreamError, UpstreamUnavailableError) as error:
            if error.problem_code == "breaker_open":
                raise
            other = self.instances.pick(exchange.model, avoid=first)
            if isinstance(error, UpstreamUnavailableError) and other is not first:
                # Nothing was sent so far: asking another instance repeats nothing.
                if isinstance(body, bytes):
                    return await self._judged(exchange, target, body, other)
                raise
            if not (may_retry and self.gate.may_retry()):
                raise
        if exchange.span:
            exchange.span.add_event("retry")
        await asyncio.sleep(min(retries.delay_s(random.random()), _remaining_s(exchange)))
        second = self.instances.pick(exchange.model, avoid=first)
        return await self._judged(exchange, target, body, second)

    async def _hedged(self, exchange: Exchange, target: str, first: Instance) -> Answer:
        """Ask a second instance when the first is late; the sooner answer wins.

        The second call comes out of the retry budget. The loser is cancelled, which closes its
        connection.
        """
        calls = [asyncio.create_task(self._judged(exchange, target, b"", first))]
        won = None
        try:
            await asyncio.wait(calls, timeout=self._hedge_after_s)
            second = first
            if not calls[0].done():
                second = self.instances.pick(exchange.model, avoid=first)
            if second is not first and self.gate.may_hedge():
                calls.append(asyncio.create_task(self._judged(exchange, target, b"", second)))
            won = await _first_answer(calls)
            return won.result()
        finally:
            for call in calls:
                if call is not won:
                    call.cancel()
                    call.add_done_callback(_drop)

    async def _judged(
        self, exchange: Exchange, target: str, body: Body, instance: Instance
    ) -> Answer:
        """Call once, and let breaker, concurrency limit and instance learn from the outcome."""
        self.gate.check_breaker()
        granted = _remaining_s(exchange)
        started = time.monotonic()
        span = exchange.child(f"upstream {exchange.method}", client=True)
        try:
            parent = traceparent_of(span) if span else None
            answer = await self._open(exchange, target, body, parent, instance)
        except BaseException as error:
            self._blame(error, granted, instance)
            if span:
                mark_failed(span, type(error).__name__)
            raise
        finally:
            if span:
                span.set_attribute("peer.service", self.service)
                span.end()
        if answer.status in _FAILURE_STATUSES:
            self.gate.failed()
            self.instances.failed(instance)
        else:
            self.gate.succeeded(time.monotonic() - started)
            self.instances.succeeded(instance)
        return answer

    def _blame(self, error: BaseException, granted_s: float, instance: Instance) -> None:
        """Report a failed call; one that ended for the caller's reasons is no evidence."""
        is_connect = isinstance(error, UpstreamUnavailableError)
        is_late = isinstance(error, DeadlineExceededError) and granted_s >= JUDGED_TIMEOUT_S
        if is_connect or is_late or isinstance(error, UpstreamError):
            self.gate.failed(connect=is_connect)
            self.instances.failed(instance)
        else:
            self.gate.abandoned()

    async def _open(
        self,
        exchange: Exchange,
        target: str,
        body: Body,
        traceparent: str | None,
        instance: Instance,
    ) -> Answer:
        """Send the request and wait for status and headers of the answer."""
        remaining = _remaining_s(exchange)
        if remaining <= 0:
            raise DeadlineExceededError(f"No time left to call {self.service}.")
        try:
            connection = await instance.pool.acquire(remaining)
            head = request_head(
                exchange,
                target,
                instance.pool,
                body,
                remaining_s=remaining,
                traceparent=traceparent,
                identity=self.identity(exchange),
                forwarded_hops=self._forwarded_hops,
            )
            is_head = exchange.method == "HEAD"
            sent = body if isinstance(body, bytes) else b""
            answer = connection.send(head, sent, is_head_request=is_head)
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

    def identity(self, exchange: Exchange) -> str:
        """Give the signed identity of the caller for this service; empty in open mode."""
        if self._signer is None:
            return ""
        caller = exchange.context.caller
        if caller is None:
            return self._signer.header(self.service, principal="anonymous")
        scopes = caller.scopes
        if exchange.opened is not None:
            scopes |= {exchange.opened}
        return self._signer.header(
            self.service, tenant=caller.tenant, principal=caller.principal, scopes=scopes
        )

    def close(self) -> None:
        """Close the connections."""
        self.instances.close()


async def _first_answer(calls: list["asyncio.Task[Answer]"]) -> "asyncio.Task[Answer]":
    """Give the first call with an answer; a failed one when none has any."""
    waiting = set(calls)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        won = [call for call in done if not call.cancelled() and call.exception() is None]
        if won or not waiting:
            return (won or list(done))[0]


def _drop(call: "asyncio.Task[Answer]") -> None:
    """Release an answer that nobody waits for any more."""
    if not call.cancelled() and call.exception() is None:
        call.result().release()


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
