"""Kept answers of proxied creations, entity tags, keys for one model, tickets, console logins."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.integration.gateway.test_websocket import PATH, gateway_with
from tests.support.fake_upstream import Received, echo, reply
from tests.support.gateway import RunningGateway, eventually, running_gateway

pytestmark = pytest.mark.anyio
LABEL = {"prediction_id": "p-1", "label": "fraud"}


async def features(request: Received, writer: asyncio.StreamWriter) -> None:
    if request.body == b'{"busy":true}':
        await reply(writer, b"{}", status="503 Busy")
    elif request.target == "/v1/feedback":
        number = id(writer) % 1000 + len(request.body)
        body = orjson.dumps({"stored": number})
        await reply(
            writer, body, status="201 Made", headers=(("Content-Type", "application/json"),)
        )
    else:
        await echo(request, writer)


async def audit(request: Received, writer: asyncio.StreamWriter) -> None:
    if request.target == "/v1/audit/events":
        caching = (("Content-Type", "application/json"), ("Cache-Control", "max-age=9"))
        await reply(writer, b"{}", headers=caching)
    else:
        await echo(request, writer)


@pytest.fixture
async def gateway(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(
        state_dir, clean_postgres, redis_url,
        answers={"features": features, "audit": audit},
        ip_burst_per_s=1000, ip_limit_requests=10_000,
    ) as running:  # fmt: skip
        yield running


def received(gateway: RunningGateway, target: str) -> list[Received]:
    return [r for up in gateway.upstreams.values() for r in up.received if r.target == target]


async def test_a_repeated_label_reaches_the_service_once(gateway: RunningGateway) -> None:
    key = {"Idempotency-Key": '"label-1"'}

    async def send(body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
        return await gateway.call("POST", "/v1/feedback", json=body, headers={**key, **headers})

    first, again = await send(LABEL), await send(LABEL)
    assert (first[0], first[1]) == (again[0], again[1])
    assert again[2]["idempotent-replayed"] == "true"
    assert again[2]["x-request-id"] != first[2]["x-request-id"]
    assert len(received(gateway, "/v1/feedback")) == 1
    status, problem, _ = await send({**LABEL, "label": "legit"})
    assert (status, problem["code"]) == (422, "idempotency_mismatch")
    assert len(received(gateway, "/v1/feedback")) == 1
    # Without the header nothing is kept.
    for _ in range(2):
        await gateway.call("POST", "/v1/feedback", json=LABEL)
    assert len(received(gateway, "/v1/feedback")) == 3


async def test_an_answer_that_may_pass_later_is_not_kept(gateway: RunningGateway) -> None:
    key = {"Idempotency-Key": "busy"}
    for _ in range(2):
        head = {**key, "Content-Type": "application/json"}
        sent = b'{"busy":true}'
        assert (await gateway.call("POST", "/v1/feedback", headers=head, data=sent))[0] == 503
    assert len(received(gateway, "/v1/feedback")) >= 2


async def test_a_caller_who_leaves_finds_the_answer_when_it_repeats(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async def slow(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.target == "/v1/feedback":
            await asyncio.sleep(0.4)
        await features(request, writer)

    async with running_gateway(
        state_dir, clean_postgres, redis_url, answers={"features": slow}, ip_burst_per_s=1000
    ) as gateway:
        ask: dict[str, Any] = {"json": LABEL, "headers": {"Idempotency-Key": "left"}}
        hasty = aiohttp.ClientTimeout(total=0.15)
        with pytest.raises(TimeoutError):
            await gateway.call("POST", "/v1/feedback", timeout=hasty, **ask)

        async def is_kept() -> bool:
            status, _, headers = await gateway.call("POST", "/v1/feedback", **ask)
            return status == 201 and headers.get("idempotent-replayed") == "true"

        await eventually(is_kept)
        assert len(received(gateway, "/v1/feedback")) == 1


async def test_small_reads_carry_a_tag_and_are_answered_304(gateway: RunningGateway) -> None:
    status, _, headers = await gateway.call("GET", "/models")
    assert (status, headers["cache-control"]) == (200, "private, no-cache")
    tag = headers["etag"]
    status, body, headers = await gateway.call("GET", "/models", headers={"If-None-Match": tag})
    assert (status, body, headers["etag"]) == (304, b"", tag)
    other = await gateway.call("GET", "/models?x=1", headers={"If-None-Match": tag})
    assert other[0] == 200
    _, _, headers = await gateway.call("POST", "/score/fraud", json={"a": 1})
    assert "etag" not in headers
    # The service knows better.
    _, _, headers = await gateway.call("GET", "/v1/audit/events")
    assert (headers["cache-control"], "etag" in headers) == ("max-age=9", False)


async def test_a_key_for_one_model_opens_that_model_only(gateway: RunningGateway) -> None:
    key = await gateway.make_key(scopes=["predict:churn"])
    path = "/v1/models/{}/predict"
    assert (await gateway.call("POST", path.format("churn"), json={}, key=key))[0] == 200
    sent = received(gateway, path.format("churn"))[-1].header("x-gatehouse-identity")
    encoded = sent.partition(".")[0]
    claims = orjson.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    assert set(claims["scopes"]) == {"predict:churn", "predict:model"}
    for target in ("fraud", "churn%20"):
        status, _, headers = await gateway.call("POST", path.format(target), json={}, key=key)
        assert (status, "insufficient_scope" in headers["www-authenticate"]) == (403, True), target
    for target in ("/v2/models/churn/infer", "/v2/models/churn/versions/1/infer"):
        assert (await gateway.call("POST", target, json={}, key=key))[0] == 200
    assert (await gateway.call("POST", "/v2/models/fraud/infer", json={}, key=key))[0] == 403
    assert (await gateway.call("POST", "/score/fraud", json={}, key=key))[0] == 403
    assert (await gateway.call("GET", "/models", key=key))[0] == 403


async def test_a_ticket_opens_one_stream_once(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    seen: list[dict[str, str]] = []
    async with gateway_with(state_dir, clean_postgres, redis_url, seen) as gateway:
        assert (await gateway.call("POST", "/v1/auth/tickets", key=None))[0] == 401
        status, made, headers = await gateway.call("POST", "/v1/auth/tickets")
        assert (status, made["expires_in"], headers["cache-control"]) == (201, 30, "no-store")
        url = f"{gateway.url}{PATH}?ticket={made['ticket']}"
        async with gateway.session.ws_connect(url) as socket:
            await socket.send_str("a")
            assert (await socket.receive()).data == "a"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await gateway.session.ws_connect(url)
        assert refused.value.status == 401
        # Plain requests take no ticket, and a stream hands none on.
        _, made, _ = await gateway.call("POST", "/v1/auth/tickets")
        query = f"?ticket={made['ticket']}&a=1"
        assert (await gateway.call("GET", f"/models{query}", key=None))[0] == 401
        stream = {"Accept": "text/event-stream"}
        assert (await gateway.call("GET", f"/models{query}", key=None, headers=stream))[0] == 200
        assert gateway.upstreams["inference"].received[-1].target == "/models?a=1"
        # A ticket is as narrow as the key it stands for.
        weak = await gateway.make_key(scopes=["models:read"])
        _, made, _ = await gateway.call("POST", "/v1/auth/tickets", key=weak)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await gateway.session.ws_connect(f"{gateway.url}{PATH}?ticket={made['ticket']}")
        assert refused.value.status == 403


async def test_a_person_opens_the_console_with_a_password_until_disabled(
    gateway: RunningGateway,
) -> None:
    role = {"scopes": ["console:read"], "generation": 0}
    assert (await gateway.call("PUT", "/v1/admin/roles/viewer", json=role))[0] in (200, 201)
    person = {"username": "ada", "password": "correct horse battery", "roles": ["viewer"]}
    assert (await gateway.call("POST", "/v1/admin/users", json=person))[0] == 201
    form = {"username": "ada", "password": "wrong"}
    assert (await gateway.call("POST", "/console/login", key=None, data=form))[0] == 401
    form["password"] = person["password"]  # type: ignore[assignment] # a text, as the key says
    status, _, headers = await gateway.call(
        "POST", "/console/login", key=None, data=form, allow_redirects=False
    )
    assert status == 303
    jar = {"Cookie": headers["set-cookie"].partition(";")[0]}
    assert (await gateway.call("GET", "/console", key=None, headers=jar))[0] == 200
    assert (await gateway.call("GET", "/models", key=None, headers=jar))[0] == 401
    change = {"disabled": True}
    assert (await gateway.call("PUT", "/v1/admin/users/ada", json=change))[0] == 200

    async def is_over() -> bool:
        return (await gateway.call("GET", "/console", key=None, headers=jar))[0] == 401

    await eventually(is_over, timeout_s=6)
