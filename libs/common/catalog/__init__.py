"""The one table of services, ports, routes, edges and backends.

The local runner, compose, the Helm chart, the gateway and the README are tested against it. Each
service's entry lies in a module of its own; this one assembles them and answers questions.
"""

from libs.common.catalog.analytics import ANALYTICS
from libs.common.catalog.audit import AUDIT
from libs.common.catalog.features import FEATURES
from libs.common.catalog.gateway import GATEWAY
from libs.common.catalog.guardrails import GUARDRAILS
from libs.common.catalog.inference import INFERENCE
from libs.common.catalog.model import Route, Service

SERVICES: dict[str, Service] = {
    service.name: service
    for service in (GATEWAY, INFERENCE, GUARDRAILS, FEATURES, ANALYTICS, AUDIT)
}

# Ports of the neighbours that the suite knows but does not own.
NEIGHBOUR_PORTS: dict[str, int] = {
    "witness": 8086,
    "otlp_sink": 4318,
    "mlflow": 5000,
    "pgadmin": 5050,
    "jaeger_ui": 16686,
    "prometheus": 9090,
    "grafana": 3000,
    "postgres": 5432,
    "redis": 6379,
}


def callers_of(service: str) -> frozenset[str]:
    """Name the services that may call `service`; a receiver accepts identities of no other."""
    callers = {name for name, entry in SERVICES.items() if service in entry.calls}
    if service == "audit":
        callers |= {name for name, entry in SERVICES.items() if entry.emits}
    return frozenset(callers)


__all__ = ["NEIGHBOUR_PORTS", "SERVICES", "Route", "Service", "callers_of"]
