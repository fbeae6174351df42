"""Tenants, roles, people, rotation of keys, idempotent creation, erasures."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from tests.support.fake_upstream import Answer, Received, echo, reply
from tests.support.gateway import RunningGateway, eventually, running_gateway

pytestmark = pytest.mark.anyio
PASSWORD = "correct horse battery"


async def erasing(request: Received, writer: asyncio.StreamWriter) -> None:
    """Answer erasures, and everything else as an echo."""
    if "erasures" in request.target or request.method == "DELETE":
        await reply(writer, b"{}", headers=(("Content-Type", "application/json"),))
    else:
        await echo(request, writer)


@pytest.fixture
async def gateway(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> AsyncIterator[RunningGateway]:
    answers: dict[str, Answer] = dict.fromkeys(("features", "audit", "inference"), erasing)
    async with running_gateway(
        state_dir,
        clean_postgres,
        redis_url,
        answers=answers,
        ip_burst_per_s=10_000,
        ip_limit_requests=10_000,
    ) as running:
        yield running


async def tenant_key(gateway: RunningGateway, postgres: str, tenant: str, *scopes: str) -> str:
    """Make a tenant and a key of it; a platform administrator would do so by hand."""
    await gateway.call("POST", "/v1/admin/tenants", json={"tenant": tenant, "name": tenant})
    key = await gateway.make_key(scopes=list(scopes))
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(
            "UPDATE gateway.api_keys SET tenant = $1 WHERE key_id = $2", tenant, key.split("_")[1]
        )
    finally:
        await connection.close()
    return key


async def test_a_tenant_changes_from_the_generation_it_was_read_at(
    gateway: RunningGateway,
) -> None:
    made = await gateway.call("POST", "/v1/admin/tenants", json={"tenant": "acme", "name": "Acme"})
    assert (made[0], made[1]["generation"], made[1]["guard"]) == (201, 1, {"mode": "off"})
    change = {"name": "Acme", "limits": {"requests_max": 5}, "generation": 1}
    status, changed, _ = await gateway.call("PUT", "/v1/admin/tenants/acme", json=change)
    assert (status, changed["generation"], changed["limits"]) == (200, 2, {"requests_max": 5})
    status, problem, _ = await gateway.call("PUT", "/v1/admin/tenants/acme", json=change)
    assert (status, problem["generation"]) == (409, 2)
    again = await gateway.call("POST", "/v1/admin/tenants", json={"tenant": "acme", "name": "A"})
    assert again[0] == 409
    events = gateway.recorder.of("tenant.changed")
    assert events[0].data["what"] == "tenant:acme"
    assert orjson.loads(str(events[0].data["to"]))["limits"] == {"requests_max": 5}
    assert len(gateway.recorder.of("tenant.created")) >= 1


async def test_a_tenant_sees_itself_only_and_cannot_raise_its_quota(
    gateway: RunningGateway, clean_postgres: str
) -> None:
    key = await tenant_key(gateway, clean_postgres, "acme", "tenants:admin", "models:read")
    _, listed, _ = await gateway.call("GET", "/v1/admin/tenants", key=key)
    assert [item["tenant"] for item in listed["items"]] == ["acme"]
    assert (await gateway.call("GET", "/v1/admin/tenants/default", key=key))[0] == 404
    other = {"name": "x", "generation": 1}
    assert (await gateway.call("PUT", "/v1/admin/tenants/default", key=key, json=other))[0] == 404
    body = {"tenant": "more", "name": "more"}
    assert (await gateway.call("POST", "/v1/admin/tenants", key=key, json=body))[0] == 403
    raised = {"name": "x", "limits": {"requests_max": 10_000}, "generation": 1}
    status, problem, _ = await gateway.call("PUT", "/v1/admin/tenants/acme", key=key, json=raised)
    assert (status, problem["errors"][0]["pointer"]) == (422, "/limits")
    guarded = {"name": "x", "guard": {"mode": "shadow"}, "generation": 1}
    assert (await gateway.call("PUT", "/v1/admin/tenants/acme", key=key, json=guarded))[0] == 200


async def test_the_quota_of_a_tenant_is_shared_by_its_keys(
    gateway: RunningGateway, clean_postgres: str
) -> None:
    first = await tenant_key(gateway, clean_postgres, "acme", "models:read")
    second = await tenant_key(gateway, clean_postgres, "acme", "models:read")
    change = {"name": "Acme", "limits": {"requests_max": 4}, "generation": 1}
    assert (await gateway.call("PUT", "/v1/admin/tenants/acme", json=change))[0] == 200
    seen = [(await gateway.call("GET", "/models", key=key))[0] for key in (first, second) * 3]
    assert seen == [200] * 4 + [429] * 2
    _, problem, headers = await gateway.call("GET", "/models", key=first)
    assert problem["violated-policies"] == ["tenant"]
    assert '"tenant";q=4;w=60' in headers["ratelimit-policy"]


async def test_rotation_keeps_two_live_keys_and_no_third(gateway: RunningGateway) -> None:
    old = await gateway.make_key(scopes=["models:read"], limits={"requests_max": 5_000})
    path = f"/v1/auth/keys/{old.split('_')[1]}/rotate"
    status, made, _ = await gateway.call("POST", path, json={"overlap_s": 2})
    assert status == 201
    assert made["limits"]["requests_max"] == 5_000
    new = made["key"]
    _, before, _ = await gateway.call("GET", "/v1/auth/keys")
    rows = {row["key_id"]: row for row in before["items"]}
    assert rows[old.split("_")[1]]["rotated_to"] == made["key_id"]
    assert rows[old.split("_")[1]]["principal"] == made["principal"]
    for key in (old, new):
        assert (await gateway.call("GET", "/models", key=key))[0] == 200
    assert (await gateway.call("POST", path))[0] == 409

    async def has_ended() -> bool:
        return (await gateway.call("GET", "/models", key=old))[0] == 401

    await eventually(has_ended)
    assert (await gateway.call("GET", "/models", key=new))[0] == 200
    event = gateway.recorder.of("key.rotated")[0].data
    assert (event["key_id"], event["new_key_id"]) == (old.split("_")[1], made["key_id"])


async def test_nobody_grants_what_they_do_not_hold_or_edits_their_own_roles(
    gateway: RunningGateway,
) -> None:
    weak = await gateway.make_key(scopes=["tenants:admin", "models:read"])
    path = "/v1/admin/roles/ops"
    wide = {"scopes": ["models:admin"]}
    assert (await gateway.call("PUT", path, key=weak, json=wide))[0] == 403
    assert (await gateway.call("PUT", path, json=wide))[0] == 200
    stale = {"scopes": ["models:read"], "generation": 7}
    assert (await gateway.call("PUT", path, json=stale))[0] == 409
    person = {"username": "ada", "password": PASSWORD, "roles": ["ops"]}
    assert (await gateway.call("POST", "/v1/admin/users", key=weak, json=person))[0] == 403
    missing = {**person, "roles": ["no-such"]}
    assert (await gateway.call("POST", "/v1/admin/users", json=missing))[0] == 422
    boss = {"scopes": ["tenants:admin", "models:admin"]}
    assert (await gateway.call("PUT", "/v1/admin/roles/boss", json=boss))[0] == 200
    person["roles"] = ["boss"]
    assert (await gateway.call("POST", "/v1/admin/users", json=person))[0] == 201
    assert (await gateway.call("POST", "/v1/admin/users", json=person))[0] == 409
    form = {"grant_type": "password", "username": "ada", "password": PASSWORD}
    _, tokens, _ = await gateway.call("POST", "/v1/auth/token", key=None, data=form)
    bearer: dict[str, Any] = {
        "headers": {"Authorization": f"Bearer {tokens['access_token']}"},
        "key": None,
    }
    own = {"roles": ["boss", "ops"]}
    assert (await gateway.call("PUT", "/v1/admin/users/ada", json=own, **bearer))[0] == 422
    more = {"scopes": ["tenants:admin"], "generation": 1}
    assert (await gateway.call("PUT", "/v1/admin/roles/boss", json=more, **bearer))[0] == 422
    assert (await gateway.call("DELETE", "/v1/admin/roles/boss", **bearer))[0] == 422


async def test_a_repeated_creation_gets_the_first_answer(gateway: RunningGateway) -> None:
    body = {"name": "once", "scopes": ["models:read"]}
    key = {"Idempotency-Key": '"abc-1"'}
    first = await gateway.call("POST", "/v1/auth/keys", json=body, headers=key)
    again = await gateway.call("POST", "/v1/auth/keys", json=body, headers=key)
    unquoted = {"Idempotency-Key": "abc-1"}
    bare = await gateway.call("POST", "/v1/auth/keys", json=body, headers=unquoted)
    assert (first[0], again[0], bare[0]) == (201, 201, 201)
    assert first[1] == again[1] == bare[1]
    assert "idempotent-replayed" not in first[2]
    assert again[2]["idempotent-replayed"] == "true"
    changed = {**body, "name": "twice"}
    status, problem, _ = await gateway.call("POST", "/v1/auth/keys", json=changed, headers=key)
    assert (status, problem["code"]) == (422, "idempotency_mismatch")
    _, listed, _ = await gateway.call("GET", "/v1/auth/keys")
    assert sum(row["name"] == "once" for row in listed["items"]) == 1
    other = await gateway.make_key(scopes=["keys:write", "models:read"])
    mine = await gateway.call("POST", "/v1/auth/keys", json=body, headers=key, key=other)
    assert (mine[0], mine[1]["key"] == first[1]["key"]) == (201, False)


async def test_racing_repeats_create_once(gateway: RunningGateway) -> None:
    body = {"name": "race", "scopes": ["models:read"]}
    key = {"Idempotency-Key": "race"}
    answers = await asyncio.gather(
        *(gateway.call("POST", "/v1/auth/keys", json=body, headers=key) for _ in range(8))
    )
    assert {status for status, _, _ in answers} <= {201, 409}
    assert len({body["key"] for status, body, _ in answers if status == 201}) == 1
    _, listed, _ = await gateway.call("GET", "/v1/auth/keys")
    assert sum(row["name"] == "race" for row in listed["items"]) == 1


async def test_an_unusable_idempotency_key_is_400(gateway: RunningGateway) -> None:
    body = {"name": "n", "scopes": ["models:read"]}
    for key in ('""', "x" * 256, "\u00e9"):
        headers = {"Idempotency-Key": key}
        assert (await gateway.call("POST", "/v1/auth/keys", json=body, headers=headers))[0] == 400


async def test_an_erasure_runs_its_steps_and_shows_what_is_missing(
    gateway: RunningGateway, clean_postgres: str
) -> None:
    subject = {"data_subject": {"entity": "card", "id": "card_00000007"}}
    status, job, headers = await gateway.call("POST", "/v1/admin/erasures", json=subject)
    assert (status, headers["location"]) == (202, f"/v1/admin/erasures/{job['job_id']}")

    async def state() -> dict[str, Any]:
        _, shown, _ = await gateway.call("GET", headers["location"])
        return {step["step"]: step["state"] for step in shown["steps"]}

    async def is_worked() -> bool:
        return bool((await state())["audit"] == "done")

    await eventually(is_worked)
    steps = await state()
    assert steps["features"] == steps["predictions_cache"] == "done"
    sent = [
        (name, r.method, r.target, r.body)
        for name in ("features", "audit", "inference")
        for r in gateway.upstreams[name].received
        if r.method != "GET"
    ]
    assert ("audit", "POST", "/v1/audit/erasures", b'{"data_subject":"card_00000007"}') in sent
    features = b'{"entity":"card","id":"card_00000007"}'
    assert ("features", "POST", "/features/erasures", features) in sent
    _, shown, _ = await gateway.call("GET", headers["location"])
    missing = [step for step in shown["steps"] if step["state"] != "done"]
    assert all("does not offer this yet" in step["detail"] for step in missing)
    assert shown["state"] == ("running" if missing else "done")
    _, repeated, _ = await gateway.call("POST", "/v1/admin/erasures", json=subject)
    assert (repeated["job_id"] == job["job_id"]) == bool(missing)


async def test_an_erasure_of_another_tenant_does_not_exist(
    gateway: RunningGateway, clean_postgres: str
) -> None:
    subject = {"data_subject": {"entity": "user", "id": "user_1"}}
    _, job, _ = await gateway.call("POST", "/v1/admin/erasures", json=subject)
    key = await tenant_key(gateway, clean_postgres, "acme", "tenants:admin")
    path = f"/v1/admin/erasures/{job['job_id']}"
    assert (await gateway.call("GET", path, key=key))[0] == 404
    assert (await gateway.call("GET", "/v1/admin/erasures", key=key))[1]["items"] == []


async def test_a_character_that_the_database_cannot_keep_is_the_callers_fault(
    gateway: RunningGateway,
) -> None:
    status, body, _ = await gateway.call(
        "POST", "/v1/admin/tenants", json={"tenant": "nul", "name": "a\u0000b"}
    )
    assert (status, body["code"]) == (422, "invalid_input")
    assert (await gateway.call("GET", "/v1/admin/tenants/nul"))[0] == 404
