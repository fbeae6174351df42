"""Scores a user with an item: one feature read, the relevance and the conversion model."""

import time
from collections.abc import Sequence
from typing import Any

from libs.common.events.envelope import Event
from libs.common.features.contract import FeatureRequest, FeatureRows
from libs.common.rollouts import Arm
from services.inference.control.live import Live
from services.inference.domain.model import TabularModel
from services.inference.domain.personalization import (
    behavioral_signals,
    engagement_score,
    user_segment,
)
from services.inference.domain.scoring import confidence_of
from services.inference.errors import InferenceFailedError
from services.inference.schemas import PersonalizationRequest
from services.inference.scoring.base import (
    Origin,
    Scored,
    ScoredRows,
    ScorerBase,
    event_time_ms,
    feature_facts,
    give_way,
    input_digest,
    minor_units,
    prediction_event,
    sample_of,
)
from services.inference.scoring.trial import Facts

RELEVANCE, CONVERSION = "relevance", "conversion"


class PersonalizationScorer(ScorerBase):
    """Answers `/score/personalization` and the personalization items of `/score/batch`."""

    async def score(
        self, items: Sequence[PersonalizationRequest], origin: Origin
    ) -> list[dict[str, Any]]:
        """Score pairs of user and item; events are durable when this returns.

        Raises:
            ModelNotLoadedError: one of the two models is not ready.
            InferenceFailedError: a model failed; a failed event was recorded per item.
            UnavailableError: the events cannot be made durable.
            DeadlineExceededError: no time was left to begin.
        """
        started = time.perf_counter()
        models = self._plane.resolve(RELEVANCE), self._plane.resolve(CONVERSION)
        if models[0].service is not models[1].service:
            raise InferenceFailedError("The two models read different feature services.")
        rows = await self.read(models[0].service, [_feature_request(item) for item in items])
        users = [item.user_id for item in items]

        def failures(
            model: TabularModel, arm: Arm, places: Sequence[int], reason: str, live: Live | None
        ) -> list[Event]:
            return _failures(model, arm, items, places, rows, origin, reason, live)

        relevance = await self.score_rows(models[0], users, rows, failures)
        conversion = await self.score_rows(models[1], users, rows, failures)
        answers, events = [], []
        for index, item in enumerate(items):
            pair = relevance.scored[index], conversion.scored[index]
            body, event = self._answer(pair, item, rows, index, origin, started, relevance.live)
            answers.append(body)
            events.append(event)
            await give_way(index)
        await self.record(events)
        for found in (relevance, conversion):
            self._observe(found, items, rows, events, origin)
        return answers

    def _observe(
        self,
        found: ScoredRows,
        items: Sequence[PersonalizationRequest],
        rows: FeatureRows,
        events: Sequence[Event],
        origin: Origin,
    ) -> None:
        """Tell a model's rollout what was answered; a label is about relevance."""
        if found.live is None:
            return
        for index, (item, event) in enumerate(zip(items, events, strict=True)):
            scored = found.scored[index]
            model = scored.model
            facts = Facts(
                sample_of(model, scored.score, scored.model_s),
                scored.model_s if origin.batch_id is None else None,
                self.again(model.name, rows, index),
                origin.endpoint,
                event.id,
                item.user_id,
                {"input_digest": input_digest(rows, index)},
                (("prediction", event.id),) if model.name == RELEVANCE else (),
            )
            self.trial.after(found.live, scored.arm, found.keys[index][1], facts)

    def _answer(
        self,
        pair: tuple[Scored, Scored],
        item: PersonalizationRequest,
        rows: FeatureRows,
        index: int,
        origin: Origin,
        started: float,
        live: Live | None,
    ) -> tuple[dict[str, Any], Event]:
        """Describe one row; the event carries the relevance model's score."""
        first, second = pair
        models = first.model, second.model
        relevance, conversion = first.score, second.score
        for model, score in zip(models, (relevance, conversion), strict=True):
            self._metrics.prediction_scores.labels(model.name, model.version).observe(score)
        values = dict(zip(models[0].service.names, rows.matrix[index].tolist(), strict=True))
        engagement = engagement_score(values)
        common = self.common(rows, index, models[0], first.arm, first.ensemble)
        body = {
            "relevance_score": round(relevance, 6),
            "conversion_probability": round(conversion, 6),
            "engagement_score": round(engagement, 6),
            "user_segment": user_segment(values, engagement),
            "behavioral_signals": behavioral_signals(values),
            "conversion_model_version": models[1].model_version,
            "latency_ms": round((time.perf_counter() - started) * 1e3, 3),
            **common,
        }
        details = {
            "score": body["relevance_score"],
            "confidence": round(confidence_of(relevance), 6),
            "label": body["user_segment"],
            "cached": False,
            "latency_ms": {
                "total": body["latency_ms"],
                "features": round(rows.read_s * 1e3, 3),
                "model": round((first.model_s + second.model_s) * 1e3, 3),
            },
            "features": feature_facts(rows, index, common["features_used"]),
            "input_digest": input_digest(rows, index),
        }
        if common["degraded_reasons"]:
            details["reason"] = common["degraded_reasons"][0]
        if live is not None:
            details["rollout"] = live.id
        if first.ensemble is not None:
            details["ensemble"] = first.ensemble.to_wire()
        event = prediction_event(
            models[0],
            origin,
            index,
            data_subject=item.user_id,
            status="degraded" if common["degraded"] else "ok",
            details=details,
            arm=first.arm,
        )
        body["prediction_id"] = event.id
        return body, event


def _feature_request(item: PersonalizationRequest) -> FeatureRequest:
    entities = {"user": item.user_id, "item": item.item_id}
    if item.session_id is not None:
        entities["session"] = item.session_id
    values: dict[str, object] = {}
    if item.item_category is not None:
        values["item_category"] = item.item_category
    if item.item_price is not None:
        values["price_minor"] = minor_units(item.item_price)
    return FeatureRequest(entities, values, event_time_ms(item.timestamp))


def _failures(
    model: TabularModel,
    arm: Arm,
    items: Sequence[PersonalizationRequest],
    places: Sequence[int],
    rows: FeatureRows,
    origin: Origin,
    reason: str,
    live: Live | None,
) -> list[Event]:
    """Build one failed event per item."""
    rollout = {"rollout": live.id} if live else {}
    return [
        prediction_event(
            model,
            origin,
            index,
            data_subject=items[index].user_id,
            status="failed",
            details={"reason": reason, "input_digest": input_digest(rows, index), **rollout},
            arm=arm,
        )
        for index in places
    ]
