"""Prometheus metrics: one registry per app, names checked, OpenMetrics with exemplars on request.

Labels come from closed sets: route templates, statuses, model names. Never a user, tenant, key or
raw path. `_created` series are switched off.
"""

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

disable_created_metrics()  # type: ignore[no-untyped-call] # the package leaves it unannotated

# 15 us x 1.5^n, 35 buckets up to 14.6 s: fine where answers are fast, wide where they are not. The
# two objectives for latency (150 and 300 ms) are bounds of their own, so that alerts count exactly.
DURATION_BUCKETS: tuple[float, ...] = tuple(
    sorted({0.15, 0.3, *(15e-6 * 1.5**power for power in range(35))})
)


class HttpMetrics:
    """What every service measures about its own requests."""

    def __init__(self, service: str, registry: CollectorRegistry) -> None:
        labels = ("method", "route", "status")
        self.requests = Counter(
            f"gatehouse_{service}_http_requests_total",
            "Requests by route template and status.",
            labels,
            registry=registry,
        )
        self.duration = Histogram(
            f"gatehouse_{service}_http_request_duration_seconds",
            "Time from the first byte in to the last byte out.",
            ("method", "route"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.active = Gauge(
            f"gatehouse_{service}_http_requests_active",
            "Requests in flight.",
            registry=registry,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(
        self, method: str, route: str, status: int, seconds: float, trace_id: str = ""
    ) -> None:
        """Record one finished request; `trace_id` becomes the exemplar when there is one."""
        key = (method, route, status)
        children = self._children.get(key)
        if children is None:
            children = (
                self.requests.labels(method, route, str(status)),
                self.duration.labels(method, route),
            )
            self._children[key] = children
        counter, histogram = children
        counter.inc()
        histogram.observe(seconds, {"trace_id": trace_id} if trace_id else None)


class DependencyMetrics:
    """Whether the things this service leans on answer."""

    def __init__(self, service: str, registry: CollectorRegistry) -> None:
        self.up = Gauge(
            f"gatehouse_{service}_dependency_up",
            "1 when the dependency answered last time, else 0.",
            ("dependency",),
            registry=registry,
        )


class ProcessMetrics:
    """Memory, processor time and open files of the process, and which version it runs."""

    def __init__(self, service: str, version: str, registry: CollectorRegistry) -> None:
        ProcessCollector(registry=registry)
        Gauge(
            "gatehouse_build_info",
            "Always 1; the labels say which service and version this is.",
            ("service", "version"),
            registry=registry,
        ).labels(service, version).set(1)


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Render the registry in the format that the scraper asked for.

    Returns:
        Body and content type; OpenMetrics (with exemplars) when `accept` asks for it.
    """
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


def metric_names(registry: CollectorRegistry) -> Iterable[str]:
    """List the metric names of a registry, for the tests that hold the docs to the code."""
    return sorted({metric.name for metric in registry.collect()})
