"""What remains of a finished request: one metric, one span, one log line, one point of traffic."""

import time
from collections.abc import Mapping

from opentelemetry.trace import Span

from libs.common.logging import access_line
from libs.common.metrics import HttpMetrics
from libs.common.telemetry import mark_failed
from services.gateway.adapters.exchange import Exchange
from services.gateway.domain.traffic import TrafficWindow

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
# Polled all day: counted, but neither logged nor shown as traffic.
_QUIET = frozenset({"/livez", "/readyz", "/ready", "/health", "/metrics", "/console/events"})


class Accounting:
    """Counts, traces and logs."""

    def __init__(self, metrics: HttpMetrics, traffic: Mapping[str, TrafficWindow]) -> None:
        self._metrics = metrics
        self._traffic = traffic
        self.in_flight = 0

    def started(self) -> float:
        """Count a request in; gives the time to hand to `finished`."""
        self._metrics.active.inc()
        self.in_flight += 1
        return time.perf_counter()

    def finished(self, exchange: Exchange, started: float) -> None:
        """Count a request out."""
        seconds = time.perf_counter() - started
        method, template, status = exchange.method, exchange.template, exchange.status
        if method not in _METHODS:
            method = "OTHER"
        self._metrics.active.dec()
        self.in_flight -= 1
        span = exchange.span
        self._metrics.observe(
            method, template, status, seconds, exchange.context.trace_id if span else ""
        )
        if span:
            _describe(exchange, span, method)
            span.end()
        is_quiet = template in _QUIET
        if not is_quiet:
            now, is_error = time.monotonic(), status >= 500
            self._traffic["all"].record(now, seconds, is_error=is_error)
            self._traffic[exchange.service].record(now, seconds, is_error=is_error)
        if not is_quiet or status >= 500:
            access_line(method, template, status, seconds, exchange.context)


def mark_span(exchange: Exchange, reason: str) -> None:
    """Mark the request's span, if it has one, as failed."""
    if exchange.span:
        mark_failed(exchange.span, reason)


def _describe(exchange: Exchange, span: Span, method: str) -> None:
    """Put on the span what a reader of the trace looks for."""
    span.update_name(f"{method} {exchange.template}")
    span.set_attribute("http.request.method", method)
    span.set_attribute("http.route", exchange.template)
    span.set_attribute("http.response.status_code", exchange.status)
    span.set_attribute("request.id", exchange.context.request_id)
    span.set_attribute("correlation.id", exchange.context.correlation_id)
    if exchange.context.caller:
        span.set_attribute("tenant.id", exchange.context.caller.tenant)
    if exchange.decisions:
        last = exchange.decisions[-1]
        span.set_attribute("ratelimit.policy", last.policy.name)
        span.set_attribute("ratelimit.remaining", last.remaining)
    if exchange.status >= 500:
        mark_failed(span, str(exchange.status))
