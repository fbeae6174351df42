"""What an operator asks for: mode, steps, limits. Frozen, checked, and plain JSON both ways."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from libs.common.rollouts.assignment import BUCKETS

STAGES_MAX = 20
# Without deciles of the stable version: bands that are even on the scale of log-odds, since scores
# of rare events crowd near zero.
DEFAULT_SCORE_EDGES = (0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97)


class PlanError(ValueError):
    """The plan does not make sense; `pointer` is the JSON pointer of the field."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(f"{pointer}: {message}")
        self.pointer = pointer
        self.message = message


class Mode(StrEnum):
    """How the candidate meets traffic.

    Shadow: scored after the answer, never answered. Canary: answers a growing share, judged on all
    signals. A/B: answers a fixed share; only failures and latency can end it, never a winner.
    """

    SHADOW = "shadow"
    CANARY = "canary"
    AB = "ab"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step.

    Attributes:
        weight_bp: share of the subjects, basis points; in shadow the share that is scored twice.
        min_requests: candidate observations before the next step.
        min_seconds: time before the next step.
    """

    weight_bp: int
    min_requests: int = 2_000
    min_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as worse.

    Attributes:
        false_alarm: probability that a candidate that is no worse is ever taken back; it is split
            over the five signals.
        max_error_rate: failures of the candidate alone, in shadow and at full weight, where no
            stable traffic runs beside it.
        max_slow_rate: share of answers slower than the frozen 95th percentile of stable, there.
        max_flip_rate: share of paired answers whose decision differs.
        max_score_ratio: a score band may hold that many times more or fewer of the candidate's
            answers; a new model is never distributed exactly as the old one.
    """

    false_alarm: float = 0.01
    max_error_rate: float = 0.01
    max_slow_rate: float = 0.10
    max_flip_rate: float = 0.02
    max_score_ratio: float = 1.25


@dataclass(frozen=True, slots=True)
class Plan:
    """A rollout as declared.

    Attributes:
        score_edges: inner edges of the score bands, rising; usually deciles of stable.
        auto_promote: whether steps advance, and the last one completes, without an operator.
    """

    mode: Mode
    stages: tuple[Stage, ...]
    limits: Limits = field(default_factory=Limits)
    auto_promote: bool = False
    score_edges: tuple[float, ...] = DEFAULT_SCORE_EDGES

    def __post_init__(self) -> None:
        """Check the plan.

        Raises:
            PlanError: names the field.
        """
        if not 1 <= len(self.stages) <= STAGES_MAX:
            raise PlanError("/stages", f"must hold 1 to {STAGES_MAX} steps")
        before = 0
        for number, stage in enumerate(self.stages):
            if not 1 <= stage.weight_bp <= BUCKETS:
                raise PlanError(f"/stages/{number}/weight", "must be from 0.0001 to 1")
            if stage.weight_bp <= before:
                raise PlanError(f"/stages/{number}/weight", "must be larger than the one before")
            if stage.min_requests < 0 or stage.min_seconds < 0:
                raise PlanError(f"/stages/{number}", "bounds must not be negative")
            before = stage.weight_bp
        if self.mode is not Mode.CANARY and len(self.stages) > 1:
            raise PlanError("/stages", f"{self.mode} has one step")
        if self.mode is Mode.AB and before == BUCKETS:
            raise PlanError("/stages/0/weight", "must leave subjects to the other version")
        self._check_limits()

    def _check_limits(self) -> None:
        limits = self.limits
        for name in ("false_alarm", "max_error_rate", "max_slow_rate", "max_flip_rate"):
            if not 0 < getattr(limits, name) <= 0.5:
                raise PlanError(f"/limits/{name}", "must be above 0 and at most 0.5")
        if not 1 <= limits.max_score_ratio <= 100:
            raise PlanError("/limits/max_score_ratio", "must be from 1 to 100")
        if list(self.score_edges) != sorted(set(self.score_edges)):
            raise PlanError("/score_edges", "must rise")

    @property
    def bands(self) -> int:
        """Number of score bands."""
        return len(self.score_edges) + 1

    def to_json(self) -> dict[str, Any]:
        """Give the plain document that a database keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Plan":
        """Read what `to_json` gave.

        Raises:
            PlanError, TypeError, KeyError: it is no such document.
        """
        return cls(
            Mode(document["mode"]),
            tuple(Stage(**stage) for stage in document["stages"]),
            Limits(**document["limits"]),
            bool(document["auto_promote"]),
            tuple(document["score_edges"]),
        )
