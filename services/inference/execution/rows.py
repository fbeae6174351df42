"""Calls of tabular models that arrive in the same turn of the event loop share one model call.

A caller waits for its own answer only: no timer, no thread, nothing is held back. The calls also
share what a call costs beside the model: metrics, and one write to the event log for all of them.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from opentelemetry import trace

from libs.common.context import RequestContext, current
from libs.common.errors import DeadlineExceededError
from libs.common.events.envelope import Event, EventEmitter, event_for_request
from libs.common.telemetry import get_telemetry
from services.inference.dataplane import INLINE_ROWS_MAX, DataPlane
from services.inference.domain.model import LoadedModel, TabularModel
from services.inference.domain.ports import Rows, Scores
from services.inference.metrics import InferenceMetrics


@dataclass(slots=True, eq=False)
class _Call:
    """One call that waits; `scores` is set once they are known, `done` once they are on record."""

    model: TabularModel
    rows: Rows
    context: RequestContext
    span: trace.Span
    done: "asyncio.Future[Scores]"
    started_s: float
    scores: Scores | None = None


class RowCalls:
    """Runs calls of few rows; its methods belong to one event loop."""

    def __init__(
        self, plane: DataPlane, events: EventEmitter, metrics: InferenceMetrics, route: str
    ) -> None:
        self._plane = plane
        self._events = events
        self._metrics = metrics
        self._route = route
        self._waiting: list[_Call] = []
        self._recording: set[asyncio.Task[None]] = set()

    async def run(self, model: TabularModel, rows: Rows) -> Scores:
        """Score rows, shape (n, features) with 1 <= n <= INLINE_ROWS_MAX, of a single model.

        Its event is durable when this returns.

        Raises:
            DeadlineExceededError: the deadline passed before the model ran.
            InferenceFailedError: the model failed on these rows.
            UnavailableError: the event cannot be made durable.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        call = _Call(
            model,
            rows,
            current(),
            trace.get_current_span(),
            loop.create_future(),
            time.perf_counter(),
        )
        self._waiting.append(call)
        return await call.done

    def _flush(self) -> None:
        """Run what this turn has brought."""
        calls, self._waiting = self._waiting, []
        now = time.monotonic()
        for call in calls:
            deadline = call.context.deadline
            if deadline is not None and deadline <= now:
                self._fail(call, DeadlineExceededError("The deadline passed before the model ran."))
        for batch in _batches([call for call in calls if not call.done.done()]):
            self._run(batch)
        answered = [call for call in calls if call.scores is not None]
        if answered:
            task = asyncio.ensure_future(self._record(answered))
            self._recording.add(task)
            task.add_done_callback(self._recording.discard)

    def _run(self, batch: Sequence[_Call]) -> None:
        """Run one model once; what fails is cut in halves until the bad call stands alone."""
        model, started = batch[0].model, time.perf_counter()
        rows = batch[0].rows if len(batch) == 1 else np.concatenate([one.rows for one in batch])
        try:
            scores = self._plane.run_inline(model, rows).scores
        except Exception as error:  # a defect of ours too: nobody may wait for ever
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            middle = len(batch) // 2
            self._run(batch[:middle])
            self._run(batch[middle:])
            return
        now, at = time.perf_counter(), 0
        statistics = self._metrics.statistics.of(model.name, model.version)
        statistics.batch(len(rows), 0.0, now - started, 0.0)
        for call in batch:
            count = len(call.rows)
            call.scores = scores[at : at + count]
            at += count
            statistics.request(
                items=count, seconds=now - call.started_s, ok=True, queue_s=started - call.started_s
            )
        _trace(batch, now - started)

    def _fail(self, call: _Call, error: Exception) -> None:
        statistics = self._metrics.statistics.of(call.model.name, call.model.version)
        statistics.request(items=0, seconds=time.perf_counter() - call.started_s, ok=False)
        if not call.done.done():
            call.done.set_exception(error)

    async def _record(self, calls: Sequence[_Call]) -> None:
        """Make the events of all calls durable, then answer."""
        error: Exception | None = None
        try:
            await self._events.emit(*(self._event(call) for call in calls))
        except Exception as raised:  # each caller must hear of it, whatever it is
            error = raised
        for call in calls:
            if call.done.done():
                continue
            if error is not None:
                call.done.set_exception(error)
            else:
                assert call.scores is not None, "only answered calls are recorded"
                call.done.set_result(call.scores)

    def _event(self, call: _Call) -> Event:
        seconds = time.perf_counter() - call.started_s
        return call_event(self._route, call.model, seconds, call.context)


def call_event(
    route: str, model: LoadedModel, seconds: float, context: RequestContext | None = None
) -> Event:
    """Build the record of a call of named tensors, of the current request or the one given."""
    return event_for_request(
        "prediction.made",
        "inference",
        "standard",
        {
            "route": route,
            "model": model.name,
            "release": model.manifest.release,
            "version": model.version,
            "arm": "stable",
            "status": "ok",
            "latency_ms": {"total": round(seconds * 1e3, 3)},
        },
        context=context,
    )


def _batches(calls: Sequence[_Call]) -> Iterator[list[_Call]]:
    """Group calls by version, in order, as many rows at once as run on the loop."""
    by_model: dict[int, list[_Call]] = {}
    for call in calls:
        by_model.setdefault(id(call.model), []).append(call)
    for group in by_model.values():
        batch: list[_Call] = []
        rows = 0
        for call in group:
            if rows + len(call.rows) > INLINE_ROWS_MAX:
                yield batch
                batch, rows = [], 0
            batch.append(call)
            rows += len(call.rows)
        yield batch


def _trace(batch: Sequence[_Call], seconds: float) -> None:
    """Record the batch as a span that its members link to and that links to them."""
    members = [call.span for call in batch if call.span.is_recording()]
    if members:
        model = batch[0].model
        facts = {"model": model.name, "batch.items": sum(len(call.rows) for call in batch)}
        get_telemetry().linked_span("inference.batch", members, seconds, facts)
