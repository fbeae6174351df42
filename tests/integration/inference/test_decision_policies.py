"""Decision policies over a real database: per tenant, versioned, audited, kept at a restart."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from libs.common.events.registry import problems_of
from libs.common.features.contract import FeatureRequest, FeatureRows, FeatureService
from libs.common.identity import IDENTITY_HEADER, Signer
from services.inference.app import create_app
from services.inference.settings import InferenceSettings
from tests.support.tabular_models import random_rows

pytestmark = pytest.mark.anyio
PAYMENT = {"card_id": "card_1", "transaction_amount": 10.0, "merchant_id": "m1"}
PATH = "/v1/decision-policies/fraud"


class _Reader:
    async def read(
        self, service: FeatureService, tenant: str, requests: list[FeatureRequest]
    ) -> FeatureRows:
        rows = np.repeat(random_rows(service, 1, seed=4), len(requests), axis=0)
        nothing: list[list[str]] = [[] for _ in requests]
        return FeatureRows(rows, nothing, nothing, [1.0] * len(requests), [], 0.001)


class _Events:
    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    async def emit(self, *events: Any) -> None:
        self.documents += [event.to_wire() for event in events]


@dataclass
class _Suite:
    client: httpx2.AsyncClient
    events: _Events
    signer: Signer

    def as_tenant(self, tenant: str, *scopes: str) -> dict[str, str]:
        header = self.signer.header(
            "inference", tenant=tenant, principal="key:boss", scopes=scopes or ("*",)
        )
        return {IDENTITY_HEADER: header}

    async def score(self, tenant: str) -> dict[str, Any]:
        answer = await self.client.post(
            "/score/fraud", json=PAYMENT, headers=self.as_tenant(tenant)
        )
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


@asynccontextmanager
async def _serving(state_dir: Path, models: Path, postgres_url: str) -> AsyncIterator[_Suite]:
    events = _Events()
    settings = InferenceSettings.load(
        state_dir=state_dir, model_path=models, postgres_url=postgres_url, traces_exporter="none"
    )
    app = create_app(settings, events=events, reader=_Reader())
    async with app.fastapi.router.lifespan_context(app.fastapi) as state:

        async def call(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        transport = httpx2.ASGITransport(call)
        async with httpx2.AsyncClient(transport=transport, base_url="http://i") as client:
            yield _Suite(client, events, Signer.from_directory("gateway", state_dir / "keys"))


def _body(review: float, challenge: float, decline: float, **more: Any) -> dict[str, Any]:
    thresholds = {"review": review, "challenge": challenge, "decline": decline}
    return {"thresholds": thresholds, **more}


async def test_a_tenants_thresholds_decide_for_it_alone_and_are_audited(
    state_dir: Path, models: Path, clean_postgres: str
):
    async with _serving(state_dir, models, clean_postgres) as suite:
        before = await suite.score("strict")
        assert before["decision_policy"] == "model"
        score = before["fraud_score"]
        low = [score / 4, score / 3, score / 2]
        answer = await suite.client.put(
            PATH,
            json=_body(*low, reason="season of gifts", version=0),
            headers=suite.as_tenant("strict"),
        )
        assert (answer.status_code, answer.json()["version"]) == (200, 1)

        strict, other = await suite.score("strict"), await suite.score("other")
        assert (strict["risk_level"], strict["recommended_action"]) == ("critical", "decline")
        assert strict["decision_policy"] == "tenant version 1"
        assert strict["fraud_score"] == other["fraud_score"] == score
        assert other["decision_policy"] == "model"
        assert other["risk_level"] == before["risk_level"]

        (changed,) = [e for e in suite.events.documents if e["type"] == "policy.changed"]
        assert problems_of(changed, "inference") is None
        assert changed["class"] == "required"
        assert (changed["tenant"], changed["data"]["by"]) == ("strict", "key:boss")
        assert changed["data"]["to"]["thresholds"]["decline"] == low[2]
        made = [e for e in suite.events.documents if e["type"] == "prediction.made"]
        assert made[-2]["data"]["policy"] == "tenant version 1"
        assert all(problems_of(event, "inference") is None for event in made)


async def test_versions_grow_old_decisions_conflict_and_can_be_given_back(
    state_dir: Path, models: Path, clean_postgres: str
):
    async with _serving(state_dir, models, clean_postgres) as suite:
        me = suite.as_tenant("t1")
        for number, decline in enumerate((0.9, 0.95), 1):
            body = _body(0.1, 0.5, decline, version=number - 1)
            assert (await suite.client.put(PATH, json=body, headers=me)).status_code == 200
        late = await suite.client.put(PATH, json=_body(0.1, 0.2, 0.3, version=1), headers=me)
        assert late.status_code == 409
        back = await suite.client.delete(f"{PATH}?version=2", headers=me)
        assert (back.json()["version"], back.json()["thresholds"]) == (3, None)
        history = (await suite.client.get(f"{PATH}/history", headers=me)).json()["items"]
        assert [item["version"] for item in history] == [3, 2, 1]
        shown = (await suite.client.get(PATH, headers=me)).json()
        assert shown["in_force"]["thresholds"] == {"review": 0.3, "challenge": 0.6, "decline": 0.9}
        others = await suite.client.get(f"{PATH}/history", headers=suite.as_tenant("t2"))
        assert others.json()["items"] == []


async def test_a_policy_outlives_a_restart_with_and_without_the_database(
    state_dir: Path, models: Path, clean_postgres: str
):
    async with _serving(state_dir, models, clean_postgres) as suite:
        body = _body(0.0001, 0.0002, 0.0003)
        answer = await suite.client.put(PATH, json=body, headers=suite.as_tenant("t1"))
        assert answer.status_code == 200
    dead = "postgresql://nobody@127.0.0.1:9/none"
    for url in (clean_postgres, dead):
        async with _serving(state_dir, models, url) as suite:
            assert (await suite.score("t1"))["decision_policy"] == "tenant version 1"
    async with _serving(state_dir, models, dead) as suite:
        refused = await suite.client.put(PATH, json=body, headers=suite.as_tenant("t1"))
        assert refused.status_code == 503


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (_body(0.5, 0.4, 0.9), "/thresholds/challenge"),
        (_body(0.1, 0.4, 0.3), "/thresholds/decline"),
        (_body(0.0, 0.4, 0.5), "/thresholds/review"),
        (_body(0.1, 0.4, 1.5), "/thresholds/decline"),
        ({"thresholds": {"review": 0.1, "challenge": 0.2}}, "/thresholds/decline"),
        (_body(0.1, 0.2, 0.3, review_amount=-1.0), "/review_amount"),
        (_body(0.1, 0.2, 0.3, colour="red"), "/colour"),
    ],
)
async def test_a_policy_that_falls_is_refused_by_its_field(
    state_dir: Path, models: Path, clean_postgres: str, body: dict[str, Any], pointer: str
):
    async with _serving(state_dir, models, clean_postgres) as suite:
        answer = await suite.client.put(PATH, json=body, headers=suite.as_tenant("t1"))
        assert answer.status_code == 422
        assert [item["pointer"] for item in answer.json()["errors"]] == [pointer]
        assert (await suite.client.get(PATH, headers=suite.as_tenant("t1"))).json()["version"] == 0


async def test_reading_does_not_allow_writing_and_only_models_that_decide_have_policies(
    state_dir: Path, models: Path, clean_postgres: str
):
    async with _serving(state_dir, models, clean_postgres) as suite:
        reader = suite.as_tenant("t1", "policies:read")
        assert (await suite.client.get(PATH, headers=reader)).status_code == 200
        refused = await suite.client.put(PATH, json=_body(0.1, 0.2, 0.3), headers=reader)
        assert refused.status_code == 403
        path = "/v1/decision-policies/relevance"
        assert (await suite.client.get(path, headers=reader)).status_code == 404
