"""What the rendered manifests must keep: each policy names the objects that break it."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from libs.common.catalog import SERVICES

Document = dict[str, Any]
COMPONENT = "app.kubernetes.io/component"
WORKLOADS = ("Deployment", "StatefulSet")
# What the lifespan's end may take to ship events, and a margin.
SHIP_S, MARGIN_S = 10, 5
# Objects that the installation expects to exist; the chart's documentation lists them.
EXTERNAL = {
    ("Secret", "gatehouse-postgres"),
    ("Secret", "gatehouse-redis"),
    ("Secret", "gatehouse-keys"),
    ("Secret", "gatehouse-pepper"),
    ("Secret", "gatehouse-gemini"),
    ("Secret", "gatehouse-smoke-key"),
    ("Secret", "store-authority"),
    ("ConfigMap", "gatehouse-public-keys"),
    ("PersistentVolumeClaim", "model-repository"),
}


def component(document: Document) -> str:
    return str(document["metadata"].get("labels", {}).get(COMPONENT, ""))


def of_kind(documents: list[Document], *kinds: str) -> dict[str, Document]:
    return {component(d): d for d in documents if d["kind"] in kinds}


def workloads(documents: list[Document]) -> dict[str, Document]:
    """The six services, whichever kind runs them."""
    found = of_kind(documents, *WORKLOADS)
    return {name: document for name, document in found.items() if name in SERVICES}


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    for document in documents:
        if document["kind"] == "Pod":
            yield component(document), document["spec"]
        elif document["kind"] in (*WORKLOADS, "Job"):
            yield component(document), document["spec"]["template"]["spec"]


def containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def first(document: Document) -> Document:
    found: Document = document["spec"]["template"]["spec"]["containers"][0]
    return found


def restricted(documents: list[Document]) -> list[str]:
    """Pod Security Standard `restricted`, plus a read-only root and no token."""
    faults = []
    for name, pod in pods(documents):
        context = pod.get("securityContext", {})
        if (
            context.get("runAsNonRoot") is not True
            or context.get("seccompProfile", {}).get("type") != "RuntimeDefault"
            or pod.get("automountServiceAccountToken") is not False
            or {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
            or any("hostPath" in volume for volume in pod.get("volumes", []))
        ):
            faults.append(name)
        for each in containers(pod):
            own = each.get("securityContext", {})
            if (
                own.get("allowPrivilegeEscalation") is not False
                or own.get("capabilities", {}).get("drop") != ["ALL"]
                or own.get("readOnlyRootFilesystem") is not True
                or own.get("privileged")
            ):
                faults.append(name)
    return faults


def probes(documents: list[Document]) -> list[str]:
    """Three probes, on the catalogue's paths, and a start-up budget inside the rollout's."""
    faults = []
    for name, document in workloads(documents).items():
        own = first(document)
        paths = {
            kind: own.get(f"{kind}Probe", {}).get("httpGet", {}).get("path")
            for kind in ("startup", "liveness", "readiness")
        }
        if paths != {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}:
            faults.append(name)
            continue
        budget = own["startupProbe"]["periodSeconds"] * own["startupProbe"]["failureThreshold"]
        if document["spec"].get("progressDeadlineSeconds", budget + 1) <= budget:
            faults.append(name)
    return faults


def ports(documents: list[Document]) -> list[str]:
    """Each Service port is named, backed by a container port, and the catalogue's."""
    running, faults = of_kind(documents, *WORKLOADS), []
    for name, service in of_kind(documents, "Service").items():
        port = service["spec"]["ports"][0]
        backing = first(running[name])["ports"][0]
        is_backed = port.get("name") and port["targetPort"] == backing["name"]
        is_known = name not in SERVICES or port["port"] == SERVICES[name].port
        if not is_backed or not is_known or port["port"] != backing["containerPort"]:
            faults.append(name)
    return faults


def selectors(documents: list[Document]) -> list[str]:
    """Whatever selects pods finds those of its own component."""
    faults = []
    labels = {
        name: document["spec"]["template"]["metadata"]["labels"]
        for name, document in of_kind(documents, *WORKLOADS, "Job").items()
    }
    labels |= {name: d["metadata"]["labels"] for name, d in of_kind(documents, "Pod").items()}
    for document in documents:
        name, spec = component(document), document.get("spec", {})
        wanted: Document | None = None
        if document["kind"] == "Service":
            wanted = spec["selector"]
        elif document["kind"] in (*WORKLOADS, "PodDisruptionBudget"):
            wanted = spec["selector"]["matchLabels"]
        elif document["kind"] == "NetworkPolicy" and name in labels:
            wanted = spec["podSelector"]["matchLabels"]
        if wanted is not None and not wanted.items() <= labels[name].items():
            faults.append(name)
    return faults


def allowed() -> dict[str, set[str]]:
    """The catalogue's edges."""
    return {
        name: set(service.calls) | ({"audit"} if service.emits and name != "audit" else set())
        for name, service in SERVICES.items()
    }


