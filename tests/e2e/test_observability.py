"""A real Prometheus scrapes the running suite; exported spans have the declared edges."""

import contextlib
import secrets
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from deploy.helm.render import CHART
from deploy.local.banner import FIRST_REQUEST
from deploy.local.children import ROOT
from deploy.local.ports import free_port
from deploy.observability import dashboards
from deploy.observability.trace_edges import AFTERWARDS, BY_REQUEST, CALLER, Edge
from libs.common.catalog import SERVICES
from tests.deploy.test_observability import ALERTS, PROMTOOL, RECORDED, metrics_of, queries
from tests.deploy.tools import program
from tests.e2e.suite import Suite, eventually

BODIES: dict[str, Any] = {
    "POST /score/personalization": {"user_id": "user_00005678", "item_id": "item_electronics_001"},
    "POST /score/batch": {
        "model_type": "fraud_detection",
        "requests": [{"card_id": "card_00001234", "transaction_amount": 5.0}],
    },
    "POST /v1/guardrails/validate": {"text": "Write to anna@example.org."},
    "POST /metrics/aggregated": {"time_window_minutes": 5},
}


@pytest.fixture(scope="module")
def suite(state: Path) -> Iterator[Suite]:
    """The suite with every request traced."""
    running = Suite(state, TRACE_RATIO="1").start()
    yield running
    assert running.stop() == 0


def send(gateway: httpx2.Client, request: str, **headers: str) -> httpx2.Response:
    method, _, path = request.partition(" ")
    if request == "POST /score/fraud":
        return gateway.post(path, content=FIRST_REQUEST, headers=headers)
    if request == "POST /features/events":
        event = {
            "event_id": f"trace-{uuid.uuid4()}",
            "type": "card_transaction",
            "event_ms": int(time.time() * 1000),
            "entities": {"card_id": "card_00001234", "merchant_id": "merchant_12345"},
            "values": {"amount_minor": 100},
            "attrs": {"mcc_code": "5411", "country_code": "US"},
        }
        return gateway.post(path, json={"events": [event]}, headers=headers)
    if method == "GET":
        return gateway.get(path, headers=headers)
    return gateway.post(path, json=BODIES[request], headers=headers)


def edges_of(spans: list[dict[str, Any]], caller: str) -> set[Edge]:
    names = {
        span["span_id"]: f"{span['service'].removeprefix('gatehouse-')}: {span['name']}"
        for span in spans
    }
    return {
        Edge(names.get(span["parent_span_id"], CALLER), names[span["span_id"]])
        for span in spans
        if span["parent_span_id"] in names or span["parent_span_id"] == caller
    }


@pytest.mark.parametrize("request_", list(BY_REQUEST))
def test_a_trace_has_the_declared_edges(
    suite: Suite, gateway: httpx2.Client, request_: str
) -> None:
    trace, caller = secrets.token_hex(16), secrets.token_hex(8)
    answer = send(gateway, request_, traceparent=f"00-{trace}-{caller}-01")
    assert answer.status_code < 300, answer.text
    url = f"{suite.addresses['otlp_url']}/traces/{trace}"
    declared = set(BY_REQUEST[request_])

    def found() -> set[Edge]:
        return edges_of(httpx2.get(url, trust_env=False).json()["items"], caller)

    assert eventually(lambda: declared <= found()), f"missing: {declared - found()}"


def test_events_travel_in_traces_of_their_own(suite: Suite, gateway: httpx2.Client) -> None:
    send(gateway, "POST /score/fraud")
    send(gateway, "POST /v1/guardrails/validate")
    base = suite.addresses["otlp_url"]

    def found() -> set[Edge]:
        spans = httpx2.get(f"{base}/spans?limit=5000", trust_env=False).json()["items"]
        by_trace: dict[str, list[dict[str, Any]]] = {}
        for span in spans:
            by_trace.setdefault(span["trace_id"], []).append(span)
        return {edge for group in by_trace.values() for edge in edges_of(group, "")}

    assert eventually(lambda: set(AFTERWARDS) <= found()), set(AFTERWARDS) - found()


def test_an_edge_that_is_not_there_would_be_noticed() -> None:
    spans = [
        {"span_id": "a", "parent_span_id": "c", "service": "gatehouse-gateway", "name": "n"},
        {"span_id": "b", "parent_span_id": "x", "service": "gatehouse-inference", "name": "n"},
    ]
    assert edges_of(spans, "c") == {Edge(CALLER, "gateway: n")}


class Prometheus:
    """A server of Debian's package over the suite's addresses."""

    def __init__(self, base: str) -> None:
        self.client = httpx2.Client(base_url=base, timeout=10, trust_env=False)

    def get(self, path: str, **params: Any) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=query)["result"]
        return found


