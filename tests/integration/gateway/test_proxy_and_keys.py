"""The gateway end to end over real sockets and stores: keys, proxying, refusals."""

import io
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.identity import IDENTITY_HEADER, Verifier
from services.gateway.bootstrap import ensure_demo_key
from services.gateway.settings import GatewaySettings
from tests.support.gateway import RunningGateway, eventually, running_gateway

pytestmark = pytest.mark.anyio
SCORE = {"card_id": "card_00000001", "transaction_amount": 12.5}


@pytest.fixture
async def gateway(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, ip_burst_per_s=1000, ip_limit_requests=1000
    ) as running:
        yield running


async def test_a_request_reaches_the_service_with_a_signed_identity(
    gateway: RunningGateway, state_dir: Path
) -> None:
    status, body, headers = await gateway.call(
        "POST",
        "/score/fraud?explain=true",
        json=SCORE,
        headers={"X-Request-ID": "abc-1", "X-Tenant": "evil", "X_Gatehouse.Identity": "forged"},
    )
    assert status == 200
    assert body["target"] == "/score/fraud?explain=true"
    assert headers["x-request-id"] == "abc-1"
    request = next(r for r in gateway.upstreams["inference"].received if r.method == "POST")
    caller = Verifier("inference", state_dir / "keys", frozenset({"gateway"})).verify(
        request.header(IDENTITY_HEADER)
    )
    assert (caller.tenant, caller.scopes) == ("default", frozenset({"*"}))
    assert caller.principal.startswith("key:")
    assert request.header("x-request-id") == "abc-1"
    assert request.header("x-correlation-id") == "abc-1"
    assert 0 < int(request.header("x-request-deadline-ms")) < 5_000
    assert request.header("x-forwarded-for") == "127.0.0.1"
    assert not request.header("x-api-key")
    assert not request.header("x-tenant")
    assert not request.header("x_gatehouse.identity")


async def test_both_paths_of_a_route_are_served(gateway: RunningGateway) -> None:
    assert (await gateway.call("POST", "/v1/score/fraud", json=SCORE))[1]["target"] == (
        "/v1/score/fraud"
    )


async def test_a_bearer_key_is_as_good_as_the_header(gateway: RunningGateway) -> None:
    status, _, _ = await gateway.call(
        "GET", "/models", key=None, headers={"Authorization": f"Bearer {gateway.demo_key}"}
    )
    assert status == 200


async def test_without_a_credential_the_answer_is_401(gateway: RunningGateway) -> None:
    status, body, headers = await gateway.call("POST", "/score/fraud", key=None, json=SCORE)
    assert status == 401
    assert body["code"] == "unauthenticated"
    assert headers["www-authenticate"] == 'Bearer realm="gatehouse"'
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "wrong", ["gh_x", "gh_' OR 1=1 --", "gh_000000000000_" + "0" * 49, "ey.ey.ey"]
)
async def test_a_wrong_credential_is_401_and_an_event(gateway: RunningGateway, wrong: str) -> None:
    status, body, headers = await gateway.call("GET", "/models", key=wrong)
    assert status == 401
    assert 'error="invalid_token"' in headers["www-authenticate"]
    assert wrong not in str(body)
    event = gateway.recorder.of("auth.failed")[0]
    assert event.data["reason"] in {"malformed", "unknown", "token_malformed"}


async def test_two_credentials_are_400(gateway: RunningGateway) -> None:
    status, body, _ = await gateway.call(
        "GET", "/models", headers={"Authorization": f"Bearer {gateway.demo_key}"}
    )
    assert (status, body["status"]) == (400, 400)


async def test_a_key_without_the_scope_is_403(gateway: RunningGateway) -> None:
    key = await gateway.make_key(scopes=["models:read"])
    assert (await gateway.call("GET", "/models", key=key))[0] == 200
    status, body, headers = await gateway.call("POST", "/score/fraud", key=key, json=SCORE)
    assert (status, body["code"]) == (403, "insufficient_scope")
    assert 'scope="predict:fraud"' in headers["www-authenticate"]


async def test_an_unknown_path_lists_what_the_caller_may_call(gateway: RunningGateway) -> None:
    key = await gateway.make_key(scopes=["models:read"])
    status, body, _ = await gateway.call("GET", "/nothing-here", key=key)
    listed = {(item["method"], item["path"]) for item in body["endpoints"]}
    assert status == 404
    assert ("GET", "/models") in listed
    assert ("POST", "/score/fraud") not in listed
    status, body, _ = await gateway.call("GET", "/nothing-here")
    assert ("POST", "/score/fraud") in {(i["method"], i["path"]) for i in body["endpoints"]}


async def test_a_wrong_method_is_405_with_allow(gateway: RunningGateway) -> None:
    status, _, headers = await gateway.call("DELETE", "/score/fraud")
    assert (status, headers["allow"]) == (405, "POST")


