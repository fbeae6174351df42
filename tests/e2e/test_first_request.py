"""One card payment through six services: decision, features, audit record, analytics."""

import shutil
import subprocess
import uuid

import httpx2
import orjson
import pytest

from deploy.local.banner import FIRST_REQUEST
from tests.e2e.suite import Suite, audit_events, eventually

ANSWER = {
    "fraud_score",
    "risk_level",
    "confidence",
    "recommended_action",
    "explanation",
    "top_risk_factors",
    "features_used",
    "latency_ms",
    "model_version",
    "feature_freshness_sec",
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_first_request_of_the_banner_works_as_printed(suite: Suite) -> None:
    command = suite.log.split("First request:")[1].split("\n\n")[0]
    answer = subprocess.run(["sh", "-c", command], capture_output=True, timeout=20, check=True)
    body = orjson.loads(answer.stdout)
    assert set(body) >= ANSWER
    assert 0 <= body["fraud_score"] <= 1
    assert body["risk_level"] in {"low", "medium", "high", "critical"}
    assert body["recommended_action"] in {"approve", "review", "challenge", "block", "decline"}


def test_the_first_request_meets_real_features(gateway: httpx2.Client) -> None:
    body = gateway.post("/score/fraud", content=FIRST_REQUEST).json()
    assert body["features_used"] >= 15
    assert body["feature_freshness_sec"] is not None
    assert body["model_version"].startswith("v")
    assert body["top_risk_factors"]


def test_only_card_and_amount_are_required(gateway: httpx2.Client) -> None:
    body = {"card_id": "card_00001234", "transaction_amount": 12.5}
    answer = gateway.post("/score/fraud", json=body)
    assert answer.status_code == 200
    assert set(answer.json()) >= ANSWER


def test_a_payment_that_is_ingested_makes_the_features_fresh(gateway: httpx2.Client) -> None:
    import time

    event = {
        "event_id": f"e2e-{uuid.uuid4()}",
        "type": "card_transaction",
        "event_ms": int(time.time() * 1000),
        "entities": {"card_id": "card_00001234", "merchant_id": "merchant_12345"},
        "values": {"amount_minor": 4200},
        "attrs": {"mcc_code": "5411", "country_code": "US"},
    }
    taken = gateway.post("/features/events", json={"events": [event]})
    assert taken.status_code in {200, 202}, taken.text
    again = gateway.post("/features/events", json={"events": [event]})
    assert again.json()["duplicates"] == 1

    def is_fresh() -> bool:
        answer = gateway.post("/score/fraud", content=FIRST_REQUEST).json()
        return bool(answer["feature_freshness_sec"] < 60)

    assert eventually(is_fresh)


def test_a_decision_is_in_the_audit_log_and_analytics_counts_it(gateway: httpx2.Client) -> None:
    before = gateway.get("/metrics/count").json()["total_predictions"]
    request_id = str(uuid.uuid4())
    answer = gateway.post(
        "/score/fraud", content=FIRST_REQUEST, headers={"X-Request-ID": request_id}
    )
    assert answer.headers["x-request-id"] == request_id

    def records() -> list[dict[str, object]]:
        newest = audit_events(gateway)
        return [event for event in newest if event["request_id"] == request_id]

    found = eventually(records)
    assert len(found) == 1
    assert found[0]["type"] == "prediction.made"
    assert found[0]["tenant"] == "default"
    one = gateway.get(f"/v1/audit/events/{found[0]['id']}").json()
    assert one["data"]["score"] == pytest.approx(answer.json()["fraud_score"], abs=1e-4)
    # The data subject is sealed at rest and shown to who may read it; the data names nobody.
    assert "card_00001234" not in orjson.dumps(one["data"]).decode()
    assert eventually(lambda: gateway.get("/metrics/count").json()["total_predictions"] > before)
    figures = gateway.post("/metrics/aggregated", json={"time_window_minutes": 60})
    assert figures.status_code == 200
    assert figures.json()["total_predictions"] >= 1


def test_ids_follow_a_request_through_the_logs_of_both_services(
    suite: Suite, gateway: httpx2.Client
) -> None:
    request_id, correlation_id = str(uuid.uuid4()), f"order-{uuid.uuid4()}"
    gateway.post(
        "/score/fraud",
        content=FIRST_REQUEST,
        headers={"X-Request-ID": request_id, "X-Correlation-ID": correlation_id},
    )

    def services() -> set[str]:
        lines = [line for line in suite.log.splitlines() if request_id in line]
        return {line.split(" | ")[0].strip() for line in lines if correlation_id in line}

    assert eventually(lambda: services() >= {"gateway", "inference"})


def test_logs_hold_no_personal_data_and_no_credential(suite: Suite, gateway: httpx2.Client) -> None:
    canary = f"card_{uuid.uuid4().hex[:12]}"
    marker = str(uuid.uuid4())
    gateway.post("/score/fraud", json={"card_id": canary, "transaction_amount": 1.5})
    gateway.post("/score/fraud", json={"card_id": canary, "transaction_amount": "x"})
    gateway.post("/v1/guardrails/validate", json={"text": f"mail {canary}@example.org"})
    gateway.get("/metrics/count", headers={"X-Request-ID": marker})
    assert eventually(lambda: marker in suite.log)
    key = gateway.headers["x-api-key"]
    assert canary not in suite.log
    assert key not in suite.log.replace(str(suite.layout.demo_key), "")


@pytest.mark.parametrize(
    "service", ["gateway", "inference", "guardrails", "features", "analytics", "audit"]
)
def test_health_names_components_and_holds_no_secret(suite: Suite, service: str) -> None:
    answer = httpx2.get(f"{suite.url(service)}/health", timeout=10, trust_env=False)
    assert answer.status_code == 200
    report = answer.json()
    assert {"status", "version", "uptime_seconds", "components"} <= set(report)
    text = answer.text
    secrets = [path.read_text().strip() for path in suite.layout.keys.glob("*.key")]
    secrets += [suite.layout.demo_key.read_text().strip(), str(suite.layout.root)]
    assert [secret for secret in secrets if secret in text] == []
    assert "://" not in text


def test_text_is_checked_and_masked(gateway: httpx2.Client) -> None:
    text = "write to ann@example.org or pay with 4111 1111 1111 1111"
    body = gateway.post("/v1/guardrails/validate", json={"text": text}).json()
    assert body["action"] in {"mask", "block", "flag"}
    labels = {
        span["label"].lower()
        for validator in body["validators"]
        for span in validator.get("spans", [])
    }
    assert any("email" in label for label in labels)
    assert any("card" in label for label in labels)
    if body["action"] == "mask":
        assert "ann@example.org" not in body["text"]


def test_a_batch_and_a_personalization_score_come_from_models(gateway: httpx2.Client) -> None:
    batch = {
        "model_type": "fraud_detection",
        "requests": [
            {"card_id": "card_1", "transaction_amount": 100},
            {"card_id": "card_2", "transaction_amount": 500},
        ],
    }
    answer = gateway.post("/score/batch", json=batch)
    assert answer.status_code == 200, answer.text
    one = gateway.post(
        "/score/personalization", json={"user_id": "user_00005678", "item_id": "item_1"}
    )
    assert one.status_code == 200, one.text
    assert {"relevance_score", "conversion_probability", "engagement_score"} <= set(one.json())
    names = {model["name"] for model in gateway.get("/models").json()["items"]}
    assert "fraud" in names


def test_both_spellings_of_a_path_answer_alike(gateway: httpx2.Client) -> None:
    plain = gateway.post("/score/fraud", content=FIRST_REQUEST)
    versioned = gateway.post("/v1/score/fraud", content=FIRST_REQUEST)
    assert plain.status_code == versioned.status_code == 200
    assert set(plain.json()) == set(versioned.json())


def test_one_document_describes_all_services(gateway: httpx2.Client) -> None:
    paths = gateway.get("/openapi.json").json()["paths"]
    assert {"/score/fraud", "/v1/guardrails/validate", "/features/events"} <= set(paths)
    assert {"/metrics/count", "/v1/audit/events"} <= set(paths)
    assert gateway.get("/docs").status_code == 200


def test_a_trace_shows_the_gateway_above_inference(suite: Suite, gateway: httpx2.Client) -> None:
    trace_id = uuid.uuid4().hex
    gateway.post(
        "/score/fraud",
        content=FIRST_REQUEST,
        headers={"traceparent": f"00-{trace_id}-{trace_id[:16]}-01"},
    )
    sink = suite.addresses["otlp_url"]

    def servers() -> dict[str, dict[str, object]]:
        spans = httpx2.get(f"{sink}/traces/{trace_id}", trust_env=False).json()["items"]
        by_service = {s["service"]: s for s in spans if s["kind"] == "server"}
        return by_service if len(by_service) >= 2 else {}

    found = eventually(servers)
    assert set(found) >= {"gatehouse-gateway", "gatehouse-inference"}
    assert found["gatehouse-inference"]["parent_span_id"] is not None
