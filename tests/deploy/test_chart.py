"""The committed manifests: fresh, valid, hardened, with the edges of the catalogue."""

import copy
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

from deploy.helm import make_secrets, readme, schema
from deploy.helm.render import CHART, examples, render, renderer, sources
from deploy.local.env_example import declared
from libs.common.catalog import NEIGHBOUR_PORTS, SERVICES
from libs.common.transparency.note import VerifierKey
from services.witness.settings import VARIABLES as WITNESS_VARIABLES
from tests.deploy import custom
from tests.deploy.policies import (
    POLICIES,
    Document,
    component,
    containers,
    first,
    of_kind,
    pods,
    workloads,
)
from tests.deploy.tools import program

VALUES: Document = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Document = json.loads((CHART / "values.schema.json").read_text())
CASES = [pytest.param(path, id=path.name) for path in examples()]
NAMES = [path.name for path in examples()]
# Resources of others, in an example only.
FOREIGN = {"serving.kserve.io/v1beta1"}


@functools.cache
def _text(name: str) -> str:
    folder = next(path for path in examples() if path.name == name)
    return (folder / "rendered" / "manifests.yaml").read_text()


@functools.cache
def _parsed(name: str) -> list[Document]:
    return [d for d in yaml.load_all(_text(name), yaml.CSafeLoader) if d]


def manifests(name: str) -> list[Document]:
    return copy.deepcopy(_parsed(name))


