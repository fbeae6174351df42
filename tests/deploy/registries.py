"""The metrics that the services really register, by name, from their own classes."""

import functools
import inspect
from typing import Any, cast

from prometheus_client import CollectorRegistry

from libs.common.catalog import SERVICES
from libs.common.events.log import EventMetrics
from libs.common.metrics import DependencyMetrics, HttpMetrics, ProcessMetrics
from services.analytics.adapters.tail import TailMetrics
from services.analytics.reports import ReportMetrics
from services.audit.state import AuditMetrics
from services.features.adapters.applier import ApplierMetrics
from services.features.ingest import Ingestion
from services.gateway.adapters.admission import Admission
from services.gateway.adapters.gate import GateMetrics
from services.gateway.settings import GatewaySettings
from services.guardrails.metrics import GuardMetrics
from services.inference.metrics import InferenceMetrics


@functools.cache
def registered() -> dict[str, tuple[str, ...]]:
    """Give each series name with its label names (without `le`)."""
    registry = CollectorRegistry()
    # Gauges with a function are not collected here, so what they read may be absent.
    nothing: Any = None
    for name in SERVICES:
        HttpMetrics(name, registry)
        DependencyMetrics(name, registry)
        EventMetrics(name, registry, nothing)
    InferenceMetrics(registry)
    GuardMetrics(registry)
    ApplierMetrics(registry)
    TailMetrics(registry)
    ReportMetrics(registry)
    AuditMetrics(registry)
    GateMetrics(registry)
    Ingestion(nothing, registry)
    needed = dict.fromkeys(inspect.signature(Admission).parameters, nothing)
    Admission(**{**needed, "settings": GatewaySettings(), "registry": registry})
    collectors = cast("dict[str, Any]", registry._names_to_collectors)
    known: dict[str, tuple[str, ...]] = {
        sample.name: tuple(sample.labels)
        for name in SERVICES
        for metric in _process(name).collect()
        for sample in metric.samples
    }
    return known | {
        name: tuple(getattr(collector, "_labelnames", ())) for name, collector in collectors.items()
    }


def _process(service: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessMetrics(service, "0", registry)
    return registry