async def test_a_large_body_is_413_and_never_reaches_the_service(gateway: RunningGateway) -> None:
    status, body, _ = await gateway.call("POST", "/score/fraud", data=io.BytesIO(bytes(10_000_000)))
    assert (status, body["limit"]) == (413, 64 * 1024)
    assert not [r for r in gateway.upstreams["inference"].received if r.method == "POST"]


async def test_a_chunked_body_is_cut_at_the_cap(gateway: RunningGateway) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 8_192

    status, body, _ = await gateway.call("POST", "/score/fraud", data=parts())
    assert (status, body["limit"]) == (413, 64 * 1024)


async def test_a_streamed_body_arrives_whole(gateway: RunningGateway) -> None:
    sent = b"y" * 700_000
    status, _, _ = await gateway.call("POST", "/score/batch", data=sent)
    assert status == 200
    received = next(r for r in gateway.upstreams["inference"].received if r.method == "POST")
    assert received.body == sent


async def test_a_new_key_works_once_shown_and_not_after_revocation(gateway: RunningGateway) -> None:
    key = await gateway.make_key(name="till 7")
    assert (await gateway.call("POST", "/score/fraud", key=key, json=SCORE))[0] == 200
    _, page, _ = await gateway.call("GET", "/v1/auth/keys?limit=1")
    assert page["items"][0]["name"] == "till 7"
    assert key not in str(page)
    assert page["next"]
    _, rest, _ = await gateway.call("GET", f"/v1/auth/keys?cursor={page['next']}")
    assert [item["name"] for item in rest["items"]] == ["demo"]
    key_id = page["items"][0]["key_id"]
    assert (await gateway.call("DELETE", f"/v1/auth/keys/{key_id}"))[0] == 204
    assert (await gateway.call("POST", "/score/fraud", key=key, json=SCORE))[0] == 401
    assert gateway.recorder.of("key.created")[0].data["key_id"] == key_id
    assert gateway.recorder.of("key.revoked")[0].data["key_id"] == key_id


async def test_nobody_grants_more_than_they_hold(gateway: RunningGateway) -> None:
    key = await gateway.make_key(scopes=["keys:write", "keys:read"])
    for body in (
        {"name": "wider", "scopes": ["predict:fraud"]},
        {"name": "all", "scopes": ["*"]},
        {"name": "exempt", "scopes": ["keys:read"], "exempt_ip": True},
    ):
        status, problem, _ = await gateway.call("POST", "/v1/auth/keys", key=key, json=body)
        assert (status, problem["code"]) == (403, "insufficient_scope")
    status, problem, _ = await gateway.call(
        "POST", "/v1/auth/keys", json={"name": "x", "scopes": ["no:such"]}
    )
    assert (status, problem["errors"][0]["pointer"]) == (422, "/scopes/0")


async def test_the_demo_key_is_private_and_survives_a_rerun(
    gateway: RunningGateway, state_dir: Path, clean_postgres: str
) -> None:
    file = state_dir / "demo-api-key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((state_dir / "secrets" / "pepper").stat().st_mode) == 0o600
    settings = GatewaySettings(state_dir=state_dir, postgres_url=clean_postgres)
    assert await ensure_demo_key(settings, file) is False
    assert file.read_text().strip() == gateway.demo_key


async def test_health_names_the_services_and_readiness_follows_the_schema(
    gateway: RunningGateway,
) -> None:
    async def is_ok() -> bool:
        return bool((await gateway.call("GET", "/health", key=None))[1]["status"] == "ok")

    await eventually(is_ok)
    _, body, _ = await gateway.call("GET", "/health", key=None)
    assert {"inference", "guardrails", "features", "analytics", "audit"} <= set(body["components"])
    assert body["components"]["audit"]["version"] == "9.9.9"
    assert (await gateway.call("GET", "/readyz", key=None))[0] == 200
    assert (await gateway.call("GET", "/v1/health", key=None))[0] == 200


async def test_the_pages_of_the_site_answer(gateway: RunningGateway) -> None:
    for path in ("/", "/livez", "/ready", "/docs", "/redoc", "/docs/assets/init.js"):
        assert (await gateway.call("GET", path, key=None))[0] == 200, path
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js"):
        assert len((await gateway.call("GET", f"/docs/assets/{name}", key=None))[1]) > 50_000
    _, document, _ = await gateway.call("GET", "/openapi.json", key=None)
    assert document["paths"]["/score/fraud"]["post"]["x-scope"] == "predict:fraud"
    assert document["paths"]["/v1/auth/keys"]["post"]["requestBody"]


async def test_metrics_of_a_service_need_the_scope(gateway: RunningGateway) -> None:
    assert b"gatehouse_gateway" in (await gateway.call("GET", "/metrics", key=None))[1]
    assert (await gateway.call("GET", "/metrics?service=inference", key=None))[0] == 401
    status, body, _ = await gateway.call("GET", "/metrics?service=inference")
    assert (status, body["target"]) == (200, "/metrics")
    key = await gateway.make_key()
    assert (await gateway.call("GET", "/metrics?service=inference", key=key))[0] == 403
    assert (await gateway.call("GET", "/metrics?service=other"))[0] == 404
