"""Asks the members of a text ensemble at the same time, each within its deadline, and combines.

A member's texts go through the same plane as single calls of that model: its cache, its flights,
its batches. A member that is late is cancelled; what it would have said counts for nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from libs.common.context import current
from libs.common.errors import DeadlineExceededError, InvalidInputError, ServiceError
from libs.common.manifest import EnsembleMember, VersionReference
from services.inference.domain.ensemble import (
    EnsembleFacts,
    Part,
    Status,
    TextEnsemble,
    TextVote,
    aligned,
    suffices,
    vote_on_text,
)
from services.inference.domain.text import TextAnswer, TextModel
from services.inference.errors import EnsembleUnavailableError, ModelNotLoadedError, OverloadedError
from services.inference.execution.runner import Outcome
from services.inference.metrics import InferenceMetrics

_WAIT_S_MAX = 5.0


# Answers texts by one exact version; an error of a text stands in its place.
Ask = Callable[[TextModel, Sequence[str]], Awaitable[list[Outcome]]]
# Gives an exact version of a text model; raises ModelNotLoadedError.
Find = Callable[[str, int], TextModel]


class EnsembleCall:
    """One call of an ensemble."""

    def __init__(
        self, ensemble: TextEnsemble, find: Find, ask: Ask, metrics: InferenceMetrics
    ) -> None:
        self._ensemble = ensemble
        self._find = find
        self._ask = ask
        self._metrics = metrics

    async def run(self, texts: Sequence[str], *, partial: bool) -> list[Outcome]:
        """Answer texts in order.

        Args:
            texts: at least one.
            partial: a text that fails gives its error in its place; else the first is raised.

        Raises:
            EnsembleUnavailableError: too few members answered, and no fallback did.
        """
        spec = self._ensemble.spec
        answers = await asyncio.gather(*(self._member(item, texts) for item in spec.members))
        outcomes: list[Outcome] = []
        short: list[int] = []
        for index in range(len(texts)):
            outcome = self._combined([answer[index] for answer in answers])
            outcomes.append(outcome)
            if isinstance(outcome, ServiceError) and not isinstance(outcome, InvalidInputError):
                short.append(index)
        if short and spec.fallback is not None:
            fallback = await self._fall_back(spec.fallback, [texts[index] for index in short])
            for place, index in enumerate(short):
                parts = self._parts([answer[index] for answer in answers])
                outcomes[index] = _as_fallback(spec.method, parts, fallback[place])
        if not partial:
            for outcome in outcomes:
                if isinstance(outcome, ServiceError):
                    raise outcome
        return outcomes

    async def _member(self, member: EnsembleMember, texts: Sequence[str]) -> list[Outcome]:
        """Ask one member; whatever goes wrong is an outcome of each text."""
        spec = self._ensemble.spec
        wait_s = (member.timeout_ms or spec.member_timeout_ms) / 1e3
        try:
            async with asyncio.timeout(min(wait_s, current().remaining_s(_WAIT_S_MAX))):
                return await self._answers_of(member, texts)
        except TimeoutError:
            late = DeadlineExceededError(f"The member {member.model} did not answer in time.")
            return [late] * len(texts)
        except ServiceError as error:
            return [error] * len(texts)

    async def _fall_back(self, wanted: VersionReference, texts: Sequence[str]) -> list[Outcome]:
        try:
            return await self._answers_of(wanted, texts)
        except ServiceError as error:
            return [error] * len(texts)

    async def _answers_of(self, wanted: VersionReference, texts: Sequence[str]) -> list[Outcome]:
        """Ask one version; scores come back in the order of the ensemble's labels."""
        model = self._find(wanted.model, wanted.version)
        return [
            replace(one, scores=aligned(self._ensemble.head.labels, model.head, one.scores))
            if isinstance(one, TextAnswer)
            else one
            for one in await self._ask(model, texts)
        ]

    def _parts(self, answers: Sequence[Outcome]) -> tuple[Part, ...]:
        members = self._ensemble.spec.members
        return tuple(
            Part(member, _status(answer)) for member, answer in zip(members, answers, strict=True)
        )

    def _combined(self, answers: Sequence[Outcome]) -> Outcome:
        """Combine one text's answers, or give the error that says best why there is none."""
        ensemble, head = self._ensemble, self._ensemble.head
        parts = self._parts(answers)
        for part in parts:
            self._metrics.ensemble_members.labels(
                ensemble.name, part.member.model, part.status
            ).inc()
        if not suffices(ensemble.spec, [part.status for part in parts]):
            return _best_error(ensemble, answers)
        good, votes = [], []
        for part, answer in zip(parts, answers, strict=True):
            if isinstance(answer, TextAnswer):
                votes.append(TextVote(part.member.weight, answer.label, answer.scores))
                good.append(answer)
        label, confidence, scores, agreement = vote_on_text(ensemble.spec.method, head, votes)
        return TextAnswer(
            label=label,
            confidence=confidence,
            scores=scores,
            windows=max(one.windows for one in good),
            tokens=sum(one.tokens for one in good),
            is_truncated=any(one.is_truncated for one in good),
            tokenize_s=max(one.tokenize_s for one in good),
            queue_s=max(one.queue_s for one in good),
            model_s=max(one.model_s for one in good),
            batch_items=max(one.batch_items for one in good),
            depth=max(one.depth for one in good),
            cached=all(one.cached for one in good),
            ensemble=EnsembleFacts(ensemble.spec.method, parts, agreement),
        )


def _status(answer: Outcome) -> Status:
    if isinstance(answer, TextAnswer):
        return "ok"
    if isinstance(answer, DeadlineExceededError):
        return "timeout"
    return "not_loaded" if isinstance(answer, ModelNotLoadedError) else "failed"


def _as_fallback(method: str, parts: tuple[Part, ...], outcome: Outcome) -> Outcome:
    if isinstance(outcome, ServiceError):
        return outcome
    return replace(outcome, ensemble=EnsembleFacts(method, parts, 0.0, is_fallback=True))


def _best_error(ensemble: TextEnsemble, answers: Sequence[Outcome]) -> ServiceError:
    """Choose what the caller can act on: the own input, then overload, then too few members."""
    errors = [answer for answer in answers if isinstance(answer, ServiceError)]
    for kind in (InvalidInputError, OverloadedError):
        for error in errors:
            if isinstance(error, kind):
                return error
    is_over = current().deadline is not None and time.monotonic() >= (current().deadline or 0)
    if is_over:
        return DeadlineExceededError("The deadline passed before the ensemble had answered.")
    return EnsembleUnavailableError(
        f"Too few members of the ensemble {ensemble.name} answered.",
        hint="GET /models says which are loaded.",
    )
