"""A validator version on trial beside the one that serves: shadow, canary or A/B.

    trial = Trial("7f..", plan, stable, candidate)
    detections = await trial.check(documents, rule)     # as any validator

The arm of a text is a keyed hash of tenant and text: sticky, and part of the cache key. A candidate
that fails is answered by stable (arm `fallback`) and counted. What speaks against it is judged at
once; a rollback routes every further text to stable before anybody else is told.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from libs.common.context import current
from libs.common.rollouts import (
    BUCKETS,
    Arm,
    Counts,
    Decision,
    Mode,
    Plan,
    Recorder,
    Verdict,
    arm_of,
    decide,
    subject_key,
)
from services.guardrails.domain.decide import judge
from services.guardrails.domain.document import Document
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.ports import Validator
from services.guardrails.domain.verdict import Detection, Status

# Every so many-th text of the candidate is judged by stable too, after the answer.
PAIR_EVERY = 4
# Texts that wait for the other arm after the answer; beyond it they are dropped and counted.
AFTER_MAX = 200
# Shorter calls count as this long: how the arms are called differs by microseconds.
LATENCY_MIN_S = 0.001
# Share of the validator's time that the candidate has before stable answers instead.
_CANDIDATE_SHARE = 0.5


class Trial:
    """A validator that routes between two versions and judges the newer one."""

    def __init__(
        self,
        trial_id: str,
        plan: Plan,
        stable: Validator,
        candidate: Validator,
        *,
        now: Callable[[], float] = time.monotonic,
        on_verdict: Callable[["Trial", Decision], None] = lambda trial, decision: None,
    ) -> None:
        """Start the first step.

        Args:
            trial_id: salt of the assignments.
            plan: mode, steps and limits.
            stable: the version that serves.
            candidate: the version on trial.
            now: monotonic seconds.
            on_verdict: told once of a rollback or completion, and of each step.
        """
        self.id = trial_id
        self.plan = plan
        self.stable = stable
        self.candidate = candidate
        self.name = stable.name
        self.kind = stable.kind
        self.labels = tuple(dict.fromkeys((*stable.labels, *candidate.labels)))
        self.max_span = max(stable.max_span, candidate.max_span)
        self.lookahead = max(stable.lookahead, candidate.lookahead)
        self.stage = 0
        self.dropped = 0
        self.counts = Counts()
        self.decision: Decision | None = None
        self.ended: str | None = None
        self._now = now
        self._on_verdict = on_verdict
        self._began = now()
        self._recorder = Recorder(plan)
        self._unsent: Counter[str] = Counter()
        self._after: set[asyncio.Task[None]] = set()
        self._seen = 0

    @property
    def version(self) -> str:
        """Version of stable; `version_for` gives the one of a text."""
        return self.stable.version

    def version_for(self, tenant: str, text: str) -> str:
        """Give version and arm that a text meets, for the cache key."""
        arm, _ = self._route(tenant, text)
        chosen = self.candidate if arm is Arm.CANDIDATE else self.stable
        return f"{chosen.version}/{arm.value}"

    def parse(self, params: Mapping[str, Any]) -> Any:
        """Check the parameters against both versions."""
        self.candidate.parse(params)
        return self.stable.parse(params)

    async def check(self, documents: Sequence[Document], rule: ValidatorRule) -> list[Detection]:
        """Judge each text with the version of its arm."""
        caller = current().caller
        tenant = caller.tenant if caller else ""
        routed = [self._route(tenant, document.text) for document in documents]
        on_trial = [i for i, (arm, _) in enumerate(routed) if arm is Arm.CANDIDATE]
        others = [i for i, (arm, _) in enumerate(routed) if arm is Arm.STABLE]
        found: list[Detection] = [Detection(status=Status.ERROR)] * len(documents)
        for chosen, arm in ((others, Arm.STABLE), (on_trial, Arm.CANDIDATE)):
            if chosen:
                part = [documents[index] for index in chosen]
                keys = [routed[index][1] for index in chosen]
                answers = await self._arm(arm, part, keys, rule)
                for index, detection in zip(chosen, answers, strict=True):
                    found[index] = detection
        self._judge()
        return found

    def take(self) -> dict[str, int]:
        """Give what was counted since the last call, for the sums over all processes."""
        drained = self._recorder.drain()
        self.counts.add(drained)
        self._unsent.update(drained)
        unsent, self._unsent = self._unsent, Counter()
        return dict(unsent)

    def give_back(self, increments: Mapping[str, int]) -> None:
        """Take increments back that could not be delivered."""
        self._unsent.update(increments)

    def absorb(self, counts: Mapping[str, int], *, stage: int, elapsed_s: float) -> None:
        """Go on from the sums over all processes, and judge them.

        Args:
            counts: in wire form; what this process has taken is among them.
            stage: the step that the furthest process is in.
            elapsed_s: seconds since that step began.
        """
        self.counts = Counts.of(counts)
        self.counts.add(self._unsent)
        self.stage = max(self.stage, stage)
        self._began = self._now() - elapsed_s
        self._recorder.enter(self.stage, self.counts.current(self.stage))
        self._judge()

    def label(self, tenant: str, text: str, *, wrong: bool) -> None:
        """Count what somebody says about the answer to a text, for the arm that gave it."""
        arm, key = self._route(tenant, text)
        if not self.ended:
            self._recorder.label(arm, key, wrong=wrong)

    def end(self, how: str) -> None:
        """Route everything to stable; how: `rolled_back`, `promoted` or `ended`."""
        self.ended = self.ended or how

    async def settle(self) -> None:
        """Wait for the work after the answers."""
        await asyncio.gather(*self._after, return_exceptions=True)

    def _route(self, tenant: str, text: str) -> tuple[Arm, int]:
        key = subject_key(self.id, tenant, text)
        if self.ended or self.plan.mode is Mode.SHADOW:
            return Arm.STABLE, key
        return arm_of(key % BUCKETS, self.plan.stages[self.stage].weight_bp), key

    async def _arm(
        self, arm: Arm, documents: list[Document], keys: list[int], rule: ValidatorRule
    ) -> list[Detection]:
        if arm is Arm.STABLE:
            found, seconds = await _timed(self.stable, documents, rule)
            self._observe(arm, keys, found, seconds)
            if self.plan.mode is Mode.SHADOW and not self.ended:
                self._later(documents, keys, rule, found, seconds)
            return found
        found, seconds = await _timed(self.candidate, documents, rule, rule.timeout_ms / 1e3)
        self._observe(arm, keys, found, seconds)
        failed = [i for i, detection in enumerate(found) if detection.status is not Status.OK]
        result = [replace(detection, arm=arm.value) for detection in found]
        if failed:
            # Judge before anything else: the next text may already go to stable.
            self._judge()
            stable = await self.stable.check([documents[index] for index in failed], rule)
            for index, detection in zip(failed, stable, strict=True):
                result[index] = replace(detection, arm=Arm.FALLBACK.value)
        self._pair_some(documents, rule, found, seconds)
        return result

    def _observe(
        self, arm: Arm, keys: list[int], found: Sequence[Detection], seconds: float
    ) -> None:
        if self.ended or self.plan.mode is Mode.SHADOW:
            return
        for key, detection in zip(keys, found, strict=True):
            failed = detection.status is not Status.OK
            self._recorder.observe(
                arm,
                key,
                failed=failed,
                latency_s=None if failed else max(LATENCY_MIN_S, seconds / len(found)),
                score=None if failed else _score(detection),
            )

    def _later(
        self,
        documents: list[Document],
        keys: list[int],
        rule: ValidatorRule,
        found: Sequence[Detection],
        seconds: float,
    ) -> None:
        """Shadow: ask the candidate after the answer, for the share of the step."""
        weight = self.plan.stages[self.stage].weight_bp
        for document, key, detection in zip(documents, keys, found, strict=True):
            if key % BUCKETS < weight and detection.status is Status.OK:
                self._start(
                    self._shadow(
                        document, rule, detection, max(LATENCY_MIN_S, seconds / len(found))
                    )
                )

    def _pair_some(
        self,
        documents: list[Document],
        rule: ValidatorRule,
        found: Sequence[Detection],
        seconds: float,
    ) -> None:
        for document, detection in zip(documents, found, strict=True):
            self._seen += 1
            if self._seen % PAIR_EVERY == 0 and detection.status is Status.OK and not self.ended:
                self._start(self._pair(document, rule, detection))

    def _start(self, work: Any) -> None:
        if len(self._after) >= AFTER_MAX:
            self.dropped += 1
            work.close()
            return
        task = asyncio.ensure_future(work)
        self._after.add(task)
        task.add_done_callback(self._after.discard)

    async def _shadow(
        self, document: Document, rule: ValidatorRule, stable: Detection, stable_s: float
    ) -> None:
        (found,), seconds = await _timed(self.candidate, [document], rule, rule.timeout_ms / 1e3)
        failed = found.status is not Status.OK
        self._recorder.pair(
            candidate_failed=failed,
            flipped=not failed and _differs(document.text, rule, stable, found),
            candidate_s=None if failed else seconds,
            stable_s=stable_s,
        )
        self._judge()

    async def _pair(self, document: Document, rule: ValidatorRule, candidate: Detection) -> None:
        (stable,), _ = await _timed(self.stable, [document], rule)
        if stable.status is Status.OK:
            self._recorder.pair(
                candidate_failed=False, flipped=_differs(document.text, rule, stable, candidate)
            )
            self._judge()

    def _judge(self) -> None:
        if self.ended:
            return
        drained = self._recorder.drain()
        self.counts.add(drained)
        self._unsent.update(drained)
        decision = decide(
            self.plan, stage=self.stage, counts=self.counts, elapsed_s=self._now() - self._began
        )
        self.decision = decision
        if decision.verdict is Verdict.ROLLBACK:
            self.ended = "rolled_back"
        elif decision.verdict is Verdict.COMPLETE:
            self.ended = "promoted"
        elif decision.verdict is Verdict.ADVANCE:
            self.stage += 1
            self._began = self._now()
        if decision.verdict is not Verdict.CONTINUE:
            self._on_verdict(self, decision)
        self._recorder.enter(self.stage, self.counts.current(self.stage))


async def _timed(
    validator: Validator,
    documents: list[Document],
    rule: ValidatorRule,
    timeout_s: float | None = None,
) -> tuple[list[Detection], float]:
    """Run a version; with a time limit, being late or raising is a failed detection."""
    if timeout_s is None:
        began = time.perf_counter()
        return await validator.check(documents, rule), _since(began)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s * _CANDIDATE_SHARE):
            began = time.perf_counter()
            found = await validator.check(documents, rule)
            return found, _since(began)
    except TimeoutError:
        status = Status.TIMEOUT
    except Exception:  # a candidate may be wrong in any way; stable answers for it
        status = Status.ERROR
    failed = Detection(status=status, version=validator.version)
    return [failed] * len(documents), _since(began)


def _since(began: float) -> float:
    return max(LATENCY_MIN_S, time.perf_counter() - began)


def _score(detection: Detection) -> float:
    return max([*(span.score for span in detection.spans), *detection.scores.values()], default=0.0)


def _differs(text: str, rule: ValidatorRule, one: Detection, other: Detection) -> bool:
    """Say whether the two lead to different actions or, where they mask, to different edits."""
    a, b = judge(text, rule, one, ""), judge(text, rule, other, "")
    places = [{(s.start, s.end, s.label) for s in verdict.spans} for verdict in (a, b)]
    return a.action is not b.action or places[0] != places[1]
