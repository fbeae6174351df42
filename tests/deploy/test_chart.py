"""The committed manifests: fresh, valid, hardened, with the edges of the catalogue."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.helm.render import CHART, EXAMPLES, sources
from deploy.local.env_example import declared
from libs.common.catalog import SERVICES

Document = dict[str, Any]
CASES = sorted(path.parent for path in EXAMPLES.glob("*/values.yaml"))
VALUES: Document = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Document = json.loads((CHART / "values.schema.json").read_text())
COMPONENT = "app.kubernetes.io/component"
# What the image's lifespan end may take to ship events, and a margin.
SHIP_S, MARGIN_S = 10, 5


def manifests() -> list[Document]:
    text = (EXAMPLES / "minimal" / "rendered" / "manifests.yaml").read_text()
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(documents: list[Document], kind: str) -> dict[str, Document]:
    return {
        document["metadata"]["labels"][COMPONENT]: document
        for document in documents
        if document["kind"] == kind
    }


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    for kind in ("Deployment", "Job"):
        for name, document in of_kind(documents, kind).items():
            yield name, document["spec"]["template"]["spec"]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_committed_manifests_are_rendered_from_these_sources(case: Any) -> None:
    committed = (case / "rendered" / "SOURCES.sha256").read_text()
    assert committed == sources(case), "render again: python -m deploy.helm.render"


@pytest.mark.parametrize("version", ["1.31", "1.34"])
def test_every_manifest_is_valid_for_kubernetes(version: str) -> None:
    for document in manifests():
        kubernetes_validate.validate(document, version, strict=True)


def restricted(documents: list[Document]) -> list[str]:
    """Name what breaks the restricted Pod Security standard."""
    faults = []
    for name, pod in pods(documents):
        context = pod["securityContext"]
        if not context.get("runAsNonRoot") or context["seccompProfile"]["type"] != "RuntimeDefault":
            faults.append(f"{name}: pod")
        for container in pod["containers"]:
            own = container["securityContext"]
            if (
                own.get("allowPrivilegeEscalation") is not False
                or own["capabilities"].get("drop") != ["ALL"]
                or not own.get("readOnlyRootFilesystem")
            ):
                faults.append(f"{name}: container")
        if pod.get("automountServiceAccountToken") is not False:
            faults.append(f"{name}: token")
    return faults


def probes(documents: list[Document]) -> list[str]:
    """Name the services whose probes are not the catalogue's."""
    faults = []
    for name, document in of_kind(documents, "Deployment").items():
        container = document["spec"]["template"]["spec"]["containers"][0]
        paths = {
            probe: container.get(f"{probe}Probe", {}).get("httpGet", {}).get("path")
            for probe in ("startup", "liveness", "readiness")
        }
        if paths != {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}:
            faults.append(name)
    return faults


def ports(documents: list[Document]) -> list[str]:
    """Name the services whose Service or container port is not the catalogue's."""
    deployments, faults = of_kind(documents, "Deployment"), []
    for name, service in of_kind(documents, "Service").items():
        port = service["spec"]["ports"][0]
        container = deployments[name]["spec"]["template"]["spec"]["containers"][0]["ports"][0]
        is_same = port["port"] == container["containerPort"] == SERVICES[name].port
        if not is_same or port["targetPort"] != container["name"]:
            faults.append(name)
    return faults


def selectors(documents: list[Document]) -> list[str]:
    """Name the services whose selectors miss their own pods."""
    services, faults = of_kind(documents, "Service"), []
    for name, document in of_kind(documents, "Deployment").items():
        labels = document["spec"]["template"]["metadata"]["labels"]
        wanted = [document["spec"]["selector"]["matchLabels"], services[name]["spec"]["selector"]]
        if any(not selector.items() <= labels.items() for selector in wanted):
            faults.append(name)
    return faults


def edges(documents: list[Document]) -> list[str]:
    """Name the services whose network policy is not the catalogue's graph."""
    allowed = {
        name: set(service.calls) | ({"audit"} if service.emits and name != "audit" else set())
        for name, service in SERVICES.items()
    }
    faults = []
    for name, policy in of_kind(documents, "NetworkPolicy").items():
        outward = _peers(policy["spec"]["egress"], "to")
        inward = _peers(policy["spec"]["ingress"], "from")
        callers = {peer for peer, targets in allowed.items() if name in targets}
        if outward != allowed[name] or inward != callers:
            faults.append(name)
    return faults


def _peers(rules: list[Document], side: str) -> set[str]:
    return {
        peer["podSelector"]["matchLabels"][COMPONENT]
        for rule in rules
        for peer in rule.get(side, [])
    }


