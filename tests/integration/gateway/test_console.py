"""The console: login, page, events, and the page as a real browser shows it."""

from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest

from tests.support import chromium
from tests.support.gateway import RunningGateway, running_gateway

pytestmark = pytest.mark.anyio
HTML = {"Accept": "text/html"}
SERVICES = ("gateway", "inference", "guardrails", "features", "analytics", "audit")


class Tags(HTMLParser):
    """Collects tags with attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
async def gateway(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(state_dir, clean_postgres, redis_url) as running:
        yield running


async def test_a_person_without_a_session_is_led_to_the_login(gateway: RunningGateway) -> None:
    status, _, headers = await gateway.call(
        "GET", "/console", key=None, headers=HTML, allow_redirects=False
    )
    assert (status, headers["location"]) == (303, "/console/login")
    assert (await gateway.call("GET", "/console", key=None))[0] == 401


async def test_login_gives_a_strict_cookie_that_opens_the_page(gateway: RunningGateway) -> None:
    status, _, headers = await gateway.call(
        "POST", "/console/login", key=None, data={"api_key": gateway.demo_key},
        allow_redirects=False,
    )  # fmt: skip
    assert (status, headers["location"]) == (303, "/console")
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/console" in cookie
    assert gateway.demo_key.lower() not in cookie
    jar = {"Cookie": headers["set-cookie"].partition(";")[0]}
    status, page, headers = await gateway.call("GET", "/console", key=None, headers=HTML | jar)
    assert status == 200
    assert headers["content-security-policy"].startswith("default-src 'self'")
    tags = Tags(page.decode()).tags
    ids = {attrs.get("id") for _, attrs in tags}
    assert {f"service-{name}" for name in SERVICES} <= ids
    assert not [attrs for _, attrs in tags if "style" in attrs]
    assert not [1 for tag, attrs in tags if tag == "script" and "src" not in attrs]
    # The cookie opens the console and nothing else.
    assert (await gateway.call("GET", "/models", key=None, headers=jar))[0] == 401
    await gateway.call("POST", "/console/logout", key=None, headers=jar, allow_redirects=False)
    status, _, _ = await gateway.call("GET", "/console/events", key=None, headers=jar)
    assert status in {200, 401}  # believed for three more seconds at most


async def test_a_wrong_key_or_a_foreign_form_opens_nothing(gateway: RunningGateway) -> None:
    status, page, headers = await gateway.call(
        "POST", "/console/login", key=None, data={"api_key": "gh_wrong"}
    )
    assert status == 401
    assert "set-cookie" not in headers
    assert b"gh_wrong" not in page
    assert gateway.recorder.of("auth.failed")
    for foreign in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        status, body, _ = await gateway.call(
            "POST", "/console/login", key=None, data={"api_key": gateway.demo_key}, headers=foreign
        )
        assert (status, body["code"]) == (403, "cross_site")


async def test_a_key_without_the_scope_sees_nothing(gateway: RunningGateway) -> None:
    key = await gateway.make_key(scopes=["predict:fraud"])
    assert (await gateway.call("GET", "/console", key=key))[0] == 403


async def test_events_carry_the_figures(gateway: RunningGateway) -> None:
    headers = {"X-API-Key": gateway.demo_key}
    async with gateway.session.get(f"{gateway.url}/console/events", headers=headers) as reply:
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        assert reply.headers["Cache-Control"] == "no-store"
        async for line in reply.content:
            if line.startswith(b"data: "):
                figures = orjson.loads(line.removeprefix(b"data: "))
                break
    assert [service["name"] for service in figures["services"]] == list(SERVICES)
    assert len(figures["total"]["rate_line"].split()) == 60


@pytest.mark.skipif(chromium.BINARY is None, reason="Debian package chromium is not installed")
async def test_a_browser_signs_in_and_sees_live_figures(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    async with chromium.open_page(f"{gateway.url}/console") as page:
        await page.until("location.pathname === '/console/login'")
        await page.evaluate(f"document.getElementById('api_key').value = '{gateway.demo_key}'")
        await page.evaluate("document.querySelector('form').submit()")
        await page.until("location.pathname === '/console'")
        await page.until("document.getElementById('link')?.dataset.state === 'live'")
        for _ in range(30):
            await gateway.call("GET", "/models")
        await page.until(
            "Number(document.querySelector('[data-f=\"total.requests\"]').textContent) >= 30"
        )
        await page.until("document.querySelectorAll('.card[data-status=ok]').length === 6")
        assert page.console == []
        await page.screenshot(tmp_path / "console.png")
        assert (tmp_path / "console.png").stat().st_size > 10_000
