"""Traces: OTLP over HTTP, batched, flushed on shutdown; server and client spans written by hand.

Span names are low-cardinality (`POST /score/fraud`, never a raw path). Without an endpoint nothing
is exported, but ids are still made and passed on so that logs and problems can be joined.
`opentelemetry-exporter-jaeger` is not used: it does not import with a current SDK (ADR 0002).
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database,gen_ai_latest_experimental")

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from libs.common.ids import parse_traceparent


class Telemetry:
    """The process's tracer; `configure` makes one, tests make their own."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("gatehouse") if provider else trace.NoOpTracer()

    @property
    def enabled(self) -> bool:
        """Whether spans are exported at all."""
        return self._provider is not None

    def start_server_span(
        self, name: str, traceparent: str | None, *, linked: str | None = None
    ) -> Span:
        """Start the span of an incoming request as a child of the caller's, if there is one.

        Args:
            name: low-cardinality.
            traceparent: of a caller whose trace is continued, its sampling followed.
            linked: of a caller who is not trusted so far: the new trace only points at it.
        """
        context = None
        parent = _remote_context(traceparent)
        if parent:
            if not parent.trace_flags.sampled:
                return NonRecordingSpan(parent)  # whoever began the trace does not record it
            context = trace.set_span_in_context(NonRecordingSpan(parent))
        other = _remote_context(linked)
        links = [trace.Link(other)] if other else None
        return self._tracer.start_span(name, context=context, kind=SpanKind.SERVER, links=links)

    def start_child_span(self, name: str, parent: Span, *, client: bool = False) -> Span:
        """Start a child of `parent`; the caller ends it."""
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        return self._tracer.start_span(name, trace.set_span_in_context(parent), kind)

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, Any] | None = None, *, client: bool = False
    ) -> Iterator[Span]:
        """Open a child of the current span around a block; errors mark it as failed.

        Args:
            name: low-cardinality, for example `features.read`.
            attributes: closed-set values only.
            client: the block calls another process.
        """
        parent = trace.get_current_span()
        if not parent.is_recording() and parent.get_span_context().is_valid:
            yield parent  # this request is not sampled
            return
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        with self._tracer.start_as_current_span(name, kind=kind, attributes=attributes) as span:
            yield span

    def linked_span(
        self,
        name: str,
        members: Sequence[Span],
        seconds: float,
        attributes: Mapping[str, Any],
    ) -> None:
        """Record work that several requests shared and that ended now; links point both ways.

        It is a child of the first member, so that it is sampled whenever a member is.

        Args:
            name: low-cardinality, for example `inference.batch`.
            members: recording spans of the requests, at least one.
            seconds: how long the work took.
            attributes: closed-set values only.
        """
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(members[0]),
            links=[trace.Link(member.get_span_context()) for member in members],
            attributes=attributes,
            start_time=ended_ns - int(seconds * 1e9),
        )
        for member in members:
            member.add_link(span.get_span_context())
        span.end(ended_ns)

    def shutdown(self) -> None:
        """Flush what is buffered, within the exporter's own time bound."""
        if self._provider:
            self._provider.shutdown()


def configure_telemetry(
    service: str,
    *,
    endpoint: str | None,
    ratio: float,
    environment: str = "development",
    exporter: SpanExporter | None = None,
) -> Telemetry:
    """Build the process's tracer.

    Args:
        service: `service.name` of the resource.
        endpoint: OTLP/HTTP base URL, without `/v1/traces`; None switches exporting off.
        ratio: share of new traces recorded; a sampled parent is always followed.
        environment: deployment name.
        exporter: replaces the OTLP exporter, in tests.
    """
    if exporter is None:
        if endpoint is None:
            return Telemetry(None)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=2)
    resource = Resource.create(
        {"service.name": f"gatehouse-{service}", "deployment.environment.name": environment}
    )
    provider = TracerProvider(
        resource=resource, sampler=ParentBased(TraceIdRatioBased(ratio)), shutdown_on_exit=False
    )
    provider.add_span_processor(
        BatchSpanProcessor(exporter, schedule_delay_millis=1000, max_queue_size=4096)
    )
    return Telemetry(provider)


def _remote_context(traceparent: str | None) -> SpanContext | None:
    parsed = parse_traceparent(traceparent)
    if not parsed:
        return None
    trace_id, span_id, sampled = parsed
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT),
    )


def traceparent_of(span: Span) -> str | None:
    """Give the W3C header that makes the next hop a child of `span`."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    sampled = "01" if context.trace_flags & TraceFlags.SAMPLED else "00"
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{sampled}"


def current_traceparent() -> str | None:
    """Give the header for the span that is current in this task."""
    return traceparent_of(trace.get_current_span())


def mark_failed(span: Span, reason: str) -> None:
    """Mark a span as failed; for real faults only, not for refused requests."""
    span.set_status(Status(StatusCode.ERROR, reason))


_process_telemetry = Telemetry(None)


def install(telemetry: Telemetry) -> None:
    """Make `telemetry` the one that `get_telemetry` gives; called once by the app factory."""
    global _process_telemetry
    _process_telemetry = telemetry


def get_telemetry() -> Telemetry:
    """Give the process's tracer."""
    return _process_telemetry
