"""Fraud scored by an ensemble: members, weights, deadlines, fallback, explanation, loading."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from services.inference import dataplane
from tests.integration.inference.replicas import replica
from tests.support.tabular_models import build_version

pytestmark = pytest.mark.anyio
THRESHOLDS = {"review": 0.3, "challenge": 0.6, "decline": 0.9}
MEMBERS = [
    {"model": "tree_one", "version": 1, "weight": 3.0},
    {"model": "tree_two", "version": 1, "weight": 1.0},
]


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    """Two models that score payments, and `fraud` as an ensemble of them."""
    copied = tmp_path / "models"
    for number, name in enumerate(("tree_one", "tree_two")):
        directory = build_version(copied, "fraud", 1, seed=7 + number)
        manifest = json.loads((directory / "manifest.json").read_text())
        (directory / "manifest.json").write_text(json.dumps({**manifest, "name": name}))
        shutil.move(str(directory), str(copied / name / "1"))
    return copied


def declare(root: Path, **spec: Any) -> None:
    directory = root / "fraud/1"
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "name": "fraud",
        "version": 1,
        "release": "1.0.0",
        "task": "fraud",
        "engine": "ensemble",
        "labels": ["no", "yes"],
        "thresholds": THRESHOLDS,
        "ensemble": {"members": MEMBERS, **spec},
    }
    (directory / "manifest.json").write_text(json.dumps(document))


@pytest.fixture
def stores(tmp_path: Path, clean_postgres: str, redis_url: str) -> tuple[Path, str, str]:
    return tmp_path / "state", clean_postgres, redis_url


def _switch(monkeypatch: pytest.MonkeyPatch, name: str, seconds: float | None = None) -> None:
    """Make a member fail, or take that long."""
    real = dataplane._run

    def run(model: Any, rows: Any) -> Any:
        if model.name == name:
            if seconds is None:
                raise RuntimeError("dead")
            time.sleep(seconds)
        return real(model, rows)

    monkeypatch.setattr(dataplane, "_run", run)


async def test_the_score_is_the_weighted_mean_and_is_explained_by_name(root, stores):
    declare(root)
    async with replica(root, *stores) as one:
        body = await one.score("card_1", explain=True)
        assert [part["status"] for part in body["ensemble"]["members"]] == ["ok", "ok"]
        assert body["degraded"] is False
        assert body["explanation_detail"]["model"] == "tree_one/1"
        batch = await one.post(
            "/score/batch",
            200,
            model_type="fraud_detection",
            requests=[{"card_id": f"card_{n}", "transaction_amount": 5} for n in range(100)],
        )
        assert batch["failed"] == 0
        entry = await one.get("/models/fraud")
        assert (entry["kind"], entry["engine"]) == ("ensemble", "ensemble")


async def test_a_member_that_fails_is_left_out(root, stores, monkeypatch):
    declare(root)
    _switch(monkeypatch, "tree_two")
    async with replica(root, *stores) as one:
        body = await one.score("card_1")
        assert [part["status"] for part in body["ensemble"]["members"]] == ["ok", "failed"]
        assert body["degraded_reasons"] == ["ensemble_member_missing"]
        assert one.events.events[-1].data["status"] == "degraded"


async def test_a_member_that_hangs_costs_its_deadline_and_is_then_left_alone(
    root, stores, monkeypatch
):
    declare(root, member_timeout_ms=60)
    _switch(monkeypatch, "tree_two", 1.0)
    async with replica(root, *stores) as one:
        took = []
        for number in range(6):
            began = time.perf_counter()
            body = await one.score(f"card_{number}")
            took.append(time.perf_counter() - began)
            assert [p["status"] for p in body["ensemble"]["members"]] == ["ok", "timeout"]
        assert max(took) < 0.5
        assert min(took[2:]) < 0.05  # nobody waits for it any more


async def test_the_fallback_answers_or_the_call_fails(root, stores, monkeypatch):
    declare(root, min_members=2, fallback={"model": "tree_one", "version": 1})
    _switch(monkeypatch, "tree_two")
    async with replica(root, *stores) as one:
        body = await one.score("card_1")
        assert body["ensemble"]["fallback"] is True
        assert body["degraded_reasons"] == ["ensemble_fallback"]
    declare(root, min_members=2)
    async with replica(root, *stores) as one:
        answer = await one.client.post(
            "/score/fraud", json={"card_id": "card_1", "transaction_amount": 1.0}
        )
        assert (answer.status_code, answer.json()["code"]) == (503, "ensemble_unavailable")
