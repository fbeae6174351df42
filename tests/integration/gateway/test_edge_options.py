"""Cross-origin calls, views of the description, TLS, spans."""

import asyncio
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from libs.common.settings import SettingsError
from libs.common.telemetry import Telemetry, configure_telemetry, get_telemetry, install
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from tests.support.gateway import running_gateway

pytestmark = pytest.mark.anyio


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Record every span, past what the app installs itself."""
    exporter = InMemorySpanExporter()
    before = get_telemetry()
    yield exporter
    install(before)


def recording(exporter: InMemorySpanExporter) -> Telemetry:
    return configure_telemetry("gateway", endpoint=None, ratio=1.0, exporter=exporter)


async def test_cross_origin_calls_are_for_named_origins_without_cookies(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, cors_origins=("https://app.example",)
    ) as gateway:
        asks = {"Access-Control-Request-Method": "POST", "Origin": "https://app.example"}
        status, _, headers = await gateway.call("OPTIONS", "/score/fraud", key=None, headers=asks)
        assert status == 204
        assert headers["access-control-allow-origin"] == "https://app.example"
        assert "X-API-Key" in headers["access-control-allow-headers"]
        _, _, headers = await gateway.call("GET", "/models", headers=asks)
        assert headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in headers
        status, _, headers = await gateway.call("GET", "/no-such", headers=asks)
        assert (status, headers["access-control-allow-origin"]) == (404, "https://app.example")
        asks["Origin"] = "https://evil.example"
        _, _, headers = await gateway.call("GET", "/models", headers=asks)
        assert "access-control-allow-origin" not in headers
        status, _, _ = await gateway.call("OPTIONS", "/score/fraud", key=None, headers=asks)
        assert status == 405


async def test_the_description_can_be_cut_to_scopes_and_cached(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(state_dir, clean_postgres, redis_url) as gateway:
        _, cut, _ = await gateway.call("GET", "/openapi.json?scopes=predict:fraud", key=None)
        assert "/score/fraud" in cut["paths"]
        assert "/livez" in cut["paths"]
        assert not {"/score/personalization", "/v1/auth/keys"} & set(cut["paths"])
        _, whole, headers = await gateway.call("GET", "/openapi.json", key=None)
        assert "/v1/auth/keys" in whole["paths"]
        tag = {"If-None-Match": headers["etag"]}
        assert (await gateway.call("GET", "/openapi.json", key=None, headers=tag))[0] == 304


async def test_tls(state_dir: Path, clean_postgres: str, redis_url: str) -> None:
    cert, key = state_dir / "tls.crt", state_dir / "tls.key"
    await asyncio.to_thread(
        subprocess.run,
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    async with running_gateway(
        state_dir, clean_postgres, redis_url, tls_cert=cert, tls_key=key
    ) as gateway:
        trust = ssl.create_default_context(cafile=str(cert))
        status, _, _ = await gateway.call("GET", "/models", ssl=trust)
        assert status == 200
        assert gateway.upstreams["inference"].received[-1].header("x-forwarded-proto") == "https"
        with pytest.raises(aiohttp.ClientError):
            await gateway.session.get(f"http://127.0.0.1:{gateway.port}/livez")


def test_half_a_tls_setting_is_refused(state_dir: Path) -> None:
    settings = GatewaySettings.load(state_dir=state_dir, tls_cert=state_dir / "tls.crt")
    with pytest.raises(SettingsError, match="TLS_KEY"):
        create_app(settings)


async def test_a_trace_has_the_parts_of_a_request_and_strangers_start_their_own(
    state_dir: Path, clean_postgres: str, redis_url: str, spans: InMemorySpanExporter
) -> None:
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    async with running_gateway(state_dir, clean_postgres, redis_url) as gateway:
        telemetry = recording(spans)
        install(telemetry)
        await gateway.call("GET", "/models", headers={"traceparent": parent})
        sent = gateway.upstreams["inference"].received[-1].header("traceparent")
        assert telemetry._provider is not None
        telemetry._provider.force_flush()
        by_name = {span.name: span for span in spans.get_finished_spans()}
        server = by_name["GET /models"]
        assert server.context is not None
        assert f"{server.context.trace_id:032x}" == "ab" * 16
        for name in ("auth.verify", "ratelimit.check", "upstream GET"):
            child = by_name[name]
            assert child.parent is not None
            assert child.parent.span_id == server.context.span_id
        upstream = by_name["upstream GET"].context
        assert upstream is not None
        assert sent == f"00-{'ab' * 16}-{upstream.span_id:016x}-01"
        assert server.attributes is not None
        assert server.attributes["http.response.status_code"] == 200
        edge = gateway.app.edge
        assert edge is not None
        edge._arrival._trusted.clear()
        edge._arrival._networks.clear()
        _, _, headers = await gateway.call("GET", "/models", headers={"traceparent": parent})
        assert "ab" * 16 not in headers["traceresponse"]
        telemetry._provider.force_flush()
        own = [
            span for span in spans.get_finished_spans() if span.name == "GET /models" and span.links
        ]
        assert [f"{link.context.trace_id:032x}" for link in own[-1].links] == ["ab" * 16]
        telemetry.shutdown()


async def test_strangers_cannot_force_a_trace_to_be_recorded(
    state_dir: Path, clean_postgres: str, redis_url: str, spans: InMemorySpanExporter
) -> None:
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    async with running_gateway(
        state_dir, clean_postgres, redis_url, trusted_cidrs=("192.0.2.0/24",)
    ) as gateway:
        telemetry = configure_telemetry("gateway", endpoint=None, ratio=0.0, exporter=spans)
        install(telemetry)
        for _ in range(5):
            await gateway.call("GET", "/models", headers={"traceparent": parent})
        assert telemetry._provider is not None
        telemetry._provider.force_flush()
        assert not [span for span in spans.get_finished_spans() if span.name == "GET /models"]
        telemetry.shutdown()
