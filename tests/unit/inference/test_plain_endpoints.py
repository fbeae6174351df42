"""Plain endpoints: the edge's direct way gives what the framework gives, for good and bad input."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest
from prometheus_client import CollectorRegistry

from libs.common.app import OPEN_CALLER
from libs.common.errors import UnavailableError
from libs.common.features.fraud import FRAUD_V1
from libs.common.metrics import HttpMetrics
from libs.common.middleware import ServiceEdge
from libs.common.plain import PlainTable
from libs.common.routing import RouteTable
from services.inference.app import create_app
from services.inference.routes import score
from services.inference.routes.v2 import routes as v2
from services.inference.routes.v2.errors import render_error
from services.inference.settings import InferenceSettings
from tests.unit.inference.conftest import FakeReader, MemoryEvents, _with_state

pytestmark = pytest.mark.anyio

FRAUD = {"card_id": "card_1", "transaction_amount": 150.0, "mcc_code": "5411"}
PAIR = {"user_id": "user_1", "item_id": "item_1"}
BATCH = {"model_type": "fraud_detection", "requests": [FRAUD, {"card_id": 7}, FRAUD]}
ROWS = {
    "inputs": [
        {
            "name": "features",
            "shape": [2, len(FRAUD_V1.names)],
            "datatype": "FP32",
            "data": [1.0] * 2 * len(FRAUD_V1.names),
        }
    ]
}
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {
    "content-type": "application/json",
    "x-request-id": "request-1",
    "traceparent": f"00-{TRACE}-b7ad6b7169203331-00",
}
# What differs between any two answers.
_VOLATILE = {"latency_ms", "prediction_id", "batch_id"}


@pytest.fixture
async def both(
    settings: InferenceSettings, reader: FakeReader, events: MemoryEvents
) -> AsyncIterator[tuple[httpx2.AsyncClient, httpx2.AsyncClient]]:
    """Two clients of one app: the direct way first, then through the framework alone."""
    app = create_app(settings, events=events, reader=reader)
    entry = app.platform.entry
    framework = ServiceEdge(
        app.fastapi,
        service="inference",
        routes=RouteTable(("inference", route) for route in (*entry.routes, *entry.internal)),
        verifier=None,
        metrics=HttpMetrics("inference", CollectorRegistry()),
        open_caller=OPEN_CALLER,
        render_error=render_error,
        health=app.platform.health,
    )
    async with app.fastapi.router.lifespan_context(app.fastapi) as state:
        clients = [
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(
                    _with_state(served, state), raise_app_exceptions=False
                ),
                base_url="http://inference",
            )
            for served in (app, framework)
        ]
        async with clients[0], clients[1]:
            yield clients[0], clients[1]


def _shown(answer: httpx2.Response) -> tuple[int, dict[str, str], Any]:
    headers = {k: v for k, v in answer.headers.items() if k != "content-length"}
    try:
        return answer.status_code, headers, _stable(answer.json())
    except ValueError:
        return answer.status_code, headers, [_stable(orjson.loads(x)) for x in answer.iter_lines()]


def _stable(document: Any) -> Any:
    if isinstance(document, dict):
        return {k: _stable(v) for k, v in document.items() if k not in _VOLATILE}
    return [_stable(item) for item in document] if isinstance(document, list) else document


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(40):
        yield b" " * 4096


CASES: list[tuple[str, int, str, dict[str, Any]]] = [
    ("a payment", 200, "/score/fraud", {"json": FRAUD}),
    ("a payment under v1", 200, "/v1/score/fraud", {"json": FRAUD}),
    ("an explanation", 200, "/score/fraud", {"json": {**FRAUD, "explain": True}}),
    ("a user and an item", 200, "/score/personalization", {"json": PAIR}),
    ("a batch", 200, "/score/batch", {"json": BATCH}),
    (
        "a streamed batch",
        200,
        "/score/batch",
        {"json": BATCH, "headers": {**HEADERS, "accept": "application/x-ndjson"}},
    ),
    ("candidates", 200, "/recommend", {"json": {"user_id": "u", "item_ids": ["a", "b"]}}),
    ("another media type", 200, "/score/fraud", {"content": orjson.dumps(FRAUD), "headers": {
        **HEADERS, "content-type": "text/plain"}}),
    ("an empty body", 400, "/score/fraud", {"content": b""}),
    ("broken JSON", 400, "/score/fraud", {"content": b'{"card_id": '}),
    ("no number", 422, "/score/fraud", {"content": b'{"card_id":"c","transaction_amount":NaN}'}),
    ("an infinite number", 422, "/score/fraud", {
        "content": b'{"card_id":"c","transaction_amount":1e999}'}),
    ("a number as text", 422, "/score/fraud", {"json": {**FRAUD, "transaction_amount": "1"}}),
    ("an unknown field", 422, "/score/fraud", {"json": {**FRAUD, "extra": 1}}),
    ("a missing field", 422, "/score/personalization", {"json": {"user_id": "u"}}),
    ("an unknown kind", 422, "/score/batch", {"json": {**BATCH, "model_type": "x"}}),
    ("too long by its header", 413, "/score/fraud", {"content": b" " * 70_000}),
    ("too long by its count", 413, "/score/fraud", {"content": "chunks"}),
    ("no time left", 504, "/score/fraud", {
        "json": FRAUD, "headers": {**HEADERS, "x-request-deadline-ms": "0"}}),
    ("no sentiment model", 503, "/predict", {"json": {"text": "good"}}),
    ("no such text model", 404, "/v1/models/other/predict", {"json": {"inputs": ["good"]}}),
    ("rows", 200, "/v2/models/fraud/infer", {"json": ROWS}),
    ("rows of a version", 200, "/v2/models/fraud/versions/1/infer", {"json": ROWS}),
    ("rows of no version", 404, "/v2/models/fraud/versions/9/infer", {"json": ROWS}),
    ("rows for no model", 404, "/v2/models/other/infer", {"json": ROWS}),
    ("a tensor of another name", 400, "/v2/models/fraud/infer", {"json": {"inputs": [
        {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}}),
    ("no tensor", 400, "/v2/models/fraud/infer", {"content": b"{}"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "path", "sent"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_the_direct_way_answers_as_the_framework_does(
    both, reader, status: int, path: str, sent: dict[str, Any]
):
    shown = []
    for client in both:
        body = {**sent, "content": _chunks()} if sent.get("content") == "chunks" else sent
        answer = await client.post(path, **{"headers": HEADERS, **body})
        shown.append(_shown(answer))
    assert shown[0] == shown[1]
    assert shown[0][0] == status
    assert shown[0][1]["x-request-id"] == "request-1"


async def test_faults_behind_the_endpoint_are_the_same_problem(both, reader, events):
    events.error = UnavailableError("The event log is full.", retry_after_s=3)
    refused = [_shown(await client.post("/score/fraud", json=FRAUD, headers=HEADERS))
               for client in both]  # fmt: skip
    assert refused[0] == refused[1]
    assert (refused[0][0], refused[0][1]["retry-after"]) == (503, "3")
    reader.read = None
    broken = [_shown(await client.post("/score/fraud", json=FRAUD, headers=HEADERS))
              for client in both]  # fmt: skip
    assert broken[0] == broken[1]
    assert (broken[0][0], broken[0][2]["code"]) == (500, "internal")
    assert broken[0][2]["trace_id"] == TRACE


async def test_other_methods_and_paths_still_come_to_the_framework(both):
    for method, path in (("GET", "/score/fraud"), ("POST", "/score/fraud/"), ("POST", "/nothing")):
        shown = [_shown(await client.request(method, path, headers=HEADERS)) for client in both]
        assert shown[0] == shown[1]
        assert shown[0][0] in {404, 405, 307}


async def test_reading_the_protocol_gives_the_same_both_ways(both):
    for path in ("fraud", "fraud/ready", "fraud/config", "fraud/versions/1", "other", "stats"):
        shown = [_shown(await client.get(f"/v2/models/{path}", headers=HEADERS)) for client in both]
        assert shown[0] == shown[1]
        assert shown[0][0] == (404 if path == "other" else 200)


def test_a_fixed_path_comes_before_a_template_and_catch_alls_stay_with_the_framework():
    table = PlainTable([v2.router])
    endpoint, parameters = table.find("GET", "/v2/models/stats") or (None, None)
    assert (endpoint, parameters) == (v2.all_statistics, {})
    endpoint, parameters = table.find("POST", "/v2/models/a.b/versions/3/infer") or (None, None)
    assert (endpoint, parameters) == (v2.infer, {"name": "a.b", "version": "3"})
    assert table.find("GET", "/v2/models/a/infer") is None
    assert table.find("GET", "/v2/systemsharedmemory/status") is None


def test_every_scoring_path_is_answered_directly():
    assert PlainTable([score.router], prefix="/v1").fixed == {
        ("POST", "/v1/score/fraud"),
        ("POST", "/v1/score/personalization"),
        ("POST", "/v1/score/batch"),
    }
