"""The gate in front of one upstream: breaker, adaptive concurrency, bounded queue, retry budget.

Live calls go before batch ones; batch may fill nine tenths of the limit. A queued call leaves when
its deadline passes: it is shed with 503, never sent to be thrown away.
"""

import asyncio
import time
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge

from libs.common.logging import get_logger
from services.gateway.adapters.lazy_clock import LazyClock
from services.gateway.domain.breaker import Breaker
from services.gateway.domain.gradient import Gradient
from services.gateway.domain.retries import RetryBudget
from services.gateway.errors import UpstreamUnavailableError

log = get_logger()

_QUEUE_MAX = 2_048
_BATCH_SHARE = 0.9
# A caller who grants less than this cannot make a service look slow for everybody.
JUDGED_TIMEOUT_S = 1.0
_LOOK_EVERY_S = 0.01
_NEVER = float("inf")
_STATE_NUMBERS = {"closed": 0, "half_open": 1, "open": 2}


class GateMetrics:
    """What the gates of all upstreams measure."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"gatehouse_gateway_{name}", text, ("upstream",), registry=registry)

        self.limit = gauge("concurrency_limit", "Calls that may be in flight to a service.")
        self.in_flight = gauge("upstream_in_flight", "Calls in flight to a service.")
        self.queued = gauge("upstream_queued", "Calls that wait for their turn.")
        self.breaker = gauge("breaker_state", "0 closed, 1 half open, 2 open.")
        self.outcomes = Counter(
            "gatehouse_gateway_upstream_outcomes_total",
            "Calls by outcome; rejected means by the breaker.",
            ("upstream", "outcome"),
            registry=registry,
        )


class _Turn(asyncio.Future[None]):
    """A call that waits; `until` is the monotonic time at which it gives up."""

    until: float


class Gate:
    """Admits calls to one upstream and learns from their outcomes."""

    def __init__(self, service: str, metrics: GateMetrics, *, calls_max: int = 1_024) -> None:
        self.service = service
        self.budget = RetryBudget()
        self._breaker = Breaker()
        self._gradient = Gradient(
            initial=min(256, calls_max), smallest=min(64, calls_max), largest=calls_max
        )
        self._in_flight = 0
        self._live: deque[_Turn] = deque()
        self._batch: deque[_Turn] = deque()
        self._clock: LazyClock | None = None  # made in the loop, with the first call that waits
        self._look_at = _NEVER
        self._outcomes = {
            name: metrics.outcomes.labels(service, name)
            for name in ("ok", "failed", "shed", "rejected", "retried", "retry_refused", "hedged")
        }
        metrics.limit.labels(service).set_function(lambda: self._gradient.limit)
        metrics.in_flight.labels(service).set_function(lambda: self._in_flight)
        metrics.queued.labels(service).set_function(lambda: len(self._live) + len(self._batch))
        metrics.breaker.labels(service).set_function(lambda: _STATE_NUMBERS[self._breaker.state])

    async def enter(self, *, is_batch: bool, wait_s: float) -> None:
        """Wait for a turn.

        Raises:
            UpstreamUnavailableError: the queue is full, or no turn came within `wait_s`.
        """
        is_first = not self._live and not (is_batch and self._batch)
        if is_first and self._has_room(is_batch=is_batch):
            self._in_flight += 1
            return
        if len(self._live) + len(self._batch) >= _QUEUE_MAX:
            raise self._shed("too many calls wait already")
        await self._wait(self._batch if is_batch else self._live, max(0.0, wait_s))

    async def _wait(self, queue: "deque[_Turn]", seconds: float) -> None:
        """Stand in line; first come, first served within a lane."""
        loop = asyncio.get_running_loop()
        if self._clock is None:
            self._clock = LazyClock(loop, self._shed_late)
        turn = _Turn(loop=loop)
        turn.until = time.monotonic() + seconds
        queue.append(turn)
        self._look_at = min(turn.until, self._look_at)
        self._clock.set(self._look_at)
        try:
            await turn
        except TimeoutError:
            raise self._shed("its turn did not come in time") from None
        except asyncio.CancelledError:
            self._withdraw(queue, turn)
            raise

    def leave(self) -> None:
        """Give the turn on."""
        self._in_flight -= 1
        self._wake()

    def check_breaker(self) -> None:
        """Ask the breaker.

        Raises:
            UpstreamUnavailableError: it is open.
        """
        wait = self._breaker.wait_s(time.monotonic())
        if wait:
            self._outcomes["rejected"].inc()
            raise UpstreamUnavailableError(
                f"{self.service} keeps failing and is left alone for a moment.",
                code="breaker_open",
                retry_after_s=max(1, round(wait)),
            )

    def succeeded(self, seconds: float) -> None:
        """Report a good answer and its time to the first byte."""
        before = self._breaker.state
        self._breaker.succeeded(time.monotonic())
        self._note(before)
        self._gradient.sample(seconds, self._in_flight)
        self._outcomes["ok"].inc()

    def failed(self, *, connect: bool = False) -> None:
        """Report a failed call."""
        before = self._breaker.state
        self._breaker.failed(time.monotonic(), connect=connect)
        self._note(before)
        self._gradient.dropped()
        self._outcomes["failed"].inc()

    def abandoned(self) -> None:
        """Report a call that ended without a judgement."""
        self._breaker.abandoned()

    def may_retry(self) -> bool:
        """Take a retry from the budget."""
        allowed = self._breaker.state == "closed" and self.budget.allow(time.monotonic())
        self._outcomes["retried" if allowed else "retry_refused"].inc()
        return allowed

    def may_hedge(self) -> bool:
        """Take a second call beside a late one from the same budget; refusing it harms nobody."""
        allowed = self._breaker.state == "closed" and self.budget.allow(time.monotonic())
        if allowed:
            self._outcomes["hedged"].inc()
        return allowed

    def _note(self, before: str) -> None:
        if self._breaker.state != before:
            log.warning("breaker changed", upstream=self.service, state=self._breaker.state)

    def _has_room(self, *, is_batch: bool) -> bool:
        limit = self._gradient.limit
        return self._in_flight < (int(limit * _BATCH_SHARE) if is_batch else limit)

    def _wake(self) -> None:
        for queue, is_batch in ((self._live, False), (self._batch, True)):
            while queue and self._has_room(is_batch=is_batch):
                turn = queue.popleft()
                if not turn.done():
                    self._in_flight += 1
                    turn.set_result(None)

    def _shed_late(self) -> None:
        """Send away whose time is over; look again when the next one's is."""
        now = time.monotonic()
        self._look_at = _NEVER
        for queue in (self._live, self._batch):
            waiting = list(queue)
            queue.clear()
            for turn in waiting:
                if turn.until > now:
                    queue.append(turn)
                    self._look_at = min(self._look_at, turn.until)
                elif not turn.done():
                    turn.set_exception(TimeoutError())
        if self._clock is not None and self._look_at < _NEVER:
            # Callers with many different deadlines must not have the queue walked for each.
            self._look_at = max(self._look_at, now + _LOOK_EVERY_S)
            self._clock.set(self._look_at)

    def _withdraw(self, queue: "deque[_Turn]", turn: "_Turn") -> None:
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.leave()  # the turn came at the very moment of giving up
        elif turn in queue:
            queue.remove(turn)

    def _shed(self, why: str) -> UpstreamUnavailableError:
        self._outcomes["shed"].inc()
        return UpstreamUnavailableError(
            f"{self.service} is at its limit: {why}.", code="shed", retry_after_s=1
        )
