"""Replicas of inference that serve different models: each call goes where its model is."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from tests.support.fake_upstream import Answer, Received, echo, fake_upstream, reply
from tests.support.gateway import running_gateway

pytestmark = pytest.mark.anyio


def serving(*names: str) -> Answer:
    """Answer /v1/models with these models, and echo everything else."""

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.target == "/v1/models":
            body = {"items": [{"name": name} for name in names], "next": None}
            await reply(writer, json.dumps(body).encode())
        else:
            await echo(request, writer)

    return answer


async def test_calls_go_to_the_replica_that_has_the_model(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with (
        fake_upstream(serving("fraud", "relevance")) as rows,
        fake_upstream(serving("sentiment", "guard")) as texts,
        running_gateway(
            state_dir, clean_postgres, redis_url, inference_url=f"{rows.url},{texts.url}"
        ) as gateway,
    ):
        give_up_at = time.monotonic() + 10
        while not (_asked(rows, "/v1/models") and _asked(texts, "/v1/models")):
            assert time.monotonic() < give_up_at, "nobody asked the replicas for their models"
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)  # the answers are read
        for _ in range(6):
            await gateway.call("GET", "/models/fraud")
            await gateway.call("POST", "/v1/models/sentiment/predict", json={"inputs": ["a"]})
            await gateway.call("POST", "/predict", json={"text": "a"})
            await gateway.call(
                "POST", "/score/fraud", json={"card_id": "card_1", "transaction_amount": 1.0}
            )
            await gateway.call("GET", "/models/nobody")
        assert (_asked(rows, "/models/fraud"), _asked(texts, "/models/fraud")) == (6, 0)
        assert (_asked(rows, "/score/fraud"), _asked(texts, "/score/fraud")) == (6, 0)
        assert (_asked(rows, "/predict"), _asked(texts, "/predict")) == (0, 6)
        named = "/v1/models/sentiment/predict"
        assert (_asked(rows, named), _asked(texts, named)) == (0, 6)
        # Nobody has this model: any replica may say so.
        assert _asked(rows, "/models/nobody") + _asked(texts, "/models/nobody") == 6


def _asked(upstream, target: str) -> int:
    return sum(request.target == target for request in upstream.received)
