"""Small closed models of the custom resources that we render; the operators' schemas are larger."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Meta(Closed):
    name: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Relabeling(Closed):
    sourceLabels: list[str]  # noqa: N815 - the operator's name
    targetLabel: str  # noqa: N815 - as above


class Endpoint(Closed):
    port: str
    path: str
    interval: str
    relabelings: list[Relabeling]


class MonitorSpec(Closed):
    jobLabel: str  # noqa: N815 - as above
    selector: dict[Literal["matchLabels"], dict[str, str]]
    endpoints: list[Endpoint]


class Rule(Closed):
    alert: str | None = None
    record: str | None = None
    expr: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    model_config = ConfigDict(extra="allow")  # `for` is a keyword of Python


class Group(Closed):
    name: str
    interval: str | None = None
    rules: list[Rule]


class RuleSpec(Closed):
    groups: list[Group]


class Target(Closed):
    apiVersion: str  # noqa: N815 - as above
    kind: str
    name: str


class Trigger(Closed):
    type: Literal["prometheus"]
    metadata: dict[Literal["serverAddress", "query", "threshold"], str]


class Fallback(Closed):
    failureThreshold: int  # noqa: N815 - as above
    replicas: int


class ScaledSpec(Closed):
    scaleTargetRef: Target  # noqa: N815 - as above
    minReplicaCount: int  # noqa: N815 - as above
    maxReplicaCount: int  # noqa: N815 - as above
    cooldownPeriod: int  # noqa: N815 - as above
    fallback: Fallback
    triggers: list[Trigger]


class PathMatch(Closed):
    path: dict[Literal["type", "value"], str]


class Backend(Closed):
    name: str
    port: int


class RouteRule(Closed):
    matches: list[PathMatch]
    backendRefs: list[Backend]  # noqa: N815 - as above


class RouteSpec(Closed):
    parentRefs: list[dict[Literal["name", "namespace", "sectionName"], str]]  # noqa: N815 - as above
    hostnames: list[str] = []
    rules: list[RouteRule]


class SecretSpec(Closed):
    refreshInterval: str  # noqa: N815 - as above
    secretStoreRef: dict[Literal["name", "kind"], str]  # noqa: N815 - as above
    target: dict[Literal["name", "creationPolicy"], str]
    dataFrom: list[dict[Literal["extract"], dict[Literal["key"], str]]]  # noqa: N815 - as above


SPECS: dict[tuple[str, str], type[Closed]] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): MonitorSpec,
    ("monitoring.coreos.com/v1", "PrometheusRule"): RuleSpec,
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledSpec,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): RouteSpec,
    ("external-secrets.io/v1", "ExternalSecret"): SecretSpec,
}


def check(document: dict[str, Any]) -> None:
    """Validate one custom resource.

    Raises:
        ValidationError: its shape is not the operator's.
    """
    Meta.model_validate(document["metadata"])
    SPECS[document["apiVersion"], document["kind"]].model_validate(document["spec"])
