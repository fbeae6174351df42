"""The remote engine against a server that misbehaves on demand."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web

from libs.common.context import RequestContext, bind
from libs.common.errors import DeadlineExceededError, UnavailableError
from libs.common.manifest import Manifest
from services.inference.adapters.remote_engine import (
    BREAKER_FAILURES,
    BREAKER_S,
    Breaker,
    RemoteFaultError,
    RemoteMismatchError,
    RemoteTensorEngine,
)

pytestmark = pytest.mark.anyio

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)


class Remote:
    """Doubles its input; can be told to answer something else."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes | None = None
        self.delay_s = 0.0
        self.seen: list[dict[str, Any]] = []
        self.datatype = "FP32"

    async def metadata(self, _: web.Request) -> web.Response:
        tensor = {"datatype": self.datatype, "shape": [-1, 4]}
        return web.json_response(
            {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]}
        )

    async def infer(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.delay_s)
        body = await request.read()
        size = int(request.headers["Inference-Header-Content-Length"])
        self.seen.append(orjson.loads(body[:size]))
        if self.status != 200 or self.body is not None:
            return web.Response(status=self.status, headers=self.headers, body=self.body)
        doubled = (np.frombuffer(body[size:], "<f4") * 2).tobytes()
        header = orjson.dumps(
            {
                "outputs": [
                    {
                        "name": "y",
                        "datatype": "FP32",
                        "shape": self.seen[-1]["inputs"][0]["shape"],
                        "parameters": {"binary_data_size": len(doubled)},
                    }
                ]
            }
        )
        return web.Response(
            body=header + doubled, headers={"Inference-Header-Content-Length": str(len(header))}
        )


@asynccontextmanager
async def _serving(remote: Remote) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get("/v2/models/far", remote.metadata)
    app.router.add_post("/v2/models/far/infer", remote.infer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    remote.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield
    await runner.cleanup()


def _manifest(url: str) -> Manifest:
    return Manifest.model_validate(
        {
            "name": "near",
            "version": 1,
            "release": "1.0.0",
            "task": "generic",
            "engine": "remote",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
            "parameters": {"url": url, "model": "far"},
        }
    )


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    opened = Remote()
    async with _serving(opened):
        yield opened


@pytest.fixture
async def engine(remote: Remote) -> AsyncIterator[RemoteTensorEngine]:
    opened = RemoteTensorEngine(_manifest(remote.url))
    yield opened
    await opened.aclose()


def _deadline(seconds: float) -> None:
    context = RequestContext()
    context.deadline = time.monotonic() + seconds
    bind(context)


async def test_tensors_travel_as_binary_and_the_deadline_as_timeout(remote, engine):
    _deadline(2.0)
    await engine.check()
    outputs = await engine.infer({"x": ROW})
    assert (outputs["y"] == ROW * 2).all()
    parameters = remote.seen[0]["parameters"]
    assert parameters["binary_data_output"] is True
    assert 1_000_000 < parameters["timeout"] <= 2_000_000


async def test_other_tensors_than_the_manifests_are_refused_at_load(remote, engine):
    remote.datatype = "INT8"
    with pytest.raises(RemoteMismatchError):
        await engine.check()


async def test_a_shedding_remote_is_503_with_its_own_time_to_come_back(remote, engine):
    remote.status, remote.headers = 503, {"Retry-After": "7"}
    with pytest.raises(UnavailableError) as caught:
        await engine.infer({"x": ROW})
    assert caught.value.headers["Retry-After"] == "7"
    assert len(remote.seen) == 1


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_other_refusals_are_502(remote, engine, status):
    remote.status = status
    with pytest.raises(RemoteFaultError):
        await engine.infer({"x": ROW})


@pytest.mark.parametrize("body", [b"", b"{", b'{"outputs": []}', b'{"outputs": [{"name": "z"}]}'])
async def test_answers_that_cannot_be_read_are_502(remote, engine, body):
    remote.body = body
    with pytest.raises(RemoteFaultError):
        await engine.infer({"x": ROW})


async def test_a_slow_remote_is_504_at_the_deadline(remote, engine):
    remote.delay_s = 5.0
    _deadline(0.1)
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        await engine.infer({"x": ROW})
    assert time.monotonic() - started < 1.0


async def test_a_remote_that_is_away_is_503_and_soon_not_asked(remote, engine):
    away = RemoteTensorEngine(_manifest("http://127.0.0.1:9"))
    codes = []
    for _ in range(BREAKER_FAILURES + 1):
        with pytest.raises(UnavailableError) as caught:
            await away.infer({"x": ROW})
        codes.append(caught.value.problem_code)
    assert codes[-2:] == ["unavailable", "breaker_open"]
    await away.aclose()


def test_the_breaker_closes_again_after_its_time():
    breaker = Breaker()
    for _ in range(BREAKER_FAILURES):
        assert not breaker.refuses(10.0)
        breaker.note(10.0, ok=False)
    assert breaker.refuses(10.0 + BREAKER_S / 2)
    assert not breaker.refuses(10.0 + BREAKER_S)
    breaker.note(13.0, ok=True)
    assert breaker.failures == 0


def test_a_manifest_without_a_url_is_refused():
    with pytest.raises(ValueError, match="url"):
        RemoteTensorEngine(_manifest(""))
