"""Entity models behind every route: V2, the named route, windows, the cache, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from libs.common.manifest import load_manifest
from services.inference.adapters.repository import ModelRepository
from services.inference.adapters.text_loading import load_text
from services.inference.domain.prediction_cache import decode_answer, encode_answer
from services.inference.domain.text import TextAnswer, TextModel
from tests.support.tagger_model import build_tagger_version
from tests.unit.inference.conftest import MemoryEvents
from tests.unit.inference.text_app import text_app

TEXT = "🙂 Yesterday Anna Smith, from Porto; anna smith stayed in North River."
MEANT = [("Anna Smith", "person"), ("Porto", "location"), ("North River", "location")]
V2 = "/v2/models/entities"


def _named(text: str, spans: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(text[span["start"] : span["end"]], span["label"]) for span in spans]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    build_tagger_version(tmp_path / "models")
    return tmp_path / "models"


@pytest.mark.anyio
async def test_v2_answers_spans_in_code_points_of_each_text(models: Path, tmp_path: Path):
    texts = [TEXT, "nothing here", "Porto " * 40]
    async with text_app(models, tmp_path, MemoryEvents()) as (client, _):
        body = {
            "inputs": [{"name": "text", "shape": [3], "datatype": "BYTES", "data": texts}],
            "outputs": [{"name": "spans"}, {"name": "windows"}],
        }
        outputs = {
            one["name"]: one["data"]
            for one in (await client.post(f"{V2}/infer", json=body)).json()["outputs"]
        }
        config = (await client.get(f"{V2}/config")).json()["parameters"]
    found = [json.loads(one) for one in outputs["spans"]]
    assert _named(TEXT, found[0]) == MEANT
    assert found[1] == []
    assert _named(texts[2], found[2]) == [("Porto", "location")] * 40
    assert outputs["windows"][:2] != [1, 1]
    assert outputs["windows"][2] > 3
    assert config["labels"] == ["person", "location"]
    assert config["thresholds"] == {"person": 0.5, "location": 0.5}


@pytest.mark.anyio
async def test_the_named_route_adds_spans_and_the_best_label(models: Path, tmp_path: Path):
    async with text_app(models, tmp_path, MemoryEvents()) as (client, _):
        answer = await client.post(
            "/v1/models/entities/predict", json={"inputs": [TEXT, "no name"]}
        )
    first, second = answer.json()["predictions"]
    assert _named(TEXT, first["spans"]) == MEANT
    assert first["label"] in {"person", "location"}
    assert (second["label"], second["spans"]) == ("none", [])


def test_a_cached_answer_keeps_its_spans(models: Path):
    model = _load(models)
    encoding = model.encoder.encode(["Anna Smith"])[0]
    engine = model.engine
    window = encoding.windows[0]  # type: ignore[union-attr]
    logits = engine.finish(engine.forward(engine.collate([window], len(window))))[0]
    reading = model.head.read("Anna Smith", encoding, [logits])  # type: ignore[arg-type]
    answer = TextAnswer(
        reading.label, reading.confidence, reading.scores, 1, 4, False, spans=reading.spans
    )
    back = decode_answer(encode_answer(answer, 3), 3, 2)
    assert back is not None
    assert back.spans == reading.spans
    assert [(one.start, one.end, one.label) for one in back.spans] == [(0, 10, "person")]


def test_a_graph_with_another_number_of_tags_is_refused(tmp_path: Path):
    build_tagger_version(tmp_path, tags=9)
    repository = ModelRepository(tmp_path)
    repository.load_all()
    (status,) = repository.versions("entities")
    assert "labels need 5" in status.reason


def _load(models: Path) -> TextModel:
    directory = models / "entities" / "1"
    return load_text(directory, load_manifest(directory), executors=1)
