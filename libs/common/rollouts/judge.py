"""The one judge: from counts to what happens next. Pure; the caller acts on it."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from libs.common.rollouts.counts import Counts
from libs.common.rollouts.evalues import Signal, evidence
from libs.common.rollouts.plan import Mode, Plan

# No step forward while any signal's evidence against the candidate is this strong.
ADVANCE_EVIDENCE_MAX = 20.0


class Verdict(StrEnum):
    """What to do: keep going, take the next step, make it stable, or take it back."""

    CONTINUE = "continue"
    ADVANCE = "advance"
    COMPLETE = "complete"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with its grounds.

    Attributes:
        signal: what a rollback rests on.
        evidence: ln E by signal, for metrics and the audit event.
        threshold: ln E from which a signal ends the rollout.
    """

    verdict: Verdict
    signal: Signal | None = None
    evidence: dict[Signal, float] = field(default_factory=dict)
    threshold: float = 0.0


def decide(plan: Plan, *, stage: int, counts: Counts, elapsed_s: float) -> Decision:
    """Judge a running rollout.

    Args:
        plan: what was asked for.
        stage: the present step, from 0.
        counts: the total over all replicas.
        elapsed_s: seconds since the step began, pauses excluded.
    """
    found = evidence(plan, counts)
    threshold = rollback_threshold(plan)
    worst = max(found, key=lambda signal: found[signal])
    if found[worst] >= threshold:
        return Decision(Verdict.ROLLBACK, worst, found, threshold)
    step = plan.stages[stage]
    is_due = counts.candidates(stage) >= step.min_requests and elapsed_s >= step.min_seconds
    is_clear = all(value < math.log(ADVANCE_EVIDENCE_MAX) for value in found.values())
    may_step = plan.auto_promote and plan.mode is Mode.CANARY
    if not (is_due and is_clear and may_step):
        return Decision(Verdict.CONTINUE, None, found, threshold)
    is_last = stage == len(plan.stages) - 1
    return Decision(Verdict.COMPLETE if is_last else Verdict.ADVANCE, None, found, threshold)


def rollback_threshold(plan: Plan) -> float:
    """Give ln(1/a) of an even split; `evidence` is weighted by the signals' own shares."""
    return math.log(len(Signal) / plan.limits.false_alarm)
