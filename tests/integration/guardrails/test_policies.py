"""Policies: drafts, versions, pointer, and no stale verdict after a change."""

import asyncio
import json
import time

import pytest
from pydantic import SecretStr

from libs.common.settings import SettingsError
from services.guardrails.wiring import secret_of
from tests.integration.guardrails.conftest import serving

pytestmark = pytest.mark.anyio
BASE = "/v1/guardrails/policies"


def draft(action: str) -> dict[str, list[dict[str, str]]]:
    return {"validators": [{"name": "pii", "action": action}]}


async def test_a_published_version_is_frozen_and_the_pointer_rolls_back(client, recorder):
    ask = {"text": "mail jane@example.com"}

    async def action() -> str:
        return str((await client.post("/v1/guardrails/validate", json=ask)).json()["action"])

    assert await action() == "mask"
    made = await client.post(BASE, json={"id": "house", "draft": draft("block")})
    assert made.status_code == 201
    assert (await client.post(f"{BASE}/house/publish")).json()["version"] == 1
    assert await action() == "mask"
    await client.post(f"{BASE}/house/activate", json={"version": 1})
    assert await action() == "block"
    edited = await client.put(
        f"{BASE}/house/draft", json=draft("flag"), headers={"if-match": made.headers["etag"]}
    )
    assert edited.status_code == 200
    assert await action() == "block"
    assert (await client.post(f"{BASE}/house/publish")).json()["version"] == 2
    await client.post(f"{BASE}/house/activate", json={"version": 2})
    assert await action() == "flag"
    await client.post(f"{BASE}/house/activate", json={"version": 1})
    assert await action() == "block"
    changes = [event for event in recorder.events if event.type == "policy.changed"]
    assert len(changes) == 5
    assert {event.event_class for event in changes} == {"required"}


async def test_an_old_draft_revision_is_a_conflict(client):
    made = await client.post(BASE, json={"id": "mine", "draft": draft("mask")})
    headers = {"if-match": made.headers["etag"]}
    assert (await client.put(f"{BASE}/mine/draft", json=draft("flag"), headers=headers)).is_success
    again = await client.put(f"{BASE}/mine/draft", json=draft("block"), headers=headers)
    assert again.status_code == 409


@pytest.mark.parametrize(
    ("rule", "pointer"),
    [
        ({"name": "nope"}, "/draft/validators/0/name"),
        ({"name": "pii", "params": {"x": 1}}, "/draft/validators/0/params/x"),
        ({"name": "regex", "params": {"patterns": {"p": "(?=a)"}}},
         "/draft/validators/0/params/patterns/p"),
        ({"name": "pii", "threshold": 2}, "/draft/validators/0/threshold"),
    ],
)  # fmt: skip
async def test_a_draft_that_could_not_run_is_refused_by_pointer(client, rule, pointer):
    reply = await client.post(BASE, json={"id": "bad", "draft": {"validators": [rule]}})
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["pointer"] == pointer
    assert (await client.get(BASE)).json()["items"] == []


async def test_a_dry_run_and_a_diff_say_what_a_draft_would_change(client, recorder):
    await client.post(BASE, json={"id": "trial", "draft": draft("mask")})
    await client.post(f"{BASE}/trial/publish")
    stored = await client.get(f"{BASE}/trial")
    await client.put(
        f"{BASE}/trial/draft", json=draft("block"), headers={"if-match": stored.headers["etag"]}
    )
    recorder.events.clear()
    texts = ["mail jane@example.com", "nothing here"]
    tried = (await client.post(f"{BASE}/trial/dry-run", json={"texts": texts})).json()
    assert [item["action"] for item in tried["results"]] == ["block", "allow"]
    body = {"from": "1", "to": "draft", "texts": texts}
    compared = (await client.post(f"{BASE}/trial/diff", json=body)).json()
    assert compared["changed"] == 1
    assert {"from": "mask", "to": "block", "count": 1} in compared["actions"]
    assert compared["changes"][0]["to"]["action"] == "block"
    assert "jane" not in str(compared)
    assert recorder.events == []
    missing = await client.post(f"{BASE}/trial/diff", json={**body, "to": "9"})
    assert missing.status_code == 404


