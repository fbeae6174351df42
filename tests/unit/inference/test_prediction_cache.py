"""The prediction cache over real Redis: what collides never, joins, expires, and is forgotten."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from libs.common.context import Caller, RequestContext, bind
from libs.common.errors import DeadlineExceededError
from libs.common.manifest import Manifest, load_manifest
from libs.common.redis import create_redis
from services.inference.adapters.prediction_cache import PredictionCache
from services.inference.adapters.reference_engine import ReferenceTextEngine, WordEncoder
from services.inference.adapters.repository import ModelRepository
from services.inference.adapters.text_loading import load_text
from services.inference.domain.cost import CostModel
from services.inference.domain.prediction_cache import (
    HotTexts,
    decode_answer,
    encode_answer,
    prediction_key,
)
from services.inference.domain.text import TextAnswer, TextHead, TextModel, Truncation
from services.inference.execution.plane import PlaneOptions, TextPlane
from services.inference.execution.scheduler import SchedulerOptions
from services.inference.metrics import InferenceMetrics
from tests.support.text_models import build_text_version
from tests.unit.inference.conftest import MemoryEvents
from tests.unit.inference.text_app import build_texts, text_app

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cached")
    for name, version in (("one", 1), ("one", 2), ("two", 1)):
        build_text_version(root, name, version, engine="reference", task="text-classification")
    return root


def _model(root: Path, name: str = "one", version: int = 1) -> TextModel:
    folder = root / name / str(version)
    return load_text(folder, load_manifest(folder))


def _caller(tenant: str) -> None:
    context = RequestContext(caller=Caller(tenant, "key:test", frozenset({"*"})))
    context.deadline = time.monotonic() + 10
    bind(context)


@pytest.fixture
async def redis(redis_url: str):
    opened = create_redis(redis_url, timeout_s=1.0)
    yield opened
    await opened.aclose()


# Keys need the manifest only.
_KEYED = TextModel(
    Manifest(name="one", version=1, release="1.0.0", task="sentiment", engine="reference"),
    ReferenceTextEngine(2),
    "reference",
    WordEncoder(Truncation(64)),
    TextHead(("a", "b"), "softmax", np.ones(2), np.zeros(2), {}),
    CostModel(0.001, 1e-5),
)


class Counting:
    """Counts forwards of a model's engine, and can hold them up."""

    def __init__(self, model: TextModel) -> None:
        self.rows = 0
        self.delay_s = 0.0
        self.error: Exception | None = None
        self._forward = model.engine.forward
        model.engine.forward = self  # type: ignore[method-assign] # an instance of a test engine

    def __call__(self, batch):
        time.sleep(self.delay_s)
        self.rows += len(batch)
        if self.error is not None:
            raise self.error
        return self._forward(batch)


@pytest.fixture
async def plane(root: Path, redis):
    class Nothing:
        def serving(self, name: str):
            raise AssertionError(name)

        def loaded(self, name: str, version: int):
            raise AssertionError(name)

    opened = TextPlane(
        Nothing(),
        PlaneOptions(lambda _: SchedulerOptions()),
        PredictionCache(redis, ttl_s=60, value_bytes_max=4096),
        InferenceMetrics(CollectorRegistry()),
    )
    yield opened
    await opened.close()


async def _settle(plane: TextPlane) -> None:
    await asyncio.gather(*plane._background)


async def _ask(plane: TextPlane, model: TextModel, *texts: str, tenant: str = "a"):
    _caller(tenant)
    outcomes = await plane.predict(model, texts)
    await _settle(plane)
    return outcomes


async def test_a_repeated_text_is_answered_without_the_model(plane, root):
    model = _model(root)
    engine = Counting(model)
    first = (await _ask(plane, model, "good day"))[0]
    second = (await _ask(plane, model, "good day"))[0]
    assert (engine.rows, first.cached, second.cached) == (1, False, True)
    assert (second.scores == first.scores).all()
    assert (second.label, second.confidence) == (first.label, first.confidence)
    assert plane.statistics()["hit_ratio"] == 0.5


