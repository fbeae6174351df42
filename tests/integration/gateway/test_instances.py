"""Several instances of one service: least loaded first, bad ones out, late reads asked twice."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.gateway.adapters.instances import EveryInstance, InstanceMetrics, Instances
from services.gateway.domain.balance import FAILURES_MAX
from tests.support.fake_upstream import Answer, FakeUpstream, Received, echo, fake_upstream, reply
from tests.support.gateway import RunningGateway, running_gateway

pytestmark = pytest.mark.anyio
SCORE = {"card_id": "card_00000001", "transaction_amount": 12.5}


def asked(upstream: FakeUpstream, target: str = "/models") -> int:
    return sum(request.target == target for request in upstream.received)


def on_models(misbehave: Answer) -> Answer:
    """Misbehave on `/models` and echo everything else."""

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        await (misbehave if request.target == "/models" else echo)(request, writer)

    return answer


async def hangs(request: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def fails(request: Received, writer: asyncio.StreamWriter) -> None:
    await reply(writer, b"{}", status="500 Oops")


async def call_models(gateway: RunningGateway, count: int) -> list[int]:
    return [(await gateway.call("GET", "/models"))[0] for _ in range(count)]


async def test_calls_spread_and_avoid_the_busy_one(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    release = asyncio.Event()

    async def slow(request: Received, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await echo(request, writer)

    async with (
        fake_upstream(on_models(slow)) as one,
        fake_upstream() as two,
        running_gateway(
            state_dir, clean_postgres, redis_url, inference_url=f"{one.url}, {two.url}"
        ) as gateway,
    ):
        for _ in range(10):
            await gateway.call("POST", "/score/fraud", json=SCORE)
        assert min(asked(one, "/score/fraud"), asked(two, "/score/fraud")) >= 4
        held = [asyncio.create_task(gateway.call("GET", "/models")) for _ in range(4)]
        async with asyncio.timeout(5):
            while not asked(one):  # noqa: ASYNC110 - what is awaited offers no event
                await asyncio.sleep(0.01)
        before = asked(one)
        assert await call_models(gateway, 10) == [200] * 10
        assert asked(one) == before
        release.set()
        assert {(await task)[0] for task in held} == {200}


async def test_an_instance_that_fails_is_left_out_and_said_once(
    state_dir: Path, clean_postgres: str, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        fake_upstream(on_models(fails)) as bad,
        fake_upstream() as good,
        running_gateway(
            state_dir, clean_postgres, redis_url, inference_url=f"{bad.url},{good.url}"
        ) as gateway,
    ):
        seen = await call_models(gateway, 30)
        assert seen.count(500) == asked(bad) == FAILURES_MAX
        assert seen[-10:] == [200] * 10
        labels = {"upstream": "inference"}
        registry = gateway.app.platform.registry
        assert registry.get_sample_value("gatehouse_gateway_instances_out", labels) == 1
        written = capsys.readouterr()
        assert (written.out + written.err).count("instance changed") == 1


async def test_a_dead_instance_costs_no_caller_anything(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with (
        fake_upstream() as good,
        running_gateway(
            state_dir, clean_postgres, redis_url, inference_url=f"http://127.0.0.1:1,{good.url}"
        ) as gateway,
    ):
        assert await call_models(gateway, 12) == [200] * 12
        # Not even a request that must not be repeated: nothing of it was sent.
        assert [(await gateway.call("POST", "/models/a/reload"))[0] for _ in range(4)] == [200] * 4


async def test_a_late_read_is_asked_of_a_second_instance_and_a_write_is_not(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async def hangs_always(request: Received, writer: asyncio.StreamWriter) -> None:
        await (echo if request.target in ("/health", "/openapi.json") else hangs)(request, writer)

    async with (
        fake_upstream(hangs_always) as late,
        fake_upstream() as prompt,
        running_gateway(
            state_dir, clean_postgres, redis_url,
            inference_url=f"{late.url},{prompt.url}", hedge_after_ms=50,
        ) as gateway,
    ):  # fmt: skip
        started = time.monotonic()
        assert await call_models(gateway, 3) == [200] * 3
        assert time.monotonic() - started < 3
        assert asked(late) >= 1
        assert asked(prompt) == 3
        outcome = {"upstream": "inference", "outcome": "hedged"}
        name = "gatehouse_gateway_upstream_outcomes_total"
        assert (gateway.app.platform.registry.get_sample_value(name, outcome) or 0) >= 1
        head = {"X-Request-Deadline-Ms": "300"}
        statuses = {
            (await gateway.call("POST", "/score/fraud", json=SCORE, headers=head))[0]
            for _ in range(4)
        }
        assert statuses == {200, 504}


def test_a_chooser_narrows_the_instances_by_model() -> None:
    class ByModel:
        def candidates(self, service: str, model: str | None, urls: Sequence[str]) -> list[str]:
            return [urls[1]] if model == "fraud" else []

    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"]
    named = Instances("inference", urls, ByModel(), InstanceMetrics(CollectorRegistry()))
    assert {named.pick("fraud").url for _ in range(6)} == {urls[1]}
    assert {named.pick(None).url for _ in range(6)} == set(urls)
    every = Instances("inference", urls, EveryInstance(), InstanceMetrics(CollectorRegistry()))
    first = every.pick(None)
    assert first not in {every.pick(None, avoid=first) for _ in range(6)}
