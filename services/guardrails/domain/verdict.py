"""The vocabulary of a check: action, status, span, detection, verdict, decision.

A validator *detects*: it returns spans and a score, never an edit. The policy turns a detection
into a verdict (thresholds, allow-list, action); the decision takes the strictest verdict. Offsets
are Unicode code points of the original text, start inclusive, end exclusive.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Action(StrEnum):
    """What to do with a text, from mild to strict."""

    ALLOW = "allow"
    FLAG = "flag"
    MASK = "mask"
    BLOCK = "block"

    @property
    def rank(self) -> int:
        """Strictness, 0 (allow) to 3 (block)."""
        return _RANK[self]


_RANK = {Action.ALLOW: 0, Action.FLAG: 1, Action.MASK: 2, Action.BLOCK: 3}


class Status(StrEnum):
    """Whether a validator did its work on a text."""

    OK = "ok"
    SKIPPED = "skipped"
    TIMEOUT = "timeout"
    ERROR = "error"


class Overall(StrEnum):
    """Whether the whole policy ran: all of it, part of it, none of it."""

    SUCCESS = "success"
    PARTIAL = "partial"
    FAILURE = "failure"


def strictest(actions: list[Action]) -> Action:
    """Give the strictest of the actions; allow when there is none."""
    return max(actions, key=lambda action: action.rank, default=Action.ALLOW)


@dataclass(frozen=True, slots=True)
class Span:
    """One finding in the original text.

    Attributes:
        start / end: code points, 0 <= start < end <= length.
        label: entity or category.
        score: 0 to 1.
        rule: name of the rule that fired.
    """

    start: int
    end: int
    label: str
    score: float
    rule: str = ""

    def overlaps(self, other: "Span") -> bool:
        """Say whether the two share a character."""
        return self.start < other.end and other.start < self.end

    def contains(self, other: "Span") -> bool:
        """Say whether `other` lies within this span."""
        return self.start <= other.start and other.end <= self.end


@dataclass(frozen=True, slots=True)
class Detection:
    """What one validator saw in one text.

    Attributes:
        spans: findings with a place.
        scores: score per label for findings about the whole text (a toxicity category).
        status: anything but OK means that the validator did not judge this text.
        version: of the rules or the model that judged.
        guarded: characters that were looked at; None means all of them.
        thresholds: a model's own calibrated thresholds, by label or by the rule name of its
            spans; a policy's per-label ones come first.
        arm: which version of a validator on trial answered.
    """

    spans: tuple[Span, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    status: Status = Status.OK
    version: str = ""
    guarded: int | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    arm: str = "stable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One validator's judgement of one text under one policy.

    Attributes:
        scores: of the labels that reached their threshold.
        measured: of every label that was scored, whether or not it reached its threshold.
    """

    name: str
    version: str
    status: Status
    action: Action
    score: float
    spans: tuple[Span, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    arm: str = "stable"
    guarded: int | None = None
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """Labels found, sorted, without repeats."""
        return sorted({span.label for span in self.spans} | set(self.scores))


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one text: strictest action, all verdicts, the text after all edits.

    Attributes:
        text: the original for allow and flag, the edited one for mask, empty for block.
        guarded / total: characters that every validator looked at, and characters in all.
    """

    action: Action
    score: float
    text: str
    verdicts: tuple[Verdict, ...]
    status: Overall
    guarded: int
    total: int
    cached: bool = False
