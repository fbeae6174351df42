"""Rollouts over real stores: assignment, shadow, canary, rollback, restart, replicas."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from services.inference import dataplane
from tests.integration.inference.replicas import Replica, replica, until
from tests.support.tabular_models import build_version, copy_version

pytestmark = pytest.mark.anyio
ROLLOUTS = "/models/fraud/rollouts"


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    """Fraud versions 1 and 2 that answer alike."""
    shutil.copytree(models / "fraud", tmp_path / "models/fraud")
    copy_version(tmp_path / "models/fraud/1", 2)
    return tmp_path / "models"


@pytest.fixture
def stores(tmp_path: Path, clean_postgres: str, redis_url: str) -> tuple[Path, str, str]:
    return tmp_path / "state", clean_postgres, redis_url


@pytest.fixture
def dead_candidate(monkeypatch):
    """Every call of version 2 fails once the returned switch is on."""
    switch: dict[str, Any] = {"on": True, "calls": 0}
    real = dataplane._run

    def run(model, rows):
        if model.version == "2" and switch["on"]:
            switch["calls"] += 1
            raise RuntimeError("dead")
        return real(model, rows)

    monkeypatch.setattr(dataplane, "_run", run)
    return switch


def canary(weight: float = 0.1, **more: Any) -> dict[str, Any]:
    stages = [{"weight": weight, "min_requests": 20, "min_seconds": 0}]
    return {"candidate": "2", "mode": "canary", "stages": stages, **more}


async def _state(one: Replica) -> str:
    return str((await one.get(ROLLOUTS))["items"][0]["state"])


def _told(one: Replica) -> list[str]:
    return [change["what"] for change in one.changes("rollout.changed")]


async def _started(root: Path, one: Replica, **body: Any) -> dict[str, Any]:
    await one.post("/models/fraud/versions/1/promote", 200)
    return await one.post(ROLLOUTS, 201, **body)


async def test_cards_are_split_by_weight_and_stick(root, stores):
    async with replica(root, *stores) as one:
        rollout = await _started(root, one, **canary(0.3))
        answers = {n: (await one.score(f"card_{n}"))["model_arm"] for n in range(300)}
        share = list(answers.values()).count("candidate") / 300
        assert 0.2 < share < 0.4
        for number in range(30):
            again = await one.score(f"card_{number}")
            assert again["model_arm"] == answers[number]
            assert again["model_version"] == (
                "v2.0.0" if again["model_arm"] == "candidate" else "v1.0.0"
            )
        event = one.events.events[-1]
        assert event.data["rollout"] == rollout["id"]
        assert event.data["arm"] in {"stable", "candidate"}


async def test_a_dead_candidate_is_taken_back_and_no_caller_notices(root, stores, dead_candidate):
    async with replica(root, *stores) as one:
        await _started(root, one, **canary(0.1))
        arms = [(await one.score(f"card_{n}"))["model_arm"] for n in range(400)]
        assert dead_candidate["calls"] <= 5
        assert arms.count("fallback") == dead_candidate["calls"]

        async def back() -> bool:
            return await _state(one) == "rolled_back"

        await until(back, "the rollback is recorded")
        ended = (await one.get(ROLLOUTS))["items"][0]
        assert (ended["signal"], ended["weight"]) == ("errors", 0)
        assert await one.serving() == "1"
        await until(lambda: _told(one) == ["start", "rollback"], "the event of the rollback")
        failed = [e for e in one.events.events if e.data.get("status") == "failed"]
        assert {event.data["arm"] for event in failed} == {"candidate"}


async def test_a_good_candidate_is_promoted_step_by_step_where_that_is_allowed(root, stores):
    stages = [
        {"weight": 0.5, "min_requests": 20, "min_seconds": 0},
        {"weight": 1.0, "min_requests": 10, "min_seconds": 0},
    ]
    async with replica(root, *stores) as one:
        body = {"candidate": "2", "mode": "canary", "stages": stages, "auto_promote": True}
        await _started(root, one, **body)

        async def done() -> bool:
            for number in range(10):
                await one.score(f"card_{asyncio.get_running_loop().time()}_{number}")
            return await _state(one) == "completed"

        await until(done, "the rollout completes", 20)

        async def serves() -> bool:
            return await one.serving() == "2"

        await until(serves, "the candidate serves")
        assert (await one.get("/models/fraud"))["previous"] == "1"
        assert _told(one) == ["start", "advance", "complete"]


async def test_shadow_answers_by_stable_and_records_both(root, stores):
    async with replica(root, *stores) as one:
        await _started(root, one, candidate="2", mode="shadow")
        answers = [await one.score(f"card_{n}") for n in range(5)]
        assert {answer["model_arm"] for answer in answers} == {"stable"}
        await until(lambda: len(one.changes("prediction.shadow")) == 5, "five shadow events")
        shadow = one.changes("prediction.shadow")[0]
        assert shadow["version"] == "2"
        assert shadow["stable_prediction_id"] in {a["prediction_id"] for a in answers}
        assert shadow["score"] == pytest.approx(shadow["stable_score"])

        async def counted() -> bool:
            counts = (await one.get(ROLLOUTS))["items"][0]["counts"]
            return bool(counts.get("1/0/pair") == 5)

        await until(counted, "five pairs are counted")


async def test_a_shadow_whose_decisions_differ_is_taken_back(models, stores, tmp_path):
    root = tmp_path / "models"
    shutil.copytree(models / "fraud", root / "fraud")
    build_version(root, "fraud", 2, seed=99, trees=3)
    manifest = root / "fraud/2/manifest.json"
    manifest.write_text(
        manifest.read_text()
        .replace('"review": 0.3', '"review": 0.01')
        .replace('"challenge": 0.6', '"challenge": 0.02')
    )
    async with replica(root, *stores) as one:
        await _started(root, one, candidate="2", mode="shadow")

        async def back() -> bool:
            for number in range(5):
                await one.score(f"card_{number}")
            return await _state(one) == "rolled_back"

        await until(back, "disagreement takes it back")
        assert (await one.get(ROLLOUTS))["items"][0]["signal"] == "disagreement"


async def test_a_restart_and_the_other_replica_know_the_rollout(root, stores):
    async with replica(root, *stores) as one:
        rollout = await _started(root, one, **canary(0.5))
        arms = {n: (await one.score(f"card_{n}"))["model_arm"] for n in range(40)}
    async with replica(root, *stores) as two:
        assert (await two.get("/models/fraud"))["rollout"]["id"] == rollout["id"]
        assert {n: (await two.score(f"card_{n}"))["model_arm"] for n in range(40)} == arms


async def test_what_two_replicas_saw_is_judged_together(root, stores, dead_candidate):
    async with replica(root, *stores) as one, replica(root, *stores) as two:
        await _started(root, one, **canary(0.5))

        async def known() -> bool:
            return (await two.get("/models/fraud"))["rollout"] is not None

        await until(known, "the other replica follows")
        number = 0

        async def back() -> bool:
            nonlocal number
            for each in (one, two):
                number += 1
                await each.score(f"card_{number}")
            return await _state(two) == "rolled_back"

        await until(back, "taken back on common evidence")
        assert dead_candidate["calls"] < 30

        async def both_follow() -> bool:
            found = [await each.get("/models/fraud") for each in (one, two)]
            return all(item["rollout"] is None for item in found)

        await until(both_follow, "both replicas follow")


async def test_an_operator_pauses_steps_and_takes_back(root, stores):
    async with replica(root, *stores) as one:
        rollout = await _started(root, one, candidate="2", mode="canary")
        path = f"{ROLLOUTS}/{rollout['id']}"
        paused = await one.post(f"{path}/pause", 200)
        assert (paused["state"], paused["weight"]) == ("paused", 0.01)
        stale = await one.post(f"{path}/resume", 409, generation=rollout["generation"])
        assert "generation" in stale["detail"]
        await one.post(f"{path}/resume", 200, generation=paused["generation"])
        stepped = await one.post(f"{path}/promote", 200)
        assert (stepped["stage"], stepped["weight"]) == (1, 0.05)
        ended = await one.post(f"{path}/rollback", 200)
        assert (ended["state"], ended["reason"]) == ("rolled_back", "asked for")
        await one.post(f"{path}/rollback", 409)
        whats = [change["what"] for change in one.changes("rollout.changed")]
        assert whats == ["start", "pause", "resume", "advance", "rollback"]


@pytest.mark.parametrize(
    ("body", "status", "names"),
    [
        ({"candidate": "2", "mode": "ab"}, 422, "/weights"),
        ({"candidate": "2", "mode": "ab", "weights": {"1": 50, "2": 40}}, 422, "sum to 100"),
        ({"candidate": "2", "mode": "ab", "weights": {"1": 50, "3": 50}}, 422, "/weights"),
        ({"candidate": "2", "mode": "canary", "stages": [{"weight": 1.5}]}, 422, "weight"),
        ({"candidate": "1", "mode": "canary"}, 409, "serves already"),
        ({"candidate": "7", "mode": "canary"}, 404, "version"),
        ({"candidate": "2", "mode": "sideways"}, 422, "mode"),
        ({"candidate": "2", "mode": "shadow", "surprise": 1}, 422, "surprise"),
    ],
)
async def test_a_plan_that_makes_no_sense_is_refused(root, stores, body, status, names):
    async with replica(root, *stores) as one:
        await one.post("/models/fraud/versions/1/promote", 200)
        problem = await one.post(ROLLOUTS, status, **body)
        assert names in str(problem)
        assert (await one.get(ROLLOUTS))["items"] == []


async def test_a_second_rollout_waits_for_the_first(root, stores):
    async with replica(root, *stores) as one:
        await _started(root, one, **canary())
        await one.post(ROLLOUTS, 409, **canary())


async def test_an_ab_test_splits_by_its_weights(root, stores):
    async with replica(root, *stores) as one:
        body = {"candidate": "2", "mode": "ab", "weights": {"1": 60, "2": 40}}
        rollout = await _started(root, one, **body)
        assert rollout["stages"][0]["weight"] == 0.4


async def test_a_batch_is_split_row_by_row(root, stores):
    async with replica(root, *stores) as one:
        await _started(root, one, **canary(0.5))
        requests = [{"card_id": f"card_{n}", "transaction_amount": 5} for n in range(60)]
        batch = await one.post("/score/batch", 200, model_type="fraud_detection", requests=requests)
        arms = [item["result"]["model_arm"] for item in batch["results"]]
        assert 15 < arms.count("candidate") < 45
        for number in range(10):
            assert (await one.score(f"card_{number}"))["model_arm"] == arms[number]


async def test_a_read_that_began_before_a_start_does_not_end_the_rollout(root, stores, monkeypatch):
    async with replica(root, *stores, models_reconcile_s=60) as one:
        control = one.state["control"].rollouts
        read, go_on = asyncio.Event(), asyncio.Event()
        real = control._store.rollouts

        async def slow(**which: Any) -> Any:
            found = await real(**which)
            if not read.is_set():
                read.set()
                await go_on.wait()
            return found

        monkeypatch.setattr(control._store, "rollouts", slow)
        following = asyncio.create_task(control.follow())
        await read.wait()
        await _started(root, one, **canary())
        assert control.live("fraud") is not None
        go_on.set()
        await following
        assert control.live("fraud") is not None, "the read was older than the start"
