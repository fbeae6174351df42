"""The catalogue is consistent with itself and with what was agreed on."""

import re

import pytest

from libs.common.catalog import NEIGHBOUR_PORTS, SERVICES, callers_of

EDGES = {
    "gateway": {"inference", "guardrails", "features", "analytics", "audit"},
    "inference": {"features", "audit"},
    "guardrails": {"inference", "audit"},
    "features": {"audit"},
    "analytics": {"audit"},
    "audit": {"guardrails"},
}


def test_the_edges_are_the_agreed_ones() -> None:
    assert {name: set(service.calls) for name, service in SERVICES.items()} == EDGES


def test_ports_are_the_agreed_ones_and_unique() -> None:
    ports = [service.port for service in SERVICES.values()]
    assert ports == [8080, 8081, 8082, 8083, 8084, 8085]
    assert not set(ports) & set(NEIGHBOUR_PORTS.values())


def test_audit_accepts_events_of_every_service() -> None:
    assert callers_of("audit") == set(SERVICES)
    assert callers_of("inference") == {"gateway", "guardrails"}


@pytest.mark.parametrize("name", SERVICES)
def test_routes_are_well_formed(name: str) -> None:
    for route in (*SERVICES[name].routes, *SERVICES[name].internal):
        assert route.path.startswith("/")
        assert route.summary
        assert route.method in {"GET", "POST", "PUT", "PATCH", "DELETE", "WS"}
        assert 0 < route.deadline_ms <= route.deadline_ms_max
        assert route.scope is None or re.fullmatch(r"[a-z_]+:[a-z_]+", route.scope)
        assert not (route.also_v1 and route.path.startswith("/v1/"))
