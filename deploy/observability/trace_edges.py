"""The edges that a trace must show: which span is the child of which, by request.

Held against real exported spans by tests/e2e/test_observability.py, and against the catalogue
by tests/deploy. Read it beside a trace in Jaeger: an edge that is missing there is a defect.
"""

from dataclasses import dataclass

# What a caller's own span is called here.
CALLER = "caller"


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """One parent and its child; a span is named `service: name`."""

    parent: str
    child: str

    @property
    def services(self) -> tuple[str, str]:
        """The services of parent and child."""
        return self.parent.partition(":")[0], self.child.partition(":")[0]


def through_the_gateway(service: str, name: str, *within: str) -> tuple[Edge, ...]:
    """Give the edges of a proxied call: caller, gateway, service, and what the service does."""
    door, inner = f"gateway: {name}", f"{service}: {name}"
    out = f"gateway: upstream {name.partition(' ')[0]}"
    inside = (Edge(inner, f"{service}: {each}") for each in within)
    return (Edge(CALLER, door), Edge(door, out), Edge(out, inner), *inside)


# By request, as "METHOD template".
BY_REQUEST: dict[str, tuple[Edge, ...]] = {
    "POST /score/fraud": through_the_gateway("inference", "POST /score/fraud", "features.read"),
    "POST /score/personalization": through_the_gateway(
        "inference", "POST /score/personalization", "features.read"
    ),
    "POST /score/batch": through_the_gateway("inference", "POST /score/batch", "features.read"),
    "POST /v1/guardrails/validate": through_the_gateway(
        "guardrails", "POST /v1/guardrails/validate"
    ),
    "POST /features/events": through_the_gateway("features", "POST /features/events"),
    "POST /metrics/aggregated": through_the_gateway("analytics", "POST /metrics/aggregated"),
    "GET /v1/audit/events": through_the_gateway("audit", "GET /v1/audit/events"),
}
# What happens after the answer, in traces of its own.
AFTERWARDS: tuple[Edge, ...] = (
    Edge("inference: POST audit", "audit: POST /v1/audit/events:batch"),
    Edge("guardrails: POST audit", "audit: POST /v1/audit/events:batch"),
)
