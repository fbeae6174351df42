"""Scores a user with an item: one feature read, the relevance and the conversion model."""

import time
from collections.abc import Sequence
from typing import Any

from libs.common.errors import ServiceError
from libs.common.events.envelope import Event
from libs.common.features.contract import FeatureRequest, FeatureRows
from services.inference.dataplane import TabularAnswer
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
    ScorerBase,
    event_time_ms,
    feature_facts,
    give_way,
    input_digest,
    minor_units,
    prediction_event,
)

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
        running = models[0]
        try:
            relevance = await self._plane.run_rows(models[0], rows.matrix)
            running = models[1]
            conversion = await self._plane.run_rows(models[1], rows.matrix)
        except ServiceError as error:
            await self.record(_failures(running, items, rows, origin, error.problem_code))
            raise
        answers, events = [], []
        for index, item in enumerate(items):
            body, event = self._answer(
                models, item, rows, (relevance, conversion), index, origin, started
            )
            answers.append(body)
            events.append(event)
            await give_way(index)
        await self.record(events)
        return answers

    def _answer(
        self,
        models: tuple[TabularModel, TabularModel],
        item: PersonalizationRequest,
        rows: FeatureRows,
        scored: tuple[TabularAnswer, TabularAnswer],
        index: int,
        origin: Origin,
        started: float,
    ) -> tuple[dict[str, Any], Event]:
        """Describe one row; the event carries the relevance model's score."""
        relevance, conversion = (float(answer.scores[index]) for answer in scored)
        for model, score in zip(models, (relevance, conversion), strict=True):
            self._metrics.prediction_scores.labels(model.name, model.version).observe(score)
        values = dict(zip(models[0].service.names, rows.matrix[index].tolist(), strict=True))
        engagement = engagement_score(values)
        common = self.common(rows, index, models[0])
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
                "model": round(sum(answer.model_s for answer in scored) * 1e3, 3),
            },
            "features": feature_facts(rows, index, common["features_used"]),
            "input_digest": input_digest(rows, index),
        }
        if common["degraded_reasons"]:
            details["reason"] = common["degraded_reasons"][0]
        event = prediction_event(
            models[0],
            origin,
            index,
            data_subject=item.user_id,
            status="degraded" if common["degraded"] else "ok",
            details=details,
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
    items: Sequence[PersonalizationRequest],
    rows: FeatureRows,
    origin: Origin,
    reason: str,
) -> list[Event]:
    """Build one failed event per item."""
    return [
        prediction_event(
            model,
            origin,
            index,
            data_subject=item.user_id,
            status="failed",
            details={"reason": reason, "input_digest": input_digest(rows, index)},
        )
        for index, item in enumerate(items)
    ]
