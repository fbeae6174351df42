"""The neural port against a tiny V2 app: scores when it answers, ERROR when it does not."""

import json
from typing import Any

import httpx2
import pytest

from services.guardrails.adapters.inference_v2 import ModelValidator
from services.guardrails.domain.decide import judge, overall
from services.guardrails.domain.document import Document
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.verdict import Action, Overall, Status

pytestmark = pytest.mark.anyio


class FakeV2:
    """Answers /infer and /config as told; records what it received."""

    def __init__(self, data, status=200) -> None:
        self.data, self.status = data, status
        self.seen: list[tuple[str, str, Any]] = []

    async def __call__(self, scope, receive, send) -> None:
        body = (await receive()).get("body", b"")
        self.seen.append((scope["method"], scope["path"], json.loads(body) if body else None))
        answer: dict[str, Any] = {"error": "no such model"}
        if self.status == 200 and scope["path"].endswith("/config"):
            answer = {"name": "guard", "parameters": {"labels": ["hate", "benign"]}}
        elif self.status == 200:
            answer = {
                "model_version": "3",
                "outputs": [{"name": "probabilities", "datatype": "FP32", "data": self.data}],
            }
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


class Client:
    """The port over ASGI."""

    def __init__(self, app) -> None:
        self._app = app

    async def request(self, method, path, *, json=None):
        transport = httpx2.ASGITransport(app=self._app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://v2") as client:
            reply = await client.request(method, path, json=json)

        class Answer:
            status = reply.status_code

            def json(self):
                return reply.json()

        return Answer()


def rule(on_error: str) -> ValidatorRule:
    return ValidatorRule(name="toxicity", action=Action.BLOCK, on_error=on_error)


@pytest.mark.parametrize("data", [[0.9, 0.1, 0.2, 0.8], [[0.9, 0.1], [0.2, 0.8]]])
async def test_one_call_scores_all_texts_from_flat_or_nested_data(data):
    app = FakeV2(data)
    validator = ModelValidator("toxicity", "guard", ["hate"], Client(app))
    found = await validator.check([Document("a"), Document("b")], rule("open"))
    assert [item.scores for item in found] == [{"hate": 0.9}, {"hate": 0.2}]
    assert validator.version == "3"
    assert [path for _, path, _ in app.seen] == [
        "/v2/models/guard/infer",
        "/v2/models/guard/config",
    ]
    assert app.seen[0][2]["inputs"][0]["data"] == ["a", "b"]


@pytest.mark.parametrize(
    "app", [FakeV2([], 404), FakeV2([], 503), FakeV2([0.5]), FakeV2([7.0, 0.1]), FakeV2(None)]
)
@pytest.mark.parametrize(("on_error", "action"), [("open", Action.ALLOW), ("closed", Action.BLOCK)])
async def test_a_model_that_does_not_answer_well_is_an_error_never_an_allow(app, on_error, action):
    validator = ModelValidator("toxicity", "guard", ["hate"], Client(app))
    (detection,) = await validator.check([Document("a")], rule(on_error))
    assert detection.status is Status.ERROR
    verdict = judge("a", rule(on_error), detection, "")
    assert verdict.action is action
    assert overall([Status.OK, verdict.status]) is Overall.PARTIAL