def edges(documents: list[Document]) -> list[str]:
    """The network policies are the catalogue's graph, and deny all else in both directions."""
    graph, faults = allowed(), []
    policies = of_kind(documents, "NetworkPolicy")
    for name in graph:
        spec = policies.get(name, {}).get("spec", {})
        if set(spec.get("policyTypes", ())) != {"Ingress", "Egress"}:
            faults.append(name)
            continue
        callers = {peer for peer, targets in graph.items() if name in targets}
        if (
            _peers(spec["egress"], "to") & set(graph) != graph[name]
            or _peers(spec["ingress"], "from") & set(graph) != callers
            or (name != "gateway" and any("from" not in rule for rule in spec["ingress"]))
            or any(set(rule) <= {"to"} for rule in spec["egress"])
        ):
            faults.append(name)
    return faults


def _peers(rules: list[Document], side: str) -> set[str]:
    return {
        peer["podSelector"]["matchLabels"][COMPONENT]
        for rule in rules
        for peer in rule.get(side, [])
        if COMPONENT in peer.get("podSelector", {}).get("matchLabels", {})
    }


def drain(documents: list[Document]) -> list[str]:
    """Nobody is killed before preStop, requests in flight, shipping and a margin are over."""
    faults = []
    for name, document in workloads(documents).items():
        own = first(document)
        environment = {item["name"]: item.get("value") for item in own["env"]}
        needed = (
            own.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            + int(environment["SHUTDOWN_S"])
            + SHIP_S
            + MARGIN_S
        )
        if needed > document["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]:
            faults.append(name)
    return faults


def references(documents: list[Document]) -> list[str]:
    """Each Secret, ConfigMap, claim and ServiceAccount exists here or is declared external."""
    there = {(d["kind"], d["metadata"]["name"]) for d in documents} | EXTERNAL
    there |= {
        ("Secret", d["spec"]["target"]["name"]) for d in documents if d["kind"] == "ExternalSecret"
    }
    return sorted(
        f"{name}: {kind} {wanted}"
        for name, pod in pods(documents)
        for kind, wanted in _referenced(pod)
        if (kind, wanted) not in there
    )


def _referenced(pod: Document) -> Iterator[tuple[str, str]]:
    if "serviceAccountName" in pod:
        yield "ServiceAccount", pod["serviceAccountName"]
    for volume in pod.get("volumes", []):
        for source in volume.get("projected", {}).get("sources", [volume]):
            if "secret" in source:
                yield "Secret", source["secret"].get("name") or source["secret"]["secretName"]
            if "configMap" in source:
                yield "ConfigMap", source["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for each in containers(pod):
        for item in each.get("env", []):
            if "secretKeyRef" in item.get("valueFrom", {}):
                yield "Secret", item["valueFrom"]["secretKeyRef"]["name"]
        for source in each.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"]


def images(documents: list[Document]) -> list[str]:
    """No image moves: a version tag or a digest."""
    moving = re.compile(r"(:(latest|main|master|edge|stable|dev)|/[^:@]+|^[^:@/]+)$")
    return [n for n, pod in pods(documents) for c in containers(pod) if moving.search(c["image"])]


def scaling(documents: list[Document]) -> list[str]:
    """One autoscaler at most, no replicas beside it, a budget exactly where there are several."""
    faults = []
    scalers = of_kind(documents, "HorizontalPodAutoscaler"), of_kind(documents, "ScaledObject")
    budgets = of_kind(documents, "PodDisruptionBudget")
    for name, document in workloads(documents).items():
        scaled = [scaler[name] for scaler in scalers if name in scaler]
        most = document["spec"].get("replicas", 1)
        for scaler in scaled:
            most = scaler["spec"].get("maxReplicas") or scaler["spec"]["maxReplicaCount"]
            target = scaler["spec"]["scaleTargetRef"]
            if (target["kind"], target["name"]) != (document["kind"], document["metadata"]["name"]):
                faults.append(name)
        if len(scaled) > 1 or (scaled and "replicas" in document["spec"]):
            faults.append(name)
        if (name in budgets) is not (most > 1):
            faults.append(name)
    return faults


def bounded(documents: list[Document]) -> list[str]:
    """Every container states memory, every scratch volume its size."""
    faults = []
    for name, pod in pods(documents):
        for each in containers(pod):
            resources = each.get("resources", {})
            if not resources.get("limits", {}).get("memory") or not resources.get("requests"):
                faults.append(name)
        faults += [
            name
            for volume in pod.get("volumes", [])
            if "emptyDir" in volume and not (volume["emptyDir"] or {}).get("sizeLimit")
        ]
    return faults


def no_secret_in_a_config_map(documents: list[Document]) -> list[str]:
    """Passwords and keys stand in Secrets only, and in no environment value."""
    telling = re.compile(r"://[^/\s:]+:[^/\s@]+@|PRIVATE KEY|(?i:password|api_key)\s*[:=]\s*\S")
    faults = []
    for document in documents:
        if document["kind"] == "ConfigMap" and telling.search(str(document.get("data", ""))):
            faults.append(component(document))
    for name, pod in pods(documents):
        values = [str(i.get("value", "")) for c in containers(pod) for i in c.get("env", [])]
        faults += [name for value in values if telling.search(value)]
    return faults


POLICIES: list[Callable[[list[Document]], list[str]]] = [
    restricted,
    probes,
    ports,
    selectors,
    edges,
    drain,
    references,
    images,
    scaling,
    bounded,
    no_secret_in_a_config_map,
]
