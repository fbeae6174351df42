"""Text answers: what /predict and its kin say, and the event of each answer or failure.

Under a rollout the subject of a text is `X-Experiment-Key`, where the caller gives one, else the
text itself: the same text always meets the same version.

No text and no digest of one is in an event: a hash of a short text can be guessed.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from libs.common.context import current
from libs.common.errors import DeadlineExceededError, InvalidInputError, ServiceError
from libs.common.events.envelope import Event, EventEmitter, event_for_request
from libs.common.manifest import Manifest
from libs.common.problems import problem_body
from libs.common.rollouts import Arm
from services.inference.control.live import Live
from services.inference.control.rollouts import RolloutControl
from services.inference.domain.batching import BULK, DEFAULT, SHADOW
from services.inference.domain.ensemble import AnyTextModel
from services.inference.domain.repository import Repository
from services.inference.domain.text import TextAnswer
from services.inference.errors import InferenceFailedError
from services.inference.execution.plane import TextPlane
from services.inference.execution.runner import Outcome
from services.inference.metrics import InferenceMetrics
from services.inference.scoring.base import give_way
from services.inference.scoring.trial import Facts, Sample, Trial

# How long a candidate may take at most when the call names no deadline.
_CANDIDATE_S = 5.0


@dataclass(frozen=True, slots=True)
class Answered:
    """One text's outcome and the version that gave it, with the event that records it.

    Attributes:
        event: None for what was never run.
    """

    outcome: Outcome
    event: Event | None
    model: AnyTextModel
    arm: Arm = Arm.STABLE

    @property
    def prediction_id(self) -> str:
        """The id under which the log holds it."""
        return self.event.id if self.event else ""


@dataclass(frozen=True, slots=True)
class TextCall:
    """One call: which texts, from where, and how.

    Attributes:
        endpoint: the route's template, for events.
        partial: a text that fails gives its error in its place instead of raising.
        priority: 1 urgent to 4 shadow.
        use_cache: False asks the model in any case.
        batch_id: in the events of a batch.
        subject: whom a rollout assigns; None takes each text itself.
    """

    texts: Sequence[str]
    endpoint: str
    partial: bool
    priority: int
    use_cache: bool
    batch_id: str | None
    subject: str | None
    started: float


class TextScorer:
    """Runs texts and records each answer before it leaves."""

    def __init__(
        self,
        plane: TextPlane,
        events: EventEmitter,
        metrics: InferenceMetrics,
        repository: Repository,
        rollouts: RolloutControl,
    ) -> None:
        self.plane = plane
        self._events = events
        self._metrics = metrics
        self._repository = repository
        self._trial = Trial(repository, events, rollouts)
        self.on_scores: Callable[[Manifest, list[float]], None] = lambda _, __: None

    async def score(
        self,
        model: AnyTextModel,
        texts: Sequence[str],
        endpoint: str,
        *,
        partial: bool,
        priority: int | None = None,
        use_cache: bool = True,
        batch_id: str | None = None,
        is_pinned: bool = False,
        subject: str | None = None,
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
            is_pinned: the caller named the version, so no rollout gives it another one.
            subject: whom a rollout assigns; None takes each text itself.

        Raises:
            ServiceError: the first failure, unless `partial`.
            UnavailableError: the events cannot be made durable.
        """
        started = time.perf_counter()
        lane = priority or (DEFAULT if len(texts) == 1 else BULK)
        call = TextCall(texts, endpoint, partial, lane, use_cache, batch_id, subject, started)
        live = None if is_pinned else self._trial.live(model.name)
        keys: Sequence[tuple[Arm, int]] = ()
        if live is None:
            answered = await self._run(model, Arm.STABLE, call, range(len(texts)), None)
        else:
            keys = self._trial.route(live, [subject or text for text in texts])
            answered = await self._run_arms(live, keys, model, call)
        ordered = [answered[index] for index in range(len(texts))]
        await self._events.emit(*(one.event for one in ordered if one.event is not None))
        if live is not None:
            for index, one in enumerate(ordered):
                if isinstance(one.outcome, TextAnswer):
                    facts = self._facts(one, one.outcome, texts[index], call)
                    self._trial.after(live, one.arm, keys[index][1], facts)
        return ordered

    async def _run_arms(
        self, live: Live, keys: Sequence[tuple[Arm, int]], stable: AnyTextModel, call: TextCall
    ) -> dict[int, Answered]:
        """Answer each text by its arm's version; what the candidate fails, stable answers."""
        lost: list[Event] = []

        async def run(arm: Arm, places: list[int]) -> dict[int, Answered]:
            if arm is not Arm.CANDIDATE:
                return await self._run(stable, arm, call, places, live)
            candidate = self._repository.loaded(live.record.model, live.record.candidate)
            assert isinstance(candidate, AnyTextModel), "both versions are of one task"
            try:
                # Half of the time that is left stays with stable, should the candidate hang.
                async with asyncio.timeout(current().remaining_s(_CANDIDATE_S * 2) / 2):
                    found = await self._run(
                        candidate, arm, replace(call, partial=True), places, live
                    )
            except TimeoutError:
                raise DeadlineExceededError("The candidate did not answer in time.") from None
            good = {}
            for place, one in found.items():
                is_failed = isinstance(one.outcome, ServiceError)
                if is_failed and not isinstance(one.outcome, InvalidInputError):
                    lost.extend([one.event] if one.event else [])
                else:
                    good[place] = one
            return good

        answered = await self._trial.run_arms(live, keys, run)
        await self._events.emit(*lost)
        return answered

    async def _run(
        self,
        model: AnyTextModel,
        arm: Arm,
        call: TextCall,
        places: Sequence[int],
        live: Live | None,
    ) -> dict[int, Answered]:
        """Answer the texts at `places` by one version."""
        texts = [call.texts[place] for place in places]
        try:
            outcomes = await self.plane.predict(
                model,
                texts,
                priority=call.priority,
                partial=call.partial,
                use_cache=call.use_cache,
            )
        except InferenceFailedError as error:
            failed = (_event(model, arm, call, error, place, live) for place in places)
            await self._events.emit(*failed)
            raise
        answered = {}
        for index, (place, outcome) in enumerate(zip(places, outcomes, strict=True)):
            is_record = isinstance(outcome, TextAnswer | InferenceFailedError)
            event = _event(model, arm, call, outcome, place, live) if is_record else None
            answered[place] = Answered(outcome, event, model, arm)
            await give_way(index)
            if isinstance(outcome, TextAnswer):
                self._metrics.text.confidence.labels(model.name, model.version).observe(
                    outcome.confidence
                )
        good = [one for one in outcomes if isinstance(one, TextAnswer)]
        self.on_scores(model.manifest, [_score(model, one) for one in good])
        return answered

    def _facts(self, one: Answered, answer: TextAnswer, text: str, call: TextCall) -> Facts:
        """Collect what a rollout needs of one answer; cached ones took no time of a model."""

        async def again(version: int) -> Sample:
            model = self._repository.loaded(one.model.name, version)
            assert isinstance(model, AnyTextModel), "both versions are of one task"
            found = (await self.plane.predict(model, [text], priority=SHADOW, use_cache=False))[0]
            assert isinstance(found, TextAnswer), "errors were raised"
            return _sample(model, found)

        is_timed = len(call.texts) == 1 and not answer.cached
        seconds = answer.queue_s + answer.model_s
        return Facts(
            _sample(one.model, answer),
            seconds if is_timed else None,
            again,
            call.endpoint,
            one.prediction_id,
            None,
            {"input_length": len(text)},
            (("prediction", one.prediction_id),),
        )


