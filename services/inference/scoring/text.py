"""Text answers: what /predict and its kin say, and the event of each answer or failure.

No text and no digest of one is in an event: a hash of a short text can be guessed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from libs.common.context import current
from libs.common.errors import ServiceError
from libs.common.events.envelope import Event, EventEmitter, event_for_request
from libs.common.problems import problem_body
from services.inference.domain.batching import BULK, DEFAULT
from services.inference.domain.text import TextAnswer, TextModel
from services.inference.errors import InferenceFailedError
from services.inference.execution.plane import TextPlane
from services.inference.execution.runner import Outcome
from services.inference.metrics import InferenceMetrics
from services.inference.scoring.base import give_way


@dataclass(frozen=True, slots=True)
class Answered:
    """One text's outcome, with the event that records it; no event for what was never run."""

    outcome: Outcome
    event: Event | None

    @property
    def prediction_id(self) -> str:
        """The id under which the log holds it."""
        return self.event.id if self.event else ""


class TextScorer:
    """Runs texts and records each answer before it leaves."""

    def __init__(self, plane: TextPlane, events: EventEmitter, metrics: InferenceMetrics) -> None:
        self.plane = plane
        self._events = events
        self._metrics = metrics

    async def score(
        self,
        model: TextModel,
        texts: Sequence[str],
        endpoint: str,
        *,
        partial: bool,
        priority: int | None = None,
        use_cache: bool = True,
        batch_id: str | None = None,
    ) -> list[Answered]:
        """Answer texts in order; each answer, and each failure of the model, is an event.

        Args:
            model: the resolved version.
            texts: at least one.
            endpoint: the route's template, for events.
            partial: a text that fails gives its error in its place instead of raising.
            priority: default 2 for one text and 3 for several.
            use_cache: False asks the model in any case.
            batch_id: in the events of a batch.

        Raises:
            ServiceError: the first failure, unless `partial`.
            UnavailableError: the events cannot be made durable.
        """
        started = time.perf_counter()
        lane = priority or (DEFAULT if len(texts) == 1 else BULK)
        try:
            outcomes = await self.plane.predict(
                model, texts, priority=lane, partial=partial, use_cache=use_cache
            )
        except InferenceFailedError as error:
            failed = (_event(model, endpoint, error, text, started, batch_id, 0) for text in texts)
            await self._events.emit(*failed)
            raise
        answered = []
        for index, (text, outcome) in enumerate(zip(texts, outcomes, strict=True)):
            is_record = isinstance(outcome, TextAnswer | InferenceFailedError)
            event = (
                _event(model, endpoint, outcome, text, started, batch_id, index)
                if is_record
                else None
            )
            answered.append(Answered(outcome, event))
            await give_way(index)
            if isinstance(outcome, TextAnswer):
                self._metrics.text.confidence.labels(model.name, model.version).observe(
                    outcome.confidence
                )
        await self._events.emit(*(one.event for one in answered if one.event is not None))
        return answered


def _event(
    model: TextModel,
    endpoint: str,
    outcome: Outcome,
    text: str,
    started: float,
    batch_id: str | None,
    index: int,
) -> Event:
    data: dict[str, Any] = {
        "route": endpoint,
        "model": model.name,
        "release": model.model_version,
        "version": model.version,
        "arm": "stable",
        "input_length": len(text),
    }
    total_ms = round((time.perf_counter() - started) * 1e3, 3)
    if isinstance(outcome, TextAnswer):
        data |= {
            "status": "ok",
            "label": outcome.label,
            "score": round(outcome.confidence, 6),
            "confidence": round(outcome.confidence, 6),
            "cached": outcome.cached,
            "latency_ms": {
                "total": total_ms,
                "queue": round(outcome.queue_s * 1e3, 3),
                "model": round(outcome.model_s * 1e3, 3),
                "tokenize": round(outcome.tokenize_s * 1e3, 3),
            },
        }
    else:
        data |= {"status": "failed", "reason": outcome.problem_code}
    if batch_id is not None:
        data |= {"batch_id": batch_id, "index": index}
    event = event_for_request("prediction.made", "inference", "standard", data)
    data["prediction_id"] = event.id
    return event


def scores_of(model: TextModel, answer: TextAnswer) -> dict[str, float]:
    """Give calibrated probabilities by label."""
    return {
        label: round(float(score), 6)
        for label, score in zip(model.head.labels, answer.scores, strict=True)
    }


def sentiment_body(
    model: TextModel,
    text: str,
    answered: Answered,
    *,
    include_metrics: bool,
    seconds: float,
) -> dict[str, Any]:
    """Shape one answer of /predict.

    Args:
        model: the version that answered.
        text: the input, for its length.
        answered: a good outcome.
        include_metrics: adds `metric`, null otherwise.
        seconds: time of the whole answer so far.
    """
    answer = answered.outcome
    assert isinstance(answer, TextAnswer)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    confidence, elapsed_ms = round(answer.confidence, 6), round(seconds * 1e3, 3)
    metric = {
        "prediction_id": answered.prediction_id,
        "timestamp": now,
        "confidence": confidence,
        "inference_time_ms": elapsed_ms,
        "sentiment": answer.label,
        "input_length": len(text),
        "model_version": model.model_version,
    }
    return {
        "sentiment": answer.label,
        "confidence": confidence,
        "inference_time_ms": elapsed_ms,
        "timestamp": now,
        "model_version": model.model_version,
        "metric": metric if include_metrics else None,
        "scores": scores_of(model, answer),
        "cached": answer.cached,
        "truncated": answer.is_truncated,
        "prediction_id": answered.prediction_id,
        "request_id": current().request_id,
    }


def timing_of(answer: TextAnswer) -> dict[str, Any]:
    """Say how an answer travelled: its wait, and how many windows waited before it."""
    return {
        "queue_wait_ms": round(answer.queue_s * 1e3, 3),
        "queue_depth": answer.depth,
        "batch_items": answer.batch_items,
        "model_ms": round(answer.model_s * 1e3, 3),
    }


def item_error(index: int, error: ServiceError, instance: str) -> dict[str, Any]:
    """Shape the failure of one item of a batch."""
    return {"index": index, "status": error.status, "error": problem_body(error, instance)}