@pytest.fixture(scope="module")
def prometheus(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Our own configuration, with this suite's ports and a quick clock."""
    binary = program("prometheus", PROMTOOL)
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((ROOT / "deploy/observability/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(CHART / "files" / "rules" / "*.yaml")]
    job = next(job for job in config["scrape_configs"] if job["job_name"] == "gatehouse")
    for each in job["static_configs"]:
        each["targets"] = [suite.url(each["labels"]["service"]).removeprefix("http://")]
    config["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [
            binary,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ],
        stdout=subprocess.DEVNULL,
        stderr=log,
    )
    log.close()
    server = Prometheus(f"http://127.0.0.1:{port}")

    def is_scraping() -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            # While it starts, every question is answered 503.
            if server.client.get("/-/ready").status_code != 200:
                return False
            return len(server.query('up{job="gatehouse"} == 1')) == len(SERVICES)
        return False

    try:
        assert eventually(is_scraping, 30), (folder / "log").read_text()
        with suite.client() as gateway:
            for _ in range(3):
                for request in BY_REQUEST:
                    send(gateway, request)
                time.sleep(1.1)  # spreads the calls over scrapes, so that a rate exists
        yield server
    finally:
        server.client.close()
        process.terminate()
        process.wait(15)
        shutil.rmtree(folder, ignore_errors=True)


def test_prometheus_scrapes_every_service(prometheus: Prometheus) -> None:
    found = {each["metric"]["service"]: each["value"][1] for each in prometheus.query("up")}
    assert found == dict.fromkeys(SERVICES, "1")


def test_every_metric_that_queries_read_is_exposed(prometheus: Prometheus) -> None:
    exposed: set[str] = set()
    for each in prometheus.get("targets/metadata", limit=100_000):
        name = each["metric"]
        exposed |= {name, f"{name}_total", f"{name}_bucket", f"{name}_count", f"{name}_sum"}
    wanted = {name for _, query in queries() for name in metrics_of(query)}
    assert wanted - exposed - set(RECORDED) - {"up"} == set()


def test_every_rule_is_evaluated_without_error(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for g in prometheus.get("rules")["groups"] for rule in g["rules"]]

    assert eventually(lambda: all(r["health"] == "ok" for r in rules() if r["type"] == "alerting"))
    states = {rule["name"]: rule for rule in rules()}
    assert set(ALERTS) <= set(states)
    assert [n for n, rule in states.items() if rule.get("lastError")] == []
    # A healthy suite: nothing fires, and nothing is about to.
    assert [n for n in ALERTS if states[n]["state"] != "inactive"] == []


def test_every_panel_is_a_query_that_prometheus_understands(prometheus: Prometheus) -> None:
    for uid in dashboards.DASHBOARDS:
        for panel in dashboards.dashboard(uid)["panels"]:
            for target in panel["targets"]:
                prometheus.query(target["expr"])


@pytest.mark.parametrize(
    "query",
    [
        'sum(rate(gatehouse_gateway_http_requests_total{route="/score/fraud"}[30s])) > 0',
        "sum(gatehouse_gateway_http_request_duration_seconds_bucket"
        '{route="/score/fraud",le="0.15"}) > 0',
        'gatehouse_build_info{service="audit"} == 1',
        'process_resident_memory_bytes{service="inference"} > 1e7',
        'gatehouse_inference_dependency_up{dependency="redis"} == 1',
        'gatehouse_audit_dependency_up{dependency="postgres"} == 1',
        'inference_model_state{state="ready"} == 1',
        'sum(gatehouse_guardrails_findings_total{label!=""}) > 0',
        "sum(gatehouse_features_ingest_to_readable_seconds_count) > 0",
    ],
)
def test_real_traffic_is_in_the_figures(prometheus: Prometheus, query: str) -> None:
    assert eventually(lambda: prometheus.query(query)), query


def test_an_exemplar_leads_to_its_trace(suite: Suite, prometheus: Prometheus) -> None:
    def exemplars() -> list[dict[str, Any]]:
        found = prometheus.get(
            "query_exemplars",
            query='gatehouse_gateway_http_request_duration_seconds_bucket{route="/score/fraud"}',
            start=time.time() - 300,
            end=time.time() + 5,
        )
        return [exemplar for series in found for exemplar in series["exemplars"]]

    found = eventually(exemplars)
    assert found
    newest = max(found, key=lambda each: float(each["timestamp"]))
    base = suite.addresses["otlp_url"]
    url = f"{base}/traces/{newest['labels']['trace_id']}"
    spans = eventually(lambda: httpx2.get(url, trust_env=False).json()["items"])
    assert {"gatehouse-gateway", "gatehouse-inference"} <= {span["service"] for span in spans}


def test_the_request_of_helm_test_is_a_decision(suite: Suite, tmp_path: Path) -> None:
    import sys

    script = CHART / "files" / "predict_once.py"
    command = [sys.executable, str(script), suite.url("gateway"), suite.addresses["demo_key_file"]]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert answer.returncode == 0, answer.stderr
    assert "score" in answer.stdout
