"""The scheduler around its pure core: futures in, batches to executors, results out.

One per loaded version. Everything here runs on the event loop; only `Executor` has threads. No
timer: work is dispatched in the loop turn in which an executor is idle. A second batch is prepared
behind a running one only when a full one waits, so that looking ahead never makes batches smaller.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from opentelemetry import trace

from libs.common.errors import DeadlineExceededError, ServiceError
from libs.common.logging import get_logger
from libs.common.telemetry import get_telemetry
from services.inference.domain.batching import Batch, BatchQueue, Limits, Shed, Work
from services.inference.domain.ports import DeviceLostError, DeviceMemoryError, Scores
from services.inference.domain.text import TextModel
from services.inference.errors import ExecutorLostError, InferenceFailedError, OverloadedError
from services.inference.execution.executor import Executor, Job
from services.inference.metrics import InferenceMetrics

log = get_logger()

Tokens = NDArray[np.int64]

# After a death the next thread waits this long, twice as long each time, up to the largest.
RESTART_S, RESTART_S_MAX = 0.1, 5.0
# Good batches after which a token budget that was halved grows again.
_GOOD_BATCHES = 100
# How long closing waits for executor threads to end.
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class WindowResult:
    """Logits of one window, shape (labels,), and how it travelled."""

    logits: Scores
    queue_s: float
    model_s: float
    batch_items: int


@dataclass(slots=True, eq=False)
class Entry:
    """One window that waits or runs."""

    work: Work
    tokens: Tokens
    future: "asyncio.Future[WindowResult]"
    span: trace.Span
    started_s: float = 0.0


@dataclass(slots=True)
class SchedulerOptions:
    """What the settings say.

    Attributes:
        fill_delay_s: how long a free executor waits for a fuller batch while there is a backlog.
        on_health: told the reason when an executor died, and None when all live again.
        on_fatal: told when the device is lost for this process.
    """

    limits: Limits = field(default_factory=Limits)
    fill_delay_s: float = 0.0
    on_health: Callable[[str | None], None] = lambda _: None
    on_fatal: Callable[[], None] = lambda: None


class Scheduler:
    """Batches the windows of one model version; call it from its event loop only."""

    def __init__(
        self,
        model: TextModel,
        options: SchedulerOptions,
        metrics: InferenceMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._engine = model.engine
        self._options = options
        self._metrics = metrics
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue = BatchQueue(options.limits, model.cost)
        self._entries: dict[int, Entry] = {}
        self._keys = itertools.count(1)
        self._executors = [self._start(number) for number in range(model.engine.executors)]
        self._is_pump_planned = False
        self._fill_until: float | None = None
        self._deaths = 0
        self._good = 0
        self.is_closed = False

    @property
    def depth(self) -> int:
        """Windows that wait."""
        return self._queue.items

    @property
    def in_flight(self) -> int:
        """Windows that wait or run."""
        return len(self._entries)

    def submit(
        self, windows: Sequence[Tokens], *, deadline_s: float, priority: int
    ) -> list["asyncio.Future[WindowResult]"]:
        """Admit the windows of one item, all or none.

        Args:
            windows: each of shape (length,).
            deadline_s: on the clock; work that cannot meet it is refused now.
            priority: 1 urgent, 2 default, 3 bulk, 4 shadow.

        Raises:
            OverloadedError: shed, with the time to come back.
        """
        if self.is_closed:
            self._metrics.text.shed.labels("draining").inc()
            raise OverloadedError("This version is being taken out of service.", code="draining")
        now = self._clock()
        admitted: list[Entry] = []
        for tokens in windows:
            work = Work(next(self._keys), len(tokens), now, deadline_s, priority)
            shed, dropped = self._queue.admit(work, now, self._busy_s(now))
            for victim in dropped:
                self._fail(victim.key, OverloadedError("Shadow work gave way.", code="queue_full"))
            if shed is not None:
                self.abandon([entry.future for entry in admitted])
                raise self._refusal(shed)
            entry = Entry(work, tokens, self._loop.create_future(), trace.get_current_span())
            self._entries[work.key] = entry
            entry.future.add_done_callback(partial(self._settled, work.key))
            admitted.append(entry)
        self._plan_pump()
        return [entry.future for entry in admitted]

    def abandon(self, futures: Sequence["asyncio.Future[WindowResult]"]) -> None:
        """Say that nobody wants these any more; what waits is skipped."""
        for future in futures:
            future.cancel()

    async def close(self, timeout_s: float) -> None:
        """Refuse new work, finish what was admitted within the time, end the threads."""
        self.is_closed = True
        pending = [entry.future for entry in self._entries.values()]
        if pending:
            await asyncio.wait(pending, timeout=timeout_s)
        for key in list(self._entries):
            self._fail(key, OverloadedError("The service is stopping.", code="draining"))
        for executor in self._executors:
            executor.stop()
        for executor in self._executors:
            await asyncio.to_thread(executor.join, _JOIN_S)

    def _refusal(self, shed: Shed) -> OverloadedError:
        self._metrics.text.shed.labels(shed.reason).inc()
        detail = "Exceeds maximum queue size"
        if shed.reason == "deadline":
            detail = "The queue is too long for this deadline."
        return OverloadedError(detail, code=shed.reason, retry_after_s=shed.retry_after_s)

    def _busy_s(self, now: float) -> float:
        return min((one.busy_s(now) for one in self._executors if one.is_alive), default=RESTART_S)

    def _settled(self, key: int, _: "asyncio.Future[WindowResult]") -> None:
        """Forget an entry whose future is done; cancelled ones also leave the queue."""
        entry = self._entries.pop(key, None)
        if entry is not None and entry.future.cancelled() and not entry.started_s:
            self._queue.cancel(key)
            self._plan_pump()

    def _fail(self, key: int, error: ServiceError) -> None:
        entry = self._entries.get(key)
        if entry is not None and not entry.future.done():
            entry.future.set_exception(error)

    def _plan_pump(self) -> None:
        """Form batches once in the next turn, so that all work of this turn is seen together."""
        if not self._is_pump_planned:
            self._is_pump_planned = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pump_planned = False
        while self._queue.items and (executor := self._room()) is not None:
            if self._waits_to_fill():
                break
            formed = self._queue.form(self._clock())
            for work, reason in formed.skipped:
                self._metrics.text.skipped.labels(reason).inc()
                late = DeadlineExceededError("The deadline passed in the queue.")
                self._fail(work.key, late)
            if formed.batch is not None:
                self._dispatch(executor, formed.batch)
        metrics, name = self._metrics.text, self._model.name
        metrics.queue_items.labels(name).set(self._queue.items)
        metrics.queue_tokens.labels(name).set(self._queue.tokens)

    def _room(self) -> Executor[Entry] | None:
        """Find who takes the next batch: an idle one, or behind a running one if a batch is full.

        Which device is least loaded needs no table: the one that asks first is.
        """
        alive = [one for one in self._executors if one.is_alive]
        best = min(alive, key=lambda one: len(one.jobs), default=None)
        if best is None or (best.jobs and not (len(best.jobs) == 1 and self._queue.has_full_batch)):
            return None
        return best

    def _waits_to_fill(self) -> bool:
        """Whether to hold back for a fuller batch; only with a delay set, and only in a backlog."""
        if not self._options.fill_delay_s or self._queue.has_full_batch:
            return False
        now = self._clock()
        if self._fill_until is None:
            # No backlog (everything that waits came this turn): go at once.
            oldest = min(entry.work.enqueued_s for entry in self._waiting())
            if now - oldest < 1e-3:
                return False
            self._fill_until = now + self._options.fill_delay_s
            self._loop.call_later(self._options.fill_delay_s, self._pump)
        if now < self._fill_until:
            return True
        self._fill_until = None
        return False

    def _waiting(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if not entry.started_s]

    def _dispatch(self, executor: Executor[Entry], batch: Batch) -> None:
        now, name = self._clock(), self._model.name
        entries = [self._entries[work.key] for work in batch.items if work.key in self._entries]
        if not entries:
            return
        for entry in entries:
            entry.started_s = now
            self._metrics.text.queue.labels(name).observe(now - entry.work.enqueued_s)
        self._metrics.text.dispatch.labels(name, batch.reason).inc()
        self._send(executor, entries, batch.padded_length)

    def _send(self, executor: Executor[Entry], entries: list[Entry], length: int) -> None:
        started = time.perf_counter()
        try:
            collated = self._engine.collate([entry.tokens for entry in entries], length)
        except Exception as error:
            job: Job[Entry] = Job(entries, None, length, 0.0, error=error)
            self._failed(executor, job)
            return
        predicted = self._model.cost.predict_s(len(entries), length)
        collate_s = time.perf_counter() - started
        executor.put(Job(entries, collated, length, predicted, collate_s))

    def _done(self, executor: Executor[Entry], job: Job[Entry]) -> None:
        """Take back a job; runs on the loop."""
        if job not in executor.jobs:
            return  # the executor was given up in the meantime
        executor.jobs.remove(job)
        if job.error is None:
            try:
                started = time.perf_counter()
                logits = self._engine.finish(job.raw)
                assert len(logits) == len(job.entries), "the engine must answer every window"
                self._deliver(job, logits)
                self._metrics.statistics.of(self._model.name, self._model.version).batch(
                    len(job.entries), job.collate_s, job.seconds, time.perf_counter() - started
                )
            except Exception as error:
                job.error = error
        if job.error is not None:
            self._failed(executor, job)
        self._pump()

    def _deliver(self, job: Job[Entry], logits: Scores) -> None:
        count, name = len(job.entries), self._model.name
        self._trace(job)
        for entry, row in zip(job.entries, logits, strict=True):
            if entry.future.done():
                continue
            if not np.isfinite(row).all():
                entry.future.set_exception(
                    InferenceFailedError(f"The model {name} gave a score that is no number.")
                )
                continue
            queue_s = entry.started_s - entry.work.enqueued_s
            entry.future.set_result(WindowResult(row, queue_s, job.seconds, count))
        self._model.cost.observe(count, job.padded_length, job.seconds)
        self._metrics.model_inference.labels(name, self._model.version).observe(job.seconds)
        self._metrics.batch_size.labels(name).observe(count)
        tokens = self._metrics.text.batch_tokens
        tokens.labels(name, "real").inc(sum(entry.work.length for entry in job.entries))
        tokens.labels(name, "padded").inc(count * job.padded_length)
        self._good += 1
        if self._good % _GOOD_BATCHES == 0:
            self._queue.regain()

    def _failed(self, executor: Executor[Entry], job: Job[Entry]) -> None:
        """Bisect a failed batch until the bad item stands alone; no memory halves the budget."""
        error, wanted = job.error, [entry for entry in job.entries if not entry.future.done()]
        if isinstance(error, DeviceLostError):
            log.error("device lost", model=self._model.name, error_type=type(error).__name__)
            self._lose(executor, [job, *executor.jobs])
            self._options.on_health("the device is lost")
            self._options.on_fatal()
            return
        if isinstance(error, DeviceMemoryError):
            self._queue.shrink()
        if len(wanted) > 1:
            middle = len(wanted) // 2
            for half in (wanted[:middle], wanted[middle:]):
                longest = max(entry.work.length for entry in half)
                multiple = self._engine.pad_multiple
                self._send(executor, half, -(-longest // multiple) * multiple)
            return
        for entry in wanted:
            log.error(
                "batch failed", model=self._model.name, error_type=type(error).__name__, items=1
            )
            failure = InferenceFailedError(f"The model {self._model.name} could not answer.")
            failure.__cause__ = error
            entry.future.set_exception(failure)

    def _start(self, number: int) -> Executor[Entry]:
        name = f"{self._model.name}-{self._model.version}-{number}"
        return Executor(name, self._engine.forward, self._loop, self._done, self._died)

    def _lose(self, executor: Executor[Entry], jobs: Sequence[Job[Entry]]) -> None:
        executor.is_alive = False
        executor.jobs = []
        for job in jobs:
            for entry in job.entries:
                self._fail(entry.work.key, ExecutorLostError("The executor died; try again."))

    def _died(self, executor: Executor[Entry]) -> None:
        """Fail what a dead executor held, say so, and replace it a little later."""
        self._lose(executor, list(executor.jobs))
        self._deaths += 1
        log.error(
            "executor died",
            model=self._model.name,
            count=self._deaths,
            error_type=type(executor.death).__name__,
        )
        self._options.on_health("an executor died and is being replaced")
        delay = min(RESTART_S_MAX, RESTART_S * 2 ** min(self._deaths - 1, 10))
        self._loop.call_later(delay, self._replace, executor)

    def _replace(self, executor: Executor[Entry]) -> None:
        if self.is_closed:
            return
        index = self._executors.index(executor)
        self._executors[index] = self._start(index)
        self._metrics.text.restarts.labels(self._model.name).inc()
        if all(one.is_alive for one in self._executors):
            self._options.on_health(None)
        self._pump()

    def _trace(self, job: Job[Entry]) -> None:
        """Record the batch as a span that its members link to and that links to them."""
        members = {id(entry.span): entry.span for entry in job.entries if entry.span.is_recording()}
        if members:
            get_telemetry().linked_span(
                "inference.batch",
                list(members.values()),
                job.seconds,
                {
                    "model": self._model.name,
                    "batch.items": len(job.entries),
                    "batch.padded_length": job.padded_length,
                },
            )
