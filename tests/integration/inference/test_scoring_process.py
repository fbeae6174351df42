"""The real process: signed identity, features from real Redis, degradation, the Python client."""

import time
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from deploy.local.servers import EmbeddedRedis
from libs.client import GatehouseClient, GatehouseError
from libs.common.catalog import SERVICES
from libs.common.features.layout import SERVING_KEY, VIEWS, country_code, mcc_code, pack_ring
from libs.common.identity import ensure_keys
from tests.integration.inference.conftest import Service, running

PAYMENT = {
    "card_id": "card_00001234",
    "transaction_amount": 150.0,
    "mcc_code": "5411",
    "country_code": "US",
}


def _write_card(redis_url: str, card: str, payments: int, newest_age_s: int) -> None:
    """Put a card's ring into Redis as the features service would."""
    view = VIEWS["card"]
    now_ms = time.time_ns() // 1_000_000
    records = [
        (
            now_ms - 1000 * (newest_age_s + 60 * back),
            2_000,
            back + 1,
            mcc_code("5411"),
            country_code("US"),
            -1,
            0,
        )
        for back in reversed(range(payments))
    ]
    with Redis.from_url(redis_url) as client:
        client.set(SERVING_KEY, b"1")
        client.set(view.key("default", card), pack_ring(view, records))


def test_a_card_with_history_is_scored_on_it(service: Service, redis_url: str):
    _write_card(redis_url, "card_00001234", payments=8, newest_age_s=30)
    body = httpx2.post(
        f"{service.url}/score/fraud", json=PAYMENT, headers=service.identity()
    ).json()
    assert body["degraded"] is False
    assert 30 <= body["feature_freshness_sec"] <= 35
    assert not any(name.startswith("card:count") for name in body["features_missing"])
    assert body["features_used"] >= 16


def test_another_tenant_does_not_see_the_cards_history(service: Service, redis_url: str):
    _write_card(redis_url, "card_00001234", payments=8, newest_age_s=30)
    body = httpx2.post(
        f"{service.url}/score/fraud", json=PAYMENT, headers=service.identity(tenant="other")
    ).json()
    assert body["feature_freshness_sec"] is None


def test_a_call_without_identity_or_scope_is_refused(service: Service):
    assert httpx2.post(f"{service.url}/score/fraud", json=PAYMENT).status_code == 401
    headers = service.identity("models:read")
    assert (
        httpx2.post(f"{service.url}/score/fraud", json=PAYMENT, headers=headers).status_code == 403
    )


def test_the_event_of_an_answer_waits_in_the_log_while_audit_is_away(service: Service):
    def backlog() -> float:
        text = httpx2.get(f"{service.url}/metrics").text
        line = next(
            item
            for item in text.splitlines()
            if item.startswith("gatehouse_inference_events_backlog ")
        )
        return float(line.split()[1])

    before = backlog()
    httpx2.post(f"{service.url}/score/fraud", json=PAYMENT, headers=service.identity())
    assert backlog() == before + 1


def test_redis_killed_while_scoring_still_answers_within_100_ms(tmp_path: Path, models: Path):
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    ensure_keys(tmp_path / "keys", SERVICES)
    try:
        with (
            running(tmp_path, server.url, models) as service,
            httpx2.Client(base_url=service.url, headers=service.identity()) as client,
        ):
            assert client.post("/score/fraud", json=PAYMENT).status_code == 200
            server.stop()
            durations = []
            for _ in range(5):
                started = time.perf_counter()
                response = client.post("/score/fraud", json=PAYMENT)
                durations.append(time.perf_counter() - started)
                assert response.status_code == 200
                assert response.json()["degraded_reasons"] == ["redis_unavailable"]
                assert "card:count_1d" in response.json()["features_missing"]
            assert sorted(durations)[2] < 0.1
            assert client.get("/readyz").status_code == 200
    finally:
        server.stop()


def test_the_client_scores_a_payment_and_a_pair(service: Service):
    with GatehouseClient(service.url, headers=service.identity()) as client:
        payment = client.score_fraud("card_1", 100, merchant_id="merchant_1", country_code="US")
        assert payment["recommended_action"] in {"approve", "review", "challenge", "decline"}
        pair = client.score_personalization("user_1", "item_1", item_price=9.5)
        assert 0 <= pair["relevance_score"] <= 1
        batch = client.score_batch(
            "fraud_detection", [{"card_id": "card_1", "transaction_amount": 100}], batch_id="b1"
        )
        assert (batch["batch_id"], batch["succeeded"]) == ("b1", 1)


def test_the_client_raises_the_services_problem(service: Service):
    with GatehouseClient(service.url, headers=service.identity()) as client:
        with pytest.raises(GatehouseError) as refused:
            client.score_fraud("card_1", -5)
        assert (refused.value.status, refused.value.code) == (422, "invalid_input")
        assert client.score_fraud("card_1", 5)["request_id"]


def test_the_client_says_that_nobody_answers():
    with GatehouseClient("http://127.0.0.1:9") as client, pytest.raises(GatehouseError) as refused:
        client.score_fraud("card_1", 5)
    assert refused.value.status == 0
