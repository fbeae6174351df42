"""POST /score/fraud over the whole app, with a fake reader and real tiny models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.common.errors import UnavailableError
from libs.common.events.registry import problems_of
from libs.common.features.fraud import FRAUD_V1
from services.inference.adapters.repository import ModelRepository
from services.inference.domain.model import TabularModel
from services.inference.domain.trees import parse_xgboost
from services.inference.schemas import FraudAnswer
from tests.support.tabular_models import random_rows

pytestmark = pytest.mark.anyio

PAYMENT = {
    "card_id": "card_00001234",
    "transaction_amount": 150.0,
    "merchant_id": "merchant_12345",
    "mcc_code": "5411",
    "country_code": "US",
}


async def test_the_missions_request_gives_every_field_of_the_contract(client):
    response = await client.post("/score/fraud", json=PAYMENT)
    body = response.json()
    assert response.status_code == 200
    FraudAnswer.model_validate(body)
    assert body["model_version"] == "v1.0.0"
    assert body["feature_freshness_sec"] == 12
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["degraded"] is False
    assert body["confidence"] == pytest.approx(max(body["fraud_score"], 1 - body["fraud_score"]))
    assert "explanation_detail" not in body


async def test_only_card_and_amount_are_required_also_under_v1(client, reader):
    response = await client.post("/v1/score/fraud", json={"card_id": "c1", "transaction_amount": 5})
    assert response.status_code == 200
    _, tenant, (asked,) = reader.calls[-1]
    assert tenant == "default"
    assert asked.entities == {"card": "c1"}
    assert asked.values == {"amount_minor": 500}


async def test_the_score_equals_the_native_library_model(client, reader, models: Path):
    rows = random_rows(FRAUD_V1, 1, seed=3)
    reader.rows = rows
    ensemble = parse_xgboost(json.loads((models / "fraud/1/model.json").read_text()))
    body = (await client.post("/score/fraud", json=PAYMENT)).json()
    assert body["fraud_score"] == pytest.approx(float(ensemble.probabilities(rows)[0]), abs=2e-6)


async def test_explanation_adds_up_to_the_margin_of_the_score(client):
    body = (await client.post("/score/fraud", json={**PAYMENT, "explain": True})).json()
    detail = body["explanation_detail"]
    total = detail["base_value"] + sum(group["contribution"] for group in detail["groups"])
    assert total == pytest.approx(detail["margin"], abs=1e-4)
    assert 1 / (1 + np.exp(-total)) == pytest.approx(body["fraud_score"], abs=1e-5)
    raised = [group["group"] for group in detail["groups"] if group["contribution"] > 0.01]
    assert body["top_risk_factors"] == raised[:3]
    assert {group["group"] for group in detail["groups"]} == set(FRAUD_V1.groups)


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"transaction_amount": -1}, "/transaction_amount"),
        ({"transaction_amount": "150"}, "/transaction_amount"),
        ({"transaction_amount": True}, "/transaction_amount"),
        ({"transaction_amount": 1e10}, "/transaction_amount"),
        ({"transaction_amount": None}, "/transaction_amount"),
        ({"card_id": ""}, "/card_id"),
        ({"card_id": "x" * 65}, "/card_id"),
        ({"card_id": "a b"}, "/card_id"),
        ({"card_id": 7}, "/card_id"),
        ({"mcc_code": "541"}, "/mcc_code"),
        ({"mcc_code": "٥٤١١"}, "/mcc_code"),
        ({"mcc_code": 5411}, "/mcc_code"),
        ({"country_code": "USA"}, "/country_code"),
        ({"country_code": "U1"}, "/country_code"),
        ({"currency": "eur"}, "/currency"),
        ({"currency": "XTS"}, "/currency"),
        ({"transaction_amount": 9e8, "currency": "EUR"}, "/transaction_amount"),
        ({"unknown": 1}, "/unknown"),
        ({"explain": "yes"}, "/explain"),
        ({"timestamp": "2026-01-01T00:00:00"}, "/timestamp"),
        ({"timestamp": "yesterday"}, "/timestamp"),
        ({"timestamp": "2999-01-01T00:00:00Z"}, "/timestamp"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_recorded(
    client, events, changed: dict[str, Any], pointer: str
):
    response = await client.post("/score/fraud", json={**PAYMENT, **changed})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert [item["pointer"] for item in response.json()["errors"]] == [pointer]
    assert events.events == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_amounts_that_are_no_numbers_are_refused(client, number: str):
    text = f'{{"card_id": "c1", "transaction_amount": {number}}}'
    response = await client.post("/score/fraud", content=text)
    assert response.status_code in (400, 422)
    assert number not in response.text


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "\xff"])
async def test_bodies_that_are_no_object_are_refused(client, text: str):
    response = await client.post("/score/fraud", content=text.encode("latin-1"))
    assert response.status_code in (400, 422)
    assert response.json()["request_id"]


async def test_a_body_above_the_cap_is_refused(client):
    response = await client.post("/score/fraud", content=b" " * 70_000)
    assert response.status_code == 413


async def test_each_answer_leaves_one_event_that_the_registry_accepts(client, events):
    body = (await client.post("/score/fraud", json={**PAYMENT, "transaction_id": "tx-1"})).json()
    (event,) = events.events
    document = event.to_wire()
    assert problems_of(document, "inference") is None
    assert document["data_subject"] == "card_00001234"
    assert document["tenant"] == "default"
    assert document["data"]["score"] == body["fraud_score"]
    assert document["data"]["decision"] == body["recommended_action"]
    assert document["data"]["prediction_id"] == document["id"] == body["prediction_id"]
    assert document["data"]["transaction_id"] == "tx-1"
    assert document["data"]["status"] == "ok"
    assert "card_00001234" not in json.dumps(document["data"])


async def test_an_event_that_cannot_be_kept_fails_the_request(client, events):
    events.error = UnavailableError("The event log is full.", retry_after_s=3)
    response = await client.post("/score/fraud", json=PAYMENT)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"


async def test_without_features_the_answer_is_degraded_and_large_amounts_are_reviewed(
    client, reader, events
):
    reader.reasons = ["redis_unavailable"]
    body = (await client.post("/score/fraud", json={**PAYMENT, "transaction_amount": 900})).json()
    assert body["degraded"] is True
    assert body["degraded_reasons"] == ["redis_unavailable"]
    assert body["features_used"] == 0
    assert body["features_missing"] == ["card:count_1h"]
    assert body["feature_freshness_sec"] is None
    assert body["recommended_action"] != "approve"
    assert events.events[0].data["status"] == "degraded"
    assert events.events[0].data["reason"] == "redis_unavailable"


async def test_stale_features_degrade_the_answer(client, reader):
    reader.stale = ["card"]
    body = (await client.post("/score/fraud", json=PAYMENT)).json()
    assert (body["features_stale"], body["degraded_reasons"]) == (["card"], ["features_stale"])


async def test_an_amount_in_another_currency_is_converted_and_the_answer_says_how(client, reader):
    euros = {**PAYMENT, "transaction_amount": 100.0, "currency": "EUR"}
    body = (await client.post("/score/fraud", json=euros)).json()
    FraudAnswer.model_validate(body)
    assert reader.calls[-1][2][0].values["amount_minor"] == 11_700
    assert body["converted_amount"] == {
        "amount": 117.0,
        "currency": "USD",
        "rate": 1.17,
        "rates_as_of": "2025-06-30",
    }
    assert "amount_converted" in body["reason_codes"]
    dollars = (await client.post("/score/fraud", json={**PAYMENT, "currency": "USD"})).json()
    assert "converted_amount" not in dollars


async def test_a_batch_refuses_an_unknown_currency_by_its_item_alone(client):
    items = [PAYMENT, {**PAYMENT, "currency": "XTS"}]
    body = {"model_type": "fraud_detection", "requests": items}
    found = (await client.post("/score/batch", json=body)).json()["results"]
    assert [item["status"] for item in found] == [200, 422]
    assert found[1]["error"]["errors"][0]["pointer"] == "/currency"


@pytest.mark.parametrize("count", [3, 40])
async def test_the_order_of_a_batch_changes_no_answer(client, reader, count: int):
    rows = random_rows(FRAUD_V1, count, seed=9)
    order = np.random.default_rng(1).permutation(count)
    scores = []
    for chosen in (np.arange(count), order):
        reader.rows = rows[chosen]
        items = [{**PAYMENT, "card_id": f"c{number}"} for number in chosen]
        # Chunks of the test's settings hold ten rows; the fake reader answers a chunk at a time.
        found: dict[Any, Any] = {}
        for start in range(0, count, 10):
            reader.rows = rows[chosen][start : start + 10]
            part = {"model_type": "fraud_detection", "requests": items[start : start + 10]}
            listed = (await client.post("/score/batch", json=part)).json()["results"]
            found |= {
                items[start + item["index"]]["card_id"]: item["result"]["fraud_score"]
                for item in listed
            }
        scores.append(found)
    assert scores[0] == scores[1]


async def test_a_failing_model_answers_500_and_leaves_a_failed_event(client, reader, events):
    reader.rows = np.zeros((1, 3), np.float32)
    response = await client.post("/score/fraud", json=PAYMENT)
    assert response.status_code == 500
    assert response.json()["code"] == "inference_failed"
    (event,) = events.events
    assert (event.data["status"], event.data["reason"]) == ("failed", "inference_failed")
    assert problems_of(event.to_wire(), "inference") is None


async def test_the_missions_metrics_count_the_call(client):
    await client.post("/score/fraud", json=PAYMENT)
    await client.post("/score/fraud", json={})
    text = (await client.get("/metrics")).text
    where = 'endpoint="/score/fraud",model="fraud"'
    for line in (
        f'inference_requests_total{{{where},status="200",version="1"}} 1.0',
        f'inference_requests_total{{{where},status="422",version=""}} 1.0',
        'inference_request_duration_seconds_count{endpoint="/score/fraud",model="fraud"} 2.0',
        'inference_active_requests{endpoint="/score/fraud"} 0.0',
        'feature_fetch_duration_seconds_count{service="fraud_v1"} 1.0',
        'model_inference_duration_seconds_count{model="fraud",version="1"} 1.0',
        'prediction_scores_count{model="fraud",version="1"} 1.0',
        f'inference_errors_total{{{where},type="invalid_input",version=""}} 1.0',
    ):
        assert line in text


async def test_with_no_model_the_answer_is_503_and_the_process_not_ready(
    tmp_path: Path, settings, reader, events
):
    from tests.unit.inference.conftest import serving

    empty = settings.model_copy(update={"model_path": tmp_path})
    async with serving(empty, reader, events) as client:
        response = await client.post("/score/fraud", json=PAYMENT)
        assert (response.status_code, response.json()["code"]) == (503, "model_not_loaded")
        assert (await client.get("/readyz")).status_code == 503
    assert events.events == []


def test_native_trees_serve_when_onnx_is_off(models: Path):
    native, onnx = ModelRepository(models, use_onnx=False), ModelRepository(models)
    native.load_all()
    onnx.load_all()
    rows = random_rows(FRAUD_V1, 300, seed=5)
    scores = []
    for repository in (native, onnx):
        model = repository.serving("fraud")
        assert isinstance(model, TabularModel)
        engine = model.engine
        scores.append(engine.finish(engine.forward([engine.prepare(rows)]), [rows])[0])
    assert np.abs(scores[0] - scores[1]).max() <= 1e-6
