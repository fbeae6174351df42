"""What a rollout adds to an answer, whatever the model: arms, fallback, counting, work after it.

In shadow the candidate answers the same input after the answer left; in a canary stable answers
what the candidate answered, so that decisions can be compared there as well. Answers that a label
may speak about later are remembered by a hash of their id.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from libs.common.context import RequestContext, bind, current
from libs.common.errors import InvalidInputError, ServiceError
from libs.common.events.envelope import Event, EventEmitter, event_for_request
from libs.common.manifest import Manifest
from libs.common.rollouts import Arm, Mode, label_ref
from services.inference.control.live import Live
from services.inference.control.rollouts import RolloutControl
from services.inference.domain.repository import Repository
from services.inference.errors import OverloadedError

ScoredT = TypeVar("ScoredT")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one version says about one input.

    Attributes:
        score: 0 to 1, what the judge compares the distributions of.
        decision: what acts; two versions disagree where it differs.
        says: what a label is compared with: `yes` or `no`, or the label given.
        seconds: that the model took, without waiting: the copies of a shadow wait longer.
    """

    score: float
    decision: str
    says: str
    confidence: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Facts:
    """An answer once it is decided, as far as a rollout needs it.

    Attributes:
        sample: what was answered.
        seconds: time of the version's work that the judge compares, explanation included; None
            where it shares its time with others.
        again: lets an exact version answer the same input.
        details: members of the shadow event besides the scores.
        names: (kind, id) under which a label may arrive.
    """

    sample: Sample
    seconds: float | None
    again: Callable[[int], Awaitable[Sample]]
    endpoint: str
    prediction_id: str
    data_subject: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[tuple[str, str], ...] = ()


