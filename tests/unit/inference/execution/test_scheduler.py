"""The scheduler with real threads and an engine that fails, hangs, runs out of memory or dies."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from libs.common import telemetry
from libs.common.errors import DeadlineExceededError
from libs.common.manifest import load_manifest
from services.inference.adapters.reference_engine import ReferenceTextEngine
from services.inference.adapters.text_loading import load_text
from services.inference.domain.batching import DEFAULT, SHADOW, URGENT, Limits
from services.inference.domain.cost import CostModel
from services.inference.domain.ports import DeviceLostError, DeviceMemoryError
from services.inference.domain.text import TextModel
from services.inference.errors import ExecutorLostError, InferenceFailedError, OverloadedError
from services.inference.execution import scheduler as scheduling
from services.inference.execution.runner import TextRunner
from services.inference.execution.scheduler import Scheduler, SchedulerOptions
from services.inference.metrics import InferenceMetrics
from tests.support.text_models import build_text_version

pytestmark = pytest.mark.anyio

POISON, NAN = 4095, 4094


class Engine(ReferenceTextEngine):
    """The reference engine with faults on demand; remembers what it ran."""

    def __init__(self) -> None:
        super().__init__(3)
        self.batches: list[np.ndarray] = []
        self.gate = threading.Event()
        self.gate.set()
        self.memory_rows = 1_000
        self.fault: BaseException | None = None

    def forward(self, batch):
        self.gate.wait(10)
        self.batches.append(batch)
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        if len(batch) > self.memory_rows:
            raise DeviceMemoryError("too many rows")
        if (batch == POISON).any():
            raise RuntimeError("poison")
        raw = super().forward(batch)
        raw[(batch == NAN).any(axis=1)] = np.nan
        return raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reference")
    return build_text_version(root, "plain", engine="reference", task="text-classification")


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def model(folder: Path, engine: Engine) -> TextModel:
    loaded = load_text(folder, load_manifest(folder))
    return TextModel(
        loaded.manifest,
        engine,
        "reference",
        loaded.encoder,
        loaded.head,
        CostModel(0.0005, 1e-6),
    )


@pytest.fixture
def metrics() -> InferenceMetrics:
    return InferenceMetrics(CollectorRegistry())


@pytest.fixture
async def make(model: TextModel, engine: Engine, metrics: InferenceMetrics):
    made: list[Scheduler] = []

    def build(**options) -> Scheduler:
        made.append(Scheduler(model, SchedulerOptions(**options), metrics))
        return made[-1]

    yield build
    engine.gate.set()
    for one in made:
        await one.close(1.0)


def _window(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int64)


def _submit(scheduler: Scheduler, *tokens: int, within: float = 5.0, priority: int = DEFAULT):
    deadline = time.monotonic() + within
    return scheduler.submit([_window(*tokens)], deadline_s=deadline, priority=priority)[0]


async def _until(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.002)


async def test_one_poisoned_item_among_32_fails_alone(make, engine: Engine):
    scheduler = make()
    futures = [
        _submit(scheduler, number + 1, POISON if number == 17 else 5) for number in range(32)
    ]
    results: list[Any] = await asyncio.gather(*futures, return_exceptions=True)
    assert [i for i, one in enumerate(results) if isinstance(one, Exception)] == [17]
    assert isinstance(results[17], InferenceFailedError)
    alone = engine.finish(engine._table[[[4, 5]]].sum(axis=1))[0]
    assert results[3].logits == pytest.approx(alone)


async def test_an_answer_that_is_no_number_fails_its_item_only(make):
    scheduler = make()
    good, bad = _submit(scheduler, 1), _submit(scheduler, NAN)
    results: Any = await asyncio.gather(good, bad, return_exceptions=True)
    assert isinstance(results[1], InferenceFailedError)
    assert np.isfinite(results[0].logits).all()


async def test_without_memory_batches_shrink_until_they_fit_and_grow_again(make, engine: Engine):
    engine.memory_rows = 4
    scheduler = make(limits=Limits(batch_items=16, batch_tokens=128))
    results = await asyncio.gather(*(_submit(scheduler, 1, 2) for _ in range(16)))
    assert len(results) == 16
    assert scheduler._queue.budget_tokens < 128
    small = scheduler._queue.budget_tokens
    engine.memory_rows = 1_000
    for _ in range(110):
        await _submit(scheduler, 1)
    assert scheduler._queue.budget_tokens > small


async def test_a_dead_executor_fails_its_futures_flips_health_and_is_replaced(
    make, engine: Engine, metrics: InferenceMetrics, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduling, "RESTART_S", 0.01)
    health: list[str | None] = []
    scheduler = make(on_health=health.append)
    engine.fault = SystemExit("a native library gave up")
    futures = [_submit(scheduler, number + 1) for number in range(8)]
    results = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 1.0)
    lost = [one for one in results if isinstance(one, ExecutorLostError)]
    assert lost
    assert health[0]
    await _until(lambda: health[-1] is None)
    assert (await _submit(scheduler, 3)).logits.shape == (3,)
    registry_value = metrics.text.restarts.labels("plain")._value.get()
    assert registry_value == 1


async def test_a_lost_device_ends_the_process_and_hangs_nobody(make, engine: Engine):
    fatal: list[bool] = []
    health: list[str | None] = []
    scheduler = make(on_fatal=lambda: fatal.append(True), on_health=health.append)
    engine.fault = DeviceLostError("CUDA error")
    with pytest.raises(ExecutorLostError):
        await asyncio.wait_for(_submit(scheduler, 1), 1.0)
    assert (fatal, health) == ([True], ["the device is lost"])


async def test_a_full_queue_refuses_with_the_time_to_come_back(make, engine: Engine):
    engine.gate.clear()
    scheduler = make(limits=Limits(batch_items=2, queue_items=4))
    running = [_submit(scheduler, 1, within=60)]
    await _until(lambda: bool(scheduler._executors[0].jobs))
    waiting = [_submit(scheduler, 1, within=60) for _ in range(4)]
    with pytest.raises(OverloadedError) as caught:
        _submit(scheduler, 1, within=60)
    assert caught.value.problem_code == "queue_full"
    assert int(caught.value.headers["Retry-After"]) >= 1
    engine.gate.set()
    await asyncio.gather(*running, *waiting)


async def test_an_executor_that_hangs_turns_callers_away_before_their_deadline(
    make, engine: Engine
):
    engine.gate.clear()
    scheduler = make()
    _submit(scheduler, 1)
    await asyncio.sleep(0.15)
    started = time.monotonic()
    with pytest.raises(OverloadedError) as caught:
        _submit(scheduler, 1, within=0.1)
    assert caught.value.problem_code == "deadline"
    assert time.monotonic() - started < 0.01


async def test_cancelled_work_is_skipped_and_expired_work_is_told(
    make, engine: Engine, metrics: InferenceMetrics
):
    engine.gate.clear()
    scheduler = make(limits=Limits(batch_items=1))
    first = _submit(scheduler, 1)
    await _until(lambda: bool(scheduler._executors[0].jobs))
    prefetched = _submit(scheduler, 2, within=60)
    await asyncio.sleep(0)
    gone, late = _submit(scheduler, 3, within=60), _submit(scheduler, 4, within=0.05)
    gone.cancel()
    await asyncio.sleep(0.08)
    engine.gate.set()
    await asyncio.gather(first, prefetched)
    with pytest.raises(DeadlineExceededError):
        await late
    await _until(lambda: scheduler.in_flight == 0)
    ran = {int(batch[0, 0]) for batch in engine.batches}
    assert ran == {1, 2}
    assert metrics.text.skipped.labels("cancelled")._value.get() == 1
    assert metrics.text.skipped.labels("expired")._value.get() == 1


async def test_urgent_work_overtakes_and_shadow_work_comes_last(make, engine: Engine):
    engine.gate.clear()
    scheduler = make(limits=Limits(batch_items=1))
    futures = [_submit(scheduler, 1)]
    await _until(lambda: bool(scheduler._executors[0].jobs))
    for token, priority in ((2, SHADOW), (3, DEFAULT), (4, URGENT)):
        futures.append(_submit(scheduler, token, within=60, priority=priority))
    engine.gate.set()
    await asyncio.gather(*futures)
    assert [int(batch[0, 0]) for batch in engine.batches] == [1, 4, 3, 2]


async def test_work_of_one_turn_shares_a_batch_and_an_idle_executor_waits_for_nothing(
    make, engine: Engine
):
    scheduler = make()
    await asyncio.gather(*(_submit(scheduler, 1, 2, 3) for _ in range(10)))
    assert [len(batch) for batch in engine.batches] == [10]
    started = time.monotonic()
    await _submit(scheduler, 1)
    assert time.monotonic() - started < 0.05


async def test_a_fill_delay_gathers_a_backlog_only(make, engine: Engine):
    engine.gate.clear()
    scheduler = make(fill_delay_s=0.2, limits=Limits(batch_items=8))
    first = _submit(scheduler, 1)
    await _until(lambda: bool(scheduler._executors[0].jobs))
    second = _submit(scheduler, 2)
    await asyncio.sleep(0.01)
    engine.gate.set()
    await first
    third = _submit(scheduler, 3)
    await asyncio.gather(second, third)
    assert [len(batch) for batch in engine.batches] == [1, 2]


async def test_closing_finishes_admitted_work_and_refuses_new(make, engine: Engine):
    scheduler = make()
    futures = [_submit(scheduler, number + 1) for number in range(20)]
    await scheduler.close(5.0)
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(OverloadedError) as caught:
        _submit(scheduler, 1)
    assert caught.value.problem_code == "draining"


async def test_all_windows_of_an_item_are_admitted_or_none(make, engine: Engine):
    engine.gate.clear()
    scheduler = make(limits=Limits(batch_items=1, queue_items=3))
    running = _submit(scheduler, 1, within=60)
    await _until(lambda: bool(scheduler._executors[0].jobs))
    deadline = time.monotonic() + 60
    with pytest.raises(OverloadedError):
        scheduler.submit([_window(9)] * 5, deadline_s=deadline, priority=DEFAULT)
    engine.gate.set()
    await running
    await _until(lambda: scheduler.in_flight == 0)
    assert all(int(batch[0, 0]) != 9 for batch in engine.batches)


async def test_the_batch_span_and_its_members_link_both_ways(make):
    exporter = InMemorySpanExporter()
    ours = telemetry.configure_telemetry("inference", endpoint=None, ratio=1.0, exporter=exporter)
    before = telemetry.get_telemetry()
    telemetry.install(ours)
    try:
        scheduler = make()
        futures = []
        for _ in range(3):
            with ours.span("POST /predict"):
                futures.append(_submit(scheduler, 1, 2))
                # The member stays open until its answer is there, as a request does.
                await futures[-1]
    finally:
        ours.shutdown()
        telemetry.install(before)
    spans = exporter.get_finished_spans()
    batches = [span for span in spans if span.name == "inference.batch"]
    members = {span.context.span_id: span for span in spans if span.name == "POST /predict"}
    assert len(members) == 3
    for batch in batches:
        for link in batch.links:
            back = [one.context.span_id for one in members[link.context.span_id].links]
            assert batch.context.span_id in back


async def test_a_runner_pools_windows_and_reports_each_text(
    model: TextModel, metrics: InferenceMetrics
):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        runner = TextRunner(model, SchedulerOptions(), pool, metrics)
        texts = [f"word{number} two three" for number in range(200)]
        outcomes: list[Any] = await runner.run(
            texts, deadline_s=time.monotonic() + 5, priority=DEFAULT
        )
        single: list[Any] = await runner.run(
            texts[:1], deadline_s=time.monotonic() + 5, priority=DEFAULT
        )
        assert outcomes[0].scores == pytest.approx(single[0].scores, abs=1e-12)
        assert len(outcomes) == 200
        await runner.close(1.0)
