"""POST /predict, /predict/batch and /v1/models/{name}/predict over the whole app."""

import asyncio
import uuid
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from libs.common.events.registry import problems_of
from services.inference.schemas_text import PredictAnswer, PredictBatchAnswer, TextPredictAnswer
from tests.support.text_models import GUARD_LABELS, logits_of
from tests.unit.inference.conftest import MemoryEvents
from tests.unit.inference.text_app import build_texts, text_app

pytestmark = pytest.mark.anyio

SECRET = "phone very good service zebra"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
async def client(models: Path, state_dir: Path, events: MemoryEvents):
    async with text_app(models, state_dir, events) as (opened, _):
        yield opened


async def test_an_answer_has_the_mission_fields_and_the_probability_of_the_graph(client, events):
    answer = await client.post("/predict", json={"text": SECRET, "include_metrics": True})
    assert answer.status_code == 200
    body = PredictAnswer.model_validate(answer.json())
    logits = np.array(logits_of(SECRET, 3))
    expected = np.exp(logits) / np.exp(logits).sum()
    assert body.sentiment == "positive"
    assert body.confidence == pytest.approx(expected[2], abs=1e-5)
    assert sum(body.scores.values()) == pytest.approx(1.0, abs=1e-5)
    assert body.model_version == "1.0.0"
    assert datetime.fromisoformat(body.timestamp).utcoffset() is not None
    assert body.metric is not None
    assert str(uuid.UUID(body.metric.prediction_id)) == body.prediction_id
    assert body.metric.input_length == len(SECRET)
    assert (body.metric.sentiment, body.metric.confidence) == (body.sentiment, body.confidence)
    event = events.events[0]
    assert event.id == body.prediction_id
    assert event.data["label"] == "positive"
    assert event.data["input_length"] == len(SECRET)
    document = event.to_wire()
    assert problems_of(document, "inference") is None
    assert "zebra" not in str(document)


async def test_metric_is_null_unless_asked_for(client):
    answer = await client.post("/v1/predict", json={"text": "bad bad day"})
    assert (answer.json()["metric"], answer.json()["sentiment"]) == (None, "negative")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"text": ""}, "/text"),
        ({"text": "   \n "}, "/text"),
        ({"text": "a" * 1001}, "/text"),
        ({"text": 7}, "/text"),
        ({"text": None}, "/text"),
        ({}, "/text"),
        ({"text": "good", "include_metrics": "yes"}, "/include_metrics"),
        ({"text": "good", "colour": 1}, "/colour"),
    ],
)
async def test_bad_input_is_refused_by_field_and_nothing_is_recorded(client, events, body, pointer):
    answer = await client.post("/predict", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert "a" * 40 not in answer.text
    assert events.events == []


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b'{"text": "\xff"}', b'{"text": "\\ud800"}'])
async def test_unreadable_bodies_are_400_or_422(client, raw):
    answer = await client.post(
        "/predict", content=raw, headers={"content-type": "application/json"}
    )
    assert answer.status_code in {400, 422}


async def test_a_thousand_characters_pass_and_the_cut_is_told(client):
    answer = await client.post("/predict", json={"text": "good " * 200})
    assert answer.status_code == 200
    assert answer.json()["truncated"] is True


async def test_an_unknown_path_is_404_with_the_endpoints(client):
    answer = await client.post("/predictions", json={})
    assert answer.status_code == 404
    assert "POST /predict" in answer.json()["endpoints"]


async def test_without_a_sentiment_model_the_answer_is_503(
    tmp_path: Path, state_dir: Path, events: MemoryEvents
):
    async with text_app(tmp_path, state_dir, events) as (client, _):
        answer = await client.post("/predict", json={"text": "good"})
    assert answer.status_code == 503
    assert answer.json()["code"] == "model_not_loaded"
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_batch_answers_in_order_with_errors_per_item(client, events):
    texts = ["good", "", "bad", 5, "fine", "x" * 1001]
    answer = await client.post("/predict/batch", json={"texts": texts, "batch_id": "b-1"})
    assert answer.status_code == 200
    body = PredictBatchAnswer.model_validate(answer.json())
    assert [item["status"] for item in body.results] == [200, 422, 200, 422, 200, 422]
    assert [body.results[index]["sentiment"] for index in (0, 2, 4)] == [
        "positive",
        "negative",
        "neutral",
    ]
    assert body.results[1]["error"]["errors"][0]["pointer"] == "/texts/1"
    assert (body.succeeded, body.failed) == (3, 3)
    assert {"queue_wait_ms", "queue_depth", "batch_items"} <= set(body.results[0])
    assert [event.data["batch_id"] for event in events.events] == ["b-1"] * 3


