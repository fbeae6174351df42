"""The app factory's edge: identity, ids, limits, problems, 501s, health, metrics."""

import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.testclient import TestClient

from libs.common.app import create_app
from libs.common.context import current
from libs.common.errors import UnavailableError
from libs.common.events.envelope import Event
from libs.common.identity import IDENTITY_HEADER, Signer
from libs.common.platform import Platform
from libs.common.settings import ServiceSettings, SettingsError


class Settings(ServiceSettings):
    service: ClassVar[str] = "features"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    amount: float = Field(ge=0)


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    async def emit(self, *events: Event) -> None:
        self.events.extend(events)


router = APIRouter()


@router.post("/features/events")
async def echo(request: Request, body: Body) -> dict[str, Any]:
    caller = current().caller
    assert caller is not None
    return {"amount": body.amount, "tenant": caller.tenant, "state": request.state.thing}


@router.get("/features/definitions")
async def broken() -> None:
    raise RuntimeError("secret internals")


@router.get("/features/freshness")
async def down() -> None:
    raise UnavailableError("Postgres does not answer.", retry_after_s=3)


@asynccontextmanager
async def lifespan(_: Platform) -> AsyncIterator[Mapping[str, Any]]:
    yield {"thing": "opened"}


def client_of(settings: Settings) -> TestClient:
    app = create_app("features", settings, lifespan, v1_routers=[router], events=Recorder())
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(state_dir: Path) -> Iterator[TestClient]:
    with client_of(Settings.load(state_dir=state_dir)) as opened:
        yield opened


@pytest.fixture(scope="module")
def identity(state_dir: Path) -> dict[str, str]:
    header = Signer.from_directory("gateway", state_dir / "keys").header(
        "features", tenant="acme", principal="key:k", scopes=["features:*", "feedback:write"]
    )
    return {IDENTITY_HEADER: header}


def test_a_call_without_identity_is_refused(client: TestClient) -> None:
    answer = client.post("/features/events", json={"amount": 1.0})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthenticated"


def test_a_call_without_the_scope_is_refused(client: TestClient, state_dir: Path) -> None:
    header = Signer.from_directory("gateway", state_dir / "keys").header(
        "features", tenant="acme", principal="key:k", scopes=["models:read"]
    )
    answer = client.post(
        "/features/events", json={"amount": 1.0}, headers={IDENTITY_HEADER: header}
    )
    assert answer.status_code == 403
    assert answer.json()["scope"] == "features:write"


@pytest.mark.parametrize("path", ["/features/events", "/v1/features/events"])
def test_a_good_call_reaches_the_route_on_both_paths(
    client: TestClient, identity: dict[str, str], path: str
) -> None:
    answer = client.post(path, json={"amount": 1.5}, headers=identity)
    assert answer.json() == {"amount": 1.5, "tenant": "acme", "state": "opened"}


def test_ids_are_accepted_and_echoed(client: TestClient, identity: dict[str, str]) -> None:
    answer = client.get("/features/freshness", headers={**identity, "X-Request-ID": "my-id"})
    assert answer.headers["x-request-id"] == "my-id"
    assert answer.json()["request_id"] == "my-id"
    assert len(answer.json()["trace_id"]) == 32


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ('{"amount": "12"}', "/amount"),
        ('{"amount": -1}', "/amount"),
        ('{"amount": NaN}', None),
        ('{"amount": 1, "card": "4111111111111111"}', "/card"),
        ("{}", "/amount"),
        ("[1]", "/"),
    ],
)
def test_bad_input_names_the_field_and_not_the_value(
    client: TestClient, identity: dict[str, str], body: str, pointer: str | None
) -> None:
    answer = client.post(
        "/features/events",
        content=body,
        headers={**identity, "content-type": "application/json"},
    )
    assert answer.status_code in {400, 422}
    if pointer is not None:
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert "4111111111111111" not in answer.text


def test_broken_json_is_a_400(client: TestClient, identity: dict[str, str]) -> None:
    answer = client.post(
        "/features/events",
        content='{"amount": ',
        headers={**identity, "content-type": "application/json"},
    )
    assert answer.status_code == 400
    assert answer.json()["code"] == "bad_request"


def test_a_body_over_the_cap_is_a_413_by_length_and_by_count(
    client: TestClient, identity: dict[str, str]
) -> None:
    big = b"x" * (9 * 1024 * 1024)
    assert client.post("/features/events", content=big, headers=identity).status_code == 413
    chunks = (b"x" * 1024 * 1024 for _ in range(9))
    assert client.post("/features/events", content=chunks, headers=identity).status_code == 413


def test_an_unexpected_error_shows_no_internals(
    client: TestClient, identity: dict[str, str]
) -> None:
    answer = client.get("/features/definitions", headers=identity)
    assert answer.status_code == 500
    assert "secret internals" not in answer.text
    assert answer.json()["code"] == "internal"


def test_unavailable_says_when_to_come_back(client: TestClient, identity: dict[str, str]) -> None:
    answer = client.get("/features/freshness", headers=identity)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")


def test_a_route_without_a_handler_answers_501(
    client: TestClient, identity: dict[str, str]
) -> None:
    answer = client.post("/v1/feedback", json={}, headers=identity)
    assert (answer.status_code, answer.json()["code"]) == (501, "not_built")


def test_an_unknown_path_lists_the_endpoints(client: TestClient, identity: dict[str, str]) -> None:
    answer = client.get("/nothing", headers=identity)
    assert answer.status_code == 404
    assert "POST /features/events" in answer.json()["endpoints"]


def test_health_and_readiness_answer_without_identity(client: TestClient) -> None:
    assert client.get("/livez").json()["live"] is True
    assert client.get("/readyz").json() == {"ready": True, "service": "features"}
    assert client.get("/ready").status_code == 200
    assert client.get("/health").json()["service"] == "features"


def test_metrics_count_by_route_template(client: TestClient) -> None:
    client.get("/livez")
    text = client.get("/metrics").text
    assert (
        'gatehouse_features_http_requests_total{method="GET",route="/livez",status="200"}' in text
    )
    openmetrics = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert openmetrics.text.rstrip().endswith("# EOF")


def test_draining_turns_not_ready_but_stays_alive(state_dir: Path) -> None:
    app = create_app("features", Settings.load(state_dir=state_dir), lifespan, events=Recorder())
    with TestClient(app) as opened:
        app.platform.health.drain()
        assert opened.get("/readyz").status_code == 503
        assert opened.get("/livez").status_code == 200


def test_open_mode_is_refused_off_loopback(state_dir: Path) -> None:
    with pytest.raises(SettingsError, match="loopback"):
        client_of(Settings.load(state_dir=state_dir, identity_mode="open", host="0.0.0.0"))


def test_missing_keys_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"libs\.common\.keys"):
        client_of(Settings.load(state_dir=tmp_path))


def test_nan_is_not_a_number_here() -> None:
    with pytest.raises(ValueError, match="finite"):
        Body(amount=math.nan)