def _sample(model: AnyTextModel, answer: TextAnswer) -> Sample:
    """Describe an answer for a rollout."""
    score = _score(model, answer)
    return Sample(score, answer.label, answer.label, answer.confidence, answer.model_s)


def _score(model: AnyTextModel, answer: TextAnswer) -> float:
    """Give one number whose distribution is watched: the probability of the last label, or of
    independent labels the highest.
    """
    is_one = model.head.activation == "softmax"
    return float(answer.scores[-1] if is_one else answer.scores.max())


def _event(
    model: AnyTextModel,
    arm: Arm,
    call: TextCall,
    outcome: Outcome,
    place: int,
    live: Live | None,
) -> Event:
    data: dict[str, Any] = {
        "route": call.endpoint,
        "model": model.name,
        "release": model.model_version,
        "version": model.version,
        "arm": arm.value,
        "input_length": len(call.texts[place]),
    }
    total_ms = round((time.perf_counter() - call.started) * 1e3, 3)
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
        if outcome.ensemble is not None:
            data["ensemble"] = outcome.ensemble.to_wire()
            if outcome.ensemble.reason is not None:
                data |= {"status": "degraded", "reason": outcome.ensemble.reason}
    else:
        data |= {"status": "failed", "reason": outcome.problem_code}
    if call.batch_id is not None:
        data |= {"batch_id": call.batch_id, "index": place}
    if live is not None:
        data["rollout"] = live.id
    event = event_for_request("prediction.made", "inference", "standard", data)
    data["prediction_id"] = event.id
    return event


def scores_of(model: AnyTextModel, answer: TextAnswer) -> dict[str, float]:
    """Give calibrated probabilities by label."""
    return {
        label: round(float(score), 6)
        for label, score in zip(model.head.labels, answer.scores, strict=True)
    }


def spans_body(answer: TextAnswer) -> list[dict[str, Any]]:
    """Give the names found in a text, in order; offsets are code points."""
    return [
        {"start": one.start, "end": one.end, "label": one.label, "score": round(one.score, 6)}
        for one in answer.spans
    ]


def sentiment_body(
    text: str, answered: Answered, *, include_metrics: bool, seconds: float
) -> dict[str, Any]:
    """Shape one answer of /predict.

    Args:
        text: the input, for its length.
        answered: a good outcome.
        include_metrics: adds `metric`, null otherwise.
        seconds: time of the whole answer so far.
    """
    answer, model = answered.outcome, answered.model
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
        "model_arm": answered.arm.value,
        **ensemble_of(answer),
    }


def ensemble_of(answer: TextAnswer) -> dict[str, Any]:
    """Say who took part in an ensemble's answer; nothing for a single model."""
    if answer.ensemble is None:
        return {}
    return {
        "ensemble": answer.ensemble.to_wire(),
        "degraded": answer.ensemble.reason is not None,
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