def merged(base: Any, over: Any) -> Any:
    """Values as Helm coalesces them: null removes a default."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(base.get(key), value)
    return result


@pytest.mark.parametrize("case", CASES)
def test_the_committed_manifests_are_rendered_from_these_sources(case: Path) -> None:
    head, _, committed = (case / "rendered" / "SOURCES.sha256").read_text().partition("\n")
    assert head.startswith("# rendered by ")
    assert committed == sources(case), "render again: python -m deploy.helm.render"


@pytest.mark.parametrize("case", CASES)
def test_a_renderer_on_this_machine_gives_the_same_manifests(case: Path) -> None:
    if renderer() is None:
        program("helm", "helm.sh/docs/intro/install, or minihelm on PATH")
    again = [d for d in yaml.load_all(render(case / "values.yaml"), yaml.CSafeLoader) if d]
    assert again == _parsed(case.name)


def test_schema_and_readme_of_the_chart_are_generated() -> None:
    assert (CHART / "values.schema.json").read_text() == schema.text(), (
        "python -m deploy.helm.schema"
    )
    text = (CHART / "README.md").read_text()
    assert text == readme.text(text), "python -m deploy.helm.readme"


def test_every_value_has_a_comment() -> None:
    described = {path for path, _, _ in readme.described()}

    def missing(values: Document, prefix: str = "") -> list[str]:
        return [
            f"{prefix}{key}"
            for key, value in values.items()
            if f"{prefix}{key}" not in described
            and not (isinstance(value, dict) and value and not missing(value, f"{prefix}{key}."))
        ]

    # A service's own fields are those of `defaults`, and the catalogue's.
    plain = {key: value for key, value in VALUES.items() if key != "services"}
    undescribed = [
        path for path in missing(plain) if not re.match(r"defaults\.(probes|resources)\.", path)
    ]
    assert [path for path in undescribed if ".nodeSelector." not in path] == []
    assert len((CHART / "values.yaml").read_text().splitlines()) <= 400


def _seen(name: str, document: Document) -> bool:
    """Whether the minimal example holds the very same object, which is checked there."""
    return name != "minimal" and document in _parsed("minimal")


# The version that the manifests are written for, the lowest that the chart takes, and the newest.
@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("name", NAMES)
def test_every_manifest_is_valid_for_kubernetes(name: str, version: str) -> None:
    for document in manifests(name):
        identity = document["apiVersion"], document["kind"]
        if identity in custom.SPECS:
            custom.check(document)
        elif document["apiVersion"] not in FOREIGN and not _seen(name, document):
            kubernetes_validate.validate(document, version, strict=True)


def test_the_checks_of_shape_catch_a_typo() -> None:
    typo = of_kind(manifests("minimal"), "Deployment")["audit"]
    typo["spec"]["replica"] = typo["spec"].pop("replicas")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(typo, "1.30", strict=True)
    scaled = of_kind(manifests("production"), "ScaledObject")["inference"]
    scaled["spec"]["minReplicas"] = 1
    with pytest.raises(ValidationError):
        custom.check(scaled)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_the_manifests_keep_the_policy(
    name: str, policy: Callable[[list[Document]], list[str]]
) -> None:
    assert policy(manifests(name)) == []


def _pod(documents: list[Document], name: str = "features") -> Document:
    found: Document = workloads(documents)[name]["spec"]["template"]["spec"]
    return found


def _own(documents: list[Document]) -> Document:
    found: Document = _pod(documents)["containers"][0]
    return found


def _policy(documents: list[Document]) -> Document:
    found: Document = of_kind(documents, "NetworkPolicy")["features"]["spec"]
    return found


Change = Callable[[list[Document]], object]
# (policy, what is broken, how): a checker that has never failed proves nothing.
FAULTS: list[tuple[str, str, Change]] = [
    ("restricted", "root is allowed", lambda d: _pod(d)["securityContext"].pop("runAsNonRoot")),
    ("restricted", "a capability stays", lambda d: _own(d)["securityContext"].pop("capabilities")),
    (
        "restricted",
        "a writable root",
        lambda d: _own(d)["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    ("restricted", "a token", lambda d: _pod(d).update(automountServiceAccountToken=True)),
    (
        "restricted",
        "a host path",
        lambda d: _pod(d)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
    ),
    ("probes", "no liveness", lambda d: _own(d).pop("livenessProbe")),
    (
        "probes",
        "liveness asks stores",
        lambda d: _own(d)["livenessProbe"]["httpGet"].update(path="/health"),
    ),
    (
        "probes",
        "a rollout shorter than the start",
        lambda d: workloads(d)["features"]["spec"].update(progressDeadlineSeconds=60),
    ),
    (
        "ports",
        "another port",
        lambda d: of_kind(d, "Service")["features"]["spec"]["ports"][0].update(port=1),
    ),
    ("ports", "a port of another name", lambda d: _own(d)["ports"][0].update(name="web")),
    (
        "selectors",
        "pods without a component",
        lambda d: workloads(d)["features"]["spec"]["template"]["metadata"]["labels"].pop(
            "app.kubernetes.io/component"
        ),
    ),
    (
        "selectors",
        "a budget of others",
        lambda d: of_kind(d, "PodDisruptionBudget")["features"]["spec"]["selector"][
            "matchLabels"
        ].update({"app.kubernetes.io/component": "audit"}),
    ),
    ("edges", "an edge lost", lambda d: _policy(d)["egress"].pop()),
    (
        "edges",
        "an edge too many",
        lambda d: _policy(d)["ingress"][0]["from"].append(
            {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "audit"}}}
        ),
    ),
    ("edges", "open to all", lambda d: _policy(d)["ingress"].append({"ports": [{"port": "http"}]})),
    ("edges", "egress not denied", lambda d: _policy(d)["policyTypes"].remove("Egress")),
    ("drain", "killed too soon", lambda d: _pod(d).update(terminationGracePeriodSeconds=20)),
    (
        "references",
        "a Secret nobody makes",
        lambda d: _own(d)["env"][0]["valueFrom"]["secretKeyRef"].update(name="absent"),
    ),
    ("references", "a foreign account", lambda d: _pod(d).update(serviceAccountName="absent")),
    (
        "images",
        "a moving tag",
        lambda d: _own(d).update(image="registry.example.org/features:latest"),
    ),
    ("images", "no tag", lambda d: _own(d).update(image="registry.example.org/features")),
    (
        "scaling",
        "replicas with a scaler",
        lambda d: workloads(d)["inference"]["spec"].update(replicas=3),
    ),
    (
        "scaling",
        "a scaler of another kind",
        lambda d: of_kind(d, "ScaledObject")["inference"]["spec"]["scaleTargetRef"].update(
            kind="Deployment"
        ),
    ),
    ("bounded", "no memory limit", lambda d: _own(d)["resources"].pop("limits")),
    ("bounded", "endless scratch", lambda d: _pod(d)["volumes"][0].update(emptyDir={})),
    (
        "no_secret_in_a_config_map",
        "a password in a setting",
        lambda d: of_kind(d, "ConfigMap")["settings"]["data"].update(X="postgresql://u:secret@h/d"),
    ),
    (
        "no_secret_in_a_config_map",
        "a URL in the environment",
        lambda d: _own(d)["env"].append(
            {"name": "POSTGRES_URL", "value": "postgresql://u:secret@h/d"}
        ),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{p}: {what}" for p, what, _ in FAULTS])
def test_a_seeded_fault_is_caught(fault: tuple[str, str, Change]) -> None:
    name, _, change = fault
    # Production has autoscalers, minimal has plain Deployments.
    documents = manifests("production" if name == "scaling" else "minimal")
    policy = next(policy for policy in POLICIES if policy.__name__ == name)
    assert policy(documents) == []
    change(documents)
    assert policy(documents) != []


def test_every_policy_has_a_seeded_fault() -> None:
    assert {name for name, _, _ in FAULTS} == {policy.__name__ for policy in POLICIES}


@pytest.mark.parametrize("name", NAMES)
def test_every_service_of_the_catalogue_is_deployed_with_its_memory(name: str) -> None:
    deployed = workloads(manifests(name))
    assert set(deployed) == set(SERVICES)
    scale = {"Mi": 1, "Gi": 1024}
    for service, document in deployed.items():
        limit = first(document)["resources"]["limits"]["memory"]
        assert int(limit[:-2]) * scale[limit[-2:]] >= SERVICES[service].memory_mib


def test_production_has_memory_limit_equal_to_request_and_no_cpu_limit() -> None:
    for document in workloads(manifests("production")).values():
        resources = first(document)["resources"]
        assert resources["limits"]["memory"] == resources["requests"]["memory"]
        assert "cpu" not in resources["limits"]
        assert "@sha256:" in first(document)["image"]


def test_the_defaults_are_the_missions_resources() -> None:
    assert VALUES["defaults"]["replicas"] == 3
    assert VALUES["defaults"]["resources"] == {
        "requests": {"cpu": "250m", "memory": "256Mi"},
        "limits": {"cpu": "500m", "memory": "512Mi"},
    }


@pytest.mark.parametrize("name", NAMES)
def test_environment_names_are_ones_that_settings_read(name: str) -> None:
    documents = manifests(name)
    known = declared()
    shared = next(d for d in documents if d["metadata"]["name"] == "gatehouse-settings")
    assert [key for key in shared["data"] if key not in known] == []
    for service, document in workloads(documents).items():
        unknown = [i["name"] for i in first(document)["env"] if i["name"] not in known]
        assert unknown == [], service


@pytest.mark.parametrize("name", NAMES)
def test_only_analytics_may_leave_the_cluster_and_only_with_a_key(name: str) -> None:
    documents = manifests(name)
    has_gemini = any(
        item["name"] == "GEMINI_API_KEY" for item in first(workloads(documents)["analytics"])["env"]
    )
    for service, policy in of_kind(documents, "NetworkPolicy").items():
        outside = [
            port["port"]
            for rule in policy["spec"].get("egress", [])
            if "to" not in rule
            for port in rule["ports"]
        ]
        assert (443 in outside) <= (service in {"analytics", "audit"})
        if service == "analytics":
            assert (443 in outside) is has_gemini


def test_no_service_gets_another_services_private_key() -> None:
    for service, document in workloads(manifests("minimal")).items():
        volumes = document["spec"]["template"]["spec"]["volumes"]
        keys = next(v for v in volumes if v["name"] == "keys")["projected"]["sources"]
        assert keys[0]["secret"]["items"] == [{"key": f"{service}.key", "path": f"{service}.key"}]


def test_what_replicas_must_share_comes_from_one_secret() -> None:
    documents = manifests("minimal")
    volumes = {v["name"]: v for v in _pod(documents, "guardrails")["volumes"]}
    assert volumes["shared-secret"]["secret"]["secretName"] == VALUES["pepper"]["existingSecret"]
    gateway = first(workloads(documents)["gateway"])
    pepper = next(item for item in gateway["env"] if item["name"] == "KEY_PEPPER")
    assert pepper["valueFrom"]["secretKeyRef"]["name"] == VALUES["pepper"]["existingSecret"]


def test_a_gateway_that_serves_https_is_probed_so(tmp_path: Path) -> None:
    if renderer() is None:
        program("helm", "helm.sh/docs/intro/install, or minihelm on PATH")
    values = {**STORES, "gatewayTls": {"existingSecret": "t"}, "helmTest": {"enabled": False}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    documents = [d for d in yaml.safe_load_all(render(tmp_path / "values.yaml")) if d]
    gateway, audit = (first(workloads(documents)[name]) for name in ("gateway", "audit"))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert gateway[probe]["httpGet"]["scheme"] == "HTTPS"
        assert "scheme" not in audit[probe]["httpGet"]
    assert {"TLS_CERT", "TLS_KEY"} <= {item["name"] for item in gateway["env"]}


def test_the_demo_brings_its_stores_and_a_test_that_predicts() -> None:
    documents = manifests("kind")
    assert {"demo-postgres", "demo-redis"} <= set(of_kind(documents, "StatefulSet"))
    pod = of_kind(documents, "Pod")["helm-test"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert [each["name"] for each in containers(pod["spec"])] == ["bootstrap", "predict"]
    source = of_kind(documents, "ConfigMap")["helm-test"]["data"]["predict_once.py"]
    compile(source, "predict_once.py", "exec")


def test_gpu_pods_choose_nodes_share_them_and_read_a_subset_of_the_models() -> None:
    documents = manifests("gpu")
    pod = _pod(documents, "inference")
    own = pod["containers"][0]
    assert own["image"].endswith("gatehouse-inference-gpu:0.1.0")
    assert own["resources"]["limits"]["nvidia.com/gpu.shared"] == "1"
    assert pod["nodeSelector"]["nvidia.com/gpu.product"] == "NVIDIA-L4"
    mounts = [mount for mount in own["volumeMounts"] if mount["name"] == "models"]
    assert [(mount["mountPath"], mount["readOnly"]) for mount in mounts] == [("/models", True)]
    environment = {item["name"]: item.get("value") for item in own["env"]}
    assert environment["MODEL_PATH"] == "/models"
    assert environment["MODELS_SERVED"] == "sentiment,fraud"
    plugin = next(d for d in documents if d["metadata"]["name"] == "gatehouse-gpu-sharing")
    sharing = yaml.safe_load(plugin["data"]["config.yaml"])["sharing"]["timeSlicing"]
    assert sharing["resources"] == [{"name": "nvidia.com/gpu", "replicas": 4}]
    assert sharing["renameByDefault"] is True
    assert "nodeSelector" not in _pod(documents, "features")


def test_the_witness_beside_the_log_hears_only_audit_and_keeps_what_it_signed() -> None:
    documents = manifests("witness")
    found = of_kind(documents, "StatefulSet")["witness"]
    pod = found["spec"]["template"]["spec"]
    assert found["spec"]["replicas"] == 1
    assert [each["metadata"]["name"] for each in found["spec"]["volumeClaimTemplates"]] == ["state"]
    keys = next(volume for volume in pod["volumes"] if volume["name"] == "keys")
    assert keys["secret"]["items"] == [{"key": "witness.key", "path": "witness.key"}]
    assert pod["containers"][0]["args"] == ["services.witness"]
    names = {item["name"] for item in pod["containers"][0]["env"]}
    assert names <= {*declared(), *WITNESS_VARIABLES}
    policy = of_kind(documents, "NetworkPolicy")["witness"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert "egress" not in policy
    callers = [peer["podSelector"]["matchLabels"] for peer in policy["ingress"][0]["from"]]
    assert [labels["app.kubernetes.io/component"] for labels in callers] == ["audit"]
    environment = {i["name"]: i.get("value") for i in first(workloads(documents)["audit"])["env"]}
    service = of_kind(documents, "Service")["witness"]
    port = service["spec"]["ports"][0]["port"]
    assert environment["WITNESS_URL"] == f"http://{service['metadata']['name']}:{port}"
    assert port == NEIGHBOUR_PORTS["witness"]
    text = of_kind(documents, "ConfigMap")["witness"]["data"]["logs.vkey"]
    assert [str(VerifierKey.parse(line)) for line in text.split()] == text.split()


def test_a_pool_of_inference_is_one_more_inference_with_models_of_its_own() -> None:
    documents = manifests("pools")
    found = of_kind(documents, "Deployment")
    main, pool = found["inference"], found["inference-text"]
    own = [first(each) for each in (main, pool)]
    names = [{item["name"]: item.get("value") for item in each["env"]} for each in own]
    assert names[0].pop("MODELS_SERVED") == "fraud,relevance,conversion"
    assert names[1].pop("MODELS_SERVED") == "sentiment,guard,entities"
    assert names[0] == names[1]
    for part in ("image", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"):
        assert own[0][part] == own[1][part]
    assert pool["spec"]["replicas"] == 2
    keys = next(v for v in pool["spec"]["template"]["spec"]["volumes"] if v["name"] == "keys")
    assert keys["projected"]["sources"][0]["secret"]["items"][0]["key"] == "inference.key"
    services = of_kind(documents, "Service")
    urls = [
        f"http://{services[name]['metadata']['name']}:8081"
        for name in ("inference", "inference-text")
    ]
    addresses = {
        name: next(i["value"] for i in first(found[name])["env"] if i["name"] == "INFERENCE_URL")
        for name in ("gateway", "guardrails")
    }
    # The gateway asks each which models it serves; guardrails needs the guard model.
    assert addresses == {"gateway": ",".join(urls), "guardrails": urls[1]}
    policies = of_kind(documents, "NetworkPolicy")
    inbound = policies["inference-text"]["spec"]["ingress"][0]["from"]
    callers = {
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in inbound
    }
    assert callers == {"gateway", "guardrails"}
    for caller in callers:
        edges = [rule for rule in policies[caller]["spec"]["egress"] if "to" in rule]
        reached = {
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for rule in edges
            for peer in rule["to"]
            if "podSelector" in peer
        }
        assert {"inference", "inference-text"} <= reached


def test_the_external_store_makes_every_secret_that_pods_want() -> None:
    made = {
        d["metadata"]["name"]
        for d in manifests("external-secrets")
        if d["kind"] == "ExternalSecret"
    }
    wanted = {"gatehouse-postgres", "gatehouse-redis", "gatehouse-keys", "gatehouse-pepper"}
    assert made == wanted


def test_the_command_for_secrets_makes_what_the_chart_expects() -> None:
    made = {(each["kind"], each["metadata"]["name"]): each for each in make_secrets.objects("ns")}
    assert set(made) == {
        ("Secret", VALUES["keys"]["existingSecret"]),
        ("ConfigMap", VALUES["keys"]["publicConfigMap"]),
        ("Secret", VALUES["pepper"]["existingSecret"]),
    }
    private = made["Secret", "gatehouse-keys"]["stringData"]
    public = made["ConfigMap", "gatehouse-public-keys"]["data"]
    assert set(private) == {f"{name}.key" for name in (*SERVICES, "witness")}
    assert set(public) == {f"{name}.pub" for name in (*SERVICES, "witness")}
    shared = made["Secret", "gatehouse-pepper"]["stringData"]
    assert set(shared) == {VALUES["pepper"]["key"], VALUES["pepper"]["guardrailsKey"]}
    for each in made.values():
        kubernetes_validate.validate(each, "1.30", strict=True)


def test_templates_are_functions_of_the_values() -> None:
    text = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    for name in ("randAlphaNum", "genSignedCert", "genCA", "lookup", "uuidv4"):
        assert name not in text
    assert not re.search(r"{{[^}]*\bnow\b", text)


def test_ports_and_edges_in_the_values_are_the_catalogues() -> None:
    for name, service in SERVICES.items():
        values = VALUES["services"][name]
        calls = set(service.calls) | ({"audit"} if service.emits and name != "audit" else set())
        assert values["port"] == service.port
        assert set(values["calls"]) == calls
        assert values["redis"] is service.redis


@pytest.mark.parametrize("case", CASES)
def test_the_values_fit_their_schema(case: Path) -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    values = merged(VALUES, yaml.safe_load((case / "values.yaml").read_text()))
    jsonschema.Draft7Validator(SCHEMA).validate(values)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a typo": ({"servces": {}}, "$"),
    "a typo inside": ({"image": {"registri": "x"}}, "$.image"),
    "a mutable tag": ({"image": {"tag": "latest"}}, "$.image.tag"),
    "replicas as text": ({"defaults": {"replicas": "3"}}, "$.defaults.replicas"),
    "negative replicas": (
        {"services": {"features": {"replicas": -1}}},
        "$.services.features.replicas",
    ),
    "a URL and a Secret": (
        {"postgres": {"url": "postgresql://h/d", "existingSecret": "s"}},
        "$.postgres",
    ),
    "a URL of another store": ({"redis": {"url": "postgresql://h/d"}}, "$.redis.url"),
    "an unknown peer": (
        {"services": {"features": {"calls": ["oracle"]}}},
        "$.services.features.calls[0]",
    ),
    "a short digest": ({"defaults": {"digest": "sha256:1"}}, "$.defaults.digest"),
    "a missing service": ({"services": {"audit": None}}, "$.services"),
    "both autoscalers": (
        {"services": {"inference": {"hpa": {"enabled": True}, "keda": {"enabled": True}}}},
        "$.services.inference",
    ),
    "cpu above 100 %": ({"defaults": {"hpa": {"cpuPercent": 170}}}, "$.defaults.hpa.cpuPercent"),
    "a lower-case variable": (
        {"services": {"audit": {"env": {"log_level": "x"}}}},
        "$.services.audit.env",
    ),
    "a variable as a number": (
        {"services": {"audit": {"env": {"X": 1}}}},
        "$.services.audit.env.X",
    ),
    "memory without a unit that exists": (
        {"defaults": {"resources": {"limits": {"memory": "512MB"}}}},
        "$.defaults.resources.limits.memory",
    ),
    "a log level": ({"logLevel": "verbose"}, "$.logLevel"),
    "a trace ratio above one": ({"traces": {"ratio": "1.5"}}, "$.traces.ratio"),
    "an access mode": (
        {"auditKeys": {"accessModes": ["ReadOnlyMany"]}},
        "$.auditKeys.accessModes[0]",
    ),
    "one pod per shared GPU": (
        {"gpu": {"timeSlicing": {"replicas": 1}}},
        "$.gpu.timeSlicing.replicas",
    ),
    "a relative mount": ({"models": {"mountPath": "models"}}, "$.models.mountPath"),
    "a log key of another shape": ({"witness": {"logKeys": ["abc"]}}, "$.witness.logKeys[0]"),
    "a pool that serves nothing": (
        {"inferencePools": {"text": {"served": []}}},
        "$.inferencePools.text.served",
    ),
    "a pool by a name that no object may have": (
        {"inferencePools": {"Text": {"served": ["sentiment"]}}},
        "$.inferencePools",
    ),
    "no signing keys": ({"keys": {"existingSecret": ""}}, "$.keys.existingSecret"),
}


@pytest.mark.parametrize("case", BAD, ids=list(BAD))
def test_wrong_values_are_refused_where_they_stand(case: str) -> None:
    over, where = BAD[case]
    values = merged(VALUES, over)
    errors = list(jsonschema.Draft7Validator(SCHEMA).iter_errors(values))
    assert where in {error.json_path for error in errors}


STORES = {"postgres": {"existingSecret": "p"}, "redis": {"existingSecret": "r"}}
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no database URL": (
        {"redis": {"existingSecret": "r"}},
        "no postgres: set postgres.existingSecret",
    ),
    "no Redis": ({"postgres": {"existingSecret": "p"}}, "no redis: set redis.existingSecret"),
    "a demo with stores": (
        {**STORES, "demo": {"enabled": True}},
        "leave postgres.url and postgres.existingSecret empty",
    ),
    "both autoscalers, one by default": (
        {
            **STORES,
            "defaults": {"hpa": {"enabled": True}},
            "services": {"audit": {"replicas": None}, "inference": {"keda": {"enabled": True}}},
        },
        "switch one off",
    ),
    "replicas with an autoscaler": (
        {**STORES, "services": {"features": {"replicas": 3, "hpa": {"enabled": True}}}},
        "would fight the autoscaler",
    ),
    "KEDA without a query": (
        {**STORES, "services": {"features": {"keda": {"enabled": True}}}},
        "keda.query is empty",
    ),
    "fewest above most": (
        {**STORES, "services": {"features": {"hpa": {"minReplicas": 5, "maxReplicas": 2}}}},
        "minReplicas is larger",
    ),
    "a drain that is cut": (
        {**STORES, "services": {"features": {"terminationGracePeriodSeconds": 30}}},
        "exceeds terminationGracePeriodSeconds",
    ),
    "a tag where digests are required": (
        {**STORES, "image": {"requireDigests": True}},
        "digest to sha256:...",
    ),
    "several log keepers on one disk": (
        {**STORES, "services": {"audit": {"replicas": 2}}},
        "ReadWriteMany",
    ),
    "two ways in": (
        {**STORES, "ingress": {"enabled": True}, "httpRoute": {"enabled": True}},
        "publish the gateway once",
    ),
    "a proxy that hides callers": (
        {**STORES, "ingress": {"enabled": True, "hosts": ["h"]}},
        "FORWARDED_HOPS",
    ),
    "an external store without a name": (
        {**STORES, "externalSecrets": {"enabled": True}},
        "storeRef.name",
    ),
    "two witnesses": (
        {**STORES, "witness": {"enabled": True, "url": "http://w", "verifierKey": "k"}},
        "keep one",
    ),
    "a witness that watches nothing": (
        {**STORES, "witness": {"enabled": True}},
        "witness.enabled needs witness.logKeys",
    ),
    "a witness without a key": (
        {**STORES, "witness": {"url": "https://w.example.org"}},
        "witness.verifierKey",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS, ids=list(CONTRADICTIONS))
def test_contradictions_are_refused_with_advice(case: str, tmp_path: Path) -> None:
    if renderer() is None:
        program("helm", "helm.sh/docs/intro/install, or minihelm on PATH")
    values, advice = CONTRADICTIONS[case]
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=re.escape(advice)):
        render(file)


def test_every_component_label_is_known() -> None:
    known = {
        *SERVICES,
        "settings",
        "monitoring",
        "migrate",
        "helm-test",
        "demo-postgres",
        "demo-redis",
        "witness",
        "inference-text",
        "remote-engine",
    }
    for name in NAMES:
        assert {component(d) for d in _parsed(name) if d["apiVersion"] not in FOREIGN} <= known
        assert [service for service, _ in pods(_parsed(name)) if service not in known] == []
