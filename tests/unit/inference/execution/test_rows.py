"""Calls of one turn share a model call, a log write and nothing else."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from libs.common.context import Caller, RequestContext, bind
from libs.common.errors import DeadlineExceededError, UnavailableError
from services.inference.adapters.repository import ModelRepository
from services.inference.adapters.text_loading import TEXT_TASKS
from services.inference.dataplane import INLINE_ROWS_MAX, DataPlane
from services.inference.domain.model import TabularModel
from services.inference.errors import InferenceFailedError
from services.inference.execution.rows import RowCalls
from services.inference.metrics import InferenceMetrics
from tests.support.tabular_models import random_rows
from tests.unit.inference.conftest import MemoryEvents

pytestmark = pytest.mark.anyio

RELEASED = Path(__file__).resolve().parents[4] / "models"
# A value that the spied engine chokes on, and one for which it gives no number.
POISON, NONSENSE = 666.0, 777.0


class SpiedEngine:
    """The released engine, which notes the size of each call."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.sizes: list[int] = []

    @property
    def memory_bytes(self) -> int:
        return 0

    def prepare(self, item: Any) -> Any:
        return self._engine.prepare(item)

    def forward(self, batch: Sequence[Any]) -> Any:
        self.sizes.append(len(batch[0]))
        if (batch[0] == POISON).any():
            raise RuntimeError("this row kills the call")
        raw = self._engine.forward(batch)
        raw[(batch[0] == NONSENSE).any(axis=1)] = np.nan
        return raw

    def finish(self, raw: Any, batch: Sequence[Any]) -> Any:
        return self._engine.finish(raw, batch)


class Stand:
    """Row calls over the released fraud model."""

    def __init__(self, model: TabularModel) -> None:
        self.engine = SpiedEngine(model.engine)
        self.model = replace(model, engine=self.engine)
        self.events = MemoryEvents()
        self.emitted: list[int] = []
        self.metrics = InferenceMetrics(CollectorRegistry())
        self.plane = DataPlane(ModelRepository(RELEASED, use_onnx=True), self.metrics)
        self.calls = RowCalls(self.plane, self, self.metrics, "/somewhere")

    async def emit(self, *events: Any) -> None:
        self.emitted.append(len(events))
        await self.events.emit(*events)

    def rows(self, count: int, seed: int = 0) -> Any:
        return random_rows(self.model.service, count + seed)[seed:]

    async def together(self, parts: Sequence[Any]) -> list[Any]:
        """Make all calls in one turn, each in a task of its own as requests are."""
        tasks = [asyncio.ensure_future(self.calls.run(self.model, part)) for part in parts]
        return list(await asyncio.gather(*tasks, return_exceptions=True))


@pytest.fixture(scope="module")
def released() -> TabularModel:
    repository = ModelRepository(RELEASED, use_onnx=True)
    repository.load_all(except_tasks=TEXT_TASKS)
    model = repository.serving("fraud")
    assert isinstance(model, TabularModel)
    return model


@pytest.fixture
def stand(released: TabularModel) -> Stand:
    return Stand(released)


async def test_calls_of_one_turn_share_one_model_call_and_one_log_write(stand):
    parts = [stand.rows(1, seed) for seed in range(20)]
    answers = await stand.together(parts)
    assert stand.engine.sizes == [20]
    assert stand.emitted == [20]
    alone = [(await stand.calls.run(stand.model, part))[0] for part in parts]
    assert np.abs(np.array([one[0] for one in answers]) - alone).max() <= 1e-6
    facts = stand.metrics.statistics.of("fraud", stand.model.version)
    assert (facts.inference_count, facts.execution_count) == (40, 21)
    assert facts.batches[20]["compute_infer"].count == 1


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, INLINE_ROWS_MAX), min_size=1, max_size=12))
def test_each_caller_gets_the_answers_to_its_own_rows(released, sizes):
    async def check() -> None:
        stand = Stand(released)
        parts = [stand.rows(size, 3 * place) for place, size in enumerate(sizes)]
        answers = await stand.together(parts)
        for part, answer in zip(parts, answers, strict=True):
            engine = released.engine
            prepared = [engine.prepare(part)]
            alone = engine.finish(engine.forward(prepared), prepared)[0]
            assert np.abs(answer - released.calibration.apply(alone)).max() <= 1e-6
        assert max(stand.engine.sizes) <= INLINE_ROWS_MAX
        assert sum(stand.engine.sizes) == sum(sizes)

    asyncio.run(check())


@pytest.mark.parametrize("bad", [POISON, NONSENSE])
async def test_a_call_that_fails_fails_alone(stand, bad):
    parts = [stand.rows(2, seed) for seed in range(8)]
    parts[5][1, 3] = bad
    answers = await stand.together(parts)
    assert isinstance(answers[5], InferenceFailedError)
    assert all(len(one) == 2 for place, one in enumerate(answers) if place != 5)
    assert stand.emitted == [7]
    facts = stand.metrics.statistics.of("fraud", stand.model.version)
    assert (facts.inference["success"].count, facts.inference["fail"].count) == (7, 1)


async def test_a_defect_reaches_every_caller(stand, monkeypatch):
    def broken(*_: Any) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(stand.plane.drift, "add", broken)
    answers = await asyncio.wait_for(stand.together([stand.rows(1)] * 3), 5)
    assert all(isinstance(one, KeyError) for one in answers)
    assert stand.emitted == []


async def test_versions_are_never_mixed(stand, released):
    other = Stand(released)
    asked = [(stand.model, 3), (other.model, 2), (stand.model, 1)]
    calls = [stand.calls.run(model, stand.rows(count)) for model, count in asked]
    answers = await asyncio.gather(*calls)
    assert [len(one) for one in answers] == [3, 2, 1]
    assert (stand.engine.sizes, other.engine.sizes) == ([4], [2])


async def test_who_has_left_or_is_late_is_not_run(stand):
    async def late() -> Any:
        bind(RequestContext(deadline=time.monotonic() - 0.001))
        return await stand.calls.run(stand.model, stand.rows(1))

    kept = asyncio.ensure_future(stand.calls.run(stand.model, stand.rows(1)))
    expired = asyncio.ensure_future(late())
    left = asyncio.ensure_future(stand.calls.run(stand.model, stand.rows(1)))
    await asyncio.sleep(0)
    left.cancel()
    assert len(await kept) == 1
    with pytest.raises(DeadlineExceededError):
        await expired
    assert left.cancelled()
    assert stand.engine.sizes == [1]
    assert stand.emitted == [1]


async def test_nobody_is_answered_before_the_events_are_safe(stand):
    stand.events.error = UnavailableError("The event log is full.", retry_after_s=3)
    answers = await stand.together([stand.rows(1)] * 3)
    assert all(isinstance(one, UnavailableError) for one in answers)


async def test_each_event_carries_its_own_caller(stand):
    async def ask(number: int) -> None:
        caller = Caller(f"tenant-{number}", f"key-{number}", frozenset())
        bind(RequestContext(request_id=f"request-{number}", caller=caller))
        await stand.calls.run(stand.model, stand.rows(1))

    await asyncio.gather(*(asyncio.ensure_future(ask(number)) for number in range(5)))
    told = [(event.tenant, event.principal, event.request_id) for event in stand.events.events]
    assert told == [(f"tenant-{n}", f"key-{n}", f"request-{n}") for n in range(5)]
    assert {event.type for event in stand.events.events} == {"prediction.made"}
