"""One check as every front end makes it: bounds, the guard, the audit events, then the answer.

The native routes, the compatible protocols and the stream all pass here, so that no text is judged
without its event and no event ever holds a text.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from libs.common.context import current
from libs.common.events.envelope import Event, EventEmitter, event_for_request
from libs.common.ids import uuid7
from services.guardrails.domain.guard import Ask, Guard, Outcome
from services.guardrails.domain.policy import Policy
from services.guardrails.domain.verdict import Action, Decision
from services.guardrails.errors import BusyError, TextTooLongError


@dataclass(frozen=True)
class Checked:
    """An outcome with the ids of its events and the time it took."""

    outcome: Outcome
    ids: list[str]
    latency_ms: float


class Checker:
    """Bounds, checks and records; one per process."""

    def __init__(
        self,
        guard: Guard,
        events: EventEmitter,
        *,
        ttl_default_s: int,
        text_chars_max: int,
        concurrent_max: int,
        observe: Callable[[Decision], None] = lambda decision: None,
    ) -> None:
        self.guard = guard
        self.text_chars_max = text_chars_max
        self._events = events
        self._ttl_default_s = ttl_default_s
        self._concurrent_max = concurrent_max
        self._observe = observe
        self.active = 0

    async def check(
        self,
        texts: Sequence[str],
        *,
        pointers: Sequence[str],
        policy: str | None = None,
        validators: Sequence[str] | None = None,
        ttl_s: int | None = None,
        batch_id: str | None = None,
        first_index: int = 0,
    ) -> Checked:
        """Check texts and record each decision before it is answered.

        Args:
            texts: at most the batch limit of the front end.
            pointers: JSON pointer of each text, for errors.
            policy: `id`, `id@version`, or None for the tenant's active policy.
            validators: only these of the policy.
            ttl_s: lifetime of cached verdicts; None takes the default.
            batch_id: joins the events of one batch.
            first_index: position of the first text in its batch.

        Raises:
            TextTooLongError: a text is longer than the limit.
            BusyError: as many checks run as are allowed.
            UnavailableError: an event could not be made durable.
        """
        self.refuse_long(texts, pointers)
        if self.active >= self._concurrent_max:
            raise BusyError()
        self.active += 1
        try:
            return await self._checked(texts, policy, validators, ttl_s, batch_id, first_index)
        finally:
            self.active -= 1

    def refuse_long(self, texts: Sequence[str], pointers: Sequence[str]) -> None:
        """Raise TextTooLongError for the first text over the limit."""
        for text, pointer in zip(texts, pointers, strict=True):
            if len(text) > self.text_chars_max:
                raise TextTooLongError(pointer, self.text_chars_max)

    async def _checked(
        self,
        texts: Sequence[str],
        policy: str | None,
        validators: Sequence[str] | None,
        ttl_s: int | None,
        batch_id: str | None,
        first_index: int,
    ) -> Checked:
        started = time.perf_counter()
        context = current()
        tenant = context.caller.tenant if context.caller else ""
        ask = Ask(
            tenant=tenant,
            policy=policy,
            validators=None if validators is None else tuple(validators),
            ttl_s=self._ttl_default_s if ttl_s is None else ttl_s,
            remaining_s=context.remaining_s,
        )
        outcome = await self.guard.check(texts, ask)
        latency_ms = round((time.perf_counter() - started) * 1e3, 3)
        ids = [uuid7() for _ in texts]
        joined = {"batch_id": batch_id} if batch_id else {}
        await self._events.emit(
            *(
                self._event(
                    outcome.policy,
                    decision,
                    self.guard.digest(tenant, text),
                    ids[index],
                    latency_ms,
                    joined,
                    first_index + index,
                )
                for index, (decision, text) in enumerate(zip(outcome.decisions, texts, strict=True))
            )
        )
        return Checked(outcome, ids, latency_ms)

    async def record(
        self, policy: Policy, decision: Decision, digest: str, latency_ms: float
    ) -> str:
        """Record the decision about a stream; give the id of its event."""
        event = self._event(policy, decision, digest, uuid7(), latency_ms, {}, 0)
        await self._events.emit(event)
        return event.id

    def _event(
        self,
        policy: Policy,
        decision: Decision,
        digest: str,
        event_id: str,
        latency_ms: float,
        joined: dict[str, Any],
        index: int,
    ) -> Event:
        self._observe(decision)
        data = {
            "policy": policy.id,
            "version": policy.version,
            "action": decision.action.value,
            "status": decision.status.value,
            "validators": [
                {
                    "name": verdict.name,
                    "version": verdict.version,
                    "arm": verdict.arm,
                    "status": verdict.status.value,
                    "action": verdict.action.value,
                    "labels": verdict.labels,
                    "score": verdict.score,
                }
                for verdict in decision.verdicts
            ],
            "cached": decision.cached,
            "latency_ms": latency_ms,
            "length": decision.total,
            "coverage": {"guarded": decision.guarded, "total": decision.total},
            "digest": digest,
            **({**joined, "index": index} if joined else {}),
        }
        is_block = decision.action is Action.BLOCK
        event = event_for_request(
            "verdict.blocked" if is_block else "verdict.given",
            "guardrails",
            "required" if is_block else "standard",
            data,
        )
        return replace(event, id=event_id)
