"""Uploaded rule sets over HTTP: published whole or not at all, swapped, owned, kept."""

import asyncio
import time

import pytest

from libs.common.postgres import Postgres
from services.guardrails.adapters.rule_sets import PostgresRuleSets, RuleSetVersion
from services.guardrails.domain.rulesets import RuleSet
from tests.integration.guardrails.conftest import serving

pytestmark = pytest.mark.anyio
BASE = "/v1/guardrails/rulesets"
POLICY = {"id": "own", "draft": {"validators": [{"name": "house", "action": "mask"}]}}


def body(pattern: str = r"\bZX-[0-9]{4}\b", version: str = "1.0.0", **changes):
    rule = {"name": "badge", "label": "BADGE", "pattern": pattern, "negatives": ["none here"],
            "positives": ["the «ZX-1234»"], **changes}  # fmt: skip
    return {"name": "house", "version": version, "rules": [rule]}


async def shown(client, text: str) -> str:
    ask = {"text": text, "policy": "own"}
    return str((await client.post("/v1/guardrails/validate", json=ask)).json()["text"])


async def test_a_rule_set_is_published_swapped_and_survives_a_restart(settings, recorder):
    async with serving(settings, recorder) as client:
        assert (await client.post(BASE, json=body())).status_code == 201
        assert (await client.post(BASE, json=body())).status_code == 201
        other = await client.post(BASE, json=body(r"\bZX-[0-9]{2,4}\b"))
        assert other.status_code == 409
        # Nothing serves it yet.
        assert (await client.post("/v1/guardrails/policies", json=POLICY)).status_code == 422
        activate = "/v1/guardrails/plugins/house/activate"
        assert (await client.post(activate, json={"version": "1.0.0"})).status_code == 200
        assert (await client.post("/v1/guardrails/policies", json=POLICY)).status_code == 201
        await client.post("/v1/guardrails/policies/own/publish")
        assert await shown(client, "a ZX-1234 b ZX-12") == "a <BADGE> b ZX-12"
        await client.post(BASE, json=body(r"\bZX-[0-9]{2,4}\b", "2.0.0"))
        assert await shown(client, "a ZX-1234 b ZX-12") == "a <BADGE> b ZX-12"
        await client.post(activate, json={"version": "2.0.0"})
        assert await shown(client, "a ZX-1234 b ZX-12") == "a <BADGE> b <BADGE>"
    changes = [e.data["what"] for e in recorder.events if e.type == "validator.changed"]
    assert changes == ["uploaded", "activated", "uploaded", "activated"]
    async with serving(settings, recorder) as client:
        deadline = time.monotonic() + 20
        while await shown(client, "a ZX-12") != "a <BADGE>":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        listed = (await client.get(BASE)).json()["items"]
        assert [item["version"] for item in listed] == ["1.0.0", "2.0.0"]
        full = (await client.get(f"{BASE}/house/versions/2.0.0")).json()
        assert full["body"]["rules"][0]["pattern"] == r"\bZX-[0-9]{2,4}\b"
        assert (await client.get(f"{BASE}/house/versions/9.0.0")).status_code == 404


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        (body("(x+x+)+y"), "/rules/0/pattern"),
        (body(r"(z)\1"), "/rules/0/pattern"),
        (body(negatives=["the ZX-1234"]), "/rules/0/negatives/0"),
        (body(score=2), "/rules/0/score"),
    ],
)
async def test_a_rule_set_that_could_not_run_is_refused_and_nothing_is_stored(
    client, recorder, sent, pointer
):
    reply = await client.post(BASE, json=sent)
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["pointer"] == pointer
    assert (await client.get(BASE)).json()["items"] == []
    assert recorder.events == []


async def test_the_name_of_a_validator_is_taken(client):
    assert (await client.post(BASE, json={**body(), "name": "pii"})).status_code == 409


async def test_another_tenants_rule_set_can_neither_be_seen_nor_used_nor_replaced(
    settings, recorder
):
    async with serving(settings, recorder) as client:
        postgres = Postgres(settings.postgres_url.get_secret_value(), schema="guardrails")
        stored = RuleSetVersion(RuleSet.model_validate(body()), "acme")
        assert await PostgresRuleSets(postgres).add(stored, "key:1")
        await postgres.close()
        assert (await client.get(BASE)).json()["items"] == []
        assert (await client.get("/v1/guardrails/plugins")).json()["items"] == []
        assert (await client.get(f"{BASE}/house/versions/1.0.0")).status_code == 404
        assert (await client.post(BASE, json=body(version="3.0.0"))).status_code == 409
        swap = "/v1/guardrails/plugins/house/activate"
        assert (await client.post(swap, json={"version": "1.0.0"})).status_code == 404