async def test_model_version_and_tenant_never_share_a_value(plane, root):
    asked = [("one", 1, "a"), ("one", 2, "a"), ("two", 1, "a"), ("one", 1, "b")]
    for name, version, tenant in asked:
        model = _model(root, name, version)
        engine = Counting(model)
        answer = (await _ask(plane, model, "same text", tenant=tenant))[0]
        assert (engine.rows, answer.cached) == (1, False), (name, version, tenant)


@settings(deadline=None)
@given(
    st.tuples(st.text(max_size=6), st.text(max_size=6)),
    st.tuples(st.text(max_size=6), st.text(max_size=6)),
)
def test_keys_of_different_tenants_and_texts_differ(left, right):
    model = _KEYED
    same = prediction_key(left[0], model, left[1]) == prediction_key(right[0], model, right[1])
    assert same == (left == right)


def test_parameters_and_outputs_are_part_of_the_key(root: Path):
    model = _model(root)
    keys = {
        prediction_key("a", model, "text"),
        prediction_key("a", model, "text", parameters={"top_k": 1}),
        prediction_key("a", model, "text", parameters={"top_k": 2}),
        prediction_key("a", model, "text", outputs=["label"]),
        prediction_key("a", model, "text", outputs=["label", "windows"]),
    }
    assert len(keys) == 5


async def test_a_hundred_equal_cold_calls_run_the_model_once(plane, root):
    model = _model(root)
    engine = Counting(model)
    engine.delay_s = 0.05
    _caller("a")
    answers = await asyncio.gather(*(plane.predict(model, ["hello there"]) for _ in range(100)))
    assert engine.rows == 1
    assert len({answer[0].confidence for answer in answers}) == 1
    assert plane.results["joined"] == 99


async def test_equal_texts_of_one_call_run_once(plane, root):
    model = _model(root)
    engine = Counting(model)
    outcomes = await _ask(plane, model, *["again"] * 10, "other")
    assert (engine.rows, len(outcomes)) == (2, 11)


async def test_errors_are_never_cached_and_followers_hear_of_them(plane, root):
    model = _model(root)
    engine = Counting(model)
    engine.error = RuntimeError("broken")
    _caller("a")
    failed = await asyncio.gather(
        *(plane.predict(model, ["hello"]) for _ in range(5)), return_exceptions=True
    )
    assert all(isinstance(one, Exception) for one in failed)
    engine.error = None
    assert not (await _ask(plane, model, "hello"))[0].cached


async def test_a_leader_that_leaves_does_not_take_its_followers_along(plane, root):
    model = _model(root)
    engine = Counting(model)
    engine.delay_s = 0.1
    _caller("a")
    leader = asyncio.ensure_future(plane.predict(model, ["hello"]))
    await asyncio.sleep(0.02)
    followers = [asyncio.ensure_future(plane.predict(model, ["hello"])) for _ in range(3)]
    await asyncio.sleep(0.02)
    leader.cancel()
    answers = await asyncio.gather(*followers)
    assert all(isinstance(answer[0], TextAnswer) for answer in answers)


async def test_a_follower_keeps_its_own_deadline(plane, root):
    model = _model(root)
    engine = Counting(model)
    engine.delay_s = 0.3
    _caller("a")
    leader = asyncio.ensure_future(plane.predict(model, ["hello"]))
    await asyncio.sleep(0.02)

    async def impatient() -> Any:
        context = RequestContext(caller=Caller("a", "key:test", frozenset({"*"})))
        context.deadline = time.monotonic() + 0.05
        bind(context)
        return await plane.predict(model, ["hello"])

    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        await asyncio.ensure_future(impatient())
    assert time.monotonic() - started < 0.2
    assert (await leader)[0].label


async def test_raising_the_epoch_empties_one_tenant_only(plane, root):
    model = _model(root)
    engine = Counting(model)
    for tenant in ("a", "b"):
        await _ask(plane, model, "text", tenant=tenant)
    assert await plane.cache.clear("a") == 1
    await _ask(plane, model, "text", tenant="b")
    assert engine.rows == 2
    await _ask(plane, model, "text", tenant="a")
    assert engine.rows == 3


