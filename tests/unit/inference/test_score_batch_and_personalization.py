"""POST /score/personalization, POST /score/batch, GET /models, over the whole app."""

import json

import pytest

from libs.common.errors import UnavailableError
from libs.common.events.registry import problems_of
from libs.common.features.personalization import PERSONALIZATION_V1
from services.inference.schemas import BatchAnswer, FraudAnswer, PersonalizationAnswer

pytestmark = pytest.mark.anyio

PAIR = {
    "user_id": "user_00005678",
    "item_id": "item_electronics_001",
    "item_category": "electronics",
    "item_price": 299.99,
    "session_id": "session_abc123",
}


async def test_personalization_gives_every_field_of_the_contract(client, reader, events):
    response = await client.post("/score/personalization", json=PAIR)
    assert response.status_code == 200
    body = PersonalizationAnswer.model_validate(response.json())
    assert 0 <= body.relevance_score <= 1
    assert 0 <= body.conversion_probability <= 1
    service, _, (asked,) = reader.calls[-1]
    assert service is PERSONALIZATION_V1
    assert asked.entities == {
        "user": "user_00005678",
        "item": "item_electronics_001",
        "session": "session_abc123",
    }
    assert asked.values == {"item_category": "electronics", "price_minor": 29_999}
    (event,) = events.events
    assert problems_of(event.to_wire(), "inference") is None
    assert event.data_subject == "user_00005678"


async def test_personalization_needs_user_and_item_only(client):
    answer = await client.post("/v1/score/personalization", json={"user_id": "u", "item_id": "i"})
    assert answer.status_code == 200
    refused = await client.post("/score/personalization", json={"user_id": "u"})
    assert refused.json()["errors"][0]["pointer"] == "/item_id"


async def test_a_batch_answers_each_item_in_order_with_its_own_error(client, reader, events):
    requests: list[object] = [{"card_id": f"card_{n}", "transaction_amount": n} for n in range(25)]
    requests[3] = {"card_id": "card_3", "transaction_amount": -1}
    requests[7] = "no object"
    response = await client.post(
        "/score/batch",
        json={"model_type": "fraud_detection", "requests": requests, "batch_id": "batch_1"},
    )
    assert response.status_code == 200
    body = BatchAnswer.model_validate(response.json())
    assert (body.batch_id, body.succeeded, body.failed) == ("batch_1", 23, 2)
    assert [item.index for item in body.results] == list(range(25))
    assert body.results[3].status == body.results[7].status == 422
    assert body.results[3].error is not None
    assert body.results[3].error["errors"][0]["pointer"] == "/transaction_amount"
    assert "-1" not in str(body.results[3].error["errors"])
    FraudAnswer.model_validate(body.results[0].result)
    # Chunks of ten places: 23 accepted rows are three reads and three model calls.
    assert [len(asked) for _, _, asked in reader.calls] == [8, 10, 5]
    assert len(events.events) == 23
    assert sorted(event.data["index"] for event in events.events) == [
        index for index in range(25) if index not in (3, 7)
    ]
    assert {event.data["batch_id"] for event in events.events} == {"batch_1"}
    assert all(problems_of(event.to_wire(), "inference") is None for event in events.events)
    text = (await client.get("/metrics")).text
    assert 'model_inference_duration_seconds_count{model="fraud",version="1"} 3.0' in text


async def test_a_batch_of_pairs_uses_the_personalization_models(client):
    body = (
        await client.post(
            "/score/batch", json={"model_type": "personalization", "requests": [PAIR, {}]}
        )
    ).json()
    PersonalizationAnswer.model_validate(body["results"][0]["result"])
    assert (body["succeeded"], body["failed"]) == (1, 1)
    assert body["batch_id"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"model_type": "weather", "requests": [PAIR]}, "/model_type"),
        ({"model_type": "personalization", "requests": []}, "/requests"),
        ({"model_type": "personalization", "requests": [0] * 1001}, "/requests"),
        ({"model_type": "personalization", "requests": {}}, "/requests"),
        ({"model_type": "personalization", "requests": [PAIR], "batch_id": "a b"}, "/batch_id"),
    ],
)
async def test_a_wrong_batch_is_refused_whole(client, events, body: dict[str, object], pointer):
    response = await client.post("/score/batch", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == pointer
    assert events.events == []


async def test_events_that_cannot_be_kept_fail_the_items_of_a_batch(client, events):
    events.error = UnavailableError("full")
    body = (
        await client.post(
            "/score/batch", json={"model_type": "personalization", "requests": [PAIR]}
        )
    ).json()
    assert [item["status"] for item in body["results"]] == [503]


async def test_models_are_listed_with_states_and_one_with_its_metadata(client):
    body = (await client.get("/models")).json()
    assert [item["name"] for item in body["items"]] == ["conversion", "fraud", "relevance"]
    assert body["models"] == body["items"]
    fraud = (await client.get("/v1/models/fraud")).json()
    assert fraud["aliases"] == {"stable": "1"}
    assert fraud["versions"][0]["state"] == "ready"
    assert fraud["serving"]["model_version"] == "v1.0.0"
    assert sum(fraud["serving"]["feature_importance"].values()) == pytest.approx(1.0, abs=1e-4)
    assert (await client.get("/models/none")).status_code == 404


async def test_routes_are_in_the_openapi_document(client):
    document = (await client.get("/openapi.json")).json()
    fraud = document["paths"]["/score/fraud"]["post"]
    schema = fraud["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["card_id", "transaction_amount"]
    assert "FraudAnswer" in str(fraud["responses"]["200"])


async def test_a_call_whose_deadline_has_passed_asks_neither_store_nor_model(
    client, reader, events
):
    headers = {"x-request-deadline-ms": "0"}
    response = await client.post("/score/personalization", json=PAIR, headers=headers)
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    batch = {"model_type": "personalization", "requests": [PAIR, {}]}
    body = (await client.post("/score/batch", json=batch, headers=headers)).json()
    assert [item["status"] for item in body["results"]] == [504, 422]
    assert (reader.calls, events.events) == ([], [])


async def test_a_batch_is_streamed_line_by_line_on_request(client):
    requests = [{"card_id": f"card_{n}", "transaction_amount": 5.0} for n in range(24)]
    requests[13] = {"card_id": "card_13", "transaction_amount": -1}
    body = {"model_type": "fraud_detection", "requests": requests, "batch_id": "b7"}
    headers = {"accept": "application/x-ndjson"}
    response = await client.post("/score/batch", json=body, headers=headers)
    assert response.headers["content-type"].startswith("application/x-ndjson")
    *items, last = [json.loads(line) for line in response.text.splitlines()]
    assert [item["index"] for item in items] == list(range(24))
    assert [item["index"] for item in items if item["status"] == 422] == [13]
    assert (last["batch_id"], last["succeeded"], last["failed"]) == ("b7", 23, 1)


async def test_a_streamed_batch_that_cannot_be_read_is_refused_as_a_whole(client):
    headers = {"accept": "application/x-ndjson"}
    body = {"model_type": "fraud_detection", "requests": []}
    response = await client.post("/score/batch", json=body, headers=headers)
    assert response.status_code == 422