class Trial:
    """Routes and observes answers of one kind of model under a rollout."""

    def __init__(
        self, repository: Repository, events: EventEmitter, rollouts: RolloutControl
    ) -> None:
        self._repository = repository
        self._events = events
        self._rollouts = rollouts

    def live(self, model: str) -> Live | None:
        """Give the live rollout of a model, None when there is none."""
        return self._rollouts.live(model)

    def route(self, live: Live, subjects: Sequence[str]) -> list[tuple[Arm, int]]:
        """Give arm and key of each subject of the caller's tenant."""
        tenant = _tenant()
        return [live.route(tenant, subject) for subject in subjects]

    async def run_arms(
        self,
        live: Live,
        keys: Sequence[tuple[Arm, int]],
        run: Callable[[Arm, list[int]], Awaitable[dict[int, ScoredT]]],
    ) -> dict[int, ScoredT]:
        """Let each arm answer its places in one call; stable answers for a candidate that fails.

        Args:
            live: the rollout.
            keys: arm and key of each place.
            run: answers places by an arm's version; a place it leaves out has failed.

        Raises:
            ServiceError: stable failed, or the input is at fault.
        """
        ours = [place for place, (arm, _) in enumerate(keys) if arm is Arm.STABLE]
        theirs = [place for place, (arm, _) in enumerate(keys) if arm is Arm.CANDIDATE]
        scored: dict[int, ScoredT] = {}
        if theirs:
            try:
                scored |= await run(Arm.CANDIDATE, theirs)
                failed = [place for place in theirs if place not in scored]
                self._failed(live, Arm.CANDIDATE, keys, failed)
            except InvalidInputError:
                raise
            except OverloadedError:
                failed = theirs  # shed before any work: that says nothing about the version
            except ServiceError:
                failed = theirs
                self._failed(live, Arm.CANDIDATE, keys, failed)
            if failed:
                scored |= await run(Arm.FALLBACK, failed)
        if ours:
            try:
                scored |= await run(Arm.STABLE, ours)
            except (InvalidInputError, OverloadedError):
                raise
            except ServiceError:
                self._failed(live, Arm.STABLE, keys, ours)
                raise
        return scored

    def _failed(
        self, live: Live, arm: Arm, keys: Sequence[tuple[Arm, int]], places: Sequence[int]
    ) -> None:
        for key in {keys[place][1] for place in places}:
            self._rollouts.observe(live, arm, key, failed=True)

    def after(self, live: Live, arm: Arm, key: int, facts: Facts) -> None:
        """Count an answer and put what follows behind it.

        Args:
            live: the rollout.
            arm: who answered; a fallback was counted as the candidate's failure already.
            key: of the data subject.
            facts: about the answer.
        """
        context = current()
        if live.plan.mode is Mode.SHADOW:
            if live.is_shadowed(key):
                self._rollouts.later(lambda: self._shadow(live, key, facts, context))
            return
        if arm is Arm.FALLBACK:
            return
        score = facts.sample.score
        self._rollouts.observe(live, arm, key, failed=False, latency_s=facts.seconds, score=score)
        is_compared = arm is Arm.CANDIDATE and live.plan.mode is Mode.CANARY
        if is_compared:
            self._rollouts.later(lambda: self._compare(live, key, facts, context))
        if not (is_compared and live.is_alone):
            self._remember(live, arm, key, facts, None)

    async def _shadow(self, live: Live, key: int, facts: Facts, context: RequestContext) -> None:
        """Let the candidate answer the same input, record both, and count the pair."""
        bind(replace(context, deadline=None))
        stable, version = facts.sample, live.record.candidate
        manifest = self._repository.manifest(live.record.model, version)
        assert manifest is not None, "a candidate is loaded before its rollout begins"
        details: dict[str, Any] = {
            "rollout": live.id,
            "cached": False,
            "stable_score": round(stable.score, 6),
            "stable_label": stable.decision,
            "stable_prediction_id": facts.prediction_id,
        }
        try:
            found = await facts.again(version)
        except OverloadedError:
            raise  # shed: no observation
        except ServiceError as error:
            self._rollouts.pair(live, candidate_failed=True)
            reason = {"status": "failed", "reason": error.problem_code}
            await self._events.emit(_shadow_event(manifest, facts, details | reason))
            return
        self._rollouts.pair(
            live,
            flipped=found.decision != stable.decision,
            candidate_s=found.seconds if facts.seconds is not None else None,
            stable_s=stable.seconds if facts.seconds is not None else None,
        )
        self._remember(live, Arm.CANDIDATE, key, replace(facts, sample=found), stable.says)
        took = round(found.seconds * 1e3, 3)
        details |= {
            "status": "ok",
            "score": round(found.score, 6),
            "confidence": round(found.confidence, 6),
            "decision": found.decision,
            "latency_ms": {"total": took, "model": took},
        }
        await self._events.emit(_shadow_event(manifest, facts, details))

    async def _compare(self, live: Live, key: int, facts: Facts, context: RequestContext) -> None:
        """Let stable answer what the candidate answered; only the decisions are compared."""
        bind(replace(context, deadline=None))
        stable = await facts.again(live.record.stable)
        self._rollouts.pair(live, flipped=facts.sample.decision != stable.decision)
        if live.is_alone:
            self._remember(live, Arm.CANDIDATE, key, facts, stable.says)

    def _remember(
        self, live: Live, arm: Arm, key: int, facts: Facts, stable_says: str | None
    ) -> None:
        refs = [label_ref(_tenant(), kind, name) for kind, name in facts.names]
        live.remember(refs, arm, key, facts.sample.says, stable_says)


def _tenant() -> str:
    caller = current().caller
    return caller.tenant if caller else ""


def _shadow_event(manifest: Manifest, facts: Facts, details: Mapping[str, Any]) -> Event:
    data: dict[str, Any] = {
        "route": facts.endpoint,
        "model": manifest.name,
        "release": manifest.release,
        "version": str(manifest.version),
        "arm": Arm.CANDIDATE.value,
        **facts.details,
        **details,
    }
    event = event_for_request(
        "prediction.shadow", "inference", "sampled", data, data_subject=facts.data_subject
    )
    data["prediction_id"] = event.id
    return event