def drain(documents: list[Document]) -> list[str]:
    """Name the services that could be killed before they have stopped."""
    faults = []
    for name, document in of_kind(documents, "Deployment").items():
        pod = document["spec"]["template"]["spec"]
        container = pod["containers"][0]
        environment = {item["name"]: item.get("value") for item in container["env"]}
        needed = (
            container["lifecycle"]["preStop"]["sleep"]["seconds"]
            + int(environment["SHUTDOWN_S"])
            + SHIP_S
            + MARGIN_S
        )
        if needed > pod["terminationGracePeriodSeconds"]:
            faults.append(name)
    return faults


POLICIES: list[Callable[[list[Document]], list[str]]] = [
    restricted,
    probes,
    ports,
    selectors,
    edges,
    drain,
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_the_manifests_keep_the_policy(policy: Callable[[list[Document]], list[str]]) -> None:
    assert policy(manifests()) == []


def _deployment(documents: list[Document]) -> Document:
    template: Document = of_kind(documents, "Deployment")["features"]["spec"]["template"]
    return template


FAULTS: dict[str, Callable[[list[Document]], object]] = {
    "restricted": lambda all_: _deployment(all_)["spec"]["securityContext"].pop("runAsNonRoot"),
    "probes": lambda all_: _deployment(all_)["spec"]["containers"][0].pop("livenessProbe"),
    "ports": lambda all_: of_kind(all_, "Service")["features"]["spec"]["ports"][0].update(port=1),
    "selectors": lambda all_: _deployment(all_)["metadata"]["labels"].pop(COMPONENT),
    "edges": lambda all_: of_kind(all_, "NetworkPolicy")["features"]["spec"]["egress"].pop(),
    "drain": lambda all_: _deployment(all_)["spec"].update(terminationGracePeriodSeconds=20),
}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_a_seeded_fault_is_caught(policy: Callable[[list[Document]], list[str]]) -> None:
    documents = copy.deepcopy(manifests())
    FAULTS[policy.__name__](documents)
    assert policy(documents) == ["features"] or any(
        "features" in fault for fault in policy(documents)
    )


def test_every_service_of_the_catalogue_is_deployed_with_its_resources() -> None:
    deployed = of_kind(manifests(), "Deployment")
    assert set(deployed) == set(SERVICES)
    for name, document in deployed.items():
        resources = document["spec"]["template"]["spec"]["containers"][0]["resources"]
        assert int(resources["limits"]["memory"].removesuffix("Mi")) >= SERVICES[name].memory_mib
        assert resources["limits"]["memory"] == resources["requests"]["memory"]
        assert "cpu" not in resources["limits"]


def test_environment_names_are_ones_that_settings_read() -> None:
    known = declared()
    for name, document in of_kind(manifests(), "Deployment").items():
        container = document["spec"]["template"]["spec"]["containers"][0]
        assert [item["name"] for item in container["env"] if item["name"] not in known] == [], name


def test_no_image_is_latest_and_no_manifest_holds_a_secret() -> None:
    for _, pod in pods(manifests()):
        assert all(":latest" not in item["image"] for item in pod["containers"])
    assert {"Secret", "ConfigMap"} & {document["kind"] for document in manifests()} == set()


def test_ports_and_edges_in_the_values_are_the_catalogues() -> None:
    for name, service in SERVICES.items():
        values = VALUES["services"][name]
        calls = set(service.calls) | ({"audit"} if service.emits and name != "audit" else set())
        assert values["port"] == service.port
        assert set(values["calls"]) == calls
        assert values["redis"] is service.redis


def test_the_values_fit_their_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)


BAD: dict[str, tuple[Callable[[Document], object], str]] = {
    "a typo": (lambda v: v.update(servces={}), "$"),
    "a mutable tag": (lambda v: v["image"].update(tag="latest"), "$.image.tag"),
    "replicas as text": (lambda v: v["defaults"].update(replicas="3"), "$.defaults.replicas"),
    "no database secret": (lambda v: v["postgres"].update(existingSecret=""), "$.postgres"),
    "an unknown peer": (
        lambda v: v["services"]["features"].update(calls=["oracle"]),
        "$.services.features.calls[0]",
    ),
    "a short digest": (lambda v: v["defaults"].update(digest="sha256:1"), "$.defaults.digest"),
    "a missing service": (lambda v: v["services"].pop("audit"), "$.services"),
}


@pytest.mark.parametrize("case", BAD, ids=list(BAD))
def test_wrong_values_are_refused_where_they_stand(case: str) -> None:
    change, where = BAD[case]
    values = copy.deepcopy(VALUES)
    change(values)
    errors = list(jsonschema.Draft7Validator(SCHEMA).iter_errors(values))
    assert any(error.json_path.startswith(where) for error in errors)