@pytest.mark.parametrize("texts", [[], ["a"] * 1001, "good", None])
async def test_a_batch_of_wrong_size_or_kind_is_refused(client, texts):
    answer = await client.post("/predict/batch", json={"texts": texts})
    assert answer.status_code == 422


async def test_a_batch_equals_single_calls(client):
    texts = [f"good {'bad ' * (index % 7)} day {'the ' * index}" for index in range(40)]
    batch = (await client.post("/predict/batch", json={"texts": texts})).json()["results"]
    for text, item in zip(texts, batch, strict=True):
        single = (await client.post("/predict", json={"text": text})).json()
        assert item["sentiment"] == single["sentiment"]
        assert item["confidence"] == pytest.approx(single["confidence"], abs=1e-4)


async def test_a_named_model_gives_labels_scores_and_windows(client):
    long_text = "the service was very good " * 10 + "evil " + "the day was fine " * 10
    answer = await client.post(
        "/v1/models/guard/predict", json={"inputs": ["a fine day", long_text]}
    )
    body = TextPredictAnswer.model_validate(answer.json())
    calm, attack = body.predictions
    assert (calm["label"], calm["windows"]) == ("none", 1)
    assert attack["windows"] > 5
    assert set(attack["scores"]) == set(GUARD_LABELS)
    assert attack["scores"]["injection"] > calm["scores"]["injection"]
    assert body.model["version"] == "1"


async def test_top_k_keeps_the_most_probable_labels(client):
    answer = await client.post(
        "/v1/models/sentiment/predict", json={"inputs": ["good"], "parameters": {"top_k": 1}}
    )
    assert list(answer.json()["predictions"][0]["scores"]) == ["positive"]


@pytest.mark.parametrize(
    ("name", "document", "status"),
    [
        ("nobody", {"inputs": ["good"]}, 404),
        ("simple", {"inputs": ["good"]}, 404),
        ("a%2Fb", {"inputs": ["good"]}, 404),
        ("sentiment", {"inputs": ["good"], "version": "9"}, 503),
        ("sentiment", {"inputs": []}, 422),
        ("sentiment", {"inputs": ["good", ""]}, 422),
        ("short", {"inputs": ["one two " * 20]}, 422),
        ("sentiment", {"inputs": ["good"], "parameters": {"timeout_ms": 0}}, 422),
    ],
)
async def test_what_a_named_model_refuses(client, events, name, document, status):
    answer = await client.post(f"/v1/models/{name}/predict", json=document)
    assert answer.status_code == status, answer.text
    assert events.events == []


async def test_a_spent_deadline_is_504_before_the_model_is_asked(client, events):
    answer = await client.post(
        "/predict", json={"text": "good"}, headers={"x-request-deadline-ms": "0"}
    )
    assert answer.status_code == 504
    assert events.events == []


async def test_many_callers_at_once_share_batches_and_all_get_their_own_answer(client):
    words = ["good", "bad", "fine"]
    labels = {"good": "positive", "bad": "negative", "fine": "neutral"}

    async def one(index: int) -> tuple[str, str]:
        word = words[index % 3]
        answer = await client.post("/predict", json={"text": f"{word} {'the ' * (index % 5)}"})
        return labels[word], answer.json()["sentiment"]

    answers = await asyncio.gather(*(one(index) for index in range(60)))
    assert all(expected == found for expected, found in answers)
    metrics = (await client.get("/metrics")).text
    padded = 'inference_batch_tokens_total{kind="padded",model="sentiment"}'
    assert padded in metrics
    assert 'inference_dispatch_total{model="sentiment"' in metrics
