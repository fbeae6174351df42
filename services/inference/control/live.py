"""A rollout that routes traffic in this replica: its arms, counts, and answers without label."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from libs.common.rollouts import (
    BUCKETS,
    Arm,
    Counts,
    Decision,
    Mode,
    Plan,
    Recorder,
    arm_of,
    contradicts,
    subject_key,
)
from services.inference.domain.control import Remembered, RolloutRecord

# How many answers may wait to be remembered.
_ANSWERS_MAX = 10_000


@dataclass(slots=True)
class Live:
    """A rollout that routes traffic in this replica.

    Attributes:
        weight_bp: what routing uses.
        verdict: the decision that this replica made by itself; from then on stable answers, and
            nothing is counted, since the arms no longer fall by weight.
        total: all replicas' counts as last read.
        answers: answers to remember, by the hash of the id that a label would name.
        labels_read: where reading labels goes on; they count from the rollout's start.
    """

    record: RolloutRecord
    recorder: Recorder
    total: Counts
    weight_bp: int
    is_ready: bool = False
    decision: Decision | None = None
    verdict: Decision | None = None
    saved_at: float = field(default_factory=time.monotonic)
    answers: dict[str, Remembered] = field(default_factory=dict)
    labels_read: str = ""
    labels_at: float = 0.0

    @property
    def is_alone(self) -> bool:
        """Whether no stable answers run beside, so that decisions are compared in pairs."""
        return self.plan.mode is Mode.SHADOW or self.weight_bp >= BUCKETS

    @property
    def plan(self) -> Plan:
        """The plan of the record."""
        return self.record.plan

    @property
    def known(self) -> Counts:
        """What waits for delivery added to the last total."""
        counts = Counts.of(self.total.wire())
        counts.add(self.recorder.pending().wire())
        return counts

    @property
    def id(self) -> str:
        """Id of the rollout, and the salt of its assignments."""
        return self.record.id

    def route(self, tenant: str, subject: str) -> tuple[Arm, int]:
        """Give the arm of a data subject, and its key for counting.

        In shadow everybody is answered by stable; the key's bucket says who is scored twice.
        """
        key = subject_key(self.id, tenant, subject)
        if not self.is_ready or self.plan.mode is Mode.SHADOW:
            return Arm.STABLE, key
        return arm_of(key % BUCKETS, self.weight_bp), key

    def remember(
        self, refs: Sequence[str], arm: Arm, key: int, says: str, stable_says: str | None
    ) -> None:
        """Keep an answer until its label comes.

        Args:
            refs: hashes of the ids under which a label may name it.
            arm: who answered, or would have.
            key: of the data subject.
            says: what a label is compared with.
            stable_says: where both versions decided, what stable said.
        """
        if len(self.answers) < _ANSWERS_MAX:
            for ref in refs:
                self.answers[ref] = Remembered(arm.value, key, says, stable_says)

    def learn(self, answer: Remembered, label: str) -> None:
        """Count a label that arrived; of a pair only what tells the two versions apart."""
        wrong = contradicts(answer.says, label)
        if wrong is None:
            return
        if answer.stable_says is None:
            self.recorder.label(Arm(answer.arm), answer.key, wrong=wrong)
            return
        stable_wrong = bool(contradicts(answer.stable_says, label))
        is_apart = wrong != stable_wrong
        self.recorder.label(Arm.CANDIDATE, answer.key, wrong=wrong and is_apart)
        self.recorder.label(Arm.STABLE, answer.key, wrong=stable_wrong and is_apart)

    def is_shadowed(self, key: int) -> bool:
        """Whether the candidate scores a copy of this subject's request."""
        is_shadow = self.is_ready and self.plan.mode is Mode.SHADOW
        return is_shadow and key % BUCKETS < self.weight_bp
