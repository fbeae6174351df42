"""Turns observations of one process into counts; bounded memory, microseconds per call.

A data subject always meets the same arm, so a noisy one would break the independence that the
evidence rests on: per segment it counts once for its score, and once for each kind of bad answer.
Sheds, cancelled calls and the caller's own mistakes are not observations; do not report them.
"""

from bisect import bisect_right
from collections import Counter, deque

from libs.common.rollouts.assignment import Arm
from libs.common.rollouts.counts import Counts
from libs.common.rollouts.plan import Plan

# Stable answers that the frozen 95th percentile is read from, and how many it needs at least.
_LATENCIES_KEPT = 1_000
_LATENCIES_MIN = 200
# Subjects remembered per segment and kind; beyond it new subjects are no longer told apart from
# known ones and stop counting.
_SUBJECTS_MAX = 200_000


class Recorder:
    """Counts of this process since the last drain, and the memory that counting needs."""

    def __init__(self, plan: Plan, *, stage: int = 0, segment: int = 1) -> None:
        self._plan = plan
        self._latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._slow_s: float | None = None
        self._pending: Counter[str] = Counter()
        self._seen: dict[str, set[int]] = {}
        self._prefix = ""
        self._at = (0, 0)
        self.enter(stage, segment)

    def enter(self, stage: int, segment: int) -> None:
        """Move to a segment; a no-op when it is the present one."""
        if self._at == (stage, segment):
            return
        self._at, self._prefix = (stage, segment), f"{segment}/{stage}/"
        self._seen = {}
        self._slow_s = self._percentile()

    def observe(
        self,
        arm: Arm,
        subject: int,
        *,
        failed: bool,
        latency_s: float | None = None,
        score: float | None = None,
    ) -> bool:
        """Count one answer of one arm.

        Args:
            arm: who was to answer; a failed candidate is a candidate, whoever stepped in.
            subject: `subject_key` of the data subject.
            failed: the version failed.
            latency_s: seconds that the version took, None when it failed.
            score: what it answered, 0 to 1.

        Returns:
            Whether this was a bad answer of the candidate, worth judging at once.
        """
        side = "c" if arm is not Arm.STABLE else "s"
        self._count(f"seen.{side}")
        is_bad = False
        if failed:
            is_bad = self._count_once("error", side, subject)
        elif latency_s is not None:
            if self._is_slow(latency_s):
                is_bad = self._count_once("slow", side, subject)
            if side == "s":
                self._latencies.append(latency_s)
        if score is not None and self._is_new("score", subject):
            self._count(f"band.{bisect_right(self._plan.score_edges, score)}.{side}")
        return is_bad and side == "c"

    def pair(
        self,
        *,
        candidate_failed: bool,
        flipped: bool = False,
        candidate_s: float | None = None,
        stable_s: float | None = None,
    ) -> bool:
        """Count one request that both versions answered, stable well.

        Returns:
            Whether it spoke against the candidate.
        """
        if candidate_failed:
            self._count("pair_error")
            return True
        self._count("pair")
        if flipped:
            self._count("flip")
        if stable_s is not None:
            is_slow = candidate_s is not None and self._is_slow(candidate_s)
            if is_slow != self._is_slow(stable_s):
                self._count("pair_slow.c" if is_slow else "pair_slow.s")
            self._latencies.append(stable_s)
        return flipped

    def label(self, arm: Arm, subject: int, *, wrong: bool) -> None:
        """Count a label that arrived for an answer of an arm."""
        side = "c" if arm is Arm.CANDIDATE else "s"
        self._count(f"label.{side}")
        if wrong:
            self._count_once("wrong", side, subject)

    def drain(self) -> dict[str, int]:
        """Give the increments since the last call, in wire form, and forget them."""
        pending, self._pending = self._pending, Counter()
        return dict(pending)

    def restore(self, increments: dict[str, int]) -> None:
        """Take increments back that could not be delivered."""
        self._pending.update(increments)

    def pending(self) -> Counts:
        """Give the undelivered increments without forgetting them."""
        return Counts.of(self._pending)

    def _count(self, name: str) -> None:
        self._pending[self._prefix + name] += 1

    def _count_once(self, kind: str, side: str, subject: int) -> bool:
        if not self._is_new(kind, subject):
            return False
        self._count(f"{kind}.{side}")
        return True

    def _is_new(self, kind: str, subject: int) -> bool:
        known = self._seen.setdefault(kind, set())
        if subject in known or len(known) >= _SUBJECTS_MAX:
            return False
        known.add(subject)
        return True

    def _is_slow(self, latency_s: float) -> bool:
        """Compare with stable's percentile, frozen as soon as it is known."""
        if self._slow_s is None and len(self._latencies) >= _LATENCIES_MIN:
            self._slow_s = self._percentile()
        return self._slow_s is not None and latency_s > self._slow_s

    def _percentile(self) -> float | None:
        if len(self._latencies) < _LATENCIES_MIN:
            return None
        return sorted(self._latencies)[int(0.95 * len(self._latencies))]
