"""The console's pages: what they show, as whom they ask, what a browser sees of one request."""

import asyncio
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from services.audit.schemas import EventFilter
from services.gateway.routes.console_pages import AUDIT_FILTERS
from tests.integration.gateway.test_console import HTML, Tags
from tests.support.fake_upstream import Answer, Received
from tests.support.gateway import SERVICES_BEHIND, RunningGateway, running_gateway

pytestmark = pytest.mark.anyio

PAGES = ("request", "models", "analytics", "guardrails", "features", "audit", "system")


@pytest.fixture
async def gateway(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, cors_origins=("https://shop.example",)
    ) as running:
        yield running


async def signed_in(gateway: RunningGateway, key: str | None = None) -> dict[str, str]:
    _, _, headers = await gateway.call(
        "POST", "/console/login", key=None, data={"api_key": key or gateway.demo_key},
        allow_redirects=False,
    )  # fmt: skip
    return HTML | {"Cookie": headers["set-cookie"].partition(";")[0]}


def token_of(page: bytes) -> str:
    fields = [a for tag, a in Tags(page.decode()).tags if tag == "input" and a["name"] == "token"]
    return str(fields[0]["value"])


async def down(request: Received, writer: asyncio.StreamWriter) -> None:
    """Answer as a service without its store."""
    body = b'{"status":503,"code":"unavailable","detail":"The store is away."}'
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


async def test_every_page_reads_while_the_services_are_away(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    answers: dict[str, Answer] = dict.fromkeys(SERVICES_BEHIND, down)
    async with running_gateway(state_dir, clean_postgres, redis_url, answers=answers) as gateway:
        await _every_page_reads(gateway)


async def _every_page_reads(gateway: RunningGateway) -> None:
    jar = await signed_in(gateway)
    for name in PAGES:
        status, page, headers = await gateway.call("GET", f"/console/{name}", key=None, headers=jar)
        assert status == 200, name
        assert headers["content-security-policy"].startswith("default-src 'self'")
        tags = Tags(page.decode()).tags
        assert not [attrs for _, attrs in tags if "style" in attrs]
        assert not [1 for tag, attrs in tags if tag == "script" and "src" not in attrs]
        current = [a for t, a in tags if t == "a" and a.get("aria-current") == "page"]
        assert [a["href"] for a in current] == [f"/console/{name}"]


async def test_pages_need_a_session_and_lead_people_to_the_login(gateway: RunningGateway) -> None:
    for name in PAGES:
        path = f"/console/{name}"
        status, _, headers = await gateway.call(
            "GET", path, key=None, headers=HTML, allow_redirects=False
        )
        assert (status, headers["location"]) == (303, "/console/login")
        assert (await gateway.call("GET", path, key=None))[0] == 401


async def test_a_page_asks_as_the_person_with_no_more_scopes(gateway: RunningGateway) -> None:
    narrow = await gateway.make_key(scopes=["console:read", "models:read"])
    jar = await signed_in(gateway, narrow)
    _, page, _ = await gateway.call("GET", "/console/audit", key=None, headers=jar)
    assert "audit:read" in page.decode()
    assert not [seen for seen in gateway.upstreams["audit"].received if "events" in seen.target]
    _, page, _ = await gateway.call("GET", "/console/models", key=None, headers=jar)
    assert [seen for seen in gateway.upstreams["inference"].received if seen.target == "/models"]
    # The session's cookie stays at the gateway.
    for upstream in gateway.upstreams.values():
        assert not [seen for seen in upstream.received if seen.header("cookie")]


async def test_a_form_needs_the_token_of_its_session(gateway: RunningGateway) -> None:
    jar = await signed_in(gateway)
    form = {"kind": "fraud", "body": "{}", "token": "0" * 32}
    before = len(gateway.upstreams["inference"].received)
    status, body, _ = await gateway.call(
        "POST", "/console/request", key=None, headers=jar, data=form
    )
    assert (status, body["code"]) == (403, "cross_site")
    assert len(gateway.upstreams["inference"].received) == before
    _, page, _ = await gateway.call("GET", "/console/request", key=None, headers=jar)
    form["token"] = token_of(page)
    foreign = jar | {"Origin": "https://evil.example"}
    status, _, _ = await gateway.call(
        "POST", "/console/request", key=None, headers=foreign, data=form
    )
    assert status == 403
    status, page, _ = await gateway.call(
        "POST", "/console/request", key=None, headers=jar, data=form
    )
    assert status == 200
    assert [r for r in gateway.upstreams["inference"].received if r.target == "/score/fraud"]


async def test_a_body_that_is_not_json_is_named_and_kept(gateway: RunningGateway) -> None:
    jar = await signed_in(gateway)
    _, page, _ = await gateway.call("GET", "/console/request", key=None, headers=jar)
    form = {"kind": "sentiment", "body": '{"text": <b>', "token": token_of(page)}
    status, page, _ = await gateway.call(
        "POST", "/console/request", key=None, headers=jar, data=form
    )
    text = page.decode()
    assert status == 400
    assert "The body is not JSON" in text
    assert "<b>" not in text.replace("<b>Gatehouse", "")
    assert '{"text": <b>' in unescape(text)


async def test_an_action_on_a_model_calls_the_api_with_its_scope(gateway: RunningGateway) -> None:
    jar = await signed_in(gateway)
    _, page, _ = await gateway.call("GET", "/console/request", key=None, headers=jar)
    form: dict[str, Any] = {
        "action": "promote", "version": "2", "generation": "7", "token": token_of(page),
    }  # fmt: skip
    await gateway.call("POST", "/console/models/fraud", key=None, headers=jar, data=form)
    seen = [r for r in gateway.upstreams["inference"].received if r.method == "POST"]
    assert [r.target for r in seen] == ["/models/fraud/versions/2/promote"]
    assert seen[0].body == b'{"generation":7}'
    # A name cannot leave its place in the path.
    form["version"] = "../../x"
    _, page, _ = await gateway.call(
        "POST", "/console/models/fraud", key=None, headers=jar, data=form
    )
    assert "Refused" in page.decode()
    assert len([r for r in gateway.upstreams["inference"].received if r.method == "POST"]) == 1
    narrow = await signed_in(gateway, await gateway.make_key(scopes=["console:read"]))
    _, page, _ = await gateway.call("GET", "/console/request", key=None, headers=narrow)
    form |= {"version": "2", "token": token_of(page)}
    _, page, _ = await gateway.call(
        "POST", "/console/models/fraud", key=None, headers=narrow, data=form
    )
    assert "models:admin" in page.decode()
    assert len([r for r in gateway.upstreams["inference"].received if r.method == "POST"]) == 1


async def test_settings_are_shown_with_their_source_and_without_secrets(
    gateway: RunningGateway, clean_postgres: str
) -> None:
    jar = await signed_in(gateway)
    _, page, _ = await gateway.call("GET", "/console/system", key=None, headers=jar)
    text = unescape(page.decode())
    assert "POSTGRES_URL" in text
    assert clean_postgres not in text
    assert "https://shop.example" in text


async def test_nobody_from_outside_can_bring_a_credential_of_the_console(
    gateway: RunningGateway,
) -> None:
    for headers in ({"gatehouse.credential": "x"}, {"x-gatehouse-credential": "x"}):
        assert (await gateway.call("GET", "/models", key=None, headers=headers))[0] == 401


def test_the_audit_page_filters_by_what_the_api_takes() -> None:
    assert set(AUDIT_FILTERS) <= set(EventFilter.model_fields)
