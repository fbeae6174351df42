"""Text ensembles over the routes: who took part, fallback, deadlines, shared batches, loading."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.inference.domain.ensemble import TextEnsemble
from services.inference.execution.runner import TextRunner
from tests.support.text_models import SENTIMENT_LABELS, build_text_version
from tests.unit.inference.conftest import MemoryEvents
from tests.unit.inference.text_app import text_app

pytestmark = pytest.mark.anyio
MEMBERS = [
    {"model": "one", "version": 1, "weight": 2.0},
    {"model": "two", "version": 1, "weight": 1.0},
]


def declare(root: Path, name: str = "sentiment", version: int = 1, **spec: Any) -> Path:
    """Write an ensemble's manifest."""
    directory = root / name / str(version)
    directory.mkdir(parents=True)
    fields: dict[str, Any] = {
        key: spec.pop(key) for key in ("labels", "task", "golden_cases") if key in spec
    }
    document = {
        "name": name,
        "version": version,
        "release": f"{version}.0.0",
        "task": "sentiment",
        "engine": "ensemble",
        "labels": list(SENTIMENT_LABELS),
        "activation": "softmax",
        "ensemble": {"members": MEMBERS, **spec},
        **fields,
    }
    (directory / "manifest.json").write_text(json.dumps(document))
    return directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Models one, two (another order of labels) and three, and no ensemble yet."""
    for name in ("one", "two", "three"):
        build_text_version(tmp_path, name, task="text-classification")
    return tmp_path


@pytest.fixture
def events() -> MemoryEvents:
    return MemoryEvents()


async def ask(client: httpx2.AsyncClient, text: str = "the service was good") -> dict[str, Any]:
    answer = await client.post("/predict", json={"text": text})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def failing(monkeypatch: pytest.MonkeyPatch, *names: str, hang: bool = False) -> None:
    """Make the members of these names fail, or never answer."""
    real = TextRunner.run

    async def run(self: TextRunner, *args: Any, **kwargs: Any) -> Any:
        if self.model.name in names:
            if hang:
                await asyncio.sleep(60)
            from services.inference.errors import InferenceFailedError

            raise InferenceFailedError("broken")
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(TextRunner, "run", run)


async def test_all_members_answer_and_the_answer_names_them(root, state_dir, events):
    declare(root)
    async with text_app(root, state_dir, events) as (client, _):
        body = await ask(client)
        single = (
            await client.post("/v1/models/one/predict", json={"inputs": ["the service was good"]})
        ).json()
        model = (await client.get("/models/sentiment")).json()
    assert body["sentiment"] == "positive"
    assert body["scores"] == pytest.approx(single["predictions"][0]["scores"])
    assert body["degraded"] is False
    assert [one["status"] for one in body["ensemble"]["members"]] == ["ok", "ok"]
    assert body["ensemble"]["agreement"] == 1.0
    assert body["model_version"] == "1.0.0"
    assert (model["kind"], model["engine"]) == ("ensemble", "ensemble")
    made = [event.data for event in events.events if event.data["model"] == "sentiment"]
    assert made[0]["ensemble"]["members"][0]["model"] == "one"
    assert not [event for event in events.events if event.data["model"] == "two"]


async def test_a_member_that_fails_is_left_out_and_said(root, state_dir, events, monkeypatch):
    declare(root)
    failing(monkeypatch, "one")
    async with text_app(root, state_dir, events) as (client, _):
        body = await ask(client)
    assert body["sentiment"] == "positive"
    assert body["degraded"] is True
    assert [one["status"] for one in body["ensemble"]["members"]] == ["failed", "ok"]
    assert events.events[-1].data["reason"] == "ensemble_member_missing"


async def test_a_member_that_hangs_costs_its_deadline_and_no_more(
    root, state_dir, events, monkeypatch
):
    declare(root, members=[{**MEMBERS[0], "timeout_ms": 50}, MEMBERS[1]])
    failing(monkeypatch, "one", hang=True)
    async with text_app(root, state_dir, events) as (client, _):
        loop = asyncio.get_running_loop()
        began = loop.time()
        body = await ask(client)
        assert loop.time() - began < 2.0
    assert [one["status"] for one in body["ensemble"]["members"]] == ["timeout", "ok"]


async def test_the_fallback_answers_when_too_few_members_do(root, state_dir, events, monkeypatch):
    declare(root, min_members=2, fallback={"model": "three", "version": 1})
    failing(monkeypatch, "two")
    async with text_app(root, state_dir, events) as (client, _):
        body = await ask(client)
    assert body["ensemble"]["fallback"] is True
    assert body["degraded"] is True
    assert body["sentiment"] == "positive"
    assert events.events[-1].data["reason"] == "ensemble_fallback"


async def test_without_a_fallback_too_few_members_are_503(root, state_dir, events, monkeypatch):
    declare(root, members=[{**MEMBERS[0], "required": True}, MEMBERS[1]])
    failing(monkeypatch, "one")
    async with text_app(root, state_dir, events) as (client, _):
        answer = await client.post("/predict", json={"text": "good"})
    assert (answer.status_code, answer.json()["code"]) == (503, "ensemble_unavailable")


async def test_members_share_batches_with_single_calls(root, state_dir, events):
    declare(root)
    async with text_app(root, state_dir, events, text_executors=1) as (client, state):
        plane = state["texts"].scorer.plane
        single = state["texts"].repository.serving("one")
        statistics = state["texts"].metrics.statistics.of("one", "1")
        await ask(client, "good")
        before = statistics.execution_count
        texts = [f"good day {number}" for number in range(8)]
        calls = [client.post("/predict", json={"text": text}) for text in texts]
        calls += [
            client.post("/v1/models/one/predict", json={"inputs": [f"bad day {number}"]})
            for number in range(8)
        ]
        answers = await asyncio.gather(*calls)
        assert {answer.status_code for answer in answers} == {200}
        assert plane.runner(single).model is single
        # Sixteen texts for one member, from both kinds of calls, in far fewer runs.
        assert statistics.execution_count - before < 16


async def test_a_hard_vote_counts_members(root, state_dir, events):
    declare(root, method="hard", members=[*MEMBERS, {"model": "three", "version": 1}])
    async with text_app(root, state_dir, events) as (client, _):
        body = await ask(client, "bad")
    assert body["ensemble"]["method"] == "hard"
    assert (body["sentiment"], body["confidence"]) == ("negative", 1.0)
    assert body["scores"] == {"negative": 1.0, "neutral": 0.0, "positive": 0.0}


async def test_the_open_protocol_serves_ensembles(root, state_dir, events):
    declare(root)
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good"]}
    async with text_app(root, state_dir, events) as (client, _):
        described = (await client.get("/v2/models/sentiment")).json()
        answer = await client.post("/v2/models/sentiment/infer", json={"inputs": [tensor]})
    assert described["platform"] == "ensemble"
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    assert outputs["label"] == ["positive"]


async def test_members_are_held_and_leave_with_the_ensemble(root, state_dir, events):
    build_text_version(root, "one", 2, task="text-classification")
    declare(root)
    async with text_app(root, state_dir, events) as (_, state):
        repository = state["texts"].repository
        assert repository.serving_version("one") == 2
        assert repository.loaded_versions("one") == [1, 2]
        assert repository.is_held(("one", 1))
        assert isinstance(repository.serving("sentiment"), TextEnsemble)
        repository.unload("sentiment", 1)
        assert repository.loaded_versions("one") == [2]
        assert repository.loaded_versions("two") == [1]  # it serves by its own name


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"members": [MEMBERS[0], {"model": "nobody", "version": 1}]}, "nobody/1 does not exist"),
        ({"members": [MEMBERS[0], {"model": "two", "version": 9}]}, "two/9 does not exist"),
        ({"members": [MEMBERS[0], {"model": "other", "version": 1}]}, "has other labels"),
        ({"members": [MEMBERS[0], {"model": "broken", "version": 1}]}, "broken/1 cannot serve"),
        ({"members": [MEMBERS[0], {"model": "sentiment", "version": 2}]}, "itself"),
        ({"members": [MEMBERS[0], {"model": "both", "version": 1}]}, "both/1 is an ensemble"),
        ({"labels": ["a", "b"]}, "has other labels"),
        (
            {
                "golden_cases": [
                    {"inputs": {"text": "good"}, "outputs": {"probabilities": [1, 0, 0]}}
                ]
            },
            "golden case 0",
        ),
    ],
)
async def test_what_does_not_fit_together_is_refused_at_load(root, state_dir, events, spec, reason):
    build_text_version(root, "other", task="text-classification", labels=("a", "b", "c"))
    (build_text_version(root, "broken", task="text-classification") / "model.onnx").write_bytes(
        b"x"
    )
    declare(root, "both")
    declare(root, "sentiment", 1, **spec)
    async with text_app(root, state_dir, events) as (client, _):
        found = (await client.get("/models/sentiment")).json()["versions"][0]
        refused = await client.post("/predict", json={"text": "good"})
    assert found["state"] == "failed"
    assert reason in found["reason"]
    assert refused.status_code == 503
