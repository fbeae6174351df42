"""Rules, alerts, dashboards, scrape and trace configuration agree with the code."""

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.helm.render import CHART
from deploy.local.children import ROOT
from deploy.observability import dashboards
from libs.common.catalog import NEIGHBOUR_PORTS, SERVICES
from tests.deploy.policies import of_kind
from tests.deploy.registries import registered
from tests.deploy.test_chart import manifests
from tests.deploy.tools import program

HERE = ROOT / "deploy" / "observability"
RULES = CHART / "files" / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks"
PROMTOOL = "apt-get install prometheus"


def groups(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((RULES / name).read_text())["groups"]
    return found


ALERTS = {rule["alert"]: rule for group in groups("alerts.yaml") for rule in group["rules"]}
RECORDED = {rule["record"]: rule for group in groups("recording.yaml") for rule in group["rules"]}
CASES = [
    case
    for test in yaml.safe_load((HERE / "rules_test.yaml").read_text())["tests"]
    for case in test["alert_rule_test"]
]
WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
# Words of PromQL that are no metric.
LANGUAGE = frozenset(
    {"sum", "rate", "max", "min", "count", "by", "without", "on", "and", "or", "le"}
    | {"absent", "histogram_quantile", "label_replace"}
)
FROM_PROMETHEUS = {"up"}


def promtool(*arguments: str, cwd: Path = HERE) -> subprocess.CompletedProcess[str]:
    command = [program("promtool", PROMTOOL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def metrics_of(query: str) -> set[str]:
    """Names of the series that a query reads; regular expressions on names are expanded."""
    names: set[str] = set()
    for pattern in re.findall(r'__name__=~"([^"]+)"', query):
        matching = {name for name in registered() if re.fullmatch(pattern, name)}
        names |= matching or {pattern}
    plain = re.sub(r"\b(by|without|on)\s*\([^)]*\)", " ", query)
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", plain)
    return names | {
        word for word in WORD.findall(plain) if word not in LANGUAGE and not word.isdigit()
    }


def queries() -> list[tuple[str, str]]:
    found = [(name, rule["expr"]) for name, rule in {**ALERTS, **RECORDED}.items()]
    for uid in dashboards.DASHBOARDS:
        for panel in dashboards.dashboard(uid)["panels"]:
            found += [(f"{uid}: {panel['title']}", t["expr"]) for t in panel["targets"]]
    for name in ("production", "minimal"):
        for scaled in of_kind(manifests(name), "ScaledObject").values():
            found += [("KEDA", t["metadata"]["query"]) for t in scaled["spec"]["triggers"]]
    return found


def test_promtool_accepts_the_rules() -> None:
    result = promtool("check", "rules", *(str(path) for path in sorted(RULES.glob("*.yaml"))))
    assert result.returncode == 0, result.stdout + result.stderr


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    document = yaml.safe_load((HERE / "prometheus.yml").read_text())
    document["rule_files"] = [str(RULES / "*.yaml")]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(document))
    result = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_alerts_fire_and_stay_silent_as_written() -> None:
    result = promtool("test", "rules", "rules_test.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("alert", ["GatehouseScoresSlowP99", "GatehouseServiceDown"])
def test_a_changed_alert_fails_its_cases(alert: str, tmp_path: Path) -> None:
    document = yaml.safe_load((RULES / "alerts.yaml").read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            if rule["alert"] == alert:
                rule["expr"] = rule["expr"].replace("0.05", "0.9").replace("== 0", "== 2")
    tests = yaml.safe_load((HERE / "rules_test.yaml").read_text())
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(document))
    tests["rule_files"] = [str(RULES / "recording.yaml"), "alerts.yaml"]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    assert promtool("test", "rules", "tests.yaml", cwd=tmp_path).returncode != 0


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert {case["alertname"] for case in CASES if case["exp_alerts"]} == set(ALERTS)
    assert {case["alertname"] for case in CASES if not case["exp_alerts"]} == set(ALERTS)


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_every_alert_has_a_runbook_with_what_a_woken_person_needs(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    text = (ROOT / rule["annotations"]["runbook_url"]).read_text()
    assert alert in text
    for part in ("Meaning", "Impact", "Diagnosis", "Mitigation"):
        assert f"**{part}.**" in text, f"{rule['annotations']['runbook_url']} lacks {part}"


def test_alerts_named_in_runbooks_exist() -> None:
    for path in RUNBOOKS.glob("*.md"):
        named = set(re.findall(r"Gatehouse[A-Z][A-Za-z0-9]+", path.read_text()))
        assert named <= set(ALERTS), path.name


def test_every_metric_of_a_query_exists() -> None:
    known = set(registered()) | set(RECORDED) | FROM_PROMETHEUS
    unknown = {where: metrics_of(query) - known for where, query in queries()}
    assert {where: names for where, names in unknown.items() if names} == {}


def test_the_check_of_metrics_catches_a_wrong_name() -> None:
    known = set(registered()) | set(RECORDED) | FROM_PROMETHEUS
    assert metrics_of('sum(rate(inference_request_total{a="b"}[5m]))') - known
    assert metrics_of('max({__name__=~"gatehouse_[a-z]+_nothing"})') - known


def test_legends_and_groupings_use_labels_that_exist() -> None:
    labels = registered()
    target = {"service", "instance", "job"}
    for where, query in queries():
        used = metrics_of(query)
        offered = {label for name in used for label in labels.get(name, ())} | target | {"le"}
        if used & set(RECORDED):
            offered |= {"dependency"}
        for group in re.findall(r"\bby\s*\(([^)]*)\)", query):
            assert {label.strip() for label in group.split(",")} <= offered, where


def test_the_objectives_are_bucket_bounds() -> None:
    from libs.common.metrics import DURATION_BUCKETS

    assert {0.15, 0.3} <= set(DURATION_BUCKETS)
    assert list(DURATION_BUCKETS) == sorted(DURATION_BUCKETS)


def test_the_dashboards_are_what_the_script_writes() -> None:
    committed = {path.name: path.read_text() for path in dashboards.TARGET.glob("*.json")}
    assert committed == dashboards.files(), "run: python -m deploy.observability.dashboards"


def test_every_data_source_of_a_dashboard_is_provisioned() -> None:
    path = HERE / "grafana" / "provisioning" / "datasources" / "datasources.yaml"
    sources = {each["uid"]: each for each in yaml.safe_load(path.read_text())["datasources"]}
    used = set(
        re.findall(
            r'"uid": "(gatehouse-(?:prometheus|jaeger))"',
            json.dumps(list(map(json.loads, dashboards.files().values()))),
        )
    )
    assert used <= set(sources)
    linked = sources["gatehouse-prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    # The name is the exemplar's label in libs/common/metrics.py.
    assert linked == [{"name": "trace_id", "datasourceUid": "gatehouse-jaeger"}]
    assert sources["gatehouse-jaeger"]["url"].endswith(str(NEIGHBOUR_PORTS["jaeger_ui"]))


def test_latency_panels_link_to_traces() -> None:
    panels = [p for uid in dashboards.DASHBOARDS for p in dashboards.dashboard(uid)["panels"]]
    linked = [p for p in panels if all(t["exemplar"] for t in p["targets"])]
    assert len(linked) >= 3
    assert len({panel["title"] for panel in panels}) == len(panels)


def test_prometheus_scrapes_every_service_of_the_catalogue() -> None:
    document = yaml.safe_load((HERE / "prometheus.yml").read_text())
    job = next(job for job in document["scrape_configs"] if job["job_name"] == "gatehouse")
    targets = {each["labels"]["service"]: each["targets"] for each in job["static_configs"]}
    assert targets == {name: [f"{name}:{entry.port}"] for name, entry in SERVICES.items()}


def test_jaeger_listens_where_the_services_send() -> None:
    document = yaml.safe_load((HERE / "jaeger.yaml").read_text())
    protocols = document["receivers"]["otlp"]["protocols"]
    assert protocols["http"]["endpoint"] == f"0.0.0.0:{NEIGHBOUR_PORTS['otlp_sink']}"
    extensions = document["extensions"]
    ui = extensions["jaeger_query"]["http"]["endpoint"]
    assert ui == f"0.0.0.0:{NEIGHBOUR_PORTS['jaeger_ui']}"
    pipeline = document["service"]["pipelines"]["traces"]
    for part, section in (
        ("receivers", "receivers"),
        ("processors", "processors"),
        ("exporters", "exporters"),
    ):
        assert set(pipeline[part]) <= set(document[section])
    assert set(document["service"]["extensions"]) == set(extensions)
    stores = set(extensions["jaeger_storage"]["backends"])
    assert document["exporters"]["jaeger_storage_exporter"]["trace_storage"] in stores
    assert extensions["jaeger_query"]["storage"]["traces"] in stores


def test_the_chart_ships_the_rules_and_the_dashboards() -> None:
    documents = manifests("production")
    rule = next(d for d in documents if d["kind"] == "PrometheusRule")
    shipped = {r["alert"]: r for g in rule["spec"]["groups"] for r in g["rules"] if "alert" in r}
    expected = copy.deepcopy(ALERTS)
    base = "https://docs.example.org/gatehouse/runbooks/"
    for each in expected.values():
        link = each["annotations"]["runbook_url"]
        each["annotations"]["runbook_url"] = link.replace("docs/runbooks/", base)
    assert shipped == expected
    maps = [d for d in documents if d["metadata"]["name"].startswith("gatehouse-dashboard-")]
    assert {name: json.loads(text) for d in maps for name, text in d["data"].items()} == {
        name: json.loads(text) for name, text in dashboards.files().items()
    }


def test_declared_trace_edges_are_edges_of_the_catalogue() -> None:
    from deploy.observability.trace_edges import AFTERWARDS, BY_REQUEST, CALLER
    from tests.deploy.policies import allowed

    for edge in (*AFTERWARDS, *(edge for edges in BY_REQUEST.values() for edge in edges)):
        parent, child = edge.services
        if parent not in (CALLER, child):
            assert child in allowed()[parent], edge
    routes = {
        f"{route.method} {path}"
        for service in SERVICES.values()
        for route in service.routes
        for path in route.paths
    }
    assert set(BY_REQUEST) <= routes
