"""What a rollout of the fraud model adds to an answer: counting, and work after it.

In shadow the candidate scores the same vector after the answer left; in a canary stable scores
what the candidate answered, so that decisions can be compared there as well.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from libs.common.context import RequestContext, bind, current
from libs.common.errors import ServiceError
from libs.common.events.envelope import Event, EventEmitter
from libs.common.features.contract import FeatureRows
from libs.common.rollouts import Arm, Mode
from services.inference.control.rollouts import Live, RolloutControl
from services.inference.dataplane import DataPlane
from services.inference.domain.model import TabularModel
from services.inference.domain.ports import Rows
from services.inference.domain.scoring import confidence_of
from services.inference.schemas import FraudRequest
from services.inference.scoring.base import Origin, input_digest, prediction_event


class ScoredRow(Protocol):
    """A score and who gave it."""

    @property
    def model(self) -> TabularModel:
        """The version."""
        ...

    @property
    def score(self) -> float:
        """What it answered."""
        ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about an answer once it is decided.

    Attributes:
        row: a copy of the vector that was scored, shape (1, features).
        seconds / model_s: model and explanation; model alone.
    """

    card_id: str
    row: Rows
    prediction_id: str
    seconds: float
    model_s: float
    endpoint: str
    transaction_id: str | None

    @classmethod
    def of(
        cls, item: FraudRequest, row: Rows, body: dict[str, Any], event: Event, origin: Origin
    ) -> "Facts":
        """Collect the facts of one answer."""
        spent = event.data["latency_ms"]
        return cls(
            item.card_id,
            row.copy().reshape(1, -1),
            body["prediction_id"],
            (spent["model"] + spent["explain"]) / 1e3,
            spent["model"] / 1e3,
            origin.endpoint,
            item.transaction_id,
        )


def route_all(live: Live, cards: Sequence[str]) -> list[tuple[Arm, int]]:
    """Give arm and key of each card of the caller's tenant."""
    caller = current().caller
    tenant = caller.tenant if caller else ""
    return [live.route(tenant, card) for card in cards]


class FraudTrial:
    """Observes answers under a rollout."""

    def __init__(self, plane: DataPlane, events: EventEmitter, rollouts: RolloutControl) -> None:
        self._plane = plane
        self._events = events
        self._rollouts = rollouts

    def after(
        self, live: Live, arm: Arm, key: int, scored: ScoredRow, facts: Facts, *, is_timed: bool
    ) -> None:
        """Count an answer and put what follows behind it.

        Args:
            live: the rollout.
            arm: who was to answer.
            key: of the card.
            scored: what was answered.
            facts: about the answer.
            is_timed: a single call; rows of a batch share their time, so it is not compared.
        """
        context = current()
        if live.plan.mode is Mode.SHADOW:
            if live.is_shadowed(key):
                score = scored.score
                model = scored.model
                self._rollouts.later(lambda: self._shadow(live, model, score, facts, context))
            return
        if arm is Arm.CANDIDATE and scored.model.manifest.version != live.record.candidate:
            return  # stable stepped in: the failure is counted already
        self._rollouts.observe(
            live,
            arm,
            key,
            failed=False,
            latency_s=facts.seconds if is_timed else None,
            score=scored.score,
        )
        if arm is Arm.CANDIDATE and live.plan.mode is Mode.CANARY:
            model, score = scored.model, scored.score
            self._rollouts.later(lambda: self._compare(live, model, score, facts))

    async def _shadow(
        self,
        live: Live,
        stable: TabularModel,
        stable_score: float,
        facts: Facts,
        context: RequestContext,
    ) -> None:
        """Let the candidate score the same vector, record both, and count the pair."""
        bind(context)
        stable_action = decision(stable, stable_score)
        details: dict[str, Any] = {
            "rollout": live.id,
            "cached": False,
            "stable_score": round(stable_score, 6),
            "stable_label": stable_action,
            "stable_prediction_id": facts.prediction_id,
        }
        if facts.transaction_id is not None:
            details["transaction_id"] = facts.transaction_id
        candidate = self._plane.resolve_version(stable.name, live.record.candidate)
        started = time.perf_counter()
        try:
            answer = await self._plane.run_rows(candidate, facts.row)
        except ServiceError as error:
            self._rollouts.pair(live, candidate_failed=True)
            await self._emit(candidate, facts, "failed", details | {"reason": error.problem_code})
            return
        seconds = time.perf_counter() - started
        score = float(answer.scores[0])
        action = decision(candidate, score)
        self._rollouts.pair(
            live, flipped=action != stable_action, candidate_s=seconds, stable_s=facts.model_s
        )
        details |= {
            "score": round(score, 6),
            "confidence": round(confidence_of(score), 6),
            "decision": action,
            "latency_ms": {"total": round(seconds * 1e3, 3), "model": round(seconds * 1e3, 3)},
        }
        await self._emit(candidate, facts, "ok", details)

    async def _compare(
        self, live: Live, candidate: TabularModel, score: float, facts: Facts
    ) -> None:
        """Let stable score what the candidate answered; only the decisions are compared."""
        stable = self._plane.resolve_version(candidate.name, live.record.stable)
        answer = await self._plane.run_rows(stable, facts.row)
        flipped = decision(candidate, score) != decision(stable, float(answer.scores[0]))
        self._rollouts.pair(live, flipped=flipped)

    async def _emit(
        self, model: TabularModel, facts: Facts, status: str, details: dict[str, Any]
    ) -> None:
        rows = FeatureRows(facts.row, [[]], [[]], [None], [], 0.0)
        event = prediction_event(
            model,
            Origin(facts.endpoint),
            0,
            data_subject=facts.card_id,
            status=status,
            details=details | {"input_digest": input_digest(rows, 0)},
            arm=Arm.CANDIDATE,
            kind="prediction.shadow",
        )
        await self._events.emit(event)


def decision(model: TabularModel, score: float) -> str:
    """Name the risk band of a score by the version's own thresholds."""
    return model.bands.level(score) if model.bands else str(np.round(score))