async def test_the_floor_holds_for_every_policy(settings, recorder, tmp_path):
    path = tmp_path / "floor.json"
    path.write_text(json.dumps(draft("block")))
    async with serving(settings.model_copy(update={"floor": path}), recorder) as floored:
        reply = await floored.post("/v1/guardrails/validate", json={"text": "a jane@example.com"})
    assert reply.json()["action"] == "block"


async def test_erasing_the_cache_makes_every_remembered_verdict_count_as_absent(client):
    ask = {"text": "mail jane@example.com"}

    async def is_cached() -> bool:
        return bool((await client.post("/v1/guardrails/validate", json=ask)).json()["cached"])

    assert [await is_cached(), await is_cached()] == [False, True]
    first = (await client.delete("/v1/guardrails/cache")).json()
    assert [await is_cached(), await is_cached()] == [False, True]
    again = (await client.delete("/v1/guardrails/cache")).json()
    assert again["epoch"] > first["epoch"] > 0


async def test_a_worker_that_kept_an_old_policy_notices_a_change_without_the_cache(
    settings, recorder
):
    async with serving(settings, recorder) as one, serving(settings, recorder) as other:
        ask = {"text": "mail jane@example.com", "cache_ttl": 0}
        assert (await other.post("/v1/guardrails/validate", json=ask)).json()["action"] == "mask"
        await one.post(BASE, json={"id": "house", "draft": draft("block")})
        await one.post(f"{BASE}/house/publish")
        await one.post(f"{BASE}/house/activate", json={"version": 1})
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            reply = await other.post("/v1/guardrails/validate", json=ask)
            if reply.json()["action"] == "block":
                break
            await asyncio.sleep(0.05)
        assert reply.json()["action"] == "block"


async def test_workers_with_one_secret_give_one_pseudonym(settings, recorder, tmp_path):
    policy = {"validators": [{"name": "pii", "action": "mask",
                              "operators": {"DEFAULT": {"type": "hash"}}}]}  # fmt: skip
    ask = {"text": "mail jane@example.com", "policy": "joined", "cache_ttl": 0}
    texts = []
    for number, secret in enumerate(("ab" * 32, "ab" * 32, "cd" * 32)):
        changed = settings.model_copy(
            update={"secret": SecretStr(secret), "state_dir": tmp_path / str(number)}
        )
        async with serving(changed, recorder) as client:
            await client.post(BASE, json={"id": "joined", "draft": policy})
            await client.post(f"{BASE}/joined/publish")
            reply = await client.post("/v1/guardrails/validate", json=ask)
            texts.append(reply.json()["text"])
    assert texts[0] == texts[1] != texts[2]
    with pytest.raises(SettingsError, match="GUARDRAILS_SECRET"):
        secret_of(settings.model_copy(update={"secret": SecretStr("short")}))


async def test_what_a_policy_encrypts_its_tenant_can_open_and_that_is_recorded(client, recorder):
    policy = {"validators": [{"name": "pii", "action": "mask",
                              "operators": {"DEFAULT": {"type": "encrypt"}}}]}  # fmt: skip
    await client.post(BASE, json={"id": "sealed", "draft": policy})
    await client.post(f"{BASE}/sealed/publish")
    text = "from jane@example.com to 192.0.2.17, ü"
    ask = {"text": text, "policy": "sealed"}
    sealed = (await client.post("/v1/guardrails/validate", json=ask)).json()["text"]
    assert "jane" not in sealed
    recorder.events.clear()
    opened = await client.post("/v1/guardrails/decrypt", json={"text": sealed})
    assert opened.json() == {"text": text, "count": 2}
    (event,) = recorder.events
    assert (event.type, event.event_class, event.data["count"]) == ("text.revealed", "required", 2)
    at = sealed.index("gh1.") + 20
    altered = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
    refused = await client.post("/v1/guardrails/decrypt", json={"text": altered})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/text"
