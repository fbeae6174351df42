"""Tenants whose texts are checked: block, mask, shadow, and no way around."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.fake_upstream import Received, echo, reply
from tests.support.gateway import RunningGateway, eventually, running_gateway

pytestmark = pytest.mark.anyio
_V2 = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["bad words"]}]}


async def judge(request: Received, writer: asyncio.StreamWriter) -> None:
    """Be guardrails: block what says bad, mask what says secret, fail on what says broken."""
    if not request.target.endswith("/validate/batch"):
        await echo(request, writer)
        return
    texts = orjson.loads(request.body)["texts"]
    if any("broken" in text for text in texts):
        await reply(writer, b"{}", status="500 Oops")
        return
    results = [
        {
            "id": "v1", "policy": "builtin", "version": "1", "status": "ok",
            "action": "block" if "bad" in text else "mask" if "secret" in text else "allow",
            "text": text.replace("secret", "******"),
            "validators": [{"name": "words", "version": "1", "action": "block",
                            "labels": ["RUDE"], "score": 0.9, "spans": [{"start": 0}]}],
        }
        for text in texts
    ]  # fmt: skip
    await reply(
        writer,
        orjson.dumps({"batch_id": "b", "results": results}),
        headers=(("Content-Type", "application/json"),),
    )


@pytest.fixture
async def gateway(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(
        state_dir, clean_postgres, redis_url, answers={"guardrails": judge}
    ) as running:
        yield running


async def guard(gateway: RunningGateway, mode: str, **rule: Any) -> None:
    """Put the default tenant under a rule."""
    _, tenant, _ = await gateway.call("GET", "/v1/admin/tenants/default")
    change = {"name": "D", "guard": {"mode": mode, **rule}, "generation": tenant["generation"]}
    status, body, _ = await gateway.call("PUT", "/v1/admin/tenants/default", json=change)
    assert status == 200, body


def scored(gateway: RunningGateway) -> list[Received]:
    return [r for r in gateway.upstreams["inference"].received if r.method == "POST"]


async def test_a_blocked_text_is_422_with_the_verdict_and_never_reaches_a_model(
    gateway: RunningGateway,
) -> None:
    await guard(gateway, "enforce", policy="strict", version=2)
    status, problem, _ = await gateway.call("POST", "/predict", json={"text": "bad words"})
    assert (status, problem["code"]) == (422, "text_blocked")
    verdict = problem["verdicts"][0]
    assert (verdict["pointer"], verdict["id"], verdict["action"]) == ("/text", "v1", "block")
    assert verdict["validators"][0]["labels"] == ["RUDE"]
    assert "bad words" not in str(problem)
    assert scored(gateway) == []
    asked = [r for r in gateway.upstreams["guardrails"].received if r.method == "POST"]
    assert orjson.loads(asked[0].body) == {"texts": ["bad words"], "policy": "strict@2"}


async def test_a_masked_text_replaces_the_original_at_its_pointer(gateway: RunningGateway) -> None:
    await guard(gateway, "enforce")
    body = {"texts": ["fine", "my secret"], "other": "secret"}
    assert (await gateway.call("POST", "/predict/batch", json=body))[0] == 200
    sent = orjson.loads(scored(gateway)[0].body)
    assert sent == {"texts": ["fine", "my ******"], "other": "secret"}
    assert int(scored(gateway)[0].header("content-length")) == len(scored(gateway)[0].body)


async def test_an_allowed_text_goes_on_byte_for_byte(gateway: RunningGateway) -> None:
    await guard(gateway, "enforce")
    body = b'{ "text" :  "fine" }'
    assert (await gateway.call("POST", "/predict", data=body))[0] == 200
    assert scored(gateway)[0].body == body


TEXT_ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/predict", {"text": "bad words"}),
    ("/v1/predict", {"text": "bad words"}),
    ("/predict/batch", {"texts": ["a", "bad words"]}),
    ("/v1/models/sentiment/predict", {"inputs": ["bad words"]}),
    ("/v1/models/sentiment/predict", {"inputs": {"text": "bad words"}}),
    ("/v2/models/sentiment/infer", _V2),
    ("/v2/models/sentiment/versions/1/infer", _V2),
]


async def test_no_text_route_bypasses_the_guard(gateway: RunningGateway) -> None:
    await guard(gateway, "enforce")
    for path, body in TEXT_ROUTES:
        status, answer, _ = await gateway.call("POST", path, json=body)
        assert status == 422, (path, answer)
    assert scored(gateway) == []


UNCHECKABLE: list[tuple[dict[str, str], bytes, int]] = [
    ({}, b'{"text": "fine", "text": "bad"}', 400),
    ({}, '{"text": "bad"}'.encode("utf-16"), 400),
    ({"Content-Encoding": "gzip"}, b"\x1f\x8b", 415),
    ({}, b'{"text": "broken"}', 503),
]


async def test_what_cannot_be_checked_does_not_pass(gateway: RunningGateway) -> None:
    await guard(gateway, "enforce")
    for headers, body, status in UNCHECKABLE:
        got, _, _ = await gateway.call("POST", "/predict", data=body, headers=headers)
        assert got == status, body
    assert scored(gateway) == []


async def test_binary_text_is_refused_and_binary_numbers_pass(gateway: RunningGateway) -> None:
    await guard(gateway, "enforce")
    for datatype, expected in (("BYTES", 422), ("FP32", 200)):
        head = orjson.dumps(
            {"inputs": [{"datatype": datatype, "parameters": {"binary_data_size": 4}}]}
        )
        status, answer, _ = await gateway.call(
            "POST",
            "/v2/models/m/infer",
            data=head + b"bad!",
            headers={"Inference-Header-Content-Length": str(len(head))},
        )
        assert status == expected, answer
    assert len(scored(gateway)) == 1


async def test_shadow_only_records(gateway: RunningGateway) -> None:
    await guard(gateway, "shadow")
    for text in ("bad words", "my secret", "broken"):
        assert (await gateway.call("POST", "/predict", json={"text": text}))[0] == 200
    assert [orjson.loads(r.body)["text"] for r in scored(gateway)] == [
        "bad words",
        "my secret",
        "broken",
    ]

    async def is_recorded() -> bool:
        asked = [r for r in gateway.upstreams["guardrails"].received if r.method == "POST"]
        return len(asked) == 3

    await eventually(is_recorded)


async def test_numbers_are_not_sent_to_guardrails(gateway: RunningGateway) -> None:
    await guard(gateway, "enforce")
    score = {"card_id": "bad", "transaction_amount": 1.0}
    assert (await gateway.call("POST", "/score/fraud", json=score))[0] == 200
    assert all(r.method != "POST" for r in gateway.upstreams["guardrails"].received)
