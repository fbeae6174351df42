"""Scores card payments: one feature read and one model call for all of a call's rows."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from libs.common.errors import InvalidInputError
from libs.common.events.envelope import Event, EventEmitter
from libs.common.features.contract import FeatureReader, FeatureRequest, FeatureRows
from libs.common.rollouts import Arm
from services.inference.control.live import Live
from services.inference.control.policies import PolicyControl
from services.inference.control.rollouts import RolloutControl
from services.inference.dataplane import DataPlane
from services.inference.domain.currency import Converted, CurrencyRates
from services.inference.domain.model import TabularModel
from services.inference.domain.reasons import Circumstances, reason_codes
from services.inference.domain.scoring import (
    GroupContribution,
    action_for,
    confidence_of,
    group_contributions,
    sentence,
    top_factors,
)
from services.inference.metrics import InferenceMetrics
from services.inference.schemas import AMOUNT_MAX, FraudRequest
from services.inference.scoring.base import (
    Origin,
    Scored,
    ScorerBase,
    event_time_ms,
    feature_facts,
    give_way,
    input_digest,
    is_blind,
    minor_units,
    prediction_event,
    sample_of,
)
from services.inference.scoring.trial import Facts

MODEL = "fraud"


class FraudScorer(ScorerBase):
    """Answers `/score/fraud` and the fraud items of `/score/batch`."""

    def __init__(
        self,
        plane: DataPlane,
        reader: FeatureReader,
        events: EventEmitter,
        metrics: InferenceMetrics,
        rollouts: RolloutControl,
        *,
        policies: PolicyControl,
        rates: CurrencyRates,
    ) -> None:
        super().__init__(plane, reader, events, metrics, rollouts)
        self._policies = policies
        self._rates = rates

    async def score(self, items: Sequence[FraudRequest], origin: Origin) -> list[dict[str, Any]]:
        """Score payments; events are durable when this returns.

        Raises:
            ModelNotLoadedError: no version of the fraud model is ready.
            InferenceFailedError: the model failed; a failed event was recorded per item.
            UnavailableError: the events cannot be made durable.
            DeadlineExceededError: no time was left to begin.
        """
        started = time.perf_counter()
        stable = self._plane.resolve(MODEL)
        amounts = [self.convert(item) for item in items]
        asked = [_feature_request(*pair) for pair in zip(items, amounts, strict=True)]
        rows = await self.read(stable.service, asked)

        def failures(
            model: TabularModel, arm: Arm, places: Sequence[int], reason: str, live: Live | None
        ) -> list[Event]:
            return _failures(model, arm, items, places, rows, origin, reason, live)

        cards = [item.card_id for item in items]
        found = await self.score_rows(stable, cards, rows, failures)
        answers, events = [], []
        for index, item in enumerate(items):
            scored = found.scored[index]
            paid = amounts[index]
            body, event = self._answer(scored, item, paid, rows, index, origin, started, found.live)
            answers.append(body)
            events.append(event)
            await give_way(index)
        await self.record(events)
        if found.live is not None:
            for index, item in enumerate(items):
                scored = found.scored[index]
                facts = self._facts(item, scored, rows, index, events[index], origin)
                self.trial.after(found.live, scored.arm, found.keys[index][1], facts)
        return answers

    def convert(self, item: FraudRequest) -> Converted:
        """Give the amount in the base currency.

        Raises:
            InvalidInputError: no rate for the currency, or too large an amount in the base.
        """
        paid = self._rates.convert(item.transaction_amount, item.currency)
        if paid is None:
            raise InvalidInputError.field("/currency", "is a currency without a rate here")
        if paid.amount > AMOUNT_MAX:
            raise InvalidInputError.field(
                "/transaction_amount", "is too large once it is converted to the base currency"
            )
        return paid

    def _facts(
        self,
        item: FraudRequest,
        scored: Scored,
        rows: FeatureRows,
        index: int,
        event: Event,
        origin: Origin,
    ) -> Facts:
        """Collect what a rollout needs of one answer; rows of a batch share their time."""
        spent = event.data["latency_ms"]
        names = [("prediction", event.id)]
        details: dict[str, Any] = {"input_digest": input_digest(rows, index)}
        if item.transaction_id is not None:
            names.append(("transaction", item.transaction_id))
            details["transaction_id"] = item.transaction_id
        return Facts(
            sample_of(scored.model, scored.score, scored.model_s),
            (spent["model"] + spent["explain"]) / 1e3 if origin.batch_id is None else None,
            self.again(MODEL, rows, index),
            origin.endpoint,
            event.id,
            item.card_id,
            details,
            tuple(names),
        )

    def _answer(
        self,
        scored: Scored,
        item: FraudRequest,
        paid: Converted,
        rows: FeatureRows,
        index: int,
        origin: Origin,
        started: float,
        live: Live | None,
    ) -> tuple[dict[str, Any], Event]:
        """Decide, explain and describe one row."""
        model, score = scored.model, scored.score
        self._metrics.prediction_scores.labels(model.name, model.version).observe(score)
        deciding = self._policies.deciding(model)
        level, blind = deciding.bands.level(score), is_blind(rows)
        explain_started = time.perf_counter()
        # A large batch explains what somebody will look at: risk, or a wish to know.
        is_explained = item.explain or origin.batch_id is None or level != "low"
        base, groups = self._explain(model, rows, index) if is_explained else (0.0, [])
        now = time.perf_counter()
        spent = {
            "total": round((now - started) * 1e3, 3),
            "features": round(rows.read_s * 1e3, 3),
            "model": round(scored.model_s * 1e3, 3),
            "explain": round((now - explain_started) * 1e3, 3),
        }
        common = self.common(rows, index, model, scored.arm, scored.ensemble)
        body = {
            "fraud_score": round(score, 6),
            "risk_level": level,
            "confidence": round(confidence_of(score), 6),
            "recommended_action": action_for(
                level, paid.amount, is_blind=blind, review_amount=deciding.review_amount
            ),
            "explanation": sentence(
                level, score, groups, missing=rows.missing[index], is_blind=blind
            ),
            "explanation_method": "tree_shap" if groups else "none",
            "top_risk_factors": top_factors(groups),
            "reason_codes": self._reasons(model, groups, item, paid, rows, index),
            "decision_policy": deciding.name,
            "latency_ms": spent["total"],
            **common,
        }
        if paid.currency != self._rates.base:
            body["converted_amount"] = self._converted(paid)
        if item.explain and groups:
            body["explanation_detail"] = _detail(model, base, groups)
        event = prediction_event(
            model,
            origin,
            index,
            data_subject=item.card_id,
            status="degraded" if common["degraded"] else "ok",
            details=_recorded(body, item, scored, rows, index, spent, live),
            arm=scored.arm,
        )
        body["prediction_id"] = event.id
        return body, event

    def _reasons(
        self,
        model: TabularModel,
        groups: Sequence[GroupContribution],
        item: FraudRequest,
        paid: Converted,
        rows: FeatureRows,
        index: int,
    ) -> list[str]:
        """Name what speaks against the payment, and what was not known."""
        circumstances = Circumstances(
            missing=rows.missing[index],
            values=dict(zip(model.service.names, rows.matrix[index].tolist(), strict=True)),
            is_blind=is_blind(rows),
            is_stale=bool(rows.stale[index]),
            is_merchant_named=item.merchant_id is not None,
            is_converted=paid.currency != self._rates.base,
        )
        return reason_codes(groups, circumstances)

    def _converted(self, paid: Converted) -> dict[str, Any]:
        return {
            "amount": round(paid.amount, 2),
            "currency": self._rates.base,
            "rate": paid.rate,
            "rates_as_of": self._rates.as_of.isoformat(),
        }

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


def _recorded(
    body: Mapping[str, Any],
    item: FraudRequest,
    scored: Scored,
    rows: FeatureRows,
    index: int,
    spent: Mapping[str, float],
    live: Live | None,
) -> dict[str, Any]:
    """Give what of an answer goes on record."""
    details = {
        "score": body["fraud_score"],
        "confidence": body["confidence"],
        "decision": body["recommended_action"],
        "risk": body["risk_level"],
        "policy": body["decision_policy"],
        "reasons": body["reason_codes"],
        "cached": False,
        "latency_ms": spent,
        "features": feature_facts(rows, index, body["features_used"]),
        "input_digest": input_digest(rows, index),
    }
    if body["degraded_reasons"]:
        details["reason"] = body["degraded_reasons"][0]
    if item.transaction_id is not None:
        details["transaction_id"] = item.transaction_id
    if live is not None:
        details["rollout"] = live.id
    if scored.ensemble is not None:
        details["ensemble"] = scored.ensemble.to_wire()
    return details


def _feature_request(item: FraudRequest, paid: Converted) -> FeatureRequest:
    entities = {"card": item.card_id}
    if item.merchant_id is not None:
        entities["merchant"] = item.merchant_id
    values: dict[str, object] = {"amount_minor": minor_units(paid.amount)}
    if item.mcc_code is not None:
        values["mcc_code"] = item.mcc_code
    if item.country_code is not None:
        values["country_code"] = item.country_code.upper()
    if item.device_id is not None:
        values["device_id"] = item.device_id
    return FeatureRequest(entities, values, event_time_ms(item.timestamp), item.transaction_id)


def _detail(
    model: TabularModel, base: float, groups: Sequence[GroupContribution]
) -> dict[str, Any]:
    return {
        "method": "tree_shap",
        "space": "margin",
        "model": model.explained_by or model.name,
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
    arm: Arm,
    items: Sequence[FraudRequest],
    places: Sequence[int],
    rows: FeatureRows,
    origin: Origin,
    reason: str,
    live: Live | None,
) -> list[Event]:
    """Build one failed event per item, so that error rates can be computed from the log."""
    rollout = {"rollout": live.id} if live else {}
    return [
        prediction_event(
            model,
            origin,
            index,
            data_subject=items[index].card_id,
            status="failed",
            details={"reason": reason, "input_digest": input_digest(rows, index), **rollout},
            arm=arm,
        )
        for index in places
    ]
