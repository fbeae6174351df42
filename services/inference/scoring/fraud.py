"""Scores card payments: one feature read and one model call for all of a call's rows."""

import time
from collections.abc import Sequence
from typing import Any

from libs.common.errors import ServiceError
from libs.common.events.envelope import Event, EventEmitter
from libs.common.features.contract import FeatureReader, FeatureRequest, FeatureRows
from services.inference.dataplane import DataPlane, TabularAnswer
from services.inference.domain.model import TabularModel
from services.inference.domain.scoring import (
    GroupContribution,
    action_for,
    confidence_of,
    group_contributions,
    sentence,
    top_factors,
)
from services.inference.metrics import InferenceMetrics
from services.inference.schemas import FraudRequest
from services.inference.scoring.base import (
    Origin,
    ScorerBase,
    event_time_ms,
    feature_facts,
    give_way,
    input_digest,
    is_blind,
    minor_units,
    prediction_event,
)

MODEL = "fraud"


class FraudScorer(ScorerBase):
    """Answers `/score/fraud` and the fraud items of `/score/batch`."""

    def __init__(
        self,
        plane: DataPlane,
        reader: FeatureReader,
        events: EventEmitter,
        metrics: InferenceMetrics,
        *,
        review_amount: float,
    ) -> None:
        super().__init__(plane, reader, events, metrics)
        self._review_amount = review_amount

    async def score(self, items: Sequence[FraudRequest], origin: Origin) -> list[dict[str, Any]]:
        """Score payments; events are durable when this returns.

        Raises:
            ModelNotLoadedError: no version of the fraud model is ready.
            InferenceFailedError: the model failed; a failed event was recorded per item.
            UnavailableError: the events cannot be made durable.
            DeadlineExceededError: no time was left to begin.
        """
        started = time.perf_counter()
        model = self._plane.resolve(MODEL)
        rows = await self.read(model.service, [_feature_request(item) for item in items])
        try:
            answer = await self._plane.run_rows(model, rows.matrix)
        except ServiceError as error:
            await self.record(_failures(model, items, rows, origin, error.problem_code))
            raise
        answers, events = [], []
        for index, item in enumerate(items):
            body, event = self._answer(model, item, rows, answer, index, origin, started)
            answers.append(body)
            events.append(event)
            await give_way(index)
        await self.record(events)
        return answers

    def _answer(
        self,
        model: TabularModel,
        item: FraudRequest,
        rows: FeatureRows,
        answer: TabularAnswer,
        index: int,
        origin: Origin,
        started: float,
    ) -> tuple[dict[str, Any], Event]:
        """Decide, explain and describe one row."""
        score = float(answer.scores[index])
        self._metrics.prediction_scores.labels(model.name, model.version).observe(score)
        assert model.bands is not None, "a fraud model is not loaded without its bands"
        level = model.bands.level(score)
        blind = is_blind(rows)
        explain_started = time.perf_counter()
        base, groups = self._explain(model, rows, index)
        now = time.perf_counter()
        explain_s, total_s = now - explain_started, now - started
        common = self.common(rows, index, model)
        action = action_for(
            level, item.transaction_amount, is_blind=blind, review_amount=self._review_amount
        )
        body = {
            "fraud_score": round(score, 6),
            "risk_level": level,
            "confidence": round(confidence_of(score), 6),
            "recommended_action": action,
            "explanation": sentence(
                level, score, groups, missing=rows.missing[index], is_blind=blind
            ),
            "explanation_method": "tree_shap" if groups else "none",
            "top_risk_factors": top_factors(groups),
            "latency_ms": round(total_s * 1e3, 3),
            **common,
        }
        if item.explain and groups:
            body["explanation_detail"] = _detail(model, base, groups)
        details = {
            "score": body["fraud_score"],
            "confidence": body["confidence"],
            "decision": action,
            "risk": level,
            "cached": False,
            "latency_ms": {
                "total": body["latency_ms"],
                "features": round(rows.read_s * 1e3, 3),
                "model": round(answer.model_s * 1e3, 3),
                "explain": round(explain_s * 1e3, 3),
            },
            "features": feature_facts(rows, index, common["features_used"]),
            "input_digest": input_digest(rows, index),
        }
        if common["degraded_reasons"]:
            details["reason"] = common["degraded_reasons"][0]
        if item.transaction_id is not None:
            details["transaction_id"] = item.transaction_id
        event = prediction_event(
            model,
            origin,
            index,
            data_subject=item.card_id,
            status="degraded" if common["degraded"] else "ok",
            details=details,
        )
        body["prediction_id"] = event.id
        return body, event

    def _explain(
        self, model: TabularModel, rows: FeatureRows, index: int
    ) -> tuple[float, list[GroupContribution]]:
        """Give base value and contributions; no groups when the model has no native trees."""
        if model.explainer is None:
            return 0.0, []
        started = time.perf_counter()
        row = rows.matrix[index]
        groups = group_contributions(model.grouping, row, model.explainer.contributions(row))
        self._metrics.explanation.labels(model.name).observe(time.perf_counter() - started)
        return model.explainer.base_value, groups


def _feature_request(item: FraudRequest) -> FeatureRequest:
    entities = {"card": item.card_id}
    if item.merchant_id is not None:
        entities["merchant"] = item.merchant_id
    values: dict[str, object] = {"amount_minor": minor_units(item.transaction_amount)}
    if item.mcc_code is not None:
        values["mcc_code"] = item.mcc_code
    if item.country_code is not None:
        values["country_code"] = item.country_code.upper()
    return FeatureRequest(entities, values, event_time_ms(item.timestamp), item.transaction_id)


def _detail(
    model: TabularModel, base: float, groups: Sequence[GroupContribution]
) -> dict[str, Any]:
    return {
        "method": "tree_shap",
        "space": "margin",
        "model": model.name,
        "base_value": base,
        "margin": base + sum(group.contribution for group in groups),
        "groups": [
            {
                "group": group.group,
                "contribution": group.contribution,
                "features": [
                    {
                        "name": feature.name,
                        "value": None if value != value else value,
                        "contribution": contribution,
                    }
                    for feature, value, contribution in group.members
                ],
            }
            for group in groups
        ],
    }


def _failures(
    model: TabularModel,
    items: Sequence[FraudRequest],
    rows: FeatureRows,
    origin: Origin,
    reason: str,
) -> list[Event]:
    """Build one failed event per item, so that error rates can be computed from the log."""
    return [
        prediction_event(
            model,
            origin,
            index,
            data_subject=item.card_id,
            status="failed",
            details={"reason": reason, "input_digest": input_digest(rows, index)},
        )
        for index, item in enumerate(items)
    ]
