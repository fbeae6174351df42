"""The same rollouts for texts and for personalization; labels that arrive later are judged."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from libs.common.redis import create_redis
from services.features.adapters.label_stream import tell_label
from services.inference import dataplane
from services.inference.errors import InferenceFailedError
from services.inference.execution.runner import TextRunner
from tests.integration.inference.replicas import Replica, replica, until
from tests.support.tabular_models import copy_version
from tests.support.text_models import SENTIMENT_LABELS, build_text_version

pytestmark = pytest.mark.anyio
TEXTS = "/models/sentiment/rollouts"
EAGER: dict[str, Any] = {"text_loading": "eager", "cache_ttl_s": 0}


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    """Fraud, relevance and conversion with a second relevance; sentiment 1 and 2 answer alike."""
    copied = tmp_path / "models"
    shutil.copytree(models, copied)
    copy_version(copied / "relevance/1", 2)
    copy_version(copied / "fraud/1", 2)
    for version in (1, 2):
        build_text_version(copied, "sentiment", version)
    return copied


@pytest.fixture
def stores(tmp_path: Path, clean_postgres: str, redis_url: str) -> tuple[Path, str, str]:
    return tmp_path / "state", clean_postgres, redis_url


def canary(weight: float = 0.3, **more: Any) -> dict[str, Any]:
    stages = [{"weight": weight, "min_requests": 20, "min_seconds": 0}]
    return {"candidate": "2", "mode": "canary", "stages": stages, **more}


async def _start(one: Replica, model: str, **body: Any) -> dict[str, Any]:
    await one.post(f"/models/{model}/versions/1/promote", 200)
    return await one.post(f"/models/{model}/rollouts", 201, **body)


async def _newest(one: Replica, model: str) -> dict[str, Any]:
    return dict((await one.get(f"/models/{model}/rollouts"))["items"][0])


def _break(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    real = TextRunner.run

    async def run(self: TextRunner, *args: Any, **kwargs: Any) -> Any:
        if self.model.version == version:
            raise InferenceFailedError("broken")
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(TextRunner, "run", run)


async def test_texts_are_split_by_weight_and_the_same_text_sticks(root, stores):
    async with replica(root, *stores, **EAGER) as one:
        rollout = await _start(one, "sentiment", **canary(0.3))
        arms = {}
        for number in range(200):
            body = await one.post("/predict", 200, text=f"good phone {number}")
            arms[number] = body["model_arm"]
            assert body["model_version"] == ("2.0.0" if arms[number] == "candidate" else "1.0.0")
        assert 35 < list(arms.values()).count("candidate") < 90
        for number in range(20):
            again = await one.post("/predict", 200, text=f"good phone {number}")
            assert again["model_arm"] == arms[number]
        made = one.events.events[-1].data
        assert (made["rollout"], made["arm"]) == (rollout["id"], arms[19])
        batch = await one.post("/predict/batch", 200, texts=[f"good phone {n}" for n in range(20)])
        assert [item["model_arm"] for item in batch["results"]] == [arms[n] for n in range(20)]


async def test_an_experiment_key_keeps_a_caller_on_one_version(root, stores):
    async with replica(root, *stores, **EAGER) as one:
        await _start(one, "sentiment", **canary(0.5))

        async def arm(key: str, text: str) -> str:
            answer = await one.client.post(
                "/predict", json={"text": text}, headers={"X-Experiment-Key": key}
            )
            return str(answer.json()["model_arm"])

        found = {key: {await arm(key, f"good {n}") for n in range(5)} for key in "abcdefgh"}
        assert {len(arms) for arms in found.values()} == {1}
        assert len(set.union(*found.values())) == 2


async def test_a_caller_who_names_the_version_is_in_no_rollout(root, stores):
    path = "/v1/models/sentiment/predict"
    async with replica(root, *stores, **EAGER) as one:
        await _start(one, "sentiment", **canary(0.9))
        for number in range(10):
            body = await one.post(path, 200, version="1", inputs=[f"good {number}"])
            assert body["model"] == {
                "name": "sentiment", "version": "1", "model_version": "1.0.0", "arm": "stable",
            }  # fmt: skip


async def test_a_broken_text_candidate_is_taken_back_and_no_caller_notices(
    root, stores, monkeypatch
):
    async with replica(root, *stores, **EAGER) as one:
        await _start(one, "sentiment", **canary(0.3))
        _break(monkeypatch, "2")
        arms = [
            (await one.post("/predict", 200, text=f"good {n}"))["model_arm"] for n in range(120)
        ]
        assert 0 < arms.count("fallback") <= 10  # a larger weight tells less per answer
        assert "candidate" not in arms

        async def back() -> bool:
            return bool((await _newest(one, "sentiment"))["state"] == "rolled_back")

        await until(back, "the rollback is recorded")
        assert (await _newest(one, "sentiment"))["signal"] == "errors"


async def test_a_text_shadow_records_both_answers(root, stores):
    async with replica(root, *stores, **EAGER) as one:
        await _start(one, "sentiment", candidate="2", mode="shadow")
        body = await one.post("/predict", 200, text="good phone")
        assert body["model_arm"] == "stable"
        await until(lambda: one.changes("prediction.shadow"), "the shadow's event")
        shadow = one.changes("prediction.shadow")[0]
        assert (shadow["version"], shadow["decision"]) == ("2", "positive")
        assert shadow["stable_prediction_id"] == body["prediction_id"]


async def test_answers_from_the_cache_say_nothing_about_speed(root, stores):
    async with replica(root, *stores, text_loading="eager") as one:
        await _start(one, "sentiment", candidate="2", mode="shadow")
        for _ in range(6):
            await one.post("/predict", 200, text="good phone")
        await until(lambda: len(one.changes("prediction.shadow")) == 6, "six shadow events")
        live = one.state["control"].rollouts.live("sentiment")
        assert len(live.recorder._latencies) == 1  # five of the six were cached


async def test_a_candidate_with_other_labels_cannot_be_compared(root, stores):
    build_text_version(root, "sentiment", 3, labels=(*SENTIMENT_LABELS[:2], "great"))
    async with replica(root, *stores, **EAGER) as one:
        await one.post("/models/sentiment/versions/1/promote", 200)
        refused = await one.post(TEXTS, 409, candidate="3", mode="shadow")
        assert "labels" in refused["detail"]


async def test_users_are_split_for_personalization_and_recommendations(root, stores):
    async with replica(root, *stores) as one:
        await _start(one, "relevance", **canary(0.5))
        arms = {}
        for number in range(60):
            body = await one.post(
                "/score/personalization", 200, user_id=f"user_{number}", item_id="item_1"
            )
            arms[number] = body["model_arm"]
            assert body["model_version"] == ("v2.0.0" if arms[number] == "candidate" else "v1.0.0")
        assert 15 < list(arms.values()).count("candidate") < 45
        for number in range(10):
            body = await one.post(
                "/recommend", 200, user_id=f"user_{number}", item_ids=["item_1", "item_2"]
            )
            wanted = "v2.0.0" if arms[number] == "candidate" else "v1.0.0"
            assert body["model_version"] == wanted


async def test_a_dead_relevance_candidate_is_answered_by_stable(root, stores, monkeypatch):
    real = dataplane._run

    def run(model: Any, rows: Any) -> Any:
        if (model.name, model.version) == ("relevance", "2"):
            raise RuntimeError("dead")
        return real(model, rows)

    async with replica(root, *stores) as one:
        await _start(one, "relevance", **canary(0.3))
        monkeypatch.setattr(dataplane, "_run", run)
        for number in range(80):
            body = await one.post(
                "/score/personalization", 200, user_id=f"user_{number}", item_id="item_1"
            )
            assert body["model_arm"] in {"stable", "fallback"}

        async def back() -> bool:
            return bool((await _newest(one, "relevance"))["state"] == "rolled_back")

        await until(back, "the rollback is recorded")


async def test_labels_that_contradict_the_candidate_take_it_back(root, stores):
    redis = create_redis(stores[2])
    async with replica(root, *stores) as one:
        await _start(one, "fraud", **canary(0.5))
        for number in range(120):
            payment = {"transaction_id": f"tx_{number}"}
            body = await one.score(f"card_{number}", **payment)
            decided = "0" if body["risk_level"] == "low" else "1"
            opposite = "1" if decided == "0" else "0"
            is_candidate = body["model_arm"] == "candidate"
            # Feedback contradicts whatever the candidate said, and agrees with stable.
            label = opposite if is_candidate else decided
            await tell_label(redis, "default", "transaction", f"tx_{number}", label)

        async def back() -> bool:
            return bool((await _newest(one, "fraud"))["state"] == "rolled_back")

        await until(back, "labels take the candidate back")
        ended = await _newest(one, "fraud")
        assert ended["signal"] == "quality"
        assert ended["counts"]["1/0/wrong.c"] > 5
        assert ended["counts"].get("1/0/wrong.s", 0) == 0
    await redis.aclose()


async def test_each_label_counts_once_however_many_replicas_read_it(root, stores):
    redis = create_redis(stores[2])
    async with replica(root, *stores) as one, replica(root, *stores) as two:
        await _start(one, "fraud", **canary(0.5))

        async def known() -> bool:
            return (await two.get("/models/fraud"))["rollout"] is not None

        await until(known, "the other replica follows")
        for number in range(20):
            await (one if number % 2 else two).score(
                f"card_{number}", transaction_id=f"tx_{number}"
            )
            for _ in range(2):
                await tell_label(redis, "default", "transaction", f"tx_{number}", "0")

        async def counted() -> bool:
            counts = (await _newest(one, "fraud"))["counts"]
            return bool(counts.get("1/0/label.c", 0) + counts.get("1/0/label.s", 0) == 20)

        await until(counted, "twenty labels are counted once each")
        await asyncio.sleep(1.2)  # a further round of reading labels must add none
        assert await counted()
    await redis.aclose()
