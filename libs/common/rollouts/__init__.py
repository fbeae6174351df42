"""Rollouts: who meets the candidate, what is counted, and the one judge over the counts.

Pure: no clock, no I/O, no driver. Inference and guardrails use it alike.

    plan = Plan(Mode.CANARY, stages=(Stage(100), Stage(500), Stage(2_500)))
    arm = arm_of(bucket_of(salt, tenant, subject), plan.stages[0].weight_bp)
    recorder.observe(arm, subject_key, failed=False, latency_s=0.004, score=0.2)
    counts.add(recorder.drain())
    decision = decide(plan, stage=0, counts=counts, elapsed_s=120.0)

`assignment` gives arms, `plan` holds what an operator asks for, `evalues` turns counts into
logarithms of e-values, `recorder` turns observations into counts, `labels` says what a label that
arrives later speaks for, `judge` decides.
"""

from libs.common.rollouts.assignment import BUCKETS, Arm, arm_of, bucket_of, choose, subject_key
from libs.common.rollouts.counts import Counts, Segment
from libs.common.rollouts.evalues import Signal, evidence, segment_share
from libs.common.rollouts.judge import Decision, Verdict, decide
from libs.common.rollouts.labels import LABELS_KEPT, LABELS_STREAM, contradicts, label_ref
from libs.common.rollouts.plan import Limits, Mode, Plan, PlanError, Stage
from libs.common.rollouts.recorder import Recorder

__all__ = [
    "BUCKETS",
    "LABELS_KEPT",
    "LABELS_STREAM",
    "Arm",
    "Counts",
    "Decision",
    "Limits",
    "Mode",
    "Plan",
    "PlanError",
    "Recorder",
    "Segment",
    "Signal",
    "Stage",
    "Verdict",
    "arm_of",
    "bucket_of",
    "choose",
    "contradicts",
    "decide",
    "evidence",
    "label_ref",
    "segment_share",
    "subject_key",
]