async def test_values_expire_and_large_ones_are_not_stored(plane, root, redis):
    model = _model(root)
    await _ask(plane, model, "text")
    key = f"predictions:{{a}}:{prediction_key('a', model, 'text')}"
    assert 0 < await redis.ttl(key) <= 60
    small = PredictionCache(redis, ttl_s=60, value_bytes_max=10)
    await small.write("a", {"k": b"x" * 11})
    assert (small.too_large, small.stored) == (1, 0)


async def test_without_redis_the_model_answers_and_nothing_waits(root):
    away = create_redis("redis://127.0.0.1:9", timeout_s=0.05)
    plane = TextPlane(
        None,  # type: ignore[arg-type] # not asked
        PlaneOptions(lambda _: SchedulerOptions()),
        PredictionCache(away, ttl_s=60, value_bytes_max=4096),
        InferenceMetrics(CollectorRegistry()),
    )
    started = time.monotonic()
    answer = (await _ask(plane, _model(root), "text"))[0]
    assert (answer.cached, plane.results["bypass"]) == (False, 1)
    assert time.monotonic() - started < 0.5
    await plane.close()
    await away.aclose()


async def test_after_a_swap_hot_texts_are_warm_and_nothing_is_stale(plane, root):
    old, new = _model(root, "one", 1), _model(root, "one", 2)
    for _ in range(3):
        await _ask(plane, old, "hot text")
    await _ask(plane, old, "cold text")
    engine = Counting(new)
    await _ask(plane, new, "something else")
    assert engine.rows == 2  # the call itself and the hot text
    answer = (await _ask(plane, new, "hot text"))[0]
    assert (answer.cached, engine.rows) == (True, 2)


def test_a_value_of_another_layout_epoch_or_label_count_is_no_hit():
    answer = TextAnswer("x", 0.5, np.array([0.5, 0.5]), 1, 3, is_truncated=False)
    value = encode_answer(answer, 4)
    back = decode_answer(value, 4, 2)
    assert back is not None
    assert back.cached
    assert decode_answer(value, 5, 2) is None
    assert decode_answer(value, 4, 3) is None
    assert decode_answer(b"junk", 4, 2) is None
    assert decode_answer(None, 4, 2) is None


def test_frequent_texts_stay_known_however_many_rare_ones_pass():
    hot = HotTexts(8, 100)
    for number in range(500):
        hot.saw("a", f"rare {number}")
        hot.saw("a", "frequent")
    hot.saw("a", "x" * 101)
    assert hot.top(1) == [("a", "frequent")]
    assert all(len(text) <= 100 for _, text in hot.top(8))


async def test_the_routes_say_hit_or_miss_and_the_endpoint_counts(
    tmp_path: Path, state_dir: Path, redis_url: str
):
    events = MemoryEvents()
    async with text_app(build_texts(tmp_path), state_dir, events, redis_url=redis_url) as (c, _):
        words = []
        for headers in ({}, {}, {"cache-control": "no-cache"}):
            answer = await c.post("/predict", json={"text": "good"}, headers=headers)
            words.append((answer.headers["x-gatehouse-cache"], answer.json()["cached"]))
            await asyncio.sleep(0.05)
        assert words == [("miss", False), ("hit", True), ("bypass", False)]
        found = (await c.get("/v1/predictions/cache")).json()
        assert (found["hit"], found["miss"], found["bypass"]) == (1, 1, 1)
        assert (await c.delete("/v1/predictions/cache")).json()["cleared"] is True
        answer = await c.post("/predict", json={"text": "good"})
        assert answer.headers["x-gatehouse-cache"] == "miss"
    assert [event.data["cached"] for event in events.events] == [False, True, False, False]


async def test_the_repository_replaces_a_text_version_and_both_answer(root: Path):
    repository = ModelRepository(root)
    assert repository.load("one", 1)
    old = repository.serving("one")
    assert repository.load("one", 2)
    assert repository.serving("one").version == "2"
    assert isinstance(old, TextModel)
